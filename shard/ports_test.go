package shard

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// expectAt has somebody else expect what a host sends to ports of the public address.
func (b *helpBox) expectAt(t *testing.T, ports ...uint16) {
	t.Helper()
	for _, p := range ports {
		e := expect.Expectation{
			Tuple:  flow.Tuple{Src: flow.AddrFrom(serverIP), Dst: flow.AddrFrom(publicIP), L4: flow.MakeL4(flow.IPv4, flow.TCP, 0, 0, p)},
			Mask:   expect.Mask{Src: expect.ExactSource.Src},
			Master: flow.Tuple{Src: flow.Addr{Lo: uint64(p)}}, Expires: 1 << 40,
		}
		if err := b.expect.Insert(0, 0, e); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyAnnouncements: a segment full of announcements, for which many ports are tried, is
// not worked on for longer than one packet may be: what is too much is sent again, and read then.
func TestManyAnnouncements(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	b.expect = expect.New(4096, &b.shards[0].cfg.Secret)
	b.shards[0].cfg.Expect = b.expect
	var taken []uint16
	for p := range uint16(60) {
		taken = append(taken, 5120+p)
	}
	b.expectAt(t, taken...)
	k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
	k.say("USER a\r\n")
	const lines = 40
	text := ""
	for i := range lines {
		text += fmt.Sprintf("PORT 10,1,0,1,20,%d\r\n", i%2)
	}
	s := b.shards[0]
	read := 0
	for sent := 0; len(text) > 0; sent++ {
		if sent == lines {
			t.Fatal("it is never read to its end")
		}
		was := s.HelpStats().Messages
		k.to.got = nil
		d := packet.AppendTCP(nil, packet.IP{Src: k.self.Addr(), Dst: k.peer.Addr()}, k.self.Port(), k.peer.Port(),
			packet.Segment{Seq: k.seq, Ack: k.ack, Flags: packet.ACK, Window: 60000, Payload: []byte(text)})
		out, _ := b.through(inside, d)
		if tried := s.help.env.tried; tried > packetTries+1 {
			t.Fatalf("one packet had %d tries", tried)
		}
		for _, o := range out {
			k.deliver(&k.to, o)
		}
		n := int(s.HelpStats().Messages - was)
		read += n
		if got := strings.Count(string(k.to.got), "PORT 192,0,2,1,"); got != n {
			t.Fatalf("%d were read, and the server reads %q", n, k.to.got)
		}
		lengths := 0
		for range n {
			lengths += strings.Index(text[lengths:], "\n") + 1
		}
		text, k.seq = text[lengths:], k.seq+uint32(lengths)
	}
	if read != lines {
		t.Errorf("%d of %d were read", read, lines)
	}
}

// TestSIPToldAgain: what a phone announces again is told as before, since its media may have a
// connection by that which lives on.
func TestSIPToldAgain(t *testing.T) {
	server := netip.AddrPortFrom(serverIP, 5060)
	for _, shards := range []int{1, 2, 4} {
		b := newHelpBox(t, shards, sipMasqueraded)
		one, two := netip.AddrPortFrom(hostOf(1, 1), 5060), netip.AddrPortFrom(hostOf(1, 2), 5060)
		b.sips(t, inside, one, server, sipWith("INVITE sip:b@10.2.0.1 SIP/2.0", one.Addr(), 1, "INVITE", 10000))
		told, _ := b.sips(t, inside, two, server, sipWith("INVITE sip:b@10.2.0.1 SIP/2.0", two.Addr(), 1, "INVITE", 10000))
		if told == 10000 {
			t.Fatal("two are told one port")
		}
		b.through(outside, udp(serverIP, publicIP, 20000, told))
		b.sips(t, inside, one, server, sipWith("BYE sip:b@10.2.0.1 SIP/2.0", one.Addr(), 2, "BYE", 10000))
		again, _ := b.sips(t, inside, two, server, sipWith("INVITE sip:b@10.2.0.1 SIP/2.0", two.Addr(), 2, "INVITE", 10000))
		if again != told {
			t.Errorf("%d shards: told %d, and %d before", shards, again, told)
		}
		out, _ := b.through(inside, udp(two.Addr(), serverIP, 10000, 20000))
		if from, _ := ends(t, out[0]); from.Port() != again {
			t.Errorf("its sound comes from %v", from)
		}
	}
}

// TestSIPOtherPort: a phone whose port alone is translated registers as the registrar knows
// it (nf_nat_sip_expect).
func TestSIPOtherPort(t *testing.T) {
	const rules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp --dport 5060 -j CT --helper sip\nCOMMIT\n" +
		"*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o outside -p udp -j SNAT --to-source 10.1.0.1:61000\nCOMMIT\n"
	b := newHelpBox(t, 1, rules)
	text := "REGISTER sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 10.1.0.1:5060\r\nFrom: <sip:a@x>\r\nTo: <sip:a@x>\r\nCSeq: 1 REGISTER\r\nCall-ID: 1\r\n" +
		"Contact: <sip:a@10.1.0.1:5060>\r\nExpires: 60\r\nContent-Length: 0\r\n\r\n"
	out, v := b.through(inside, packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 5060, 5060, []byte(text)))
	if len(out) != 1 {
		t.Fatal(v.Action, v.Reason)
	}
	if _, got := payloadOf(out[0]); !strings.Contains(got, "Contact: <sip:a@10.1.0.1:61000>") {
		t.Errorf("the registrar reads %q", got)
	}
	if l := b.list(); len(l) != 1 || l[0].Tuple.L4.Dst() != 61000 || l[0].Follow.Port != 5060 {
		t.Errorf("expected: %+v", l)
	}
}

// TestFTPClashBehindDNAT: of two connections that announce one port of a client, whose server
// alone is translated, the second is told the next one (nf_nat_ftp).
func TestFTPClashBehindDNAT(t *testing.T) {
	const rules = ftpRules + "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i inside -d 192.0.2.1 -p tcp --dport 21 -j DNAT --to-destination 10.2.0.1\nCOMMIT\n"
	for _, shards := range []int{1, 2, 4} {
		for n := range 4 {
			b := newHelpBox(t, shards, rules)
			for i, want := range []string{"19,137", "19,138"} {
				k := b.dial(t, inside, fmt.Sprintf("10.1.0.1:%d", 4000+2*n+i), "192.0.2.1:21", "10.2.0.1:21")
				k.hear("220 ready\r\n")
				if got := k.say("PORT 10,1,0,1,19,137\r\n"); got != "PORT 10,1,0,1,"+want+"\r\n" {
					t.Errorf("%d shards: it reads %q", shards, got)
				}
			}
			for i := range 2 {
				data := b.dial(t, outside, fmt.Sprintf("10.2.0.1:%d", 20+i), fmt.Sprintf("10.1.0.1:%d", 5001+i), "10.1.0.1:5001")
				if data.say("hello") != "hello" || data.to.peer.Addr() != publicIP {
					t.Errorf("%d shards: it comes from %v", shards, data.to.peer)
				}
			}
		}
	}
}

// TestAnnouncerIPv6: a host has a /64 of IPv6 and one share.
func TestAnnouncerIPv6(t *testing.T) {
	a := func(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }
	if announcer(a("2001:db8::1"), flow.IPv6) != announcer(a("2001:db8::ffff:1"), flow.IPv6) || announcer(a("2001:db8::1"), flow.IPv6) == announcer(a("2001:db8:0:1::1"), flow.IPv6) {
		t.Error("not by /64")
	}
	if announcer(a("10.0.0.1"), flow.IPv4) == announcer(a("10.0.0.2"), flow.IPv4) {
		t.Error("two hosts are one")
	}
}
