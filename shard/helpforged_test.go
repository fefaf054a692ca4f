package shard

import (
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// numbered returns a segment of an end of the connection with other numbers than its next ones.
func (k *talk) numbered(from *end, seq, ack uint32, flags packet.TCPFlags, data string) []byte {
	return packet.AppendTCP(nil, packet.IP{Src: from.self.Addr(), Dst: from.peer.Addr()}, from.self.Port(), from.peer.Port(),
		packet.Segment{Seq: seq, Ack: ack, Flags: flags, Window: 60000, Payload: []byte(data)})
}

// forge has somebody who knows the connection's addresses and ports, and not its numbers, send
// a segment as one of its ends. The tracker lets it pass unjudged.
func (k *talk) forge(as *end, seq, ack uint32, flags packet.TCPFlags, data string) {
	k.t.Helper()
	out, v := k.b.through(as.in, k.numbered(as, seq, ack, flags, data))
	if len(out) != 1 || v.Reason != flow.ReasonTCPIgnoredState {
		k.t.Fatalf("the forged segment: %d %v %v", len(out), v.Action, v.Reason)
	}
}

// TestForgedSegments: no segment that the tracker lets pass unjudged keeps a helper from
// reading its connection: not a SYN ahead of the stream or behind it, before there was data
// and after, nor a SYN/ACK that acknowledges what nobody has sent.
func TestForgedSegments(t *testing.T) {
	for name, forge := range map[string]func(k *talk){
		"a SYN ahead":       func(k *talk) { k.forge(&k.end, k.seq+0x30000000, 0, packet.SYN, "") },
		"a SYN behind":      func(k *talk) { k.forge(&k.end, k.seq-0x30000000, 0, packet.SYN, "") },
		"a SYN with data":   func(k *talk) { k.forge(&k.end, k.seq-1, 0, packet.SYN, "x") },
		"a SYN/ACK, wild":   func(k *talk) { k.forge(&k.to, 0x12345678, 0x40000000, packet.SYN|packet.ACK, "") },
		"a SYN/ACK, behind": func(k *talk) { k.forge(&k.to, k.to.seq-0x30000000, k.seq-5, packet.SYN|packet.ACK, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newHelpBox(t, 1, masqueraded)
			k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
			forge(k)
			k.hear("220 ready\r\n")
			k.say("USER a\r\n")
			forge(k)
			if got := k.say("PORT 10,1,0,1,19,137\r\n"); got != "PORT 192,0,2,1,19,137\r\n" || len(b.list()) != 1 {
				t.Errorf("it reads %q, and %d are expected", got, len(b.list()))
			}
			forge(k)
			k.hear("200 fine\r\n")
			if off := b.shards[0].HelpStats().Off; off != [len(off)]uint64{} {
				t.Errorf("helpers were turned off: %v", off)
			}
		})
	}
}

// TestForgedAhead: a SYN far ahead has the helper forget none of the edits that the receiver
// has not acknowledged: what is sent again is what was sent.
func TestForgedAhead(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
	k.say("USER a\r\n")
	port := k.numbered(&k.end, k.seq, k.ack, packet.ACK|packet.PSH, "PORT 10,1,0,1,19,137\r\n")
	if out, v := b.through(inside, port); len(out) != 1 {
		t.Fatal(v.Action, v.Reason) // and it is lost behind us
	}
	k.forge(&k.end, k.seq+0x50000000, 0, packet.SYN, "x")
	out, v := b.through(inside, port)
	if len(out) != 1 {
		t.Fatal(v.Action, v.Reason)
	}
	k.deliver(&k.to, out[0])
	if got := string(k.to.got); got != "USER a\r\nPORT 192,0,2,1,19,137\r\n" {
		t.Errorf("it reads %q", got)
	}
}
