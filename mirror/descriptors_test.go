package mirror

import (
	"errors"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// TestNoDescriptors: a mirror that cannot have one of its sockets says so, whichever it is,
// and leaves none open (F28).
func TestNoDescriptors(t *testing.T) {
	testenv.Root(t)
	ns, err := netlab.NewNS("ns")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	r, w, err := os.Pipe() // the runtime's own descriptors are there from now on
	if err != nil {
		t.Fatal(err)
	}
	_, _ = r.Close(), w.Close()
	sockets := 0 // that there is room for
	for ; sockets < 20; sockets++ {
		before := used(t)
		m, err := Open(Config{Ports: []Port{{Name: "lo"}}, InNamespace: func(f func() error) error {
			return ns.Do(func() error { return withRoomFor(t, sockets, f) })
		}})
		if err == nil {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			break
		}
		if !strings.Contains(err.Error(), "following the kernel's routes") || !errors.Is(err, unix.EMFILE) {
			t.Errorf("room for %d: %v", sockets, err)
		}
		if after := used(t); !maps.Equal(before, after) {
			t.Errorf("room for %d: descriptors %v before, %v after", sockets, before, after)
		}
	}
	if want := 2 + int(numParts) + 1; sockets != want {
		t.Errorf("it opens with room for %d sockets; it has %d", sockets, want)
	}
}

// used returns the descriptors of the process.
func used(t *testing.T) map[int]bool {
	t.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]bool{}
	for _, d := range dir {
		fd, err := strconv.Atoi(d.Name())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil { // not that of the directory
			all[fd] = true
		}
	}
	return all
}

// withRoomFor calls f while the process can open no more than n descriptors.
func withRoomFor(t *testing.T, n int, f func() error) error {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	all, limit := used(t), 0
	for free := 0; all[limit] || free < n; limit++ {
		if !all[limit] {
			free++
		}
	}
	few := old
	few.Cur = uint64(limit)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }()
	return f()
}
