package mirror

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/route"
)

// TestFullQueueIsSaid: a question that found no room is not under way, and Used has room
// beside those of workers.
func TestFullQueueIsSaid(t *testing.T) {
	m := &Mirror{asks: make(chan ask, 1), checks: make(chan ask, 1)}
	m.table.Store(route.New([]route.Interface{{Name: "p0", Index: 2, Up: true}}))
	addr, asked := netip.MustParseAddr("10.1.0.2"), new(atomic.Bool)
	if !m.Resolve(0, addr, asked) || m.Resolve(0, addr, asked) || m.Resolve(1, addr, asked) {
		t.Error("one question has room, and no more; none by an interface that is not there")
	}
	key := neighbourKey{index: 2, addr: addr}
	m.byID = []neighbourKey{{}, key}
	m.neighbours = map[neighbourKey]*entry{key: {state: unix.NUD_STALE}}
	if m.confirm([]uint32{1}); len(m.checks) != 1 {
		t.Error("a neighbour in use is not confirmed while workers ask for many")
	}
}

// TestRefusedQuestion: what the kernel refuses is known when the question was put, and a
// refusal is that of no later question.
func TestRefusedQuestion(t *testing.T) {
	l := newLab(t, nil)
	s := l.socket()
	m := &Mirror{probe: s}
	a, p0 := netip.MustParseAddr("10.1.0.2"), l.m.Table().Interfaces[0].Index
	for range 3 {
		if err := m.probeFor(ask{index: 1 << 20, addr: a}); !errors.Is(err, unix.ENODEV) {
			t.Errorf("by an interface that is not there: %v", err)
		}
		if err := m.probeFor(ask{index: p0, addr: a}); err != nil {
			t.Error(err)
		}
	}
}

// TestFullTableIsNotAsked: while the kernel's table of neighbours is full of those that it
// looks for it has not begun to look for another, which is asked for again and is found
// then. The table is that of all namespaces (gc_thresh3), which is why this is not in the
// suite: others would find it full.
func TestFullTableIsNotAsked(t *testing.T) {
	if !*soak {
		t.Skip("skipped: -soak is missing (make soak-routes); it fills the neighbour table of all namespaces")
	}
	l := newLab(t, nil)
	m := &Mirror{probe: l.socket()}
	p0 := l.m.Table().Interfaces[0].Index
	dead := netip.MustParseAddr("2001:db8::1:0")
	for n := 0; !errors.Is(m.probeFor(ask{index: p0, addr: dead}), unix.ENOBUFS); n++ {
		if dead = dead.Next(); n > 1<<16 {
			t.Fatal("the table is never full")
		}
	}
	live, asked, early := netip.MustParseAddr("2001:db8::2"), new(atomic.Bool), 0
	l.m.Resolve(0, live, asked)
	testenv.Until(t, "it is found", func() bool {
		_, known := l.m.Table().Neighbour(0, live)
		if !known && !asked.Load() {
			early++
			l.m.Resolve(0, live, asked)
		}
		return known && asked.Load()
	})
	if early < 5 {
		t.Errorf("it was asked for %d times while the table was full", early)
	}
}

// socket opens a netlink socket in the router.
func (l *lab) socket() (s *socket) {
	l.t.Helper()
	if err := l.router.Do(func() (err error) { s, err = openSocket(unix.NETLINK_ROUTE); return err }); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = s.close() })
	return s
}
