package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// statusOf reads fields of /proc/PID/task/*/status, of every thread.
func statusOf(t *testing.T, pid int, field string) (values []string) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d threads, %v", len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		_, rest, ok := strings.Cut(string(b), "\n"+field+":")
		if !ok {
			t.Fatalf("%s has no %s", f, field)
		}
		value, _, _ := strings.Cut(rest, "\n")
		values = append(values, strings.TrimSpace(value))
	}
	return values
}

// boxOf makes a namespace whose interfaces left and right lead to another; join makes
// them anew.
func boxOf(t *testing.T) (box *netlab.NS, join func()) {
	t.Helper()
	box, err := netlab.NewNS("box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.Close)
	far, err := netlab.NewNS("far")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(far.Close)
	join = func() {
		t.Helper()
		for _, name := range []string{"left", "right"} {
			if err := netlab.Join(netlab.Port{NS: box, Name: name}, netlab.Port{NS: far, Name: name}); err != nil {
				t.Fatal(err)
			}
		}
	}
	join()
	return box, join
}

const routerConfig = `mode: router
ports:
  - interface: left
  - interface: right
`

// TestPrivileges: a program that has started keeps only the capabilities for running, in
// every thread, and can get no other; with those an interface that is deleted and made
// again comes back.
func TestPrivileges(t *testing.T) {
	testenv.Root(t)
	for name, c := range map[string]struct{ config, caps string }{
		"bridge": {bridgeConfig, "0000008000003000"}, // BPF, NET_RAW, NET_ADMIN
		"router": {routerConfig, "000000c000003000"}, // and PERFMON
	} {
		t.Run(name, func(t *testing.T) {
			want := c.caps
			if have, err := capabilities(); err != nil || have[0].Effective>>unix.CAP_SYS_RESOURCE&1 == 0 {
				want = strings.Replace(want, "3000", "7000", 1) // and IPC_LOCK, where the limit cannot be lifted
			}
			box, join := boxOf(t)
			p := startProgram(t, box, c.config)
			p.ready(t)
			check := func() {
				t.Helper()
				for field, value := range map[string]string{
					"CapPrm": want, "CapEff": want, "CapBnd": want, "CapInh": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1",
				} {
					for _, have := range statusOf(t, p.cmd.Process.Pid, field) {
						if have != value {
							t.Errorf("%s is %s, want %s", field, have, value)
						}
					}
				}
			}
			check()
			for _, name := range []string{"left", "right"} {
				link, err := box.Link(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := box.Netlink().LinkDel(link); err != nil {
					t.Fatal(err)
				}
			}
			testenv.Until(t, "both are missed", func() bool { return strings.Count(p.stderr.String(), "interface is gone") == 2 })
			join()
			testenv.Until(t, "both are back", func() bool {
				return strings.Count(p.stderr.String(), "interface is back") == 2 && attached(t, box, "left") && attached(t, box, "right")
			})
			check()
		})
	}
}
