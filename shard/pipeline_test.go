package shard

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
)

func tcp(src, dst netip.Addr, sport, dport uint16, seq uint32, flags packet.TCPFlags) []byte {
	return packet.AppendTCP(nil, packet.IP{Src: src, Dst: dst}, sport, dport, packet.Segment{Seq: seq, Flags: flags, Window: 1000})
}

// TestConnlimitForgetsWhatEnds: a connection that its own packet ends, which rules see
// afterwards, is not counted for ever.
func TestConnlimitForgetsWhatEnds(t *testing.T) {
	b := newNATBox(t, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p tcp -m connlimit --connlimit-above 3 -j DROP\n-A FORWARD -j ACCEPT\nCOMMIT\n")
	for i := range uint16(50) {
		if out, v := b.pass(inside, tcp(clientIP, serverIP, 4000+i, 80, 1, packet.SYN)); out == nil {
			t.Fatalf("connection %d: %v, with %d in the table", i, v.Reason, b.Len())
		}
		if _, v := b.pass(inside, tcp(clientIP, serverIP, 4000+i, 80, 2, packet.RST)); v.Action != Accept || !v.Conn {
			t.Fatalf("its RST: %v %v", v.Action, v.Reason)
		}
		if b.Len() != 0 {
			t.Fatalf("the RST did not end connection %d", i)
		}
	}
}

// TestReplyTuplesAreUnique: a connection with one key does not get the reply tuple of a
// translated one that lives on after its rules have gone. In the kernel that is a clash
// (insert_failed).
func TestReplyTuplesAreUnique(t *testing.T) {
	b := newNATBox(t, "*nat\n-A PREROUTING -p udp --dport 8080 -j DNAT --to-destination 10.2.0.1:80\nCOMMIT\n")
	b.pass(inside, udp(clientIP, publicIP, 4000, 8080))
	b.setRules(t, "")
	if out, v := b.pass(inside, udp(clientIP, serverIP, 4000, 80)); out != nil || v.Reason != flow.ReasonClash {
		t.Fatalf("the direct flow: %v %v", v.Action, v.Reason)
	}
	back, _ := b.pass(outside, udp(serverIP, clientIP, 80, 4000))
	if from, _ := ends(t, back); from.String() != "192.0.2.1:8080" {
		t.Errorf("the answer comes from %v", from)
	}
	if _, v := b.pass(inside, udp(clientIP, serverIP, 4001, 80)); v.Action != Accept || b.Len() != 2 {
		t.Errorf("another flow: %v %v", v.Action, v.Reason)
	}
}

// TestEqualTuples: a connection whose two tuples are equal begins in the original
// direction, and whatever comes later is a reply (the kernel finds the tuple that it
// has put into its table last).
func TestEqualTuples(t *testing.T) {
	b := newNATBox(t, "")
	for i, want := range []struct {
		state flow.State
		dir   flow.Direction
	}{{flow.New, flow.Original}, {flow.Established, flow.Reply}, {flow.Established, flow.Reply}} {
		if _, v := b.pass(inside, udp(clientIP, clientIP, 7, 7)); v.State != want.state || v.Dir != want.dir {
			t.Errorf("packet %d: %v %v", i, v.State, v.Dir)
		}
	}
	p := newPairing(t, nil)
	for i := range 3 {
		if diff := p.step(udp(clientIP, clientIP, 7, 7)); diff != "" {
			t.Errorf("packet %d: %s", i, diff)
		}
	}
}

// TestInvalidAndDropped: a packet that is INVALID and that a rule drops has both
// reasons, in the verdict and in the counters.
func TestInvalidAndDropped(t *testing.T) {
	b := newNATBox(t, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n-A FORWARD -p tcp --dport 81 -j DROP\nCOMMIT\n")
	damaged := tcp(clientIP, serverIP, 4000, 80, 1, packet.SYN)
	damaged[36] ^= 1
	for n := range uint64(3) {
		_, v := b.pass(inside, damaged)
		if v.Action != Drop || v.Reason != flow.ReasonRule || v.Conntrack != flow.ReasonL4Checksum {
			t.Errorf("%v %v, conntrack says %v", v.Action, v.Reason, v.Conntrack)
		}
		if st := b.Stats(); st.Reasons[flow.ReasonRule] != n+1 || st.Reasons[flow.ReasonL4Checksum] != n+1 || st.Dropped != n+1 {
			t.Errorf("%d rule, %d checksum, %d dropped", st.Reasons[flow.ReasonRule], st.Reasons[flow.ReasonL4Checksum], st.Dropped)
		}
	}
	if _, v := b.pass(inside, tcp(clientIP, serverIP, 4000, 81, 1, packet.SYN)); v.Action != Drop || v.Conntrack != flow.NoReason {
		t.Errorf("%v %v, conntrack says %v", v.Action, v.Reason, v.Conntrack)
	}
}

// TestMarkOfAChild: a rule can take the mark from a child of a marked connection, and does so
// before anybody is told of the child (F14).
func TestMarkOfAChild(t *testing.T) {
	secret := flow.Secret{1, 2, 3, 4, 5, 6, 7}
	type event struct {
		kind flow.EventKind
		mark flow.Mark
	}
	var (
		s      *Shard
		events []event
	)
	s, err := New(Config{
		L4: l4.Linux(), MaxConns: 1 << 10, Forwards: true, Translates: true, Secret: secret, Expect: expect.New(10, &secret),
		Observe: func(k flow.EventKind, i uint32) { events = append(events, event{k, s.Record(i).Mark}) },
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	b := &natBox{Shard: s}
	b.setRules(t, "*mangle\n-A PREROUTING -p udp --dport 53 -j CONNMARK --set-mark 7\n-A PREROUTING -p udp --dport 99 -j CONNMARK --set-mark 0\nCOMMIT\n")
	b.pass(inside, udp(clientIP, serverIP, 4000, 53))
	b.pass(outside, udp(serverIP, clientIP, 53, 4000))
	var master flow.Tuple
	b.Walk(0, 100, func(i uint32, _ *flow.Conn) bool { master = b.Record(i).Orig; return false })
	child := flow.Tuple{Src: flow.AddrFrom(clientIP), Dst: flow.AddrFrom(serverIP), L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, 5000, 99)}
	if err := b.Expect(master, expect.Expectation{Tuple: child, Mask: expect.ExactSource, Expires: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	events = nil
	if _, v := b.pass(inside, udp(clientIP, serverIP, 5000, 99)); v.State != flow.Related {
		t.Fatalf("the child is %v", v.State)
	}
	i, ok := b.Find(child)
	if r := b.Record(i); !ok || r.Mark != 0 {
		t.Errorf("the child's mark is %d", r.Mark)
	}
	if want := []event{{flow.EventNew, 0}}; !slices.Equal(events, want) {
		t.Errorf("told of the child: %v, want %v", events, want)
	}
}

// TestRulesTooLongToSpecialise: rules that are too long to be made code of are not
// tried again for each packet.
func TestRulesTooLongToSpecialise(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n")
	for range 600 {
		rules.WriteString("-A FORWARD -m statistic --mode random --probability 0\n")
	}
	b := newNATBox(t, rules.String()+"COMMIT\n")
	for range 4 {
		b.pass(inside, udp(clientIP, serverIP, 4000, 53))
		b.pass(outside, udp(serverIP, clientIP, 53, 4000))
	}
	p, v := packet.Packet{}, Verdict{}
	f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, udp(clientIP, serverIP, 4000, 53))
	if n := testing.AllocsPerRun(100, func() {
		p.Parse(f, len(f), packet.Checks{})
		b.Hash(&p)
		b.Process([]packet.Packet{p}, []Verdict{v})
	}); n > 2 { // the slices of the test itself
		t.Errorf("%v allocations a packet", n)
	}
}

// TestClampFollowsTheMark: the MSS is clamped to the route that the packet takes, also
// if that is because of its mark.
func TestClampFollowsTheMark(t *testing.T) {
	routes := threeWays(1)
	routes.Interfaces[2].MTU = 1400
	rule := func(priority, table int, mask uint32) route.Rule {
		r := route.NewRule(flow.IPv4, priority, table)
		r.Mark, r.Mask = 1&mask, mask
		return r
	}
	routes.SetRules([]route.Rule{rule(100, 7, 0xff), rule(200, route.TableMain, 0)})
	routes.Add(&route.Route{Table: 7, Dst: netip.MustParsePrefix("10.2.0.0/24"), Kind: route.Unicast, Hops: []route.NextHop{{Out: 2, Weight: 1}}})
	const rules = "*mangle\n-A PREROUTING -p tcp --dport 80 -j MARK --set-mark 1\n-A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\nCOMMIT\n"
	b := newForwarder(t, rules, "", routes)
	mss := func(dport uint16) uint16 {
		syn := packet.AppendTCP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, dport,
			packet.Segment{Flags: packet.SYN, Window: 1000, Options: []byte{2, 4, 1460 >> 8, 1460 & 255}})
		out, v := b.pass(0, syn)
		if out == nil {
			t.Fatal(v.Reason)
		}
		return uint16(out[42])<<8 | uint16(out[43])
	}
	if marked, plain := mss(80), mss(81); marked != 1360 || plain != 1460 {
		t.Errorf("MSS %d by the marked route, %d by the other", marked, plain)
	}
}

// TestRedirectsOfTranslated: an ICMP redirect about a translated connection is dropped
// (nf_nat_icmp_reply_translation): it names a router on a link that its receiver is
// not on. About another one it passes.
func TestRedirectsOfTranslated(t *testing.T) {
	router := netip.MustParseAddr("10.2.0.254")
	b := newNATBox(t, "*nat\n-A POSTROUTING -p udp --sport 4000 -j SNAT --to-source 192.0.2.1\nCOMMIT\n")
	for sport, want := range map[uint16]flow.Reason{4000: flow.ReasonNATRedirect, 4001: flow.NoReason} {
		sent, _ := b.pass(inside, udp(clientIP, serverIP, sport, 53))
		src, _ := ends(t, sent)
		_, v := b.pass(outside, packet.AppendICMP(nil, packet.IP{Src: router, Dst: src.Addr()}, 5, 1, 0x0a020007, sent))
		if v.Reason != want || v.State != flow.Related {
			t.Errorf("about port %d: %v %v %v", sport, v.Action, v.State, v.Reason)
		}
	}
}

// TestTooShortToTranslate: what has less than eight bytes of a transport header cannot
// be translated and is dropped (l4proto_manip_pkt): GRE, and what ICMP errors quote.
func TestTooShortToTranslate(t *testing.T) {
	b := newNATBox(t, "*nat\n-A POSTROUTING -s 10.1.0.1 -j SNAT --to-source 192.0.2.1\nCOMMIT\n")
	other := netip.MustParseAddr("10.1.0.2")
	for n, want := range map[int]flow.Reason{4: flow.ReasonNATTooShort, 7: flow.ReasonNATTooShort, 8: flow.NoReason} {
		gre := packet.AppendIP(nil, packet.IP{Src: clientIP, Dst: serverIP}, flow.GRE, make([]byte, n))
		for i := range 3 {
			if _, v := b.pass(inside, gre); v.Reason != want {
				t.Errorf("GRE of %d bytes, %d: %v %v", n, i, v.Action, v.Reason)
			}
		}
	}
	if _, v := b.pass(inside, packet.AppendIP(nil, packet.IP{Src: other, Dst: serverIP}, flow.GRE, make([]byte, 4))); v.Reason != flow.NoReason {
		t.Errorf("GRE that is not translated: %v", v.Reason)
	}
	sent, _ := b.pass(inside, udp(clientIP, serverIP, 4000, 53))
	for n, want := range map[int]flow.Reason{4: flow.ReasonNATTooShort, 8: flow.NoReason} {
		_, v := b.pass(outside, packet.AppendICMP(nil, packet.IP{Src: serverIP, Dst: publicIP}, 3, 3, 0, sent[:20+n]))
		if v.Reason != want || v.State != flow.Related {
			t.Errorf("an error that quotes %d bytes: %v %v", n, v.State, v.Reason)
		}
	}
}

// TestSourceOfErrors: an ICMPv6 error has an address of the interface that the packet
// came by, an ICMP error one of that by which it leaves, as in Linux.
func TestSourceOfErrors(t *testing.T) {
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		host := func(side, n byte) netip.Addr { return fuzzNetwork.Host(side == 2, int(n), f) }
		b := newForwarder(t, "", "", routesOfBoth())
		for in, want := range []string{flow.IPv4: "10.2.0.254", flow.IPv6: "2001:db8:1::fe"} {
			if flow.Family(in) != f || want == "" {
				continue
			}
			old := packet.AppendUDP(nil, packet.IP{Src: host(2, 1), Dst: host(2, 2), TTL: 1}, 4000, 53, nil)
			b.passFrame(0, packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, old))
			own := b.TakeOwn()
			if len(own) != 1 {
				t.Fatalf("%v: %d answers", f, len(own))
			}
			d := own[0].Datagram
			src := netip.AddrFrom4([4]byte(d[12:]))
			if f == flow.IPv6 {
				src = netip.AddrFrom16([16]byte(d[8:]))
			}
			if src.String() != want || own[0].Out != 1 {
				t.Errorf("%v: the error is from %v by %d", f, src, own[0].Out)
			}
		}
	}
}

// TestMartians: which addresses the kernel forwards (asked of 6.18).
func TestMartians(t *testing.T) {
	routes := threeWays(1)
	for _, net := range []string{"0.0.0.0/8", "240.0.0.0/4"} {
		routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix(net), Kind: route.Unicast, Hops: []route.NextHop{{Out: 1, Weight: 1}}})
	}
	routes.Add(&route.Route{Table: route.TableLocal, Dst: netip.MustParsePrefix("10.1.0.255/32"), Kind: route.Broadcast, Hops: []route.NextHop{{Out: 0, Weight: 1}}})
	b := newForwarder(t, "", "", routes)
	for _, c := range []struct {
		src, dst string
		want     flow.Reason
	}{
		{"240.1.2.3", "10.2.0.1", 0}, {"0.1.2.3", "10.2.0.1", 0}, {"10.1.0.255", "10.2.0.1", 0},
		{"10.1.0.1", "240.1.2.3", 0}, {"10.1.0.1", "0.1.2.3", 0},
		{"0.0.0.0", "10.2.0.1", flow.ReasonMartian}, {"255.255.255.255", "10.2.0.1", flow.ReasonMartian},
		{"127.0.0.1", "10.2.0.1", flow.ReasonMartian}, {"224.0.0.1", "10.2.0.1", flow.ReasonMartian},
		{"10.1.0.1", "0.0.0.0", flow.ReasonMartian}, {"10.1.0.1", "127.0.0.1", flow.ReasonMartian},
	} {
		if _, v := b.pass(0, udp(netip.MustParseAddr(c.src), netip.MustParseAddr(c.dst), 1, 2)); v.Reason != c.want {
			t.Errorf("%s to %s: %v %v", c.src, c.dst, v.Action, v.Reason)
		}
	}
}

// TestNeverRouted: what goes to a group, or to all on a link, does not follow a default
// route, but is the host's, if it may be at all (asked of 6.18).
func TestNeverRouted(t *testing.T) {
	routes := routesOfBoth()
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix(all), Kind: route.Unicast, Hops: []route.NextHop{{Out: 1, Weight: 1}}})
	}
	b := newForwarder(t, "", "", routes)
	for _, c := range []struct {
		src, dst string
		action   Action
		want     flow.Reason
	}{
		{"10.1.0.1", "224.0.0.5", Host, 0}, {"10.1.0.1", "239.1.2.3", Host, 0}, {"10.1.0.1", "255.255.255.255", Host, 0},
		{"0.0.0.0", "255.255.255.255", Host, 0}, {"0.0.0.0", "224.0.0.1", Host, 0}, {"0.0.0.0", "0.0.0.0", Host, 0},
		{"0.0.0.0", "239.1.2.3", Drop, flow.ReasonMartian}, {"224.0.0.1", "224.0.0.5", Drop, flow.ReasonMartian},
		{"127.0.0.1", "224.0.0.5", Drop, flow.ReasonMartian}, {"255.255.255.255", "255.255.255.255", Drop, flow.ReasonMartian},
		{"2001:db8:1::1", "ff02::1", Host, 0}, {"2001:db8:1::1", "ff0e::1", Host, 0}, {"fe80::1", "ff02::5", Host, 0},
	} {
		for range 3 {
			if _, v := b.pass(0, udp(netip.MustParseAddr(c.src), netip.MustParseAddr(c.dst), 1, 2)); v.Action != c.action || v.Reason != c.want {
				t.Errorf("%s to %s: %v %v", c.src, c.dst, v.Action, v.Reason)
			}
		}
	}
}

// TestBroadcastSources: a broadcast address of a net passes as a source, but where the
// kernel looks sources up: when the packet goes back to where it came from and
// redirects are sent, and when there are rules for routing (asked of 6.18).
func TestBroadcastSources(t *testing.T) {
	for _, c := range []struct {
		dst              string
		redirects, rules bool
		want             flow.Reason
	}{
		{"10.2.0.1", false, false, 0}, {"10.2.0.1", true, false, 0}, {"10.1.0.2", false, false, 0},
		{"10.1.0.2", true, false, flow.ReasonMartian}, {"10.2.0.1", false, true, flow.ReasonMartian},
	} {
		routes := threeWays(1)
		routes.Interfaces[0].SendRedirects = c.redirects
		routes.Add(&route.Route{Table: route.TableLocal, Dst: netip.MustParsePrefix("10.1.0.255/32"), Kind: route.Broadcast, Hops: []route.NextHop{{Out: 0, Weight: 1}}})
		if c.rules {
			routes.SetRules([]route.Rule{route.NewRule(flow.IPv4, 0, route.TableLocal), route.NewRule(flow.IPv4, 9, 9), route.NewRule(flow.IPv4, 10, route.TableMain)})
		}
		b := newForwarder(t, "", "", routes)
		if _, v := b.pass(0, udp(netip.MustParseAddr("10.1.0.255"), netip.MustParseAddr(c.dst), 1, 2)); v.Reason != c.want {
			t.Errorf("%+v: %v %v", c, v.Action, v.Reason)
		}
	}
}

// TestRoutesByTOSAndPorts: rules for routing see TOS, protocol and ports, and what they
// say of one packet is not kept for others of its connection.
func TestRoutesByTOSAndPorts(t *testing.T) {
	routes := threeWays(1)
	low := route.NewRule(flow.IPv4, 5, 7)
	low.TOS, low.TOSMask = 0x10, 0x1c
	web := route.NewRule(flow.IPv4, 6, 7)
	web.Proto, web.DstPorts = flow.UDP, route.PortRange{Lo: 80, Hi: 80}
	routes.SetRules([]route.Rule{low, web, route.NewRule(flow.IPv4, 10, route.TableMain)})
	routes.Add(&route.Route{Table: 7, Dst: netip.MustParsePrefix("10.2.0.0/24"), Kind: route.Unicast, Hops: []route.NextHop{{Out: 2, Weight: 1}}})
	b := newForwarder(t, "", "", routes)
	for range 3 {
		for dport, want := range map[uint16]int{53: 1, 80: 2} {
			if _, v := b.pass(0, udp(clientIP, serverIP, 4000, dport)); v.Out != want {
				t.Errorf("port %d leaves by %d: %v", dport, v.Out, v.Reason)
			}
			tos := udp(clientIP, serverIP, 4000, dport)
			tos[1] = 0x10
			tos[10], tos[11] = 0, 0
			sum := ^onesSum(tos[:20], 0)
			tos[10], tos[11] = byte(sum>>8), byte(sum)
			if _, v := b.pass(0, tos); v.Out != 2 {
				t.Errorf("low delay leaves by %d: %v", v.Out, v.Reason)
			}
			b.pass(want, udp(serverIP, clientIP, dport, 4000))
		}
	}
}

// TestSourcesOfIPv6: the kernel forwards IPv6 packets whose source is an address of its
// own (asked of 6.18), and drops IPv4 ones.
func TestSourcesOfIPv6(t *testing.T) {
	routes := routesOfBoth()
	for _, i := range routes.Interfaces[:2] {
		for _, a := range i.Addrs {
			routes.Add(&route.Route{Table: route.TableLocal, Dst: netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), Kind: route.Local, Hops: []route.NextHop{{Out: 0, Weight: 1}}})
		}
	}
	b := newForwarder(t, "", "", routes)
	if _, v := b.pass(0, udp(netip.MustParseAddr("2001:db8:1::fe"), fuzzNetwork.Host(true, 1, flow.IPv6), 1, 2)); v.Action != Accept {
		t.Errorf("IPv6: %v", v.Reason)
	}
	if _, v := b.pass(0, udp(netip.MustParseAddr("10.1.0.254"), serverIP, 1, 2)); v.Reason != flow.ReasonMartian {
		t.Errorf("IPv4: %v %v", v.Action, v.Reason)
	}
}

// TestTypeOfMappedAddresses: an IPv4-mapped IPv6 address is not UNICAST to addrtype
// (ipv6_addr_type), whether there are routes or not.
func TestTypeOfMappedAddresses(t *testing.T) {
	const rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m addrtype --dst-type UNICAST -j DROP\nCOMMIT\n"
	routes := routesOfBoth()
	routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix("::/0"), Kind: route.Unicast, Hops: []route.NextHop{{Out: 1, Weight: 1}}})
	for _, r := range []*route.Table{nil, routes} {
		b := newForwarder(t, "", rules, r)
		src := fuzzNetwork.Host(false, 1, flow.IPv6)
		for dst, want := range map[string]flow.Reason{"::ffff:1.2.3.4": flow.NoReason, "2001:db8:2::1": flow.ReasonRule, "::1.2.3.4": flow.ReasonRule} {
			if _, v := b.pass(0, packet.AppendIP(nil, packet.IP{Src: src, Dst: netip.MustParseAddr(dst)}, 99, nil)); v.Reason != want {
				t.Errorf("to %s: %v %v", dst, v.Action, v.Reason)
			}
		}
	}
}

// TestZeronet: where there are no routes 0.0.0.0 is a broadcast address and the rest of its
// net is not (inet_addr_type; the rest is UNICAST since Linux 5.3).
func TestZeronet(t *testing.T) {
	b := newForwarder(t, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m addrtype --dst-type BROADCAST -j DROP\nCOMMIT\n", "", nil)
	for dst, want := range map[string]flow.Reason{"0.0.0.0": flow.ReasonRule, "0.1.2.3": flow.NoReason, "255.255.255.255": flow.ReasonRule} {
		if _, v := b.pass(0, udp(clientIP, netip.MustParseAddr(dst), 1, 2)); v.Reason != want {
			t.Errorf("to %s: %v %v", dst, v.Action, v.Reason)
		}
	}
}

// TestAnycastIsForTheHost: the subnet-router anycast address (RFC 4291, 2.6.1) is the
// router's own.
func TestAnycastIsForTheHost(t *testing.T) {
	routes := routesOfBoth()
	anycast := netip.MustParseAddr("2001:db8:2::")
	routes.Add(&route.Route{Table: route.TableLocal, Dst: netip.PrefixFrom(anycast, 128), Kind: route.Anycast, Hops: []route.NextHop{{Out: 1, Weight: 1}}})
	b := newForwarder(t, "", "", routes)
	if _, v := b.pass(0, udp(fuzzNetwork.Host(false, 1, flow.IPv6), anycast, 1, 2)); v.Action != Host {
		t.Errorf("%v %v", v.Action, v.Reason)
	}
}
