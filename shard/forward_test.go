package shard

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/route"
)

// threeWays is a router with three interfaces: 10.1.0.0/24 is behind the first, and
// 10.2.0.0/24 behind the one that out says.
func threeWays(out int) *route.Table {
	var ifs []route.Interface
	for i, name := range []string{"in", "one", "two"} {
		ifs = append(ifs, route.Interface{Name: name, Up: true, MTU: 1500, MAC: [6]byte{2, byte(i)}})
	}
	t := route.New(ifs)
	for prefix, n := range map[string]int{"10.1.0.0/24": 0, "10.2.0.0/24": out} {
		t.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix(prefix), Kind: route.Unicast, Hops: []route.NextHop{{Out: n, Weight: 1}}})
	}
	t.PutNeighbour(0, clientIP, route.Neighbour{MAC: [6]byte{4, 0}})
	for n := 1; n <= 2; n++ {
		t.PutNeighbour(n, serverIP, route.Neighbour{MAC: [6]byte{4, byte(n)}})
	}
	return t
}

// TestRoutesChangeUnderConnections: a connection whose output interface changes is judged by the
// rules for the new one, from the next packet on, however well the old one was known;
// and rules that change count for it at once.
func TestRoutesChangeUnderConnections(t *testing.T) {
	b := newNATBox(t, "")
	set := func(rules string, out int) {
		t.Helper()
		r, err := syntax.Parse(strings.NewReader(rules), "rules", flow.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		var before *policy.Program
		if b.forward.Forwarding != nil {
			before = b.forward.Rules
		}
		p, err := policy.Compile(r, nil, []string{"in", "one", "two"}, nat.Key{1, 2}, before)
		if err != nil {
			t.Fatal(err)
		}
		b.SetForwarding(&Forwarding{Rules: p, Routes: threeWays(out)})
	}
	reroute := func(out int) { b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: threeWays(out)}) }
	query := func(want int, reason flow.Reason) {
		t.Helper()
		for range 4 { // the third finds all known, the fourth is fast
			out, v := b.pass(0, udp(clientIP, serverIP, 4000, 53))
			if v.Reason != reason || reason == flow.NoReason && (v.Hop.Out != want || v.Hop.DstMAC != [6]byte{4, byte(want)}) {
				t.Fatalf("%v %v by %+v", v.Action, v.Reason, v.Hop)
			}
			if reason == flow.NoReason {
				ends(t, out)
				if out[8] != 63 {
					t.Fatalf("TTL %d", out[8])
				}
				b.pass(want, udp(serverIP, clientIP, 53, 4000))
			}
		}
	}
	const onlyOne = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -o two -j DROP\nCOMMIT\n"
	set(onlyOne, 1)
	query(1, flow.NoReason)
	reroute(2)
	query(2, flow.ReasonRule)
	reroute(1)
	query(1, flow.NoReason)
	set("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", 1)
	query(1, flow.ReasonRule)
	set("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", 2)
	query(2, flow.NoReason)
	for range 200 { // until the numbers of next hops wrap
		reroute(1)
		query(1, flow.NoReason)
		reroute(2)
		query(2, flow.NoReason)
	}
}

// TestManyWays: more neighbours than a shard remembers ways to each get what is theirs, in
// one batch.
func TestManyWays(t *testing.T) {
	b := newNATBox(t, "")
	routes := threeWays(1)
	const n = maxHops + 200
	host := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}) }
	routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix("10.9.0.0/16"), Kind: route.Unicast, Hops: []route.NextHop{{Out: 1, Weight: 1}}})
	for i := range n {
		routes.PutNeighbour(1, host(i), route.Neighbour{MAC: [6]byte{6, 0, 0, 0, byte(i >> 8), byte(i)}})
	}
	b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: routes})
	b.Tick(1)
	const batch = 64
	var pkts [batch]packet.Packet
	var out [batch]Verdict
	for at := 0; at+batch <= n; at += batch {
		for i := range batch {
			f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, udp(clientIP, host(at+i), 4000, 53))
			pkts[i].Parse(f, len(f), packet.Checks{})
			pkts[i].In = 0
			b.Hash(&pkts[i])
		}
		b.Process(pkts[:], out[:])
		for i := range batch {
			k := at + i
			if v := &out[i]; v.Action != Accept || v.Hop.DstMAC != [6]byte{6, 0, 0, 0, byte(k >> 8), byte(k)} {
				t.Fatalf("packet to %v: %v %v to %x", host(k), v.Action, v.Reason, v.Hop.DstMAC)
			}
		}
	}
}

// TestTooBigAndTooOld: what does not fit the next link, and what has been on the way for
// too long, is answered; what may be cut is cut.
func TestTooBigAndTooOld(t *testing.T) {
	b := newNATBox(t, "")
	routes := threeWays(1)
	routes.Interfaces[1].MTU = 600
	for i := range routes.Interfaces { // answers need an address
		routes.Interfaces[i].Addrs = []netip.Prefix{netip.MustParsePrefix([]string{"10.1.0.254/24", "10.2.0.254/24", "10.3.0.254/24"}[i])}
	}
	b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: routes})
	big := packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, 53, make([]byte, 1400))
	if _, v := b.pass(0, big); v.Action != Replaced {
		t.Fatalf("%v %v", v.Action, v.Reason)
	}
	length, last := 0, []byte(nil)
	for _, o := range b.TakeOwn() {
		if len(o.Datagram) > 600 || o.Out != 1 {
			t.Errorf("a piece of %d bytes, by %d", len(o.Datagram), o.Out)
		}
		length += len(o.Datagram) - 20
		last = o.Datagram
	}
	if length != 1408 || last[6]&0x20 != 0 {
		t.Errorf("the pieces carry %d bytes", length)
	}
	firm := append([]byte(nil), big...)
	firm[6] = 0x40 // Don't Fragment
	sum := uint32(firm[10])<<8 | uint32(firm[11])
	sum -= 0x4000
	firm[10], firm[11] = byte(sum>>8), byte(sum)
	old := packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP, TTL: 1}, 4000, 53, nil)
	for _, c := range []struct {
		datagram  []byte
		reason    flow.Reason
		typ, code byte
	}{{firm, flow.ReasonTooBig, 3, 4}, {old, flow.ReasonTTLExceeded, 11, 0}} {
		_, v := b.pass(0, c.datagram)
		own := b.TakeOwn()
		if v.Reason != c.reason || len(own) != 1 {
			t.Fatalf("%v %v, %d answers", v.Action, v.Reason, len(own))
		}
		d := own[0].Datagram
		if d[20] != c.typ || d[21] != c.code || netip.AddrFrom4([4]byte(d[16:])) != clientIP || netip.AddrFrom4([4]byte(d[12:])).String() != "10.1.0.254" {
			t.Errorf("the answer is %x", d)
		}
		if c.typ == 3 && (d[26] != 600>>8 || d[27] != 600&255) {
			t.Errorf("the answer names another MTU: %x", d[24:28])
		}
	}
}
