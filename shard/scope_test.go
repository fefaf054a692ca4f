package shard

import (
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
)

// TestScopes: what a router does with IPv6 packets whose addresses are not for every link
// (asked of 6.18; ip6_rcv_core, ip6_forward), and whether rules for PREROUTING and for
// FORWARD see them.
func TestScopes(t *testing.T) {
	routes := routesOfBoth()
	for _, dst := range []struct {
		net  string
		hops []route.NextHop
	}{{"fe80::/64", []route.NextHop{{Out: 0, Weight: 1}, {Out: 1, Weight: 1}}}, {"::/0", []route.NextHop{{Out: 1, Weight: 1}}}} {
		routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix(dst.net), Kind: route.Unicast, Hops: dst.hops})
	}
	routes.Add(&route.Route{Table: route.TableLocal, Dst: netip.MustParsePrefix("fe80::fe/128"), Kind: route.Local, Hops: []route.NextHop{{Out: 0, Weight: 1}}})
	const rules = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n"
	for _, c := range []struct {
		in         int
		src, dst   string
		action     Action
		want       flow.Reason
		out        int
		before     uint64 // packets that PREROUTING sees
		forwarding uint64 // and FORWARD
		answer     byte   // code of the "destination unreachable", plus one; 0: none
	}{
		{0, "2001:db8:1::1", "2001:db8:2::1", Accept, 0, 1, 1, 1, 0},
		{0, "ff02::1", "2001:db8:2::1", Drop, flow.ReasonMartian, 0, 0, 0, 0},
		{0, "::1", "2001:db8:2::1", Drop, flow.ReasonMartian, 0, 0, 0, 0},
		{0, "2001:db8:1::1", "::1", Drop, flow.ReasonMartian, 0, 0, 0, 0},
		{0, "2001:db8:1::1", "ff01::1", Drop, flow.ReasonMartian, 0, 0, 0, 0},
		{0, "2001:db8:1::1", "ff00::1", Drop, flow.ReasonMartian, 0, 0, 0, 0},
		{0, "2001:db8:1::1", "ff02::1", Host, 0, 0, 1, 0, 0},
		{0, "::", "2001:db8:2::1", Drop, flow.ReasonMartian, 0, 1, 0, 0},
		{0, "fe80::1", "2001:db8:2::1", Drop, flow.ReasonNotForwarded, 0, 1, 0, 3},
		{0, "fe80::1", "2001:db8:1::2", Accept, 0, 0, 1, 1, 0},
		{0, "2001:db8:1::1", "fe80::1", Accept, 0, 0, 1, 1, 0},
		{1, "2001:db8:2::1", "fe80::1", Accept, 0, 1, 1, 1, 0},
		{1, "fe80::2", "fe80::1", Accept, 0, 1, 1, 1, 0},
		{0, "2001:db8:1::1", "fe80::fe", Host, 0, 0, 1, 0, 0},
		{1, "2001:db8:2::1", "fe80::fe", Accept, 0, 1, 1, 1, 0},
	} {
		b := newForwarder(t, "", rules, routes)
		ip := packet.IP{Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst)}
		_, v := b.pass(c.in, packet.AppendUDP(nil, ip, 1, 2, nil))
		if v.Action != c.action || v.Reason != c.want || c.action == Accept && (v.Out != c.out || v.Hop.Out != c.out) {
			t.Errorf("%s to %s by %d: %v %v by %d", c.src, c.dst, c.in, v.Action, v.Reason, v.Out)
		}
		// Policy and rule of each chain count.
		if n := b.Counts(); n[1].Packets != c.before || n[3].Packets != c.forwarding {
			t.Errorf("%s to %s: counted %v", c.src, c.dst, n)
		}
		code := byte(0)
		for _, o := range b.TakeOwn() {
			if d := o.Datagram; d[40] == 1 {
				code = d[41] + 1
				if o.Out != c.in || o.Hop.Next != ip.Src {
					t.Errorf("%s to %s: answered by %d to %v", c.src, c.dst, o.Out, o.Hop.Next)
				}
			}
		}
		if code != c.answer {
			t.Errorf("%s to %s: answer %d", c.src, c.dst, code)
		}
	}
}
