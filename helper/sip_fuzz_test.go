package helper

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// sipHeard is what comes of a dialogue: what each side reads, what is expected, and whether the
// helper is off.
type sipHeard struct {
	out  [2]string
	rest [2][]byte
	env  sipEnv
	err  error
}

// sipHears has a session read a dialogue: what the client says and what the server says in turn,
// with a NUL between. Of a stream the pieces are those that cut ends.
func sipHears(t *testing.T, n sipNet, b []byte, cut func(i int) bool) *sipHeard {
	t.Helper()
	h := new(sipHeard)
	s, conn := sip().New(), n.conn()
	at := 0
	for i, turn := range bytes.Split(b, []byte{0}) {
		d := flow.Direction(i & 1)
		from := 0
		for j := range len(turn) {
			if n.proto == flow.TCP && j > from && cut(at+j) {
				h.reads(t, s, conn, d, turn[from:j])
				from = j
			}
		}
		h.reads(t, s, conn, d, turn[from:])
		at += len(turn) + 1
	}
	return h
}

func (h *sipHeard) reads(t *testing.T, s Session, conn *Conn, d flow.Direction, piece []byte) {
	t.Helper()
	data := append(h.rest[d], piece...)
	h.rest[d] = nil
	for len(data) > 0 && h.err == nil {
		m := &Message{Conn: conn, Dir: d, Data: slices.Clone(data), Env: &h.env}
		n, err := s.Message(m)
		if h.err = err; err != nil {
			break
		}
		if n == 0 {
			if len(m.Edits) > 0 {
				t.Fatal("edits of an incomplete message")
			}
			if len(data) > sipLimit {
				h.err = ErrTooLong
				break
			}
			h.rest[d] = slices.Clone(data)
			return
		}
		if !bytes.Equal(m.Data, data) {
			t.Fatal("the message was written to")
		}
		h.check(t, m, n, conn)
		h.out[d] += apply(data[:n], m.Edits)
		data = data[n:]
	}
	h.out[d] += string(data)
}

// check holds a message that was read to what must be so of any.
func (h *sipHeard) check(t *testing.T, m *Message, n int, conn *Conn) {
	t.Helper()
	at := 0
	for _, e := range m.Edits {
		if e.Off < at || e.Off+e.Len > n {
			t.Fatalf("edits %v of %d bytes", m.Edits, n)
		}
		at = e.Off + e.Len
	}
	if len(m.Edits) == 0 {
		return
	}
	if conn.Self(m.Dir) == conn.Seen(m.Dir) && conn.Peer(m.Dir) == conn.Self(m.Dir.Other()) {
		t.Fatalf("edits %v where nothing is translated", m.Edits)
	}
	got := []byte(apply(m.Data[:n], m.Edits))
	was, ok := parseSIP(m.Data[:n], conn.Proto == flow.TCP)
	now, still := parseSIP(got, conn.Proto == flow.TCP)
	if !ok || !still || len(now.contacts) != len(was.contacts) || now.request != was.request {
		t.Fatalf("%q has become %q", m.Data[:n], got)
	}
	if behind := len(got) - now.body.End; behind != n-was.body.End {
		t.Fatalf("%d bytes behind the body have become %d: %q", n-was.body.End, behind, got)
	}
}

// FuzzSIP: whatever is said, a stream split at one byte and at every byte comes to the same as
// one that is not, and what is rewritten can be read again.
func FuzzSIP(f *testing.F) {
	for _, fact := range sipFacts {
		for _, n := range fact.nets() {
			var text []string
			for _, s := range fact.steps {
				if s.dir == flow.Original != (len(text)%2 == 0) {
					text = append(text, "")
				}
				text = append(text, n.expand(s.text))
			}
			f.Add([]byte(strings.Join(text, "\x00")), uint16(len(text[0])/2), uint8(0))
		}
	}
	for _, name := range sipCaptures {
		if _, err := os.Stat("../../shared/pcaps/" + name); err != nil {
			continue
		}
		for i, p := range packets(f, name) {
			if i < 40 {
				f.Add(p.payload, uint16(30), uint8(i&15))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16, how uint8) {
		n := sipNet{flow.IPv4, flow.UDP, how&1 == 0, how&8 != 0}
		if how&2 != 0 {
			n.proto = flow.TCP
		}
		if how&4 != 0 {
			n.family = flow.IPv6
		}
		whole := sipHears(t, n, b, func(int) bool { return false })
		self, seen, server := n.addrs()
		for _, r := range whole.env.rows {
			if a := r.to.Addr(); a != seen && a != n.known().Addr() || r.to.Port() < 1024 || r.from != self && r.from != server {
				t.Fatalf("expected is %+v", r)
			}
		}
		if n.proto == flow.UDP {
			return
		}
		cuts := []func(int) bool{func(i int) bool { return i == int(at) }}
		if len(b) < 4096 { // it takes as many times as long
			cuts = append(cuts, func(int) bool { return true })
		}
		for _, cut := range cuts {
			parts := sipHears(t, n, b, cut)
			if (whole.err == nil) != (parts.err == nil) || !slices.Equal(whole.env.rows, parts.env.rows) {
				t.Fatalf("%v, %v and %v, %v", whole.err, whole.env.rows, parts.err, parts.env.rows)
			}
			for d := range whole.out {
				if a, b := whole.out[d]+string(whole.rest[d]), parts.out[d]+string(parts.rest[d]); a != b {
					t.Fatalf("direction %d is read as %q and as %q", d, a, b)
				}
			}
		}
		f := NewFlow(sip())
		f.begin(flow.Original, 7, 0)
		f.Segment(n.conn(), new(sipEnv), flow.Original, 7, b)
		if errors.Is(f.Off(), ErrPanic) {
			t.Fatal(f.Off())
		}
	})
}

// sipCaptures are the captures that have SIP.
var sipCaptures = []string{
	"zeek__sip_wireshark.pcap", "zeek__sip_sip-long-request-response-paths.pcap", "zeek__sip_sip-junk-before-request.pcap",
	"suricata-verify__sip-body-frames_public-cloudshark-sip-s0.pcap", "suricata-verify__sip-sdp_sdp.pcap",
	"suricata-verify__sip-tcp-method_sip-tcp.pcap", "nDPI__sip_hello.pcapng",
}
