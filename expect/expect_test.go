package expect

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

var secret = flow.Secret{1, 2, 3, 4, 5, 6, 7}

func tuple(src, dst string, sport, dport uint16) flow.Tuple {
	return flow.Tuple{
		Src: flow.AddrFrom(netip.MustParseAddr(src)), Dst: flow.AddrFrom(netip.MustParseAddr(dst)),
		L4: flow.MakeL4(flow.IPv4, flow.TCP, 0, sport, dport),
	}
}

// ftp is what an FTP helper would expect: any source port, one destination.
func ftp(master flow.Tuple, dport uint16) Expectation {
	return Expectation{
		Tuple: tuple("10.0.0.2", "10.0.0.1", 0, dport), Mask: Mask{ExactSource.Src, 0},
		Master: master, Expires: 300_000, Limit: 1,
	}
}

func TestUsedOnce(t *testing.T) {
	table := New(10, &secret)
	master := tuple("10.0.0.1", "10.0.0.2", 1000, 21)
	if err := table.Insert(7, 0, ftp(master, 2000)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tuple flow.Tuple
		now   int64
		want  bool
	}{
		{tuple("10.0.0.2", "10.0.0.1", 20, 2001), 1, false},       // another port
		{tuple("10.0.0.3", "10.0.0.1", 20, 2000), 1, false},       // another source
		{tuple("10.0.0.2", "10.0.0.1", 20, 2000), 300_000, false}, // too late
		{tuple("10.0.0.2", "10.0.0.1", 20, 2000), 1, true},
		{tuple("10.0.0.2", "10.0.0.1", 21, 2000), 1, false}, // used up
	} {
		m, ok := table.Match(&c.tuple, c.now)
		if ok != c.want || ok && (m.Master != master || m.Mark != 7) {
			t.Errorf("%v at %d: %v %v", c.tuple, c.now, m, ok)
		}
	}
	if n := table.Len(); n != 0 {
		t.Errorf("%d are left", n)
	}
}

// TestRules goes through __nf_ct_expect_check.
func TestRules(t *testing.T) {
	table := New(3, &secret)
	m1, m2 := tuple("10.0.0.1", "10.0.0.2", 1000, 21), tuple("10.0.0.1", "10.0.0.2", 1001, 21)
	add := func(e Expectation, want error, left int) {
		t.Helper()
		if err := table.Insert(0, 0, e); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
		if n := len(table.List(0)); n != left {
			t.Errorf("%d in the table, want %d", n, left)
		}
	}
	first := ftp(m1, 2000)
	add(first, nil, 1)
	first.Expires = 400_000
	add(first, nil, 1) // the same again replaces the old one
	if e := table.List(0)[0]; e.Expires != 400_000 {
		t.Error("the timer was not restarted")
	}
	add(ftp(m2, 2000), ErrBusy, 1) // overlaps
	add(ftp(m1, 2001), nil, 1)     // one too many of its class: the oldest goes
	if e := table.List(0)[0]; e.Tuple.L4.Dst() != 2001 {
		t.Error("the wrong one went")
	}
	add(ftp(m2, 2002), nil, 2)
	more := ftp(m2, 2003)
	more.Class = 1
	add(more, nil, 3)
	more.Class, more.Tuple = 2, tuple("10.0.0.2", "10.0.0.1", 0, 2004)
	add(more, ErrFull, 3)
	table.RemoveMaster(&m2)
	if l := table.List(0); len(l) != 1 || l[0].Master != m1 {
		t.Errorf("after the master has gone: %v", l)
	}
	inactive := ftp(m2, 3000)
	inactive.Flags = Inactive
	add(inactive, nil, 2)
	if _, ok := table.Match(&inactive.Tuple, 0); ok {
		t.Error("an inactive one matched")
	}
	permanent := ftp(m2, 3001)
	permanent.Flags, permanent.Class = Permanent, 1
	add(permanent, nil, 3)
	for range 3 {
		if _, ok := table.Match(&permanent.Tuple, 0); !ok {
			t.Error("a permanent one was used up")
		}
	}
	if n := len(table.List(1_000_000)); n != 0 {
		t.Errorf("%d have outlived their time", n)
	}
}

// TestClaimedOnce has many goroutines look for the same expectations at once: each
// is found exactly once.
func TestClaimedOnce(t *testing.T) {
	const n = 200
	table := New(n, &secret)
	for i := range uint16(n) {
		e := ftp(tuple("10.0.0.1", "10.0.0.2", i, 21), 2000+i)
		if err := table.Insert(0, 0, e); err != nil {
			t.Fatal(err)
		}
	}
	var found atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range uint16(n) {
				u := tuple("10.0.0.2", "10.0.0.1", 20, 2000+i)
				if _, ok := table.Match(&u, 0); ok {
					found.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if found.Load() != n || table.Len() != 0 {
		t.Errorf("%d found of %d, %d left", found.Load(), n, table.Len())
	}
	if s := table.Stats(); s != (Stats{n, n, n}) {
		t.Errorf("%+v", s)
	}
}

// TestPacketsTakeNoLock: what packets lead to goes on while somebody has the table locked,
// and who locks it next tells of it.
func TestPacketsTakeNoLock(t *testing.T) {
	table := New(10, &secret)
	var events []flow.EventKind
	table.Observe = func(k flow.EventKind, _ *Expectation) { events = append(events, k) }
	m1, m2 := tuple("10.0.0.1", "10.0.0.2", 1000, 21), tuple("10.0.0.1", "10.0.0.2", 1001, 21)
	for i, m := range []flow.Tuple{m1, m1, m2} {
		e := ftp(m, 2000+uint16(i))
		e.Class = uint8(i)
		if err := table.Insert(0, 0, e); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	table.mu.Lock()
	go func() {
		defer close(done)
		table.SetMark(&m1, 5)
		used := tuple("10.0.0.2", "10.0.0.1", 20, 2000)
		if m, ok := table.Match(&used, 1); !ok || m.Mark != 5 {
			t.Errorf("%+v %v", m, ok)
		}
		table.RemoveMaster(&m2)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("a packet waits for the lock")
	}
	table.mu.Unlock()
	<-done
	if n := table.Len(); n != 1 {
		t.Errorf("%d are left, want 1", n)
	}
	table.Expire(1)
	want := []flow.EventKind{flow.EventNew, flow.EventNew, flow.EventNew, flow.EventDestroy, flow.EventDestroy}
	if !slices.Equal(events, want) {
		t.Errorf("events %v, want %v", events, want)
	}
	if l := table.List(1); len(l) != 1 || l[0].Tuple.L4.Dst() != 2001 {
		t.Errorf("left: %v", l)
	}
}

// TestAgainstModel compares with a list that is searched from its beginning.
func TestAgainstModel(t *testing.T) {
	hosts := []string{"10.0.0.1", "10.0.0.2"}
	rapid.Check(t, func(t *rapid.T) {
		table := New(8, &secret)
		var model []Expectation
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			now := int64(step) * 1000
			model = slices.DeleteFunc(model, func(e Expectation) bool { return e.Expires <= now })
			u := tuple(rapid.SampledFrom(hosts).Draw(t, "src"), rapid.SampledFrom(hosts).Draw(t, "dst"),
				rapid.Uint16Range(1, 3).Draw(t, "sport"), rapid.Uint16Range(1, 3).Draw(t, "dport"))
			if rapid.Bool().Draw(t, "packet") {
				i := slices.IndexFunc(model, func(e Expectation) bool { return e.matches(&u) })
				m, ok := table.Match(&u, now)
				if ok != (i >= 0) || ok && m.Master != model[i].Master {
					t.Fatalf("matched %v %v, want %d", m, ok, i)
				}
				if ok && model[i].Flags&Permanent == 0 {
					model = slices.Delete(model, i, i+1)
				}
				continue
			}
			e := Expectation{
				Tuple: u, Mask: Mask{ExactSource.Src, rapid.SampledFrom([]uint16{0, 0xffff}).Draw(t, "mask")},
				Master: tuple("10.0.0.1", "10.0.0.2", rapid.Uint16Range(1, 2).Draw(t, "master"), 21),
				Flags:  Flags(rapid.Uint8Range(0, 1).Draw(t, "permanent")), Expires: now + rapid.Int64Range(1, 20_000).Draw(t, "life"),
			}
			busy := slices.ContainsFunc(model, func(o Expectation) bool { return o.clashes(&e) && !o.sameAs(&e) })
			err := table.Insert(0, now, e)
			// What is the same goes even if then another is in the way: the kernel
			// looks at one after the other. The model looks at the table for that.
			switch {
			case busy != errors.Is(err, ErrBusy):
				t.Fatalf("Insert: %v, busy %v", err, busy)
			case err == nil:
				model = slices.DeleteFunc(model, func(o Expectation) bool { return o.sameAs(&e) })
				model = append(model, e)
			default:
				model = table.List(now)
			}
			if got := table.List(now); !slices.Equal(got, model) || len(got) > 8 {
				t.Fatalf("table %v, want %v", got, model)
			}
		}
	})
}

// TestPairs: of several expectations all are there or none is, and what was there before
// stays as it is known outside.
func TestPairs(t *testing.T) {
	table := New(3, &secret)
	var seen []flow.EventKind
	table.Observe = func(k flow.EventKind, _ *Expectation) { seen = append(seen, k) }
	m1, m2 := tuple("10.0.0.1", "10.0.0.2", 1000, 5060), tuple("10.0.0.3", "10.0.0.2", 1000, 5060)
	rtp := func(m flow.Tuple, port uint16) []Expectation {
		a, b := ftp(m, port), ftp(m, port+1)
		a.Limit, b.Limit = 0, 0
		return []Expectation{a, b}
	}
	if err := table.Insert(0, 0, rtp(m1, 4000)...); err != nil {
		t.Fatal(err)
	}
	if err := table.Insert(0, 0, rtp(m2, 4001)...); !errors.Is(err, ErrBusy) {
		t.Errorf("one of two is taken: %v", err)
	}
	if err := table.Insert(0, 0, rtp(m2, 4002)...); !errors.Is(err, ErrFull) {
		t.Errorf("there is room for one of two: %v", err)
	}
	if len(table.List(0)) != 2 || table.Len() != 2 || table.Stats().Created != 2 || len(seen) != 2 {
		t.Errorf("%d are listed, %d counted, %+v, events %v", len(table.List(0)), table.Len(), table.Stats(), seen)
	}
	free := tuple("10.0.0.2", "10.0.0.1", 9, 4002)
	if _, ok := table.Find(&free, 1); ok || table.Reserved(&free, &flow.Tuple{}, 1) {
		t.Error("one that was withdrawn is found")
	}
}

// TestSourceLimit: one announcer may fill its own share and no more.
func TestSourceLimit(t *testing.T) {
	table := New(100, &secret)
	add := func(who string, master, port uint16) error {
		e := ftp(tuple(who, "10.0.0.2", master, 21), port)
		e.Announcer, e.SourceLimit = flow.AddrFrom(netip.MustParseAddr(who)), 3
		return table.Insert(0, 0, e)
	}
	for i := range uint16(3) {
		if err := add("10.0.0.1", 1000+i, 2000+i); err != nil {
			t.Fatal(err)
		}
	}
	if err := add("10.0.0.1", 1003, 2003); !errors.Is(err, ErrSource) {
		t.Errorf("the fourth of a source: %v", err)
	}
	if err := add("10.0.0.1", 1000, 2000); err != nil {
		t.Errorf("one that is there, again: %v", err)
	}
	if err := add("10.0.0.9", 1003, 2003); err != nil {
		t.Errorf("another source: %v", err)
	}
}

// TestReserved: an inactive expectation reserves its tuple, and no packet uses it up.
func TestReserved(t *testing.T) {
	table := New(100, &secret)
	master, comes := tuple("10.0.0.1", "10.0.0.2", 1000, 21), tuple("10.0.0.2", "10.0.0.1", 20, 2000)
	e := ftp(master, 2000)
	e.Flags = Inactive
	e.Follow = Follow{On: true, From: comes.Src, Src: comes.Dst, Dst: comes.Src, Port: 7}
	if err := table.Insert(0, 0, e); err != nil {
		t.Fatal(err)
	}
	if _, ok := table.Find(&comes, 1); ok || !table.Reserved(&comes, &flow.Tuple{}, 1) || table.Reserved(&comes, &flow.Tuple{}, 300_000) {
		t.Error("not reserved, or to be used")
	}
	if table.Reserved(&comes, &master, 1) {
		t.Error("reserved from another child of its master, whose answers may be just that")
	}
	if got := e.Follow.Mapped(comes); got != tuple("10.0.0.1", "10.0.0.2", 20, 7) {
		t.Errorf("it becomes %v", got)
	}
	other := comes
	other.Src = master.Src
	if got := e.Follow.Mapped(other); got.Src != other.Src || got.Dst != comes.Src {
		t.Errorf("another source: %v", got)
	}
	table.Withdraw(&master, func(x *Expectation) bool { return x.Class == 0 })
	if table.Len() != 0 || table.OfMaster(&master, func(*Expectation) bool { return true }) != nil {
		t.Error("it is still there")
	}
}

// TestRenew: an expectation that is confirmed lives on, is active, and is the same one to
// those outside.
func TestRenew(t *testing.T) {
	table := New(10, &secret)
	events := 0
	table.Observe = func(flow.EventKind, *Expectation) { events++ }
	master, comes := tuple("10.0.0.1", "10.0.0.2", 1000, 5060), tuple("10.0.0.2", "10.0.0.1", 20, 2000)
	e := ftp(master, 2000)
	e.Flags, e.Expires = Inactive|Permanent, 1000
	if err := table.Insert(7, 0, e); err != nil {
		t.Fatal(err)
	}
	if table.Renew(&comes, 9000, func(*Expectation) bool { return true }) || table.Renew(&master, 9000, func(*Expectation) bool { return false }) {
		t.Error("one of nobody is renewed")
	}
	if !table.Renew(&master, 9000, func(x *Expectation) bool { return x.Tuple.L4.Dst() == 2000 }) {
		t.Fatal("not renewed")
	}
	for range 2 {
		if m, ok := table.Match(&comes, 5000); !ok || m.Mark != 7 {
			t.Errorf("%v %v", m, ok)
		}
	}
	if x := table.List(5000); len(x) != 1 || x[0].Flags != Permanent || x[0].Expires != 9000 || table.Len() != 1 || events != 1 {
		t.Errorf("%+v, %d counted, %d events", x, table.Len(), events)
	}
}
