package shard

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/table"
)

// TestHopCacheForgets: however often routes change, a path never names another next hop
// than the one that it was given, against a model that remembers which changes were
// between.
func TestHopCacheForgets(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var c hopCache
	paths := make([][2]path, 40)
	c.renew(paths)
	for change := range 120 {
		given := map[int]route.Hop{}
		for i := range []int{0, 1, 700, 3000, 3000, maxHops + 5}[r.IntN(6)] {
			h := route.Hop{Kind: route.Unicast, MTU: i}
			n, ok := c.number(&h)
			if ok != (i < maxHops) {
				t.Fatalf("next hop %d: %v", i, ok)
			}
			if at := r.IntN(40_000); ok && at < len(paths) { // most paths keep what they have from before
				paths[at][0].hop, given[at] = c.base+n, h
			}
		}
		for range r.IntN(4) * min(change/60, 1) { // none at first: routes change faster than batches come
			c.sweep(paths, 13)
		}
		for at := range paths {
			got := c.of(paths[at][0].hop)
			if want, ok := given[at]; ok != (got != nil) || ok && *got != want {
				t.Fatalf("change %d: path %d has %+v, was given %+v (%v)", change, at, got, want, ok)
			}
			if c.of(paths[at][1].hop) != nil {
				t.Fatal("a path that was given none has one")
			}
		}
		c.renew(paths)
	}
}

// TestNeighboursChangeUnderConnections: a neighbour that comes, or changes its address,
// is used from the next packet on, and the paths of other connections stay known.
func TestNeighboursChangeUnderConnections(t *testing.T) {
	b := newForwarder(t, "", "", threeWays(1))
	other := netip.MustParseAddr("10.2.0.9")
	for range 3 {
		b.pass(0, udp(clientIP, serverIP, 4000, 53))
		b.pass(1, udp(serverIP, clientIP, 53, 4000))
	}
	base := b.forward.hops.base
	for n := range byte(20) {
		routes := b.forward.Routes.Clone()
		routes.PutNeighbour(1, other, route.Neighbour{MAC: [6]byte{8, n}})
		routes.PutNeighbour(1, serverIP, route.Neighbour{MAC: [6]byte{9, n}})
		b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: routes})
		if _, v := b.pass(0, udp(clientIP, serverIP, 4000, 53)); v.Action != Accept || v.Hop.DstMAC != [6]byte{9, n} {
			t.Fatalf("%v %v to %x", v.Action, v.Reason, v.Hop.DstMAC)
		}
		if _, v := b.pass(0, udp(clientIP, other, 4000, 53)); v.Action != Accept || v.Hop.DstMAC != [6]byte{8, n} {
			t.Fatalf("%v %v to %x", v.Action, v.Reason, v.Hop.DstMAC)
		}
	}
	if b.forward.hops.base != base {
		t.Error("a neighbour voided all next hops")
	}
	routes := b.forward.Routes.Clone()
	routes.ForgetNeighbour(1, serverIP)
	b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: routes})
	if _, v := b.pass(0, udp(clientIP, serverIP, 4000, 53)); v.Action != Accept || v.Hop.Known {
		t.Errorf("%v, known %v", v.Action, v.Hop.Known)
	}
}

// TestLongBatch: a batch of any length has the right next hop in each verdict at its end,
// also where routes ask for the TOS, so that no next hop is remembered.
func TestLongBatch(t *testing.T) {
	const n = 3*table.MaxBatch + 7
	routes := threeWays(1)
	host := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}) }
	for _, tos := range []uint8{0, 0x10} {
		routes.Put(netip.MustParsePrefix("10.9.0.0/16"), &route.Route{
			Table: route.TableMain, Dst: netip.MustParsePrefix("10.9.0.0/16"), TOS: tos, Kind: route.Unicast, Hops: []route.NextHop{{Out: 1, Weight: 1}},
		}, route.Last)
	}
	for i := range n {
		routes.PutNeighbour(1, host(i), route.Neighbour{MAC: [6]byte{6, 0, 0, 0, byte(i >> 8), byte(i)}})
	}
	b := newForwarder(t, "", "", routes)
	b.Tick(1)
	var pkts [n]packet.Packet
	var out [n]Verdict
	for i := range pkts {
		f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, udp(clientIP, host(i), 4000, 53))
		pkts[i].Parse(f, len(f), packet.Checks{})
		b.Hash(&pkts[i])
	}
	b.Process(pkts[:], out[:])
	if len(b.forward.hops.all) != 0 {
		t.Fatal("next hops are remembered: the routes do not ask for the TOS")
	}
	for i := range out {
		if v := &out[i]; v.Action != Accept || v.Hop == nil || v.Hop.DstMAC != [6]byte{6, 0, 0, 0, byte(i >> 8), byte(i)} {
			t.Fatalf("packet %d: %v %v to %+v", i, v.Action, v.Reason, v.Hop)
		}
	}
}
