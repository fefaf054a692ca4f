package helper

import (
	"slices"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// said is a message of a dialogue, and how it is to be read.
type said struct {
	d          flow.Direction
	sent, want string
}

// segments sends a dialogue through a Flow, each message in two segments of which the first
// has at bytes, and the second one twice. It returns the streams as the receivers put them
// together.
func segments(t *testing.T, f *Flow, c *Conn, env Env, all []said, at int) (got [2]string) {
	t.Helper()
	const first = 0xffffff00 // numbers wrap
	var seq [2]uint32
	var read [2][]byte
	for d := range seq {
		seq[d] = first
		f.begin(flow.Direction(d), first, 0)
	}
	send := func(d flow.Direction, payload string) {
		if payload == "" {
			return
		}
		r := f.Segment(c, env, d, seq[d], []byte(payload))
		if r.Drop != flow.NoReason {
			return
		}
		from := int(r.Seq - first)
		if from > len(read[d]) {
			t.Fatalf("split at %d: %d bytes are missing", at, from-len(read[d]))
		}
		out := r.Append(nil, []byte(payload))
		if old := read[d][from:]; string(old[:min(len(old), len(out))]) != string(out[:min(len(old), len(out))]) {
			t.Fatalf("split at %d: %x goes out, and before it was %x", at, out, old)
		}
		if from+len(out) > len(read[d]) {
			read[d] = append(read[d][:from], out...)
		}
	}
	for _, l := range all {
		n := min(at, len(l.sent))
		send(l.d, l.sent[:n])
		seq[l.d] += uint32(n)
		send(l.d, l.sent[n:])
		send(l.d, l.sent[n:])
		seq[l.d] += uint32(len(l.sent) - n)
	}
	return [2]string{string(read[0]), string(read[1])}
}

// wanted is what is to be read of a dialogue.
func wanted(all []said) (want [2]string) {
	for _, l := range all {
		if l.want == "" {
			l.want = l.sent
		}
		want[l.d] += l.want
	}
	return want
}

// TestPPTPSegments and TestH323Segments: the dialogues in segments of a connection, with what
// is held back and what is sent again.
func TestPPTPSegments(t *testing.T) {
	for _, c := range pptpCases {
		var all []said
		for _, l := range slices.Concat(pptpOpen, c.lines) {
			all = append(all, said(l))
		}
		for at := range 170 {
			env := new(fakeEnv)
			f := NewFlow(pptp())
			got := segments(t, f, fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1723", c.seen), env, all, at)
			if got != wanted(all) || !slices.Equal(env.log, c.log) || f.Off() != nil {
				t.Fatalf("%s, split at %d: %v\n%x\n%q", c.name, at, f.Off(), got, env.log)
			}
		}
	}
}

func TestH323Segments(t *testing.T) {
	for _, c := range h323Cases {
		var all []said
		for _, l := range c.lines {
			all = append(all, said(l))
		}
		h := c.h()
		for at := range 300 {
			env := new(fakeEnv)
			f := NewFlow(h)
			conn := fakeConn(h.Protos[0], "10.0.0.2:4000", h323Server[h.ID], c.seen)
			var got [2]string
			if h.ID == rasID {
				for _, l := range all {
					r := f.Datagram(conn, env, l.d, []byte(l.sent))
					got[l.d] += string(r.Append(nil, []byte(l.sent)))
				}
			} else {
				got = segments(t, f, conn, env, all, at)
			}
			if got != wanted(all) || !slices.Equal(env.log, c.log) || f.Off() != nil {
				t.Fatalf("%s, split at %d: %v\n%x\n%q", c.name, at, f.Off(), got, env.log)
			}
		}
	}
}

// TestSlipstreamPPTP and TestSlipstreamH323: a page has the browser post what looks like a
// message, at the beginning of a segment (H1).
func TestSlipstreamPPTP(t *testing.T) {
	slipstream(t, pptp(), pptpOpen[0].sent, pptpMsg(pptpOutCallRequest, 0x1111, 1))
}

func TestSlipstreamH323(t *testing.T) {
	slipstream(t, q931(), userUser(0, setup("10.0.0.2:3000", "", "")))
	slipstream(t, h245(), tpkt(request(open("10.0.0.2:5000", "", ""))))
}

func slipstream(t *testing.T, h *Helper, messages ...string) {
	t.Helper()
	g := newDialogue(t, h, fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1720", seen))
	for _, s := range append([]string{"POST / HTTP/1.1\r\nContent-Length: 9999\r\n\r\n"}, messages...) {
		if got := g.say(flow.Original, s); got != s {
			t.Errorf("%q is read as %q", s, got)
		}
	}
	if g.err == nil || g.env.log != nil {
		t.Errorf("%v, %q", g.err, g.env.log)
	}
}

// TestBounceH323: addresses that are not the sender's own (H2).
func TestBounceH323(t *testing.T) {
	g := newDialogue(t, q931(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1720", ""))
	g.env.strict = true
	g.say(caller, userUser(0, setup("10.0.0.7:22", "", "", open("10.0.0.7:5000", "10.0.0.7:5001", "10.0.0.7:5003"))))
	if g.env.log != nil {
		t.Errorf("%q", g.env.log)
	}
	g.say(callee, userUser(6, facility("203.0.113.5:1720", 1, "192.0.2.9:3000")))
	g.say(caller, userUser(0, setup("10.0.0.2:80", "", "")))
	want := []string{
		"0/tcp 10.0.0.2:0>203.0.113.5:1720 Q.931: " + ErrForeign.Error(),
		"0/tcp 192.0.2.9:0>10.0.0.2:80 H.245: " + ErrLowPort.Error(),
	}
	if !slices.Equal(g.env.log, want) || g.err != nil {
		t.Errorf("%q, %v", g.env.log, g.err)
	}
}
