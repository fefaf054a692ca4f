package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCPUs: CPUs that cannot be, or twice, are errors that name the line, the key and what is
// possible; those that the machine does not have are refused before anything is made.
func TestCPUs(t *testing.T) {
	for list, want := range map[string]string{
		"[0]": "", "[1023, 0]": "",
		"[-1]":      "line 3: cpus: a number from 0 to 1023 is expected, not -1",
		"[0, 1024]": "line 3: cpus: a number from 0 to 1023 is expected, not 1024",
		"[2, 0, 2]": "line 3: cpus: 2 appears twice",
		"[a]":       `line 3: cpus: a number from 0 to 1023 is expected, not "a"`,
		"5":         "line 3: cpus: a list is expected, not 5",
	} {
		_, err := ReadConfig(strings.NewReader("mode: tap\nports: [{interface: a}]\ncpus: " + list + "\n"))
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v, want %s", list, err, want)
		}
	}
}

// TestCPUsOfTheMachine: CPUs that the machine does not have, and too few for the queues, are
// refused before anything is made, with file and line.
func TestCPUsOfTheMachine(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.yaml")
	for list, want := range map[string]string{
		fmt.Sprintf("\n- %d\n- 1023\n", allowedCPUs()[0]): name + ": line 5: cpus: 1023 is offline, or no CPU that this process may use: those are [",
		fmt.Sprintf(" [%d]\n", allowedCPUs()[0]):          name + ": line 3: cpus: 1 for 2 shards, of which each needs one",
	} {
		if err := os.WriteFile(name, []byte(tapHead+"cpus:"+list), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := LoadConfig(name)
		if err != nil {
			t.Fatal(err)
		}
		e := &Engine{cfg: cfg}
		if err := cfg.located(e.makeWorkers(2)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", list, err, want)
		}
		if e.umem != nil {
			t.Errorf("%q: memory is there", list)
		}
	}
}
