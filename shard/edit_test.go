package shard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/packet"
)

// segment builds a segment of the client of a control connection, at an offset of what it
// sends.
func (k *talk) segment(seq uint32, data string, options ...byte) []byte {
	return packet.AppendTCP(nil, packet.IP{Src: k.self.Addr(), Dst: k.peer.Addr()}, k.self.Port(), k.peer.Port(),
		packet.Segment{Seq: seq, Ack: k.ack, Flags: packet.ACK | packet.PSH, Window: 60000, Payload: []byte(data), Options: options})
}

// TestCommandSplit: a command that comes in two segments, wherever it is cut, is rewritten as
// a whole; the first part waits.
func TestCommandSplit(t *testing.T) {
	const command, want = "PORT 10,1,0,1,19,137\r\n", "PORT 192,0,2,1,19,137\r\n"
	for cut := 1; cut < len(command); cut++ {
		b := newHelpBox(t, 2, masqueraded)
		k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
		k.say("USER anonymous\r\n")
		start := k.seq
		k.to.got = nil
		out, v := b.through(inside, k.segment(start, command[:cut]))
		if len(out) != 0 || v.Reason != flow.ReasonHelperHeld {
			t.Fatalf("cut at %d: the first part: %d packets, %v %v", cut, len(out), v.Action, v.Reason)
		}
		out, v = b.through(inside, k.segment(start+uint32(cut), command[cut:]))
		if len(out) != 1 {
			t.Fatalf("cut at %d: the rest: %v %v", cut, v.Action, v.Reason)
		}
		k.deliver(&k.to, out[0])
		if string(k.to.got) != want || len(b.list()) != 1 {
			t.Fatalf("cut at %d: it reads %q, %d are expected", cut, k.to.got, len(b.list()))
		}
		// The client, which has no acknowledgement, sends it again, as it came or in one.
		k.seq = start + uint32(len(command))
		for _, again := range []string{command[:cut], command} {
			out, v = b.through(inside, k.segment(start, again))
			if len(out) != 1 || v.Action == Drop {
				t.Fatalf("cut at %d: again: %v %v", cut, v.Action, v.Reason)
			}
			if _, got := payloadOf(out[0]); !strings.HasPrefix(want, got) {
				t.Errorf("cut at %d: %q, sent again, is %q", cut, again, got)
			}
		}
		if len(b.list()) != 1 {
			t.Errorf("cut at %d: %d are expected", cut, len(b.list()))
		}
		k.send(&k.to, &k.end, packet.ACK, "")
		if got := k.say("LIST\r\n"); got != "LIST\r\n" {
			t.Errorf("cut at %d: it reads %q", cut, got)
		}
		k.hear("200 fine\r\n")
		k.close()
	}
}

// TestSplitUnedited: what was held back and needs no edit goes out with the rest at the
// sequence number of its first byte, and a FIN behind it at its own.
func TestSplitUnedited(t *testing.T) {
	for _, line := range []string{"PORT 10,9,9,9,19,137\r\n", "PASV\r\n", "EPSV\r\n"} {
		for cut := 1; cut < len(line)-1; cut++ {
			b := newHelpBox(t, 2, masqueraded)
			k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
			k.say("USER anonymous\r\n")
			start := k.seq
			out, v := b.through(inside, k.segment(start, line[:cut]))
			if len(out) == 1 { // nothing that could be one
				continue
			}
			if v.Reason != flow.ReasonHelperHeld {
				t.Fatalf("%q cut at %d: %v %v", line, cut, v.Action, v.Reason)
			}
			if out, v = b.through(inside, k.segment(start+uint32(cut), line[cut:])); len(out) != 1 {
				t.Fatalf("%q cut at %d, the rest: %v %v", line, cut, v.Action, v.Reason)
			}
			if seq, got := payloadOf(out[0]); got != line || seq != start {
				t.Errorf("%q cut at %d: %q at %d, not at %d", line, cut, got, seq, start)
			}
		}
	}
}

// payloadOf returns the sequence number and the payload of a datagram.
func payloadOf(d []byte) (seq uint32, payload string) {
	f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)
	var p packet.Packet
	p.Parse(f, len(f), packet.Checks{Transport: true})
	data, _ := p.Payload()
	return p.TCP.Seq, string(data)
}

// TestCommandAgain: what is sent again has the same bytes and the same numbers, though other
// edits followed, and what acknowledges it selectively is read as its sender counts.
func TestCommandAgain(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
	type sent struct {
		seq, out uint32
		line     string
		got      string
	}
	var all []sent
	for i := range 5 {
		line := fmt.Sprintf("PORT 10,1,0,1,20,%d\r\n", i)
		s := sent{seq: k.seq, line: line}
		out, _ := b.through(inside, k.segment(k.seq, line))
		if len(out) != 1 {
			t.Fatal("it did not come through")
		}
		s.out, s.got = payloadOf(out[0])
		if want := fmt.Sprintf("PORT 192,0,2,1,20,%d\r\n", i); s.got != want {
			t.Fatalf("%q is %q", line, s.got)
		}
		all = append(all, s)
		k.seq += uint32(len(line))
	}
	for _, s := range all {
		out, v := b.through(inside, k.segment(s.seq, s.line))
		if len(out) != 1 {
			t.Fatalf("%q again: %v %v", s.line, v.Action, v.Reason)
		}
		if seq, got := payloadOf(out[0]); seq != s.out || got != s.got {
			t.Errorf("%q again: %q at %d, not %d", s.line, got, seq, s.out)
		}
	}
	// The server has the first and the third: SACK 3 (RFC 2018), behind an ACK of the first.
	ack, left, right := all[1].out, all[2].out, all[3].out
	options := []byte{1, 1, 5, 10, byte(left >> 24), byte(left >> 16), byte(left >> 8), byte(left), byte(right >> 24), byte(right >> 16), byte(right >> 8), byte(right)}
	out, v := b.through(outside, packet.AppendTCP(nil, packet.IP{Src: serverIP, Dst: publicIP}, 21, k.to.peer.Port(),
		packet.Segment{Seq: k.to.seq, Ack: ack, Flags: packet.ACK, Window: 60000, Options: options}))
	if len(out) != 1 || v.State != flow.Established || v.Reason != flow.NoReason {
		t.Fatalf("the acknowledgement: %v %v", v.State, v.Reason)
	}
	f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, out[0])
	var p packet.Packet
	p.Parse(f, len(f), packet.Checks{Transport: true})
	want := options[:4:4]
	for _, e := range []uint32{all[2].seq, all[3].seq} {
		want = append(want, byte(e>>24), byte(e>>16), byte(e>>8), byte(e))
	}
	if p.TCP.Ack != all[1].seq || !slices.Equal(p.Options(), want) {
		t.Errorf("the client reads ack %d and %x, not %d and %x", p.TCP.Ack, p.Options(), all[1].seq, want)
	}
}

// TestEditLongerThanLink: a segment that becomes longer than its path takes leaves as two.
func TestEditLongerThanLink(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	b.shards[0].SetForwarding(&Forwarding{Rules: b.shards[0].forward.Rules, Routes: headerRoutes(1500)})
	k := &talk{t: t, b: b}
	k.end = end{self: netip.MustParseAddrPort("10.1.0.1:4000"), peer: netip.MustParseAddrPort("10.2.0.1:21"), in: inside, seq: 1000}
	k.to = end{self: netip.MustParseAddrPort("10.2.0.1:21"), in: outside, seq: 99}
	k.send(&k.end, &k.to, packet.SYN, "")
	k.send(&k.to, &k.end, packet.SYN|packet.ACK, "")
	k.send(&k.end, &k.to, packet.ACK, "")
	// A full segment of commands, of which one grows by a byte.
	const noop, port = "NOOP\r\n", "PORT 10,1,0,1,19,137\r\n"
	line := strings.Repeat(noop, (1460-len(port))/len(noop))
	line = strings.Replace(line, noop, "NOOP"+strings.Repeat(" ", 1460-len(port)-len(line))+"\r\n", 1) + port
	want := strings.Replace(line, "10,1,0,1,", "192,0,2,1,", 1)
	k.to.got = nil
	if !k.send(&k.end, &k.to, packet.ACK|packet.PSH, line) || k.segments != 2 || k.verdict.Action != Replaced || string(k.to.got) != want {
		t.Fatalf("%d segments, %v %v; it reads\n%q, not\n%q", k.segments, k.verdict.Action, k.verdict.Reason, k.to.got, want)
	}
	k.send(&k.to, &k.end, packet.ACK, "")
	if k.say("QUIT\r\n") != "QUIT\r\n" {
		t.Error("what follows is lost")
	}
}

// TestHelperOff: what is not FTP is read no further, takes the short way like all else, and
// is not changed (H1).
func TestHelperOff(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
	const post = "POST / HTTP/1.1\r\n"
	if got := k.say(post); got != post {
		t.Fatalf("it reads %q", got)
	}
	const port = "PORT 10,1,0,1,19,137\r\n"
	if got := k.say(port); got != port || len(b.list()) != 0 {
		t.Errorf("it reads %q, %d are expected", got, len(b.list()))
	}
	st := b.shards[0].Stats().Help
	if st.Now != 0 || st.Bytes != 0 || st.Off[0] != 1 {
		t.Errorf("%+v", st)
	}
	s := b.shards[0]
	i, _ := s.Find(flow.Tuple{Src: flow.AddrFrom(clientIP), Dst: flow.AddrFrom(serverIP), L4: flow.MakeL4(flow.IPv4, flow.TCP, 0, 4000, 21)})
	if pa := s.forward.paths[i][flow.Original]; pa.code <= noCode {
		t.Errorf("it has code %d", pa.code)
	}
}

// TestPickedUp: of a connection whose beginning was not seen nothing is read (H1, T5).
func TestPickedUp(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	k := &talk{t: t, b: b, end: end{self: netip.MustParseAddrPort("10.1.0.1:4000"), peer: netip.MustParseAddrPort("10.2.0.1:21"), ack: 5}}
	out, _ := b.through(inside, k.segment(1, "PORT 10,1,0,1,19,137\r\n"))
	if len(out) != 1 || len(b.list()) != 0 {
		t.Fatalf("%d packets, %d are expected", len(out), len(b.list()))
	}
	if _, got := payloadOf(out[0]); got != "PORT 10,1,0,1,19,137\r\n" {
		t.Errorf("it reads %q", got)
	}
	if st := b.shards[0].Stats().Help; st.Picked != 1 || st.Now != 0 {
		t.Errorf("%+v", st)
	}
}

// TestForgedReply: a reply that is out of the window announces nothing (H8), and neither
// does one with a wrong checksum.
func TestForgedReply(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
	k.hear("220 ready\r\n")
	const line = "227 Entering Passive Mode (10,2,0,1,200,10)\r\n"
	for _, off := range []uint32{1 << 20, 1 << 30, ^uint32(1<<20) + 1, 1} {
		d := packet.AppendTCP(nil, packet.IP{Src: serverIP, Dst: publicIP}, 21, k.to.peer.Port(),
			packet.Segment{Seq: k.to.seq + off, Ack: k.to.ack, Flags: packet.ACK, Window: 100, Payload: []byte(line)})
		b.through(outside, d)
		if len(b.list()) != 0 {
			t.Fatalf("expected at %d", off)
		}
	}
	d := packet.AppendTCP(nil, packet.IP{Src: serverIP, Dst: publicIP}, 21, k.to.peer.Port(),
		packet.Segment{Seq: k.to.seq, Ack: k.to.ack, Flags: packet.ACK, Window: 100, Payload: []byte(line)})
	d[len(d)-1] ^= 1
	if b.through(outside, d); len(b.list()) != 0 {
		t.Fatal("expected, with a wrong checksum")
	}
	if k.hear(line); len(b.list()) != 1 {
		t.Error("not expected")
	}
}

// TestMasterGoes: what it expects goes with a master, and its children stay.
func TestMasterGoes(t *testing.T) {
	for _, shards := range []int{1, 4} {
		b := newHelpBox(t, shards, masqueraded)
		k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
		k.say("PORT 10,1,0,1,19,137\r\n")
		data := b.dial(t, outside, "10.2.0.1:20", "192.0.2.1:5001", "10.1.0.1:5001")
		k.say("PORT 10,1,0,1,19,138\r\n")
		_, at, _ := b.find(flow.TCP, k.self, k.peer)
		s := b.shards[at]
		s.Walk(0, 1<<20, func(_ uint32, c *flow.Conn) bool {
			return c.Status&flow.Helper != 0
		})
		if len(b.list()) != 0 || b.len() != 1 {
			t.Errorf("%d expectations, %d connections", len(b.list()), b.len())
		}
		if st := s.Stats().Help; st.Now != 0 || st.Bytes != 0 {
			t.Errorf("%+v", st)
		}
		if data.say("hello") != "hello" {
			t.Error("the child has gone as well")
		}
	}
}

// TestToldPort: a port that another expectation has is not told again, and a masquerade does
// not take one that was told.
func TestToldPort(t *testing.T) {
	b := newHelpBox(t, 2, masqueraded)
	told := map[string]bool{}
	for n := range 5 { // several clients ask for the same
		client := fmt.Sprintf("10.1.0.%d", n+1)
		k := b.dial(t, inside, client+":4000", "10.2.0.1:21", "10.2.0.1:21")
		got := k.say("PORT " + strings.ReplaceAll(client, ".", ",") + ",19,137\r\n")
		if told[got] {
			t.Fatalf("%q was told before", got)
		}
		told[got] = true
		if n == 0 && got != "PORT 192,0,2,1,19,137\r\n" {
			t.Errorf("the first one is told %q", got)
		}
	}
	if len(b.list()) != 5 {
		t.Fatalf("%d are expected", len(b.list()))
	}
	for _, x := range b.list() {
		out, v := b.through(inside, packet.AppendTCP(nil, packet.IP{Src: hostOf(1, 9), Dst: serverIP}, x.Tuple.L4.Dst(), 80, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 100}))
		if len(out) != 1 {
			t.Fatalf("%v %v", v.Action, v.Reason)
		}
		if src, _ := ends(t, out[0]); src.Port() == x.Tuple.L4.Dst() {
			t.Errorf("port %d is taken", src.Port())
		}
	}
	for _, x := range b.list() { // and each leads to who asked
		to := netip.AddrPortFrom(publicIP, x.Tuple.L4.Dst())
		out, v := b.through(outside, packet.AppendTCP(nil, packet.IP{Src: serverIP, Dst: to.Addr()}, 20, to.Port(), packet.Segment{Seq: 1, Flags: packet.SYN, Window: 100}))
		if len(out) != 1 {
			t.Fatalf("to %v: %v %v", to, v.Action, v.Reason)
		}
		if _, dst := ends(t, out[0]); dst.Port() != 5001 || flow.AddrFrom(dst.Addr()) != x.Master.Src {
			t.Errorf("%v leads to %v, not %v", to, dst, x.Master.Src.Netip(flow.IPv4))
		}
	}
}

// TestSourceShare: a host that has announced its share is refused, and dropped so that it
// asks again; another host is not.
func TestSourceShare(t *testing.T) {
	b := newHelpBox(t, 2, masqueraded)
	for n := range uint16(11) {
		k := b.dial(t, inside, fmt.Sprintf("10.1.0.1:%d", 4000+n), "10.2.0.1:21", "10.2.0.1:21")
		sent := k.send(&k.end, &k.to, packet.ACK, fmt.Sprintf("PORT 10,1,0,1,19,%d\r\n", n))
		if sent != (n < 10) || !sent && k.verdict.Reason != flow.ReasonHelperRefused {
			t.Fatalf("announcement %d: %v %v", n, sent, k.verdict.Reason)
		}
	}
	k := b.dial(t, inside, "10.1.0.2:4000", "10.2.0.1:21", "10.2.0.1:21")
	k.say("PORT 10,1,0,2,19,137\r\n")
	if len(b.list()) != 11 {
		t.Errorf("%d are expected", len(b.list()))
	}
	var st helper.Stats
	for _, s := range b.shards {
		h := s.Stats().Help
		st.Add(&h.Stats)
	}
	if st.Refused != 1 {
		t.Errorf("%d are refused", st.Refused)
	}
}

// TestBounce: an address that is not the client's own is not expected, and is not rewritten
// (H2); neither is a port below 1024.
func TestBounce(t *testing.T) {
	for _, rules := range []string{ftpRules, masqueraded} {
		b := newHelpBox(t, 1, rules)
		k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
		for _, line := range []string{"PORT 10,1,0,2,19,137\r\n", "PORT 10,1,0,1,0,25\r\n", "EPRT |1|10.9.9.9|5000|\r\n"} {
			if got := k.say(line); got != line {
				t.Errorf("%q is %q", line, got)
			}
		}
		if n := len(b.list()); n != 0 {
			t.Errorf("%d are expected", n)
		}
	}
}
