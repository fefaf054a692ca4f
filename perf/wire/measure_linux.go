package wire

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/xdpct/xdpct/engine"
)

// Detail says how a system did its work; what does not apply to it is zero.
type Detail struct {
	Mode              string            `json:"mode"` // as granted
	PacketsPerPoll    float64           `json:"packets_per_poll,omitempty"`
	SyscallsPerPacket float64           `json:"syscalls_per_packet,omitempty"`
	Hits              uint64            `json:"hits,omitempty"`
	Inserts           uint64            `json:"inserts,omitempty"`
	ProbesP99         int               `json:"probes_p99,omitempty"`
	Evictions         uint64            `json:"evictions,omitempty"`
	HandedOver        uint64            `json:"handed_over,omitempty"`
	Drops             map[string]uint64 `json:"drops,omitempty"` // frames by reason
}

// Result is one measurement of one subject.
type Result struct {
	Name       Subject `json:"name"`
	Flows      int     `json:"flows"` // connections that were there
	OfferedPPS float64 `json:"offered_pps"`
	PPS        float64 `json:"pps"` // that arrived, or were taken and dropped
	// CPUNSPerPacket is the busy time of each CPU, interrupts and the generator
	// included, for each packet of PPS.
	CPUNSPerPacket []CPUShare `json:"cpu_ns_per_packet"`
	// Latency is that at half of PPS, in microseconds, of one frame in 64.
	// Absent for what drops frames, and of Pktgen's.
	Latency *Latency `json:"latency_us,omitempty"`
	GC      GC       `json:"gc"`
	Detail  Detail   `json:"detail"`
}

// CPUShare is time of one CPU for each packet, in nanoseconds.
type CPUShare struct {
	User    float64 `json:"user"`
	System  float64 `json:"system"`
	SoftIRQ float64 `json:"softirq"`
}

// Latency is quantiles, in microseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
}

// GC is what the garbage collector did during a measurement. The generator's
// side of the process is in it.
type GC struct {
	Cycles  uint32        `json:"cycles"`
	PauseNS time.Duration `json:"pause_ns"`
}

// Options say what is measured and for how long.
type Options struct {
	Setup
	Size int // frame length, MinSize..MaxSize
	// Duration is how long frames are sent at full rate in each measurement.
	Duration time.Duration
	// GenCPU is the CPU that generates, and Generator what; empty means
	// LiveFrames.
	GenCPU    int
	Generator Generator
}

// Validate checks the options; an error names what is out of range.
func (o *Options) Validate() error {
	switch {
	case o.Flows < 1 || o.Flows > MaxFlows:
		return fmt.Errorf("%d flows: must be 1..%d", o.Flows, MaxFlows)
	case o.Size < MinSize || o.Size > MaxSize:
		return fmt.Errorf("frames of %d bytes: must be %d..%d", o.Size, MinSize, MaxSize)
	case o.Duration < 100*time.Millisecond || o.Duration > time.Minute:
		return fmt.Errorf("a duration of %v: must be 100ms..1m", o.Duration)
	case o.Mode != engine.Bridge && o.Mode != engine.Tap && o.Mode != engine.Router:
		return fmt.Errorf("mode %q: must be bridge, tap or router", o.Mode)
	case o.SNAT && o.Mode != engine.Router:
		return fmt.Errorf("translation needs mode router")
	case o.Generator != "" && o.Generator != LiveFrames && o.Generator != Pktgen:
		return fmt.Errorf("generator %q: must be live or pktgen", o.Generator)
	}
	return nil
}

// bench is one system in one Lab.
type bench struct {
	o   Options
	lab *Lab
	sys system
}

// with runs f on a subject in a new Lab.
func with(name Subject, o Options, f func(*bench) error) (err error) {
	sys, err := newSystem(name, o.Setup)
	if err != nil {
		return err
	}
	lab, err := NewLab()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	defer func() { err = errors.Join(err, sys.stop()) }()
	if err := sys.start(lab); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	return f(&bench{o, lab, sys})
}

// setUpRate is how many connections a second are set up before a measurement:
// slowly enough for none to be lost.
const setUpRate = 250_000

// setUp sets all connections up, one packet each.
func (b *bench) setUp() error {
	for range 3 { // a pause of the machine may lose some
		if _, err := b.send(b.o.Flows, setUpRate, false, LiveFrames); err != nil {
			return err
		}
		n, ok, err := b.sys.flows()
		if err != nil {
			return err
		}
		if !ok || n == b.o.Flows {
			return b.sys.ready()
		}
	}
	n, _, err := b.sys.flows()
	why := ""
	if d, err := b.sys.detail(); err == nil && len(d.Drops) > 0 {
		why = fmt.Sprintf(" (%v)", d.Drops)
	}
	return errors.Join(err, fmt.Errorf("%d of %d connections could be set up%s", n, b.o.Flows, why))
}

// send sends and waits until what is on the way has arrived.
func (b *bench) send(frames int, pps float64, uniform bool, by Generator) (Sent, error) {
	s, err := b.lab.Send(Load{
		Flows: b.o.Flows, Size: b.o.Size, Uniform: uniform, PPS: pps, Frames: max(frames, 1), CPU: b.o.GenCPU,
		Generator: by,
	})
	time.Sleep(20 * time.Millisecond)
	return s, err
}

// done counts the frames that the system is done with.
func (b *bench) done() (uint64, Received, error) {
	r, err := b.lab.Received()
	if err != nil || b.o.Mode != engine.Tap {
		return r.Frames, r, err
	}
	n, err := b.sys.taken()
	return n, r, err
}

// trial is frames sent and what became of them.
type trial struct {
	sent     Sent
	done     uint64
	received Received
}

// offered and pps are rates; loss is the share of frames that did not make it.
func (t *trial) offered() float64 { return float64(t.sent.Frames) / t.sent.Took.Seconds() }
func (t *trial) pps() float64     { return float64(t.done) / t.sent.Took.Seconds() }
func (t *trial) loss() float64    { return 1 - float64(t.done)/float64(t.sent.Frames) }

// try sends frames of connections at random.
func (b *bench) try(frames int, pps float64) (t trial, err error) {
	before, arrived, err := b.done()
	if err != nil {
		return t, err
	}
	if t.sent, err = b.send(frames, pps, true, b.o.Generator); err != nil {
		return t, err
	}
	after, received, err := b.done()
	t.done, t.received = after-before, received.Sub(arrived)
	return t, err
}

// Measure measures one subject.
func Measure(name Subject, o Options) (r Result, err error) {
	if err := o.Validate(); err != nil {
		return r, err
	}
	err = with(name, o, func(b *bench) error {
		if err := b.setUp(); err != nil {
			return err
		}
		r, err = b.measure()
		return err
	})
	r.Name = name
	if err != nil {
		err = fmt.Errorf("measuring %s: %w", name, err)
	}
	return r, err
}

func (b *bench) measure() (r Result, err error) {
	probe, err := b.try(200_000, 0) // how fast is it generated?
	if err != nil {
		return r, err
	}
	var memBefore, memAfter runtime.MemStats
	runtime.ReadMemStats(&memBefore)
	before, err := readCPUs()
	if err != nil {
		return r, err
	}
	t, err := b.try(int(probe.offered()*b.o.Duration.Seconds()), 0)
	if err != nil {
		return r, err
	}
	after, err := readCPUs()
	if err != nil {
		return r, err
	}
	runtime.ReadMemStats(&memAfter)
	r.OfferedPPS, r.PPS = t.offered(), t.pps()
	r.GC = GC{memAfter.NumGC - memBefore.NumGC, time.Duration(memAfter.PauseTotalNs - memBefore.PauseTotalNs)}
	for _, c := range subCPUs(after, before) {
		n := float64(max(t.done, 1))
		r.CPUNSPerPacket = append(r.CPUNSPerPacket, CPUShare{float64(c.User) / n, float64(c.System) / n, float64(c.SoftIRQ) / n})
	}
	if r.Flows, _, err = b.sys.flows(); err != nil {
		return r, err
	}
	if r.Detail, err = b.sys.detail(); err != nil || b.o.Mode == engine.Tap || b.o.Generator == Pktgen {
		return r, err
	}
	half, err := b.try(int(r.PPS/2*min(b.o.Duration, time.Second).Seconds()), r.PPS/2)
	l := &half.received.Latency
	us := func(q float64) float64 { return float64(l.Quantile(q).Nanoseconds()) / 1000 }
	r.Latency = &Latency{us(0.5), us(0.99), us(0.999)}
	return r, err
}

// Comparison is subjects measured by turns.
type Comparison struct {
	// Results are the medians, by rate, of each subject, in the order asked for.
	Results []Result
	// Ratios are the first subject's rate to that of each: the median of the
	// ratios within a turn.
	Ratios []float64
	// Spread is the lowest and the highest of those ratios.
	Spread [][2]float64
}

// Compare measures subjects by turns, there and back (A B B A), so that a
// machine that grows slower favours none, and calls each after every
// measurement.
func Compare(names []Subject, o Options, rounds int, each func(Result)) (c Comparison, err error) {
	order := slices.Clone(names)
	byName := map[Subject][]Result{}
	for range 2 * rounds {
		for _, name := range order {
			r, err := Measure(name, o)
			if err != nil {
				return c, err
			}
			each(r)
			byName[name] = append(byName[name], r)
		}
		slices.Reverse(order)
	}
	for _, name := range names {
		var ratios []float64
		for i, r := range byName[name] {
			ratios = append(ratios, byName[names[0]][i].PPS/r.PPS)
		}
		slices.Sort(ratios)
		c.Ratios = append(c.Ratios, (ratios[len(ratios)/2]+ratios[(len(ratios)-1)/2])/2)
		c.Spread = append(c.Spread, [2]float64{ratios[0], ratios[len(ratios)-1]})
		rs := slices.SortedFunc(slices.Values(byName[name]), func(a, b Result) int { return int(a.PPS - b.PPS) })
		c.Results = append(c.Results, rs[len(rs)/2])
	}
	return c, nil
}
