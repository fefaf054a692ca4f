package route

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// twoNets is a router with the interfaces lan and wan, and what the kernel has for them.
func twoNets() *Table {
	t := New([]Interface{
		{Name: "lan", Index: 2, Up: true, MTU: 1500, Addrs: prefixes("10.50.0.1/24", "2001:db8:50::1/64")},
		{Name: "wan", Index: 3, Up: true, MTU: 1500, Addrs: prefixes("192.0.2.1/24", "2001:db8:60::1/64")},
	})
	for n, i := range t.Interfaces {
		for _, p := range i.Addrs {
			hop := []NextHop{{Index: 2 + n, Weight: 1}}
			t.Add(&Route{Table: TableMain, Dst: p.Masked(), Kind: Unicast, Hops: hop})
			t.Add(&Route{Table: TableLocal, Dst: netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), Kind: Local, Hops: hop})
		}
	}
	return t
}

func prefixes(s ...string) (all []netip.Prefix) {
	for _, s := range s {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func addr(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }

func family(s string) flow.Family {
	if netip.MustParseAddr(s).Is6() {
		return flow.IPv6
	}
	return flow.IPv4
}

// TestReverse is what rpfilter said on 6.18 of packets that came in by lan: without
// options, with --accept-local, with --loose, with both.
func TestReverse(t *testing.T) {
	table := twoNets()
	for _, c := range []struct {
		src  string
		want [4]bool
	}{
		{"10.50.0.2", [4]bool{true, true, true, true}},
		{"10.50.0.1", [4]bool{false, true, false, true}},
		{"192.0.2.1", [4]bool{false, false, false, true}},
		{"192.0.2.9", [4]bool{false, false, true, true}},
		{"203.0.113.1", [4]bool{}},
		{"2001:db8:50::2", [4]bool{true, true, true, true}},
		{"2001:db8:50::1", [4]bool{false, true, false, true}},
		{"2001:db8:60::1", [4]bool{false, true, false, true}},
		{"2001:db8:60::9", [4]bool{false, false, true, true}},
		{"2001:db8:99::1", [4]bool{}},
	} {
		for i, want := range c.want {
			k := ReverseKey{Family: family(c.src), Src: addr(c.src), In: 0, AcceptLocal: i&1 != 0, Loose: i&2 != 0}
			if got := table.ReverseOK(k); got != want {
				t.Errorf("%s, accept-local %v, loose %v: %v", c.src, k.AcceptLocal, k.Loose, got)
			}
		}
	}
}

// TestCloneIsolated: a clone can be changed in every part, and the table that it was
// made of stays as it was.
func TestCloneIsolated(t *testing.T) {
	before := twoNets()
	before.PutNeighbour(0, netip.MustParseAddr("10.50.0.2"), Neighbour{MAC: [6]byte{2}})
	same := twoNets()
	same.PutNeighbour(0, netip.MustParseAddr("10.50.0.2"), Neighbour{MAC: [6]byte{2}})
	after := before.Clone()
	after.Add(&Route{Table: TableMain, Dst: netip.MustParsePrefix("20.0.0.0/8"), Kind: Blackhole})
	after.Add(&Route{Table: 77, Dst: netip.MustParsePrefix("20.0.0.0/8"), Kind: Blackhole})
	after.Remove(&Route{Table: TableMain, Dst: netip.MustParsePrefix("10.50.0.0/24"), Kind: Unicast, Hops: []NextHop{{Index: 2}}})
	after.PutNeighbour(0, netip.MustParseAddr("10.50.0.2"), Neighbour{MAC: [6]byte{9}})
	after.PutNeighbour(1, netip.MustParseAddr("192.0.2.2"), Neighbour{MAC: [6]byte{3}})
	after.SetRules([]Rule{NewRule(flow.IPv4, 1, 77)})
	after.Interfaces[0].Up = false
	if d := before.Diff(same, 10); len(d) > 0 {
		t.Errorf("the old one has changed: %v", d)
	}
	if d := before.Diff(after, 100); len(d) < 7 {
		t.Errorf("%d differences: %v", len(d), d)
	}
}

// TestBacktracking: where the routes of the longest prefix are for another TOS, or have no
// next hop that is up, a shorter prefix counts; throw ends the table (fib_table_lookup).
func TestBacktracking(t *testing.T) {
	table := twoNets()
	via := func(gw string) []NextHop { return []NextHop{{Index: 3, Weight: 1, Gateway: netip.MustParseAddr(gw)}} }
	for _, r := range []*Route{
		{Dst: netip.MustParsePrefix("20.0.0.0/8"), Kind: Unicast, Hops: via("192.0.2.8")},
		{Dst: netip.MustParsePrefix("20.1.0.0/16"), Kind: Unicast, TOS: 0x10, Hops: via("192.0.2.16")},
		{Dst: netip.MustParsePrefix("20.1.1.0/24"), Kind: Unicast, Hops: []NextHop{{Index: 3, Dead: true, Gateway: netip.MustParseAddr("192.0.2.24")}}},
		{Dst: netip.MustParsePrefix("20.2.0.0/16"), Kind: Throw},
	} {
		r.Table = TableMain
		table.Add(r)
	}
	table.Add(&Route{Table: TableDefault, Dst: netip.MustParsePrefix("0.0.0.0/0"), Kind: Prohibit})
	for _, c := range []struct {
		dst  string
		tos  uint8
		want string
	}{
		{"20.9.0.1", 0, "1 192.0.2.8"}, {"20.1.0.1", 0, "1 192.0.2.8"}, {"20.1.0.1", 0x10, "1 192.0.2.16"}, {"20.1.0.1", 0xf0, "1 192.0.2.16"},
		{"20.1.1.1", 0, "1 192.0.2.8"}, {"20.1.1.1", 0x10, "1 192.0.2.16"}, {"20.2.0.1", 0, "8 invalid IP"}, {"30.0.0.1", 0, "8 invalid IP"},
	} {
		h := table.Lookup(Key{Family: flow.IPv4, Src: addr("10.50.0.2"), Dst: addr(c.dst), In: 0, TOS: c.tos})
		if got := fmt.Sprint(h.Kind, h.Next); got != c.want {
			t.Errorf("%s with TOS %#x: %s, want %s", c.dst, c.tos, got, c.want)
		}
		if h.Kind == Unicast && !h.Varies && c.dst[:4] == "20.1" {
			t.Errorf("%s: it is not said that TOS had a part in it", c.dst)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	table := twoNets()
	for i := range 100_000 {
		dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		table.Add(&Route{Table: TableMain, Dst: dst, Kind: Unicast, Hops: []NextHop{{Index: 3, Weight: 1}}})
	}
	k := Key{Family: flow.IPv4, Src: addr("10.50.0.2"), In: 0}
	b.ReportAllocs()
	for i := range b.N {
		k.Dst = flow.AddrFrom(netip.AddrFrom4([4]byte{20, 0, byte(i >> 8), byte(i)}))
		if h := table.Lookup(k); h.Out != 1 {
			b.Fatal(h)
		}
	}
}

// BenchmarkChange is what a change of a route costs while there is somebody who reads.
func BenchmarkChange(b *testing.B) {
	table := New([]Interface{{Name: "lan", Index: 2, Up: true}})
	r := &Route{Table: TableMain, Kind: Unicast, Hops: []NextHop{{Index: 2, Weight: 1}}}
	for i := range 100_000 {
		table.Put(netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32), r, First)
	}
	b.ReportAllocs()
	for i := range b.N {
		table = table.Clone()
		table.Put(netip.PrefixFrom(netip.AddrFrom4([4]byte{30, 0, byte(i >> 8), byte(i)}), 32), r, First)
	}
}

// TestFilter is what rp_filter said on 6.18 of packets from a host on the link and from one
// that a default route leads to elsewhere: an interface without an address has no loose
// filter, and drops what comes by another interface than an answer would leave by.
func TestFilter(t *testing.T) {
	for _, c := range []struct {
		filter    int
		addressed bool
		src       string
		want      bool
	}{
		{0, false, "10.50.0.2", true}, {0, false, "203.0.113.1", true}, {0, true, "203.0.113.1", true},
		{1, false, "10.50.0.2", true}, {1, false, "203.0.113.1", false}, {1, true, "10.50.0.2", true}, {1, true, "203.0.113.1", false},
		{2, false, "10.50.0.2", true}, {2, false, "203.0.113.1", false}, {2, true, "10.50.0.2", true}, {2, true, "203.0.113.1", true},
	} {
		table := twoNets()
		table.Interfaces[0].ReversePath = c.filter
		if !c.addressed {
			table.Interfaces[0].Addrs = nil
		}
		table.Add(&Route{Table: TableMain, Dst: netip.MustParsePrefix("0.0.0.0/0"), Kind: Unicast, Hops: []NextHop{{Index: 3, Weight: 1, Gateway: netip.MustParseAddr("192.0.2.9")}}})
		if got := table.FilterOK(ReverseKey{Family: flow.IPv4, Src: addr(c.src), Dst: addr("192.0.2.9"), In: 0}); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
