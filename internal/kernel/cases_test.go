package kernel

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/cases"
	"github.com/xdpct/xdpct/internal/testenv"
)

var updateCases = flag.Bool("update-cases", false, "write what the kernel says into the files of internal/cases")

// TestCases holds the running kernel to the cases that are written down packet by
// packet, which xdpct is held to as well (engine). What is expected was first written by
// the kernel (-update-cases), and read by people.
func TestCases(t *testing.T) {
	testenv.Root(t)
	all, err := cases.All()
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOracle(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	port := uint16(40000)
	for file, list := range all {
		path := filepath.Join("..", "cases", file)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		for _, c := range list {
			for _, f := range c.Families {
				t.Run(file+"/"+c.Name+"/"+f.String(), func(t *testing.T) {
					port++ // fragments of one case are not to join those of another
					for line, got := range kernelCase(t, o, &c, f, port) {
						packet, _, _ := strings.Cut(lines[line-1], "=")
						lines[line-1] = strings.TrimRight(packet, " ") + " = " + got.String()
					}
				})
			}
		}
		if *updateCases {
			if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// kernelCase runs a case through the kernel and returns its verdicts by line.
func kernelCase(t *testing.T, o *Oracle, c *cases.Case, f flow.Family, port uint16) map[int]cases.Verdict {
	t.Helper()
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	run := &cases.Run{A: A.Host(1, f), B: B.Host(1, f), RouterA: A.Host(2, f), RouterB: B.Host(2, f), Port: port}
	verdicts := map[int]cases.Verdict{}
	for i := range c.Steps {
		s := &c.Steps[i]
		d, err := run.Datagram(s)
		if err != nil {
			t.Fatal(err)
		}
		from := A
		if s.FromB {
			from = B
		}
		v, frames, err := o.Probe(from, d)
		if err != nil {
			t.Fatal(err)
		}
		got := cases.Verdict{Passed: frames > 0, L4State: kernelState(t, o)}
		if got.Passed {
			got.State, got.Dir, got.SeenReply, got.Assured = v.State, v.Dir, v.SeenReply, v.Assured
		}
		verdicts[s.Line] = got
		if got != s.Want && !*updateCases {
			t.Errorf("line %d: %s is %v, want %v", s.Line, s.Text, got, s.Want)
		}
	}
	return verdicts
}

// kernelState is the state of the one connection of TCP or SCTP in the kernel's table.
func kernelState(t *testing.T, o *Oracle) string {
	t.Helper()
	table, err := o.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range bytes.Split(table, []byte("\n")) {
		if w := strings.Fields(string(line)); len(w) > 5 && (w[2] == "tcp" || w[2] == "sctp") {
			return fmt.Sprint(w[5])
		}
	}
	return ""
}
