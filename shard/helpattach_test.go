package shard

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

const sipRules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp --dport 5060 -j CT --helper sip\nCOMMIT\n"

// TestFloodOfSYNs: SYNs that nobody answers take no place from the connections that are read.
func TestFloodOfSYNs(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	for i := range uint16(150) { // of 100 places
		b.through(inside, tcp(netip.MustParseAddr("10.1.0.9"), serverIP, 10000+i, 21, 1, packet.SYN))
	}
	if h := b.shards[0].HelpStats(); h.Now != 0 {
		t.Errorf("%d are read", h.Now)
	}
	k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
	if got := k.say("PORT 10,1,0,1,19,137\r\n"); got != "PORT 192,0,2,1,19,137\r\n" || len(b.list()) != 1 {
		t.Errorf("it reads %q", got)
	}
}

// TestFloodOfDatagrams: a datagram is read, but as long as nobody has answered it, it keeps its
// place only until that is needed.
func TestFloodOfDatagrams(t *testing.T) {
	b := newHelpBox(t, 1, sipRules)
	options := []byte("OPTIONS sip:x SIP/2.0\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n")
	send := func(in int, src, dst netip.Addr, sport, dport uint16) {
		t.Helper()
		if out, v := b.through(in, packet.AppendUDP(nil, packet.IP{Src: src, Dst: dst}, sport, dport, options)); len(out) != 1 {
			t.Fatal(v.Action, v.Reason)
		}
	}
	send(inside, clientIP, serverIP, 4000, 5060)
	send(outside, serverIP, clientIP, 5060, 4000)
	for i := range uint16(150) {
		send(inside, netip.MustParseAddr("10.1.0.9"), serverIP, 10000+i, 5060)
	}
	h := b.shards[0].HelpStats()
	if h.Now != 100 || h.Flows != 151 || h.Evicted != 51 || h.Full != 0 {
		t.Errorf("%+v", h)
	}
	entry, _ := b.shards[0].Find(flow.Tuple{Src: flow.AddrFrom(clientIP), Dst: flow.AddrFrom(serverIP), L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, 4000, 5060)})
	if f := b.shards[0].helpedFlow(entry); f == nil {
		t.Error("the one that was answered is read no more")
	}
	n := 0
	for f := b.shards[0].help.waiting.first; f != nil; f = f.next {
		n++
	}
	if n != 99 {
		t.Errorf("%d wait", n)
	}
}

// TestHelperPerSource: one host has no more connections read than its share; of IPv6 that is all
// of a /64.
func TestHelperPerSource(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	b.shards[0].help.budget.Source = 3
	for i := range 5 {
		b.dial(t, inside, fmt.Sprintf("10.1.0.9:%d", 4000+i), "10.2.0.1:21", "10.2.0.1:21")
	}
	if h := b.shards[0].HelpStats(); h.Now != 3 || h.Crowded != 2 {
		t.Errorf("%d are read, %d not", h.Now, h.Crowded)
	}
	k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
	if got := k.say("PORT 10,1,0,1,19,137\r\n"); got != "PORT 192,0,2,1,19,137\r\n" {
		t.Errorf("another host's is read as %q", got)
	}
}

// TestDataInSYN: what follows bytes that came with a SYN (RFC 7413) may be the middle of a
// message, which is not taken for the beginning of one (H1).
func TestDataInSYN(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	k := &talk{t: t, b: b}
	k.end = end{self: netip.MustParseAddrPort("10.1.0.1:4000"), peer: netip.MustParseAddrPort("10.2.0.1:21"), in: inside, seq: 1000}
	k.to = end{self: netip.MustParseAddrPort("10.2.0.1:21"), in: outside, seq: 5}
	k.send(&k.end, &k.to, packet.SYN, "POST /")
	k.send(&k.to, &k.end, packet.SYN|packet.ACK, "")
	k.send(&k.end, &k.to, packet.ACK, "")
	if got := k.say("PORT 10,1,0,1,19,137\r\n"); got != "PORT 10,1,0,1,19,137\r\n" || len(b.list()) != 0 {
		t.Errorf("it reads %q, and %d are expected", got, len(b.list()))
	}
	if h := b.shards[0].HelpStats(); h.Picked != 1 || h.Flows != 0 {
		t.Errorf("%+v", h)
	}
}

// TestForgedHandshake: a SYN that is forged before the answer does not have the helper begin at
// a wrong byte: what the answer acknowledges counts.
func TestForgedHandshake(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	k := &talk{t: t, b: b}
	k.end = end{self: netip.MustParseAddrPort("10.1.0.1:4000"), peer: netip.MustParseAddrPort("10.2.0.1:21"), in: inside, seq: 1000}
	k.to = end{self: netip.MustParseAddrPort("10.2.0.1:21"), in: outside, seq: 0x7000}
	k.send(&k.end, &k.to, packet.SYN, "")
	b.through(inside, k.numbered(&k.end, 0x5000, 0, packet.SYN, ""))
	k.send(&k.to, &k.end, packet.SYN|packet.ACK, "")
	k.forge(&k.to, 0x6000, 900, packet.SYN|packet.ACK, "")
	k.send(&k.end, &k.to, packet.ACK, "")
	k.hear("220 ready\r\n")
	if got := k.say("PORT 10,1,0,1,19,137\r\n"); got != "PORT 192,0,2,1,19,137\r\n" || len(b.list()) != 1 {
		t.Errorf("it reads %q, and %d are expected; off %v", got, len(b.list()), b.shards[0].HelpStats().Off)
	}
}
