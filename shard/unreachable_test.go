package shard

import (
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/icmplimit"
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

// TestNoRouteIsLimited: of packets that cannot be routed two of one host are answered at
// once, by what the kernel was seen to do (TestNoRouteLimitsAgree); of IPv6, where there is
// no such limit, as many as of any errors.
func TestNoRouteIsLimited(t *testing.T) {
	b := newNATBox(t, "")
	routes := threeWays(1)
	routes.Interfaces[0].Addrs = []netip.Prefix{netip.MustParsePrefix("10.1.0.254/24"), netip.MustParsePrefix("2001:db8:1::fe/64")}
	routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix("10.9.0.0/24"), Kind: route.Prohibit})
	routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix("2001:db8:9::/64"), Kind: route.Prohibit})
	routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix("2001:db8:1::/64"), Kind: route.Unicast, Hops: []route.NextHop{{Out: 0, Weight: 1}}})
	limits := icmplimit.New(icmplimit.Linux(), &flow.Secret{1, 2, 3})
	b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: routes, Errors: limits})
	for _, c := range []struct {
		src, dst string
		want     int
	}{{"10.1.0.1", "10.9.0.1", 2}, {"10.1.0.2", "10.9.0.1", 2}, {"2001:db8:1::1", "2001:db8:9::1", 6}} {
		ip, got := packet.IP{Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst)}, 0
		for port := range uint16(20) {
			b.pass(0, packet.AppendUDP(nil, ip, 1+port, 2, nil))
			got += len(b.TakeOwn())
		}
		if got != c.want {
			t.Errorf("%s: %d of 20 packets are answered, not %d", c.src, got, c.want)
		}
	}
}
