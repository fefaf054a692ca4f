package engine

import (
	"strings"
	"testing"
)

// TestCPUs: CPUs that cannot be, or twice, are errors that name the line, the key and what is
// possible; those that the machine does not have are refused before anything is made.
func TestCPUs(t *testing.T) {
	for list, want := range map[string]string{
		"[0]": "", "[1023, 0]": "",
		"[-1]":      "line 3: cpus: -1 is not from 0 to 1023",
		"[0, 1024]": "line 3: cpus: 1024 is not from 0 to 1023",
		"[2, 0, 2]": "line 3: cpus: 2 appears twice",
		"[a]":       `line 3: cpus: a whole number is expected, not "a"`,
		"5":         "line 3: cpus: a list is expected, not 5",
	} {
		_, err := ReadConfig(strings.NewReader("mode: tap\nports: [{interface: a}]\ncpus: " + list + "\n"))
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v, want %s", list, err, want)
		}
	}
	e := &Engine{cfg: DefaultConfig()}
	e.cfg.CPUs = []int{maxCPUs - 1}
	err := e.makeWorkers(1)
	if err == nil || !strings.Contains(err.Error(), "cpus: 1023 is offline, or no CPU that this process may use: those are [") {
		t.Errorf("%v", err)
	}
	if e.umem != nil {
		_ = e.umem.Close()
	}
}
