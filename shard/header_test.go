package shard

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
)

// headerRoutes is a router with an address on each of two interfaces, whose second has
// an MTU.
func headerRoutes(mtu int) *route.Table {
	var ifs []route.Interface
	prefixes := [][]string{{"10.1.0.254/24", "2001:db8:1::fe/64"}, {"10.2.0.254/24", "2001:db8:2::fe/64"}}
	for i, name := range []string{"in", "out"} {
		ifc := route.Interface{Name: name, Up: true, MTU: 1500, MAC: [6]byte{2, byte(i)}}
		for _, a := range prefixes[i] {
			ifc.Addrs = append(ifc.Addrs, netip.MustParsePrefix(a))
		}
		ifs = append(ifs, ifc)
	}
	ifs[1].MTU = mtu
	t := route.New(ifs)
	for i := range ifs {
		hop := []route.NextHop{{Out: i, Weight: 1}}
		for _, a := range ifs[i].Addrs {
			t.Add(&route.Route{Table: route.TableMain, Dst: a.Masked(), Kind: route.Unicast, Hops: hop, Src: a.Addr()})
			t.Add(&route.Route{Table: route.TableLocal, Dst: netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), Kind: route.Local, Hops: hop})
		}
	}
	return t
}

var client6, server6 = netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:2::1")

// newHeaderBox is a router of a shard with rules.
func newHeaderBox(t *testing.T, rules string, mtu int) *natBox {
	b := newNATBox(t, rules)
	b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: headerRoutes(mtu)})
	return b
}

// withHeader puts bytes between the fixed IP header of a datagram and its payload; of
// IPv6, they are an extension header of type proto.
func withHeader(d []byte, proto byte, h string) []byte {
	b, err := hex.DecodeString(h)
	if err != nil {
		panic(err)
	}
	if d[0]>>4 == 4 {
		d = slices.Concat(d[:20], b, d[20:])
		d[0] += byte(len(b) / 4)
		binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
		sumIP(d)
		return d
	}
	b[0] = d[6]
	d = slices.Concat(d[:40], b, d[40:])
	d[6] = proto
	binary.BigEndian.PutUint16(d[4:], uint16(len(d)-40))
	return d
}

// sumIP makes the checksum of an IPv4 header, a byte at a time.
func sumIP(d []byte) {
	d[10], d[11] = 0, 0
	var c uint32
	for i, x := range d[:int(d[0]&15)*4] {
		c += uint32(x) << (8 * uint(1-i&1))
	}
	for c > 0xffff {
		c = c>>16 + c&0xffff
	}
	binary.BigEndian.PutUint16(d[10:], ^uint16(c))
}

// TestRouterOptions: a router drops, answers and fills in options as Linux does, and an
// ICMP error about what it has filled in repeats that.
func TestRouterOptions(t *testing.T) {
	query := packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, 53, []byte("hello"))
	query6 := packet.AppendUDP(nil, packet.IP{Src: client6, Dst: server6}, 4000, 53, []byte("hello"))
	const hopByHop, destination, atomic = 0, 60, 44
	for _, c := range []struct {
		what   string
		in     []byte
		reason flow.Reason
		out    string // what follows the fixed header of what is forwarded
		answer string // type, code, and second word of the answer
	}{
		{"record route", withHeader(query, 0, "070b040000000000000000"+"01"), flow.NoReason, "070b080a0200fe0000000001", ""},
		{"bytes behind the end", withHeader(query, 0, "00010203"), flow.NoReason, "00000000", ""},
		{"router alert", withHeader(query, 0, "94040000"), flow.NoReason, "94040000", ""},
		{"malformed", withHeader(query, 0, "01070300"), flow.ReasonIPOptions, "", "0c0017000000"},
		{"source route", withHeader(query, 0, "8307040a02000100"), flow.ReasonSourceRoute, "", ""},
		{"hop-by-hop", withHeader(query6, hopByHop, "0000010400000000"), flow.NoReason, "1100010400000000", ""},
		{"drop", withHeader(query6, hopByHop, "00005e0401020304"), flow.ReasonHopByHopUnknown, "", ""},
		{"answer", withHeader(query6, hopByHop, "0000de0401020304"), flow.ReasonHopByHopUnknown, "", "04020000002a"},
		{"padding", withHeader(query6, hopByHop, "0000010400000001"), flow.ReasonHopByHop, "", ""},
		{"destination", withHeader(query6, destination, "0000de0401020304"), flow.NoReason, "1100de0401020304", ""},
		{"atomic", withHeader(query6, atomic, "0000000001020304"), flow.NoReason, hex.EncodeToString(query6[40:]), ""},
	} {
		for _, known := range []bool{false, true} { // the first packet of a connection, or a later one
			b := newHeaderBox(t, "", 1500)
			if known {
				for _, d := range [][]byte{query, query6, query, query6} {
					b.pass(0, slices.Clone(d))
				}
			}
			in := slices.Clone(c.in)
			out, v := b.pass(0, in)
			own := b.TakeOwn()
			if v.Reason != c.reason || (out != nil) != (c.out != "") {
				t.Errorf("%s, known %v: %v %v", c.what, known, v.Action, v.Reason)
				continue
			}
			if c.out != "" {
				n := 20
				if out[0]>>4 == 6 {
					n = 40
				} else {
					want := slices.Clone(out)
					if sumIP(want); !bytes.Equal(out, want) {
						t.Errorf("%s, known %v: the header's checksum is wrong", c.what, known)
					}
				}
				if h := hex.EncodeToString(out[n:]); h[:min(len(h), len(c.out))] != c.out {
					t.Errorf("%s, known %v: %s, want %s", c.what, known, h, c.out)
				}
			}
			answer := ""
			if len(own) == 1 {
				d := own[0].Datagram
				n := int(d[0]&15) * 4
				if d[0]>>4 == 6 {
					n = 40
				}
				answer = hex.EncodeToString(append(d[n:n+2], d[n+4:n+8]...))
			}
			if answer != c.answer || len(own) > 1 {
				t.Errorf("%s, known %v: answered %s, want %s", c.what, known, answer, c.answer)
			}
			if !known && (b.Len() == 0) != (c.reason != flow.NoReason) {
				t.Errorf("%s: %d connections", c.what, b.Len())
			}
		}
	}
}

// TestOptionsBelongToRouters: a bridge forwards what a router would refuse, and IPv4
// options of what is for this host its stack looks at. Hop-by-hop options are refused
// before it is known for whom a packet is; those for everyone are left to the host.
func TestOptionsBelongToRouters(t *testing.T) {
	b := newNATBox(t, "")
	malformed := withHeader(packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, 53, nil), 0, "01070300")
	if out, v := b.pass(inside, slices.Clone(malformed)); !bytes.Equal(out, malformed) {
		t.Errorf("a bridge: %v %v, %x", v.Action, v.Reason, out)
	}
	r := newHeaderBox(t, "", 1500)
	own := withHeader(packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: netip.MustParseAddr("10.2.0.254")}, 4000, 53, nil), 0, "01070300")
	own6 := withHeader(packet.AppendUDP(nil, packet.IP{Src: client6, Dst: netip.MustParseAddr("2001:db8:2::fe")}, 4000, 53, nil), 0, "0000de0401020304")
	everyone := slices.Clone(own6)
	copy(everyone[24:], netip.MustParseAddr("ff02::16").AsSlice())
	for _, d := range [][]byte{own, everyone} {
		if _, v := r.pass(0, d); v.Action != Host || len(r.TakeOwn()) != 0 {
			t.Errorf("%x, for this host: %v %v", d[:8], v.Action, v.Reason)
		}
	}
	if _, v := r.pass(0, own6); v.Reason != flow.ReasonHopByHopUnknown || len(r.TakeOwn()) != 1 {
		t.Errorf("hop-by-hop options for this host: %v %v", v.Action, v.Reason)
	}
}

// TestFragmentOptions: of a datagram that a router cuts, later fragments have only the
// options that say so; and one that a rule has made longer than the path takes is
// answered.
func TestFragmentOptions(t *testing.T) {
	b := newHeaderBox(t, "", 600)
	d := packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP, ID: 9}, 4000, 53, make([]byte, 1400))
	d[6] = 0x80
	_, v := b.pass(0, withHeader(d, 0, "94040000070704000000000100000000"))
	own := b.TakeOwn()
	if v.Action != Replaced || len(own) != 3 {
		t.Fatalf("%v %v, %d pieces", v.Action, v.Reason, len(own))
	}
	body := 0
	for i, o := range own {
		want := "94040000070708" + "0a0200fe" + "0100000000"
		if i > 0 {
			want = "94040000" + "01010101010101" + "0100000000"
		}
		f := slices.Clone(o.Datagram)
		sumIP(f)
		if hex.EncodeToString(f[20:36]) != want || !bytes.Equal(f, o.Datagram) || len(f) > 600 || f[6]&0xc0 != 0 || o.Hop.Out != 1 {
			t.Errorf("piece %d: %x", i, o.Datagram[:40])
		}
		body += len(f) - 36
	}
	if body != 1408 {
		t.Errorf("the pieces carry %d bytes", body)
	}
	long := newHeaderBox(t, "*mangle\n-A FORWARD -p tcp --syn -j TCPMSS --set-mss 1000\nCOMMIT\n", 600)
	for _, df := range []bool{false, true} {
		syn := packet.AppendTCP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, 53, packet.Segment{Flags: packet.SYN})
		syn = withHeader(syn, 0, "94040000")
		long.SetForwarding(&Forwarding{Rules: long.forward.Rules, Routes: headerRoutes(len(syn))})
		if df {
			syn[6] = 0x40
			sumIP(syn)
		}
		_, v := long.pass(0, syn)
		own := long.TakeOwn()
		if df && (v.Reason != flow.ReasonTooBig || len(own) != 1 || own[0].Datagram[20] != 3 || own[0].Datagram[21] != 4) ||
			!df && (v.Action != Replaced || len(own) != 2) {
			t.Errorf("DF %v: %v %v, %d datagrams", df, v.Action, v.Reason, len(own))
		}
	}
}

// TestRejectOptions: REJECT answers a packet whose options were filled in, but not with
// a RST: what that asks of a checksum takes the IP header in.
func TestRejectOptions(t *testing.T) {
	b := newHeaderBox(t, "*filter\n-A FORWARD -p udp -j REJECT\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n", 1500)
	query := packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, 53, []byte("hello"))
	syn := packet.AppendTCP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, 53, packet.Segment{Flags: packet.SYN})
	for _, c := range []struct {
		in     []byte
		option string
		answer int
	}{{query, "00010203", 1}, {syn, "94040000", 1}, {syn, "00010203", 0}} {
		_, v := b.pass(0, withHeader(c.in, 0, c.option))
		if own := b.TakeOwn(); v.Reason != flow.ReasonRejected || len(own) != c.answer {
			t.Errorf("%x with %s: %v, %d answers", c.in[:10], c.option, v.Reason, len(own))
		}
	}
}

// TestHere: an address whose turn it is to write a time is one of this router's, or
// everybody's (inet_addr_type). Of 0.0.0.0/8 that is the first only.
func TestHere(t *testing.T) {
	b := newHeaderBox(t, "", 1500)
	tr := &transit{s: b.Shard}
	for a, want := range map[string]bool{
		"10.1.0.254": true, "10.2.0.254": true, "10.1.0.1": false, "10.9.9.9": false, "0.0.0.0": true, "0.0.0.7": false,
		"224.0.0.1": true, "255.255.255.255": true,
	} {
		if got := tr.Here(flow.AddrFrom(netip.MustParseAddr(a))); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}

// TestExpired: Linux tells the sender of a first fragment of IPv6 that the others did not
// come in time, and nobody else.
func TestExpired(t *testing.T) {
	udp6 := packet.AppendUDP(nil, packet.IP{Src: client6, Dst: server6}, 4000, 53, make([]byte, 16))
	fragment := func(field string, d []byte) []byte { return withHeader(d, 44, "0000"+field+"01020304") }
	local := slices.Clone(udp6)
	copy(local[24:], netip.MustParseAddr("2001:db8:2::fe").AsSlice())
	unreachable := packet.AppendICMP(nil, packet.IP{Src: client6, Dst: server6}, 1, 0, 0, make([]byte, 48))
	echo := packet.AppendICMP(nil, packet.IP{Src: client6, Dst: server6}, 128, 0, 0, make([]byte, 48))
	four := packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, 53, make([]byte, 16))
	four[6] = 0x20
	sumIP(four)
	for _, c := range []struct {
		what  string
		d     []byte
		told  bool
		first bool
	}{
		{"first", fragment("0001", udp6), true, true},
		{"later", fragment("0008", udp6), false, false},
		{"to this host", fragment("0001", local), false, true},
		{"of an ICMP error", fragment("0001", unreachable), false, true},
		{"of an echo request", fragment("0001", echo), true, true},
		{"IPv4", four, false, true},
	} {
		b := newHeaderBox(t, "", 1500)
		f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, c.d)
		var p packet.Packet
		p.Parse(f, len(f), packet.Checks{})
		if p.Kind != packet.Fragmented || (p.Fragment.Offset == 0) != c.first {
			t.Fatalf("%s is no such fragment: %v", c.what, p.Reason)
		}
		b.Expired(&p)
		own := b.TakeOwn()
		if told := len(own) == 1 && own[0].Datagram[40] == 3 && own[0].Datagram[41] == 1 && bytes.Equal(own[0].Datagram[48:], c.d); told != c.told {
			t.Errorf("%s: %d datagrams", c.what, len(own))
		}
	}
}

// TestImpossibleAddresses: no rule counts a packet of IPv6 with addresses that no link has;
// and none that is for everyone is forwarded, though there is a default route.
func TestImpossibleAddresses(t *testing.T) {
	const count = "*raw\n-A PREROUTING -j ACCEPT\nCOMMIT\n"
	routes := routesOfBoth()
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix(all), Kind: route.Unicast, Hops: []route.NextHop{{Out: 1, Weight: 1}}})
	}
	for _, c := range []struct {
		src, dst string
		action   Action
		counted  bool
	}{
		{"2001:db8:1::1", "2001:db8:9::1", Accept, true},
		{"ff02::1", "2001:db8:2::1", Drop, false},
		{"::1", "2001:db8:2::1", Drop, false},
		{"2001:db8:1::1", "::1", Drop, false},
		{"2001:db8:1::1", "ff01::1", Drop, false},
		{"2001:db8:1::1", "ff02::1", Host, true},
		{"10.1.0.1", "10.9.0.1", Accept, true},
		{"10.1.0.1", "224.0.0.5", Host, true},
		{"10.1.0.1", "255.255.255.255", Host, true},
	} {
		b := newForwarder(t, count, count, routes)
		d := packet.AppendUDP(nil, packet.IP{Src: netip.MustParseAddr(c.src), Dst: netip.MustParseAddr(c.dst)}, 4000, 53, nil)
		_, v := b.passFrame(0, packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d))
		counted := slices.ContainsFunc(b.Counts(), func(n policy.Count) bool { return n.Packets > 0 })
		if v.Action != c.action || counted != c.counted {
			t.Errorf("%s to %s: %v %v, counted %v", c.src, c.dst, v.Action, v.Reason, counted)
		}
	}
}

// TestGroupFrames: of a connection that is known as of one that is not, no frame is
// forwarded that was sent to the Ethernet address of a group.
func TestGroupFrames(t *testing.T) {
	b := newHeaderBox(t, "", 1500)
	query, answer := udp(clientIP, serverIP, 4000, 53), udp(serverIP, clientIP, 53, 4000)
	for i := range 6 {
		want := Accept
		mac := packet.MAC{2}
		if i == 0 || i == 5 {
			want, mac = Drop, packet.MAC{1, 0, 0x5e, 0, 0, 1}
		}
		if _, v := b.passFrame(0, packet.AppendEthernet(nil, mac, packet.MAC{4}, query)); v.Action != want {
			t.Errorf("frame %d: %v %v", i, v.Action, v.Reason)
		}
		b.passFrame(1, packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, answer))
	}
}

// TestRouteMTU6: an IPv6 packet that is too big for its route alone passes the rules, and
// is answered behind them.
func TestRouteMTU6(t *testing.T) {
	for _, c := range []struct{ iface, route, packet, hops int }{{1500, 1300, 1400, 63}, {1300, 1500, 1400, 64}} {
		b := newForwarder(t, "*filter\nCOMMIT\n", "*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n", nil)
		routes := headerRoutes(c.iface)
		routes.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix("2001:db8:2::1/128"), Kind: route.Unicast, MTU: c.route, Hops: []route.NextHop{{Out: 1, Weight: 1}}})
		b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: routes})
		d := packet.AppendUDP(nil, packet.IP{Src: client6, Dst: server6}, 4000, 53, make([]byte, c.packet-48))
		_, v := b.passFrame(0, packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d))
		own := b.TakeOwn()
		counted := slices.ContainsFunc(b.Counts(), func(n policy.Count) bool { return n.Packets > 0 })
		if v.Reason != flow.ReasonTooBig || len(own) != 1 || int(own[0].Datagram[48+7]) != c.hops || counted != (c.hops == 63) {
			t.Errorf("%+v: %v %v, %d answers, counted %v", c, v.Action, v.Reason, len(own), counted)
		}
	}
}
