package helper

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

var (
	sipTCP           = sipNet{flow.IPv4, flow.TCP, false, false}
	sipTCPTranslated = sipNet{flow.IPv4, flow.TCP, true, false}
	sipInvite        = sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\n"
)

// streamed has a flow read bytes of one direction of a stream in segments and returns what
// goes out.
func streamed(t *testing.T, f *Flow, n sipNet, env Env, d flow.Direction, segments ...string) string {
	t.Helper()
	var out []byte
	seq := uint32(1000)
	f.begin(d, seq, 0)
	for _, s := range segments {
		r := f.Segment(n.conn(), env, d, seq, []byte(s))
		if r.Drop == flow.NoReason {
			out = r.Append(out, []byte(s))
		} else if r.Drop != flow.ReasonHelperHeld {
			t.Fatalf("dropped: %v", r.Drop)
		}
		seq += uint32(len(s))
	}
	return string(out)
}

// TestSIPSplit has a segment with three messages, two of them with a body, split in two at
// every byte.
func TestSIPSplit(t *testing.T) {
	for _, n := range []sipNet{sipTCP, sipTCPTranslated} {
		text := n.expand(sipInvite) + "\r\n\r\n" + n.expand(sipRegister) + n.expand(strings.Replace(sipInvite, "4000", "4100", 1))
		env := new(sipEnv)
		want := streamed(t, NewFlow(sip()), n, env, flow.Original, text)
		rows := n.list(env)
		if rows != expandRows("audio a:4100, audio a:4101, signalling a:p permanent inactive", n) {
			t.Fatalf("expected is %s", rows)
		}
		if n.translated == (want == text) {
			t.Fatalf("out comes %s", want)
		}
		for i := 1; i < len(text); i++ {
			env := new(sipEnv)
			f := NewFlow(sip())
			if got := streamed(t, f, n, env, flow.Original, text[:i], text[i:]); got != want || n.list(env) != rows || f.Off() != nil {
				t.Fatalf("split at %d: %v, expected is %s, out comes\n%s", i, f.Off(), n.list(env), got)
			}
		}
	}
}

// TestSIPPassed: a message of which a part went on as it was goes on as it is, whether it
// announces anything or not.
func TestSIPPassed(t *testing.T) {
	n := sipTCPTranslated
	for _, expires := range []string{"1800", "0"} {
		text := n.expand(strings.Replace(sipRegister, "1800", expires, 1))
		env := new(sipEnv)
		f := NewFlow(sip())
		f.begin(flow.Original, 1000, 0)
		half := []byte(text[:200])
		f.Segment(n.conn(), env, flow.Original, 1000, half)
		if r := f.Segment(n.conn(), env, flow.Original, 1000, half); r.Drop != flow.NoReason || !r.Same() {
			t.Fatalf("the first half again: %+v", r)
		}
		rest := []byte(text[200:])
		if r := f.Segment(n.conn(), env, flow.Original, 1200, rest); r.Drop != flow.NoReason || !r.Same() || f.Adjusted() {
			t.Fatalf("the second half: %+v", r)
		}
		if len(env.rows) != 0 || f.Off() != nil {
			t.Fatalf("%v %v", env.rows, f.Off())
		}
		// The next message is read again.
		text = n.expand(sipRegister)
		if r := f.Segment(n.conn(), env, flow.Original, 1200+uint32(len(rest)), []byte(text)); r.Same() || len(env.rows) != 1 {
			t.Fatalf("the next: %+v, %v", r, env.rows)
		}
	}
}

// TestH1SIP: an HTTP POST whose body is a REGISTER, which begins a segment (NAT slipstreaming).
func TestH1SIP(t *testing.T) {
	for _, n := range []sipNet{sipTCP, sipTCPTranslated} {
		register := n.expand(sipRegister)
		post := fmt.Sprintf("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(register))
		for name, segments := range map[string][]string{
			"at a segment's beginning": {post, register},
			"in one segment":           {post + register},
			"behind a word of SIP":     {"REGISTER /x HTTP/1.1\r\n\r\n", register},
			"as chunks":                {post[:3], post[3:], register[:9], register[9:]},
		} {
			env := new(sipEnv)
			f := NewFlow(sip())
			got := streamed(t, f, n, env, flow.Original, segments...)
			if !errors.Is(f.Off(), ErrProtocol) || len(env.rows) != 0 || got != strings.Join(segments, "") || env.refresh != 0 {
				t.Errorf("%s: %v, %v, %d s, out comes %s", name, f.Off(), env.rows, env.refresh, got)
			}
		}
	}
	// So do a TLS client and a datagram of DNS.
	for name, first := range map[string]string{"TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "DNS": "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www"} {
		n := sipNet{flow.IPv4, flow.UDP, true, false}
		if name == "TLS" {
			n = sipTCPTranslated
		}
		m := &Message{Conn: n.conn(), Data: []byte(first), Env: new(sipEnv)}
		if _, err := sip().New().Message(m); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestH4SIPLength: lengths that Linux has read modulo 2^32 (CVE-2026-23457), that are cut
// short, or there twice, or of what is no number. Behind each comes what would be another
// message if the length was believed.
func TestH4SIPLength(t *testing.T) {
	for length, want := range map[string]error{
		"Content-Length: 4294967296":                          ErrTooLong,
		"Content-Length: 18446744073709551616":                ErrTooLong,
		"Content-Length: 99999999999999999999999999999999999": ErrTooLong,
		"Content-Length: 16385":                               ErrTooLong,
		"Content-Length: -1":                                  ErrMalformed,
		"Content-Length: 0x10":                                ErrMalformed,
		"Content-Length:":                                     ErrMalformed,
		"Content-Length: 0, 0":                                ErrMalformed,
		"Content-Length: 0\nl: 0":                             ErrMalformed,
		"Content-Length: 0\nContent-Length: 100":              ErrMalformed,
		"X: y":                                                ErrMalformed,
		"Content-Length: 5000":                                nil, // it is waited for
		"Content-Length: 2":                                   nil, // what begins inside the next message
		"Content-Length : 0":                                  nil,
		"Content-Length:\n 0":                                 nil,
		"CONTENT-lENGTH:0":                                    nil,
		"L:0":                                                 nil,
		"Content-Length: 00000000000000000000000000000000000": nil,
	} {
		n := sipTCPTranslated
		first := strings.Replace(strings.Replace(sipRegister, "Content-Length: 0", length, 1), "Expires: 1800", "Expires: 0", 1)
		text := n.expand(first) + n.expand(sipInvite)
		env := new(sipEnv)
		f := NewFlow(sip())
		got := streamed(t, f, n, env, flow.Original, text)
		if !errors.Is(f.Off(), want) {
			t.Errorf("%s: %v, want %v", length, f.Off(), want)
		}
		waits := strings.HasSuffix(length, " 5000")
		if read := want == nil && !waits && !strings.HasSuffix(length, " 2"); read != (len(env.rows) == 2) || want != nil && got != text || waits && got != "" {
			t.Errorf("%s: expected is %v, out comes\n%s", length, env.rows, got)
		}
	}
}

// TestH4SIPAddress: an address that is not there is not taken from anywhere else
// (CVE-2026-31427), and of a message of which anything cannot be read nothing is rewritten.
func TestH4SIPAddress(t *testing.T) {
	n := sipNet{flow.IPv4, flow.UDP, true, false}
	for name, text := range map[string]string{
		"c= of a name":             strings.Replace(sipInvite, "c=IN IP4 <a>", "c=IN IP4 a.example", 1),
		"c= of the other family":   strings.Replace(sipInvite, "c=IN IP4 <a>", "c=IN IP6 ::1", 1),
		"c= without an address":    strings.Replace(sipInvite, "c=IN IP4 <a>", "c=IN IP4", 1),
		"c= cut":                   strings.Replace(sipInvite, "c=IN IP4 <a>", "c=", 1),
		"two c=":                   strings.Replace(sipInvite, "t=0 0", "c=IN IP4 <a>", 1),
		"o= cut":                   strings.Replace(sipInvite, "o=- 1 1 IN IP4 <a>", "o=- 1", 1),
		"a port of six digits":     strings.Replace(sipInvite, "4000", "400000", 1),
		"a port beyond 2^64":       strings.Replace(sipInvite, "4000", "18446744073709555616", 1),
		"a port that is none":      strings.Replace(sipInvite, "4000", "4000x", 1),
		"no port":                  strings.Replace(sipInvite, "audio 4000 RTP/AVP 0", "audio", 1),
		"a low port for RTCP":      sipInvite + "a=rtcp:53\n",
		"a line that is none":      sipInvite + "what\n",
		"a line behind the end":    sipInvite + "\nm=audio 4100 RTP/AVP 0\n",
		"no v=":                    strings.Replace(sipInvite, "v=0\n", "s=0\n", 1),
		"two From":                 strings.Replace(sipInvite, "CSeq", "f: <sip:a@<A>>\nCSeq", 1),
		"a bracket open":           strings.Replace(sipInvite, "<sip:bob@<B>:5060>\n", "<sip:bob@<B>:5060\n", 1),
		"a quote open":             strings.Replace(sipInvite, `"Alice"`, `"Alice\"`, 1),
		"two @":                    strings.Replace(sipInvite, "alice@<A>:5060", "alice@x@<A>:5060", 1),
		"a port of a contact":      strings.Replace(sipInvite, "alice@<A>:5060", "alice@<A>:65536", 1),
		"CSeq of another method":   strings.Replace(sipInvite, "1 INVITE", "1 BYE", 1),
		"no CSeq":                  strings.Replace(sipInvite, "CSeq: 1 INVITE\n", "", 1),
		"a carriage return alone":  strings.Replace(sipInvite, "CSeq", "X: y\rCSeq", 1),
		"a body cut short":         n.expand(sipInvite)[:len(n.expand(sipInvite))-1],
		"headers without an end":   strings.Split(sipRegister, "\n\n")[0],
		"a contact in a contact":   strings.Replace(sipInvite, "<sip:alice@<A>:5060;", "<sip:<sip:alice@<A>:5060;", 1),
		"parameters without a ';'": strings.Replace(sipInvite, "5060;branch=z9hG4bK1", "5060;branch=\"z9hG4bK1", 1),
	} {
		sent := text
		if !strings.Contains(text, "\r\n") || strings.Contains(text, "\rCSeq") {
			sent = n.expand(text)
		}
		env := new(sipEnv)
		m := &Message{Conn: n.conn(), Data: []byte(sent), Env: env}
		_, err := sip().New().Message(m)
		out := apply(m.Data, m.Edits)
		named := name == "c= of a name" || name == "c= of the other family"
		if err != nil || len(env.rows) != 0 || !named && out != sent || strings.Contains(out, "invalid") || named && strings.Contains(out, "c=IN IP4 10.2") {
			t.Errorf("%s: %v, %v, out comes\n%s", name, err, env.rows, out)
		}
	}
}

// TestSIPGrowth: whatever an address grows by, the body's length is right, and nothing is
// expected beyond what a connection may.
func TestSIPGrowth(t *testing.T) {
	for _, proto := range []flow.Proto{flow.UDP, flow.TCP} {
		for _, family := range []flow.Family{flow.IPv4, flow.IPv6} {
			n := sipNet{family, proto, true, false}
			env := &sipEnv{shift: 20000}
			s, conn := sip().New(), n.conn()
			for i := range 200 {
				media := ""
				for j := range 50 {
					media += fmt.Sprintf("m=audio %d RTP/AVP 0\nc=IN IP4 <a>\na=rtcp:%d IN IP4 <a>\n", 2000+j*2, 2001+j*2)
				}
				sent := n.expand(strings.Replace(sipOffer, "CSeq: 1 ", fmt.Sprintf("CSeq: %d ", i+1), 1) + sipDescription + media)
				got := say(t, s, conn, flow.Original, sent, env)
				head, body, _ := strings.Cut(got, "\r\n\r\n")
				if !strings.HasSuffix(head, fmt.Sprintf("\r\nContent-Length: %d", len(body))) {
					t.Fatalf("a body of %d bytes behind %s", len(body), head)
				}
				if !strings.Contains(body, "m=audio 22004 ") || !strings.Contains(body, "a=rtcp:22005 IN") || !strings.Contains(body, "m=audio 2006 ") {
					t.Fatalf("out comes %s", body)
				}
				if len(env.rows) != 4 {
					t.Fatalf("%d are expected", len(env.rows))
				}
			}
		}
	}
}

// TestSIPRefused: a message whose media cannot be expected is left as it is.
func TestSIPRefused(t *testing.T) {
	n := sipNet{flow.IPv4, flow.UDP, true, false}
	for _, text := range []string{sipInvite, sipRegister} {
		env := &sipEnv{refuse: ErrNoPort}
		m := &Message{Conn: n.conn(), Data: []byte(n.expand(text)), Env: env}
		if _, err := sip().New().Message(m); err != nil || len(m.Edits) > 0 {
			t.Errorf("%v, %v", err, m.Edits)
		}
	}
}

// TestSIPTwice: media that another connection has announced as well are no reason not to map
// the headers of an answer.
func TestSIPTwice(t *testing.T) {
	n := sipNet{flow.IPv4, flow.UDP, true, false}
	env := &sipEnv{refuse: ErrClash}
	sent := n.expand("SIP/2.0 200 OK\n" + sipAnswer + "v=0\no=- 2 2 IN IP4 <b>\nc=IN IP4 <b>\nm=audio 6000 RTP/AVP 0\n")
	got := say(t, sip().New(), n.conn(), flow.Reply, sent, env)
	if want := n.changes(sipAnswered, got); changed(sent, got) != want {
		t.Errorf("changed\n%s\nwant\n%s", changed(sent, got), want)
	}
	m := &Message{Conn: n.conn(), Data: []byte(n.expand(sipInvite)), Env: env}
	if _, err := sip().New().Message(m); err != nil || len(m.Edits) > 0 {
		t.Errorf("of a translated sender: %v, %v", err, m.Edits)
	}
}

// TestSIPExpected: a connection that was itself expected registers nothing.
func TestSIPExpected(t *testing.T) {
	n := sipNet{flow.IPv4, flow.UDP, true, false}
	env := new(sipEnv)
	c := n.conn()
	c.Expected = true
	say(t, sip().New(), c, flow.Original, n.expand(sipRegister), env)
	if len(env.rows) != 0 {
		t.Errorf("%v", env.rows)
	}
}

// TestSIPLifetime: a registration is expected for as long as the registrar says, and 300
// seconds at most; one of another port or that nobody has asked for is none.
func TestSIPLifetime(t *testing.T) {
	n := sipNet{flow.IPv4, flow.UDP, true, false}
	for text, want := range map[string]uint32{
		"expires=120":                  120,
		"expires=1":                    1,
		"expires=300":                  300,
		"expires=301":                  300,
		"expires=18446744073709551617": 300,
		"q=1":                          0, // neither here nor in Expires
	} {
		env := new(sipEnv)
		s, c := sip().New(), n.conn()
		say(t, s, c, flow.Original, n.expand(sipRegister), env)
		if env.rows[0].timeout != 180 {
			t.Fatalf("%d s until the answer comes", env.rows[0].timeout)
		}
		say(t, s, c, flow.Original, n.expand(sipRegistered), env) // by the wrong side
		if !env.rows[0].inactive {
			t.Fatal("a client has confirmed its own registration")
		}
		say(t, s, c, flow.Reply, n.expand(strings.Replace(sipRegistered, "expires=120", text, 1)), env)
		switch {
		case want == 0 && len(env.rows) != 0, want != 0 && (len(env.rows) != 1 || env.rows[0].timeout != want):
			t.Errorf("%s: %+v", text, env.rows)
		}
	}
}

// TestSIPAlive: what keeps a connection alive is no message; a first one that is neither turns
// the helper off, a later one does not.
func TestSIPAlive(t *testing.T) {
	n := sipNet{flow.IPv4, flow.UDP, false, false}
	stun := "\x00\x01\x00\x00\x21\x12\xa4\x42" + strings.Repeat("x", 12)
	s, env := sip().New(), new(sipEnv)
	ask := func(d flow.Direction, text string) error {
		env.refresh = 0
		_, err := s.Message(&Message{Conn: n.conn(), Dir: d, Data: []byte(text), Env: env})
		return err
	}
	if err := ask(flow.Original, "hello"); err != nil || env.refresh != 0 {
		t.Errorf("before the first message: %v, %d s", err, env.refresh)
	}
	if err := ask(flow.Original, n.expand(sipRegister)); err != nil || env.refresh != sipTimeout {
		t.Errorf("the first message: %v, %d s", err, env.refresh)
	}
	for _, text := range []string{"\r\n\r\n", "\x00", "hello", stun, strings.Repeat("\x00", 100)} {
		for _, d := range []flow.Direction{flow.Original, flow.Reply} {
			if err := ask(d, text); err != nil || env.refresh != sipTimeout {
				t.Errorf("%q: %v, %d s", text, err, env.refresh)
			}
		}
	}
	if err := ask(flow.Reply, "this was forged by somebody"); err != nil || env.refresh != 0 {
		t.Errorf("garbage: %v, %d s", err, env.refresh)
	}
	s = sip().New()
	if err := ask(flow.Original, stun); !errors.Is(err, ErrProtocol) {
		t.Errorf("STUN first: %v", err)
	}
}

// TestSIPMultipart: of a body in parts the session description is read.
func TestSIPMultipart(t *testing.T) {
	n := sipNet{flow.IPv4, flow.UDP, true, false}
	parts := "preamble\n--b1\nContent-Type: application/isup\n\nv=0\nm=audio 5000 RTP/AVP 0\n\n--b1\nContent-Type: application/sdp\n\n" + sipDescription + "m=audio 4000 RTP/AVP 0\n\n--b1--\n"
	sent := n.expand(strings.Replace(sipOffer, "application/sdp", `multipart/mixed;boundary="b1"`, 1) + parts)
	env := new(sipEnv)
	got := say(t, sip().New(), n.conn(), flow.Original, sent, env)
	if want := n.changes(sipOffered+sipLength+sipDescribed, got); changed(sent, got) != want {
		t.Errorf("changed\n%s\nwant\n%s", changed(sent, got), want)
	}
	if want := expandRows("audio a:4000, audio a:4001", n); n.list(env) != want {
		t.Errorf("expected is %s", n.list(env))
	}
}
