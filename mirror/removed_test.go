package mirror

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// TestRemovedIsNotRead reads all routes whenever the kernel has told that one is removed:
// it must not be among them, although the kernel tells before it does so, and waits in
// between for the reader, who has no room (F20).
func TestRemovedIsNotRead(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "ip")
	ns, err := netlab.NewNS("ns")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	var d *dumper
	if err := ns.Do(func() (err error) { d, err = openDumper(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.close() })
	const enough = 50
	read, left := 0, 0
	for batch := 0; read < enough && batch < 100; batch++ {
		removals(t, ns, batch, func(dst netip.Prefix) {
			s, err := d.readRoutes()
			if err != nil && !errors.Is(err, errInterrupted) {
				t.Fatal(err)
			}
			read++
			for p := range s.table.Routes {
				if p == dst {
					left++
				}
			}
		})
	}
	if left > 0 || read < enough {
		t.Errorf("%d of %d routes are read after the kernel has told that they are removed", left, read)
	}
}

// removals adds and removes 200 routes, and calls removed for those of which it is told.
func removals(t *testing.T, ns *netlab.NS, batch int, removed func(netip.Prefix)) {
	t.Helper()
	var sub *socket
	if err := ns.Do(func() (err error) {
		if sub, err = openSocket(unix.NETLINK_ROUTE); err == nil {
			err = sub.join(1, []int{unix.RTNLGRP_IPV4_ROUTE})
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for i := range 200 {
		fmt.Fprintf(&lines, "route add blackhole 40.%d.%d.1/32\nroute del blackhole 40.%d.%d.1/32\n", batch, i, batch, i)
	}
	done := make(chan error, 1)
	go func() {
		done <- ns.Do(func() error {
			ip := exec.Command("ip", "-batch", "-")
			ip.Stdin = strings.NewReader(lines.String())
			return ip.Run()
		})
		_ = sub.close() // ends the reader
	}()
	for {
		b, err := sub.receive(nil, 1)
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, errDrained) {
			break
		}
		var decode routes
		for m := range messages(b) {
			if dst, _, ok := decode.decode(m); ok && m.typ == unix.RTM_DELROUTE {
				removed(dst)
			}
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
