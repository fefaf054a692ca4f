package wire

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// CPUTime is what one CPU did with its time, by /proc/stat. The kernel samples
// it a few hundred times a second.
type CPUTime struct{ User, System, SoftIRQ, Idle time.Duration }

// readCPUs returns the time of every CPU since the machine started.
func readCPUs() ([]CPUTime, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil, err
	}
	const tick = time.Second / 100 // USER_HZ, which does not change
	var cpus []CPUTime
	for line := range strings.Lines(string(text)) {
		name, values, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(name, "cpu") || name == "cpu" {
			continue
		}
		// user nice system idle iowait irq softirq steal
		var v [8]int64
		if _, err := fmt.Sscan(values, &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7]); err != nil {
			return nil, fmt.Errorf("/proc/stat: %q: %w", line, err)
		}
		cpus = append(cpus, CPUTime{
			User: time.Duration(v[0]+v[1]) * tick, System: time.Duration(v[2]) * tick,
			SoftIRQ: time.Duration(v[5]+v[6]) * tick, Idle: time.Duration(v[3]+v[4]) * tick,
		})
	}
	return cpus, nil
}

// subCPUs returns what the CPUs did since before.
func subCPUs(after, before []CPUTime) []CPUTime {
	d := make([]CPUTime, min(len(after), len(before)))
	for i := range d {
		a, b := after[i], before[i]
		d[i] = CPUTime{a.User - b.User, a.System - b.System, a.SoftIRQ - b.SoftIRQ, a.Idle - b.Idle}
	}
	return d
}
