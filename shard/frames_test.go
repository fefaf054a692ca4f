package shard

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/dialogue"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/route"
)

// everyRule asks and does whatever may read or write a packet, in all tables.
const everyRule = `*raw
-A PREROUTING -p udp --dport 9 -j CT --notrack
-A PREROUTING -m ttl --ttl-lt 2 -j LOG --log-prefix "old "
COMMIT
*mangle
-A PREROUTING -m dscp --dscp 0 -j DSCP --set-dscp 10
-A PREROUTING -m tos --tos 0x10/0x3f -j TOS --set-tos 0x08/0xff
-A FORWARD -m length --length 0:65535 -j TTL --ttl-inc 1
-A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A POSTROUTING -m connmark --mark 0 -j CONNMARK --set-mark 7
COMMIT
*nat
-A PREROUTING -p udp -d 10.2.0.9 -j DNAT --to-destination 10.2.0.1:53
-A POSTROUTING -s 10.1.0.0/16 -p tcp -j SNAT --to-source 192.0.2.1
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m recent --name a --set -j LOG
-A FORWARD -m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 5 --hashlimit-mode srcip,dstport --hashlimit-htable-max 64 --hashlimit-name h -j NFLOG
-A FORWARD -p tcp -m connlimit --connlimit-above 20 -j REJECT --reject-with tcp-reset
-A FORWARD -p icmp -m icmp --icmp-type 3 -j REJECT
-A FORWARD -p tcp -m tcp --tcp-option 2 -j ACCEPT
-A FORWARD -m conntrack --ctstate INVALID -j REJECT
-A FORWARD -m addrtype --src-type UNICAST -m pkttype --pkt-type unicast -j ACCEPT
COMMIT
`

var everyRule6 = strings.NewReplacer("TTL --ttl", "HL --hl", "-m ttl --ttl", "-m hl --hl", "10.2.0.9", "2001:db8:2::9",
	"10.2.0.1:53", "[2001:db8:2::1]:53", "10.1.0.0/16", "2001:db8:1::/48", "192.0.2.1", "2001:db8::1",
	"-p icmp -m icmp --icmp-type 3", "-p ipv6-icmp -m icmp6 --icmpv6-type 1").Replace(everyRule)

// newForwarder makes a shard with rules for both families, between two interfaces: a
// bridge, or a router if it has routes.
func newForwarder(t testing.TB, v4, v6 string, routes *route.Table) *natBox {
	t.Helper()
	return newForwarderOf(t, compileBoth(t, v4, v6), routes)
}

func compileBoth(t testing.TB, v4, v6 string) *policy.Program {
	t.Helper()
	parse := func(text string, f flow.Family) *syntax.Ruleset {
		r, err := syntax.Parse(strings.NewReader(text), "rules", f)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	p, err := policy.Compile(parse(v4, flow.IPv4), parse(v6, flow.IPv6), []string{"in", "one", "two"}, nat.Key{1, 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newForwarderOf(t testing.TB, p *policy.Program, routes *route.Table) *natBox {
	t.Helper()
	s, err := New(Config{
		L4: l4.Linux(), Checks: packet.Checks{Transport: true}, MaxConns: 1 << 8, Forwards: true, Translates: true,
		Secret: flow.Secret{1, 2, 3, 4, 5, 6, 7}, Seed: 1,
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.SetForwarding(&Forwarding{Rules: p, Routes: routes})
	return &natBox{Shard: s}
}

// passFrame lets an Ethernet frame come in. Its buffer has room behind the frame.
func (b *natBox) passFrame(in int, frame []byte) (packet.Packet, Verdict) {
	b.now++
	b.Tick(b.now)
	f := append(make([]byte, 0, len(frame)+64), frame...)
	var p [1]packet.Packet
	var v [1]Verdict
	p[0].Parse(f, len(f), packet.Checks{Transport: true})
	p[0].In = in
	p[0].Trim()
	b.Hash(&p[0])
	b.Process(p[:], v[:])
	return p[0], v[0]
}

// arp is a request as two hosts on veth send it: 42 bytes, nothing padded.
func arp() []byte {
	f := []byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 1, 0, 1}
	return append(f, 0, 0, 0, 0, 0, 0, 10, 1, 0, 2)
}

// tagged puts VLAN tags into a frame.
func tagged(f []byte, tags ...byte) []byte {
	out := bytes.Clone(f[:12])
	for _, n := range tags {
		out = append(out, 0x81, 0, 0, n)
	}
	return append(out, f[12:]...)
}

// notIP are frames that carry something else than IP.
func notIP() map[string][]byte {
	mac := []byte{1, 128, 194, 0, 0, 14, 2, 0, 0, 0, 0, 1}
	return map[string][]byte{
		"ARP":                   arp(),
		"ARP, padded":           append(arp(), make([]byte, 18)...),
		"ARP, one tag":          tagged(arp(), 5),
		"ARP, two tags, padded": append(tagged(arp(), 5, 6), make([]byte, 10)...),
		"LLDP":                  append(append([]byte(nil), mac...), 0x88, 0xcc, 2, 7, 4),
		"EtherType alone":       append(append([]byte(nil), mac...), 0x88, 0xcc),
		"802.3 length (STP)":    append(append([]byte(nil), mac...), 0, 38, 0x42, 0x42, 3),
		"MPLS":                  append(append([]byte(nil), mac...), 0x88, 0x47, 0, 1, 0x11, 64),
	}
}

// TestNotIPOnABridge: frames that do not carry IP pass a bridge as they are, whatever
// the rules for IP say, as they pass a Linux bridge without arptables; a router drops
// them.
func TestNotIPOnABridge(t *testing.T) {
	const dropAll = "*raw\n:PREROUTING DROP [0:0]\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"
	for name, frame := range notIP() {
		for rules, text := range map[string][2]string{"every": {everyRule, everyRule6}, "drop": {dropAll, dropAll}} {
			b := newForwarder(t, text[0], text[1], nil)
			for range 2 {
				p, v := b.passFrame(0, frame)
				if v.Action != Accept || v.State != flow.Untracked || v.Out != 1 || !bytes.Equal(p.Frame, frame) {
					t.Errorf("%s, rules %s: %v %v %v by %d, %x", name, rules, v.Action, v.State, v.Reason, v.Out, p.Frame)
				}
			}
			for i, n := range b.Counts() {
				if n.Packets != 0 {
					t.Errorf("%s: counter %d of the rules %s counted it", name, i, rules)
				}
			}
		}
		b := newForwarder(t, everyRule, everyRule6, threeWays(1))
		if _, v := b.passFrame(0, frame); v.Action != Drop || v.Reason == flow.NoReason {
			t.Errorf("%s: a router does %v with it, %v", name, v.Action, v.Reason)
		}
	}
}

// TestTagsCutOff: a frame whose tags are cut off passes a bridge only where Linux looks at
// none of them. Found by TestBridgeAgrees.
func TestTagsCutOff(t *testing.T) {
	addrs := []byte{2, 0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 1}
	for _, c := range []struct {
		tags []byte
		want Action
	}{
		{[]byte{0x91, 0, 0, 5, 0x81, 0, 0, 0}, Accept},
		{[]byte{0x91, 0, 0, 5, 0x81, 0, 0, 0, 8}, Accept},
		{[]byte{0x91, 0, 0}, Accept},
		{[]byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 0}, Drop},
		{[]byte{0x81, 0, 0}, Drop},
	} {
		b := newForwarder(t, "", "", nil)
		if p, v := b.passFrame(0, append(addrs[:12:12], c.tags...)); v.Action != c.want || v.Reason != flow.ReasonFrameTooShort || c.want == Accept && v.Out != 1 {
			t.Errorf("%x: %v %v by %d", p.Frame, v.Action, v.Reason, v.Out)
		}
		b = newForwarder(t, "", "", threeWays(1))
		if _, v := b.passFrame(0, append(addrs[:12:12], c.tags...)); v.Action != Drop {
			t.Errorf("%x: a router does %v with it", c.tags, v.Action)
		}
	}
}

// FuzzForwarding throws arbitrary frames at a bridge and at a router with rules and
// translation. The input is a sequence of records: interface (1 byte), length (2
// bytes), frame.
func FuzzForwarding(f *testing.F) {
	record := func(in []byte, port byte, frame []byte) []byte {
		in = append(in, port)
		return append(binary.BigEndian.AppendUint16(in, uint16(len(frame))), frame...)
	}
	for _, frame := range notIP() {
		f.Add(record(record(nil, 0, frame), 1, frame))
	}
	f.Add(record(nil, 0, tagged(arp(), 1, 2, 3))) // too deep for rules
	for _, d := range oddHeaders() {
		frame := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)
		f.Add(record(record(nil, 0, append(frame, 1, 2, 3)), 0, frame))
	}
	for seed := range uint64(4) {
		for _, fam := range []flow.Family{flow.IPv4, flow.IPv6} {
			var in []byte
			for _, s := range dialogue.Make(seed, 12, fam, fuzzNetwork) {
				in = record(in, byte(seed), packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, s.Datagram))
			}
			f.Add(in)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, routes := range []*route.Table{nil, routesOfBoth()} {
			b, twin := newForwarder(t, everyRule, everyRule6, routes), newForwarder(t, everyRule, everyRule6, routes)
			for rest := in; len(rest) >= 3; {
				port := int(rest[0] & 1)
				n := min(int(binary.BigEndian.Uint16(rest[1:])), len(rest)-3)
				frame := rest[3 : 3+n]
				rest = rest[3+n:]
				if n > 14 {
					repair(frame[14:])
				}
				p, v := b.passFrame(port, frame)
				checkBehind(t, b, twin, port, frame, &p, &v)
				checkSums(t, frame, &p, &v)
				checkPassed(t, b, frame, &p, &v)
			}
		}
	})
}

// checkPassed checks what holds of every frame that was judged.
func checkPassed(t *testing.T, b *natBox, frame []byte, p *packet.Packet, v *Verdict) {
	t.Helper()
	if v.Action == Drop && v.Reason == flow.NoReason {
		t.Fatalf("%x is dropped without a reason", frame)
	}
	router := b.forward.Routes != nil
	if deep := v.Reason == flow.ReasonVLANTooDeep && v.Action == Drop; p.Family == 0 && p.Kind != packet.Malformed && !router && !deep && (v.Action != Accept || !bytes.Equal(p.Frame, frame)) {
		t.Fatalf("%x, which is not IP, is changed or does not pass: %v %v", frame, v.Action, v.Reason)
	}
	if v.Action == Accept && router && (v.Hop == nil || v.Hop.Out != v.Out) {
		t.Fatalf("%x is forwarded to nowhere", frame)
	}
	if v.Action == Accept && int(p.L3)+int(p.Len) > len(p.Frame) {
		t.Fatalf("%x leaves cut off", frame)
	}
	for _, o := range b.TakeOwn() {
		var own packet.Packet
		own.ParseFrom(o.Datagram, len(o.Datagram), 0, map[byte]packet.EtherType{4: packet.EtherIPv4, 6: packet.EtherIPv6}[o.Datagram[0]>>4], packet.Checks{})
		if own.Kind == packet.Malformed {
			t.Fatalf("%x is answered by %x: %v", frame, o.Datagram, own.Reason)
		}
	}
}

// fuzzNetwork has addresses that the rules and routes of FuzzForwarding know.
var fuzzNetwork = dialogue.Network{Hosts: 2, Host: func(b bool, n int, f flow.Family) netip.Addr {
	side := byte(1)
	if b {
		side = 2
	}
	if f == flow.IPv4 {
		return netip.AddrFrom4([4]byte{10, side, 0, byte(n)})
	}
	return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, side, 15: byte(n)})
}}

// routesOfBoth are threeWays with the nets of IPv6 beside those of IPv4.
func routesOfBoth() *route.Table {
	t := threeWays(1)
	for i, prefix := range []string{"2001:db8:1::/48", "2001:db8:2::/48"} {
		t.Add(&route.Route{Table: route.TableMain, Dst: netip.MustParsePrefix(prefix), Kind: route.Unicast, Hops: []route.NextHop{{Out: i, Weight: 1}}})
		t.Interfaces[i].Addrs = []netip.Prefix{
			netip.MustParsePrefix([]string{"10.1.0.254/24", "10.2.0.254/24"}[i]), netip.MustParsePrefix([]string{"2001:db8:1::fe/48", "2001:db8:2::fe/48"}[i]),
		}
	}
	return t
}

// TestTooManyTags: IP behind more tags than are looked behind passes no bridge that has
// rules, whatever they say: Linux hosts strip any number of tags with VLAN 0.
func TestTooManyTags(t *testing.T) {
	d := packet.AppendUDP(nil, packet.IP{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2")}, 1000, 8080, []byte("x"))
	for tags := range 6 {
		for _, typ := range []uint16{0x8100, 0x88a8} {
			frame := append([]byte{2, 0, 0, 0, 0, 2}, 2, 0, 0, 0, 0, 1)
			for range tags {
				frame = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(frame, typ), 0)
			}
			frame = append(binary.BigEndian.AppendUint16(frame, 0x0800), d...)
			want := flow.ReasonRule
			if tags > 2 {
				want = flow.ReasonVLANTooDeep
			}
			b := newForwarder(t, "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", nil)
			if _, v := b.passFrame(0, frame); v.Action != Drop || v.Reason != want {
				t.Errorf("%d tags of %#x: %v, %v, want %v", tags, typ, v.Action, v.Reason, want)
			}
		}
	}
}
