package shard

import (
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
)

// TestUnreachableRoute: IPv6 answers "no route" for an unreachable route, IPv4 "host
// unreachable" (ip6_pkt_discard, ip_error).
func TestUnreachableRoute(t *testing.T) {
	b := newNATBox(t, "")
	routes := threeWays(1)
	routes.Interfaces[0].Addrs = []netip.Prefix{netip.MustParsePrefix("10.1.0.254/24"), netip.MustParsePrefix("2001:db8:1::fe/64")}
	for _, dst := range []string{"10.9.0.0/24", "2001:db8:9::/64"} {
		routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix(dst), Kind: route.Unreachable})
	}
	routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix("2001:db8:1::/64"), Kind: route.Unicast, Hops: []route.NextHop{{Out: 0, Weight: 1}}})
	b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: routes})
	for _, c := range []struct {
		src, dst  string
		at        int // of the ICMP header
		typ, code byte
	}{{"10.1.0.1", "10.9.0.1", 20, 3, 1}, {"2001:db8:1::1", "2001:db8:9::1", 40, 1, 0}} {
		ip := packet.IP{Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst)}
		if _, v := b.pass(0, packet.AppendUDP(nil, ip, 1, 2, nil)); v.Reason != flow.ReasonNoRoute {
			t.Errorf("%s: %v %v", c.dst, v.Action, v.Reason)
		}
		own := b.TakeOwn()
		if len(own) != 1 || own[0].Datagram[c.at] != c.typ || own[0].Datagram[c.at+1] != c.code {
			t.Errorf("%s: %d answers: %+v", c.dst, len(own), own)
		}
	}
}
