package nat

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

// mapSpace is the slow model of the tuples that there are: a map.
type mapSpace struct {
	taken map[flow.Tuple]bool
	asked int
	ends  map[flow.Tuple]bool // a connection that is about to end has it
}

func newMapSpace() *mapSpace {
	return &mapSpace{taken: map[flow.Tuple]bool{}, ends: map[flow.Tuple]bool{}}
}

func (m *mapSpace) Take(t *flow.Tuple, hard bool) bool {
	m.asked++
	if m.taken[*t] && !(hard && m.ends[*t]) {
		return false
	}
	m.taken[*t] = true
	return true
}

func addr(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }

func tuple(proto flow.Proto, src, dst string, sport, dport uint16) flow.Tuple {
	f := flow.IPv4
	if netip.MustParseAddr(src).Is6() {
		f = flow.IPv6
	}
	return flow.Tuple{Src: addr(src), Dst: addr(dst), L4: flow.MakeL4(f, proto, 0, sport, dport)}
}

// to is the range of one address.
func to(a string) *Range { return &Range{Min: addr(a), Max: addr(a), Addrs: true} }

// toPorts is the range of one address and of ports.
func toPorts(a string, lo, hi uint16) *Range {
	r := to(a)
	r.MinPort, r.MaxPort, r.Ports = lo, hi, true
	return r
}

const (
	ownAddr     = "192.0.2.1"
	foreignAddr = "198.51.100.1"
)

// host is one whose address is ownAddr, with these ports for translation and for itself.
func host(ports [][2]uint16, bound ...uint16) *HostPorts {
	var p, b PortSet
	for _, r := range ports {
		p.Add(r[0], r[1])
	}
	for _, n := range bound {
		b.Add(n, n)
	}
	return NewHostPorts(&p, &b)
}

// usual are the ports of a host whose ip_local_port_range is the kernel's default.
var usual = [][2]uint16{{1, 32767}, {61000, 65535}}

func own(a flow.Addr, _ flow.Family) bool { return a == addr(ownAddr) }

func newAllocator(h *HostPorts) *Allocator {
	a := NewShared(1, 1<<16, Key{1, 2}).NewAllocator(0)
	a.SetHost(h, own)
	return a
}

// choose is Choose for a source, which has to succeed.
func choose(t *testing.T, a *Allocator, s Space, o flow.Tuple, r *Range) flow.Tuple {
	t.Helper()
	out, ok := a.Choose(&Query{Tuple: o, Range: r, Source: true, Space: s})
	if !ok {
		t.Fatalf("%v gets no mapping", o)
	}
	return out
}

// TestEveryPort: of a hundred hosts with source ports over the whole range, no connection
// is left without a port, and each keeps its own where the host does not have that
// (F3, F4).
func TestEveryPort(t *testing.T) {
	for _, c := range []struct {
		name  string
		ports [][2]uint16
	}{{"usual", usual}, {"few", [][2]uint16{{20000, 29999}}}, {"all", [][2]uint16{{1, 65535}}}} {
		t.Run(c.name, func(t *testing.T) {
			h := host(c.ports, 22, 53)
			a, s := newAllocator(h), newMapSpace()
			r := rand.New(rand.NewPCG(1, 2))
			for i := range 30_000 {
				o := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", uint16(1+r.IntN(65535)), 53)
				o.Src.Lo += uint64(r.IntN(100))
				o.Dst.Lo += uint64(r.IntN(40))
				reply, _ := o.Invert()
				reply.Dst = addr(ownAddr)
				free := !s.taken[reply]
				out := choose(t, a, s, o, to(ownAddr))
				if !h.free[1].has(out.L4.Src()) {
					t.Fatalf("connection %d has the host's port %d", i, out.L4.Src())
				}
				if h.free[1].has(o.L4.Src()) && free && out.L4.Src() != o.L4.Src() {
					t.Fatalf("connection %d has port %d; its own, %d, is free", i, out.L4.Src(), o.L4.Src())
				}
			}
		})
	}
}

// TestLowPorts: ntp and ike keep their ports on the host's address where the host has
// none of its own there, and others of theirs go to ports of the same class (F4).
func TestLowPorts(t *testing.T) {
	a, s := newAllocator(host(usual)), newMapSpace()
	for _, p := range []uint16{123, 500} {
		if out := choose(t, a, s, tuple(flow.UDP, "10.1.0.1", "10.2.0.1", p, p), to(ownAddr)); out.L4.Src() != p {
			t.Errorf("port %d becomes %d", p, out.L4.Src())
		}
		lo, hi := class(p)
		if out := choose(t, a, s, tuple(flow.UDP, "10.1.0.2", "10.2.0.1", p, p), to(ownAddr)); out.L4.Src() < lo || out.L4.Src() > hi {
			t.Errorf("port %d of another becomes %d, not of %d-%d", p, out.L4.Src(), lo, hi)
		}
	}
	a.SetHost(host(usual, 123), own)
	if out := choose(t, a, s, tuple(flow.UDP, "10.1.0.1", "10.2.0.9", 123, 123), to(ownAddr)); out.L4.Src() == 123 || out.L4.Src() > 511 {
		t.Errorf("with an ntp server on the host port 123 becomes %d", out.L4.Src())
	}
	if out := choose(t, a, s, tuple(flow.UDP, "10.1.0.1", "10.2.0.9", 123, 123), to(foreignAddr)); out.L4.Src() != 123 {
		t.Errorf("on another address port 123 becomes %d", out.L4.Src())
	}
}

// TestPortsThatARuleNames: they are used on the host's own address although it keeps
// them for itself otherwise, but for those that sockets have (F4).
func TestPortsThatARuleNames(t *testing.T) {
	a, s := newAllocator(host(usual, 40001)), newMapSpace()
	seen := map[uint16]bool{}
	for i := range uint16(10) {
		out := choose(t, a, s, tuple(flow.TCP, "10.1.0.1", "10.2.0.1", 1000+i, 80), toPorts(ownAddr, 40000, 40010))
		seen[out.L4.Src()] = true
	}
	if len(seen) != 10 || seen[40001] {
		t.Errorf("ten connections have the ports %v", seen)
	}
	if _, ok := a.Choose(&Query{Tuple: tuple(flow.TCP, "10.1.0.1", "10.2.0.1", 999, 80), Range: toPorts(ownAddr, 40000, 40010), Source: true, Space: s}); ok {
		t.Error("an eleventh gets one of ten ports")
	}
	if out := choose(t, a, s, tuple(flow.TCP, "10.1.0.1", "10.2.0.2", 999, 80), toPorts(ownAddr, 40001, 40001)); out.L4.Src() != 40001 {
		t.Errorf("the one port of a rule becomes %d", out.L4.Src())
	}
}

// TestChooseModel holds Choose to what it promises, by the slow model: a mapping that is
// in the range, allowed and free; whenever there is one; and the source's own port if
// that is one.
func TestChooseModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lo := rapid.Uint16Range(1, 2000).Draw(t, "lo")
		allowed := [][2]uint16{{lo, lo + rapid.Uint16Range(0, 70).Draw(t, "n")}}
		bound := rapid.SliceOfN(rapid.Uint16Range(1, 2070), 0, 20).Draw(t, "bound")
		h := host(allowed, bound...)
		a, s := newAllocator(h), newMapSpace()
		proto := rapid.SampledFrom([]flow.Proto{flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP}).Draw(t, "proto")
		for range rapid.IntRange(1, 120).Draw(t, "connections") {
			r := to(rapid.SampledFrom([]string{ownAddr, foreignAddr}).Draw(t, "address"))
			if rapid.Bool().Draw(t, "ports") {
				r.MinPort = rapid.Uint16Range(1, 2000).Draw(t, "min")
				r.MaxPort = r.MinPort + rapid.Uint16Range(0, 40).Draw(t, "max")
				r.Ports = true
			}
			r.RandomFully = rapid.Bool().Draw(t, "random")
			o := tuple(proto, "10.1.0.1", "10.2.0.1", rapid.Uint16Range(1, 2100).Draw(t, "sport"), 80)
			o.Src.Lo += rapid.Uint64Range(0, 3).Draw(t, "host")
			may := func(p uint16) bool { // by the rules of the package comment, port by port
				own := r.Min == addr(ownAddr)
				isBound := false
				for _, b := range bound {
					isBound = isBound || b == p
				}
				switch {
				case p == 0:
					return false
				case r.Ports && (p < r.MinPort || p > r.MaxPort):
					return false
				case !own || r.Ports && r.MinPort == r.MaxPort:
					return true
				case r.Ports:
					return !isBound
				}
				return !isBound && p >= allowed[0][0] && p <= allowed[0][1]
			}
			reply := func(p uint16) flow.Tuple {
				m := o
				m.Src, m.L4 = r.Min, o.L4&^0xffff|flow.L4(p)
				x, _ := m.Invert()
				return x
			}
			free := func(p uint16) bool { return may(p) && !s.taken[reply(p)] }
			anyFree := false
			for p := 1; p < 65536 && !anyFree; p++ {
				anyFree = free(uint16(p))
			}
			keeps := free(o.L4.Src()) && !r.RandomFully
			_, mapped := a.sources.Find(o, r, true)
			out, ok := a.Choose(&Query{Tuple: o, Range: r, Source: true, Space: s})
			if ok != anyFree {
				t.Fatalf("%v into %+v: ok is %v, a port is free: %v", o, r, ok, anyFree)
			}
			if !ok {
				continue
			}
			p := out.L4.Src()
			if !may(p) || out.Src != r.Min || out.Dst != o.Dst || out.L4&^0xffff != o.L4&^0xffff {
				t.Fatalf("%v into %+v becomes %v", o, r, out)
			}
			if own := o.L4.Src(); keeps && !mapped && p != own {
				t.Fatalf("%v into %+v: port %d, its own is free", o, r, p)
			}
			back, _ := out.Invert()
			a.Add(&o, &back)
		}
	})
}

// TestPortThatItHad: a connection that is forgotten and comes back has the port that it
// had, where that is free, although others have come between (F8).
func TestPortThatItHad(t *testing.T) {
	a, s := newAllocator(host(usual)), newMapSpace()
	o := tuple(flow.TCP, "10.1.0.1", "10.2.0.1", 40000, 22)
	first := choose(t, a, s, o, to(ownAddr))
	reply, _ := first.Invert()
	// Somebody else has the port that the search would begin at.
	b, s2 := newAllocator(host(usual)), newMapSpace()
	s2.taken[reply] = true
	had := choose(t, b, s2, o, to(ownAddr))
	if had == first {
		t.Fatal("a taken port was given")
	}
	reply2, _ := had.Invert()
	b.Add(&o, &reply2)
	b.Remove(&o, &reply2)
	delete(s2.taken, reply)
	delete(s2.taken, reply2)
	if again := choose(t, b, s2, o, to(ownAddr)); again != had {
		t.Errorf("it had port %d, and comes back with %d", had.L4.Src(), again.L4.Src())
	}
}

// TestSameSource: connections of one source look alike (find_appropriate_src).
func TestSameSource(t *testing.T) {
	a, s := newAllocator(host(usual)), newMapSpace()
	o := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", 40000, 53)
	out := choose(t, a, s, o, to(ownAddr))
	reply, _ := out.Invert()
	a.Add(&o, &reply)
	for i := range uint64(50) {
		o.Dst.Lo++
		next := choose(t, a, s, o, to(ownAddr))
		if next.L4.Src() != out.L4.Src() {
			t.Fatalf("destination %d sees port %d, the first %d", i, next.L4.Src(), out.L4.Src())
		}
	}
	o.L4 = o.L4.WithZone(5)
	if _, ok := a.sources.Find(o, to(ownAddr), true); ok {
		t.Error("a source in another zone is another source")
	}
}

// TestKeyed: what is drawn depends on the key, on nothing else, and is spread over the
// ports (F45, RFC 6056).
func TestKeyed(t *testing.T) {
	o := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", 40000, 53)
	draw := func(k Key) (ports []uint16) {
		a, s := NewShared(1, 1<<12, k).NewAllocator(0), newMapSpace()
		a.SetHost(host(usual), own)
		for i := range uint64(2000) {
			u := o
			u.Src.Lo += i
			ports = append(ports, choose(t, a, s, u, to(ownAddr)).L4.Src())
		}
		return ports
	}
	one, again, other := draw(Key{1, 2}), draw(Key{1, 2}), draw(Key{1, 3})
	same := 0
	var eighths [8]int
	pool := host(usual).free[1]
	w := window{of: pool, lo: 1024, hi: 65535}
	for i := range one {
		if one[i] != again[i] {
			t.Fatal("the same key chooses differently")
		}
		if one[i] == other[i] {
			same++
		}
		eighths[(pool.rank(int(one[i]))-pool.rank(1024))*8/w.size()]++
	}
	if same > 10 {
		t.Errorf("two keys agree in %d of 2000 choices", same)
	}
	for i, n := range eighths { // 250 are expected; 8 deviations are 118
		if n < 132 || n > 368 {
			t.Errorf("eighth %d of the ports is chosen %d times of 2000", i, n)
		}
	}
}

// TestBoundedWork: where nearly all ports of a destination are in use, and where all are,
// a new connection costs few look-ups, and no port is overlooked that becomes free.
func TestBoundedWork(t *testing.T) {
	a, s := newAllocator(nil), newMapSpace()
	r := to(foreignAddr)
	flood := func(i uint64) flow.Tuple {
		o := tuple(flow.UDP, "10.0.0.0", "10.2.0.1", 2000, 53)
		o.Src.Lo += i
		return o
	}
	var replies []flow.Tuple
	for i := range uint64(64512 + 1023) {
		back, _ := choose(t, a, s, flood(i), r).Invert()
		replies = append(replies, back)
	}
	if per := s.asked / len(replies); per > 8 {
		t.Errorf("%d look-ups a connection until all ports are in use", per)
	}
	s.asked = 0
	for i := range uint64(100) {
		if _, ok := a.Choose(&Query{Tuple: flood(1<<20 + i), Range: r, Source: true, Space: s}); ok {
			t.Fatal("more connections than ports")
		}
	}
	if per := s.asked / 100; per > 2*hardTries+crowdFrom {
		t.Errorf("%d look-ups for a connection that gets no port", per)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	s.asked = 0
	for i := range uint64(2000) {
		gone := replies[rng.IntN(len(replies))]
		if gone.L4.Dst() < 1024 {
			continue
		}
		delete(s.taken, gone)
		a.Freed(&gone)
		back, _ := choose(t, a, s, flood(1<<21+i), r).Invert()
		if back != gone {
			t.Fatalf("port %d is free, %d is given", gone.L4.Dst(), back.L4.Dst())
		}
	}
	if per := s.asked / 2000; per > 8 {
		t.Errorf("%d look-ups for the one port that is free", per)
	}
}

// TestHard: a connection that is about to end makes room, if nothing else is free.
func TestHard(t *testing.T) {
	a, s := newAllocator(nil), newMapSpace()
	r := toPorts(foreignAddr, 9000, 9003)
	for i := range uint16(4) {
		choose(t, a, s, tuple(flow.TCP, "10.1.0.1", "10.2.0.1", 1000+i, 80), r)
	}
	m := tuple(flow.TCP, foreignAddr, "10.2.0.1", 9002, 80)
	reply, _ := m.Invert()
	s.ends[reply] = true
	if out := choose(t, a, s, tuple(flow.TCP, "10.1.0.1", "10.2.0.1", 2000, 80), r); out != m {
		t.Errorf("it gets %v, not the one that ends", out)
	}
}

// TestOffset: ports of a range with a base shift by their distance from it.
func TestOffset(t *testing.T) {
	a, s := newAllocator(nil), newMapSpace()
	r := toPorts("10.2.0.9", 5000, 5009)
	r.Offset, r.BasePort = true, 80
	for _, dport := range []uint16{80, 85, 89} {
		o := tuple(flow.TCP, "10.1.0.1", "10.2.0.1", 1000, dport)
		out, ok := a.Choose(&Query{Tuple: o, Range: r, Space: s})
		if !ok || out.L4.Dst() != 5000+dport-80 || out.Dst != addr("10.2.0.9") || out.L4.Src() != 1000 {
			t.Errorf("port %d: %v %v", dport, out, ok)
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, c := range []struct {
		name  string
		sport uint16
	}{{"kept", 5000}, {"drawn", 40000}} {
		b.Run(c.name, func(b *testing.B) {
			a := newAllocator(host(usual))
			q := &Query{Tuple: tuple(flow.UDP, "10.1.0.1", "10.2.0.1", c.sport, 53), Range: to(ownAddr), Source: true, Space: free{}}
			b.ReportAllocs()
			for range b.N {
				q.Tuple.Src.Lo++
				a.Choose(q)
			}
		})
	}
}

// free is a Space in which everything is.
type free struct{}

func (free) Take(*flow.Tuple, bool) bool { return true }
