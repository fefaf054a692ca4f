package helper

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// h323Line is one message of a dialogue.
type h323Line struct {
	d    flow.Direction
	sent string
	want string // as it is to be read, "" for the same
}

// h323Case is a dialogue of a client, 10.0.0.2:4000, with 192.0.2.9.
type h323Case struct {
	name  string
	h     func() *Helper
	seen  string // what the server knows the client as
	lines []h323Line
	log   []string
	ours  string // where and why we differ from Linux 6.18
}

const (
	caller = flow.Original
	callee = flow.Reply
	seen   = "192.0.2.1:5787"
)

func one(s string) []string { return []string{s} }

// h323Cases is what Linux 6.18 does with these messages, but for what fields called ours say:
// its expectations, and the bytes that it hands on.
var h323Cases = []h323Case{
	{"H.245 connection", q931, "", []h323Line{
		{caller, userUser(0, setup("10.0.0.2:3000", "192.0.2.9:1720", "10.0.0.2:4000")), ""},
		{callee, userUser(2, connect("192.0.2.9:3001")), ""},
	}, []string{"0/tcp 192.0.2.9:0>10.0.0.2:3000 H.245", "0/tcp 10.0.0.2:0>192.0.2.9:3001 H.245"}, ""},
	{"H.245 connection, translated", q931, seen, []h323Line{
		{caller, userUser(0, setup("10.0.0.2:3000", "192.0.2.9:1720", "10.0.0.2:4000")),
			userUser(0, setup("192.0.2.1:3000", "192.0.2.9:1720", seen))},
		{callee, userUser(1, alerting("192.0.2.9:3001")), ""},
		{callee, userUser(7, progress("192.0.2.9:3002")), ""},
		{callee, userUser(2, connect("192.0.2.9:3003")), ""},
	}, []string{
		"0/tcp 192.0.2.9:0>10.0.0.2:3000 H.245", "0/tcp 192.0.2.1:0>192.0.2.9:3001 H.245",
		"0/tcp 192.0.2.1:0>192.0.2.9:3002 H.245", "0/tcp 192.0.2.1:0>192.0.2.9:3003 H.245",
	}, ""},
	{"addresses of others", q931, seen, []h323Line{
		{caller, userUser(0, setup("10.0.0.3:3000", "203.0.113.1:1720", "127.0.0.1:1720")),
			userUser(0, setup("10.0.0.3:3000", "192.0.2.9:1720", seen))},
		{callee, userUser(2, connect("192.0.2.9:0")), ""},
		{callee, userUser(2, connect("192.0.2.8:3000")), ""},
	}, nil, ""},
	{"fast connect", q931, seen, []h323Line{
		{caller, userUser(0, setup("", "", "", open("10.0.0.2:5000", "10.0.0.2:5001", ""), open("", "10.0.0.2:5003", "10.0.0.2:5011"))),
			userUser(0, setup("", "", "", open("192.0.2.1:5000", "192.0.2.1:5001", ""), open("", "192.0.2.1:5003", "192.0.2.1:5011")))},
		{callee, userUser(3, alerting("192.0.2.9:3001", open("192.0.2.9:6000", "192.0.2.9:6001", ""))), ""},
	}, []string{
		"0/udp 192.0.2.9:0>10.0.0.2:5000", "0/udp 192.0.2.9:0>10.0.0.2:5001",
		"0/udp 192.0.2.9:0>10.0.0.2:5000", "0/udp 192.0.2.9:0>10.0.0.2:5001",
		"0/udp 192.0.2.9:0>10.0.0.2:5002", "0/udp 192.0.2.9:0>10.0.0.2:5003",
		"0/udp 192.0.2.9:0>10.0.0.2:5010", "0/udp 192.0.2.9:0>10.0.0.2:5011",
		"0/tcp 192.0.2.1:0>192.0.2.9:3001 H.245",
		"0/udp 192.0.2.1:0>192.0.2.9:6000", "0/udp 192.0.2.1:0>192.0.2.9:6001",
		"0/udp 192.0.2.1:0>192.0.2.9:6000", "0/udp 192.0.2.1:0>192.0.2.9:6001",
	}, ""},
	{"tunnelled H.245", q931, seen, []h323Line{
		{caller, userUser(5, new(perEnc).bits(2, 0).oid(), request(open("10.0.0.2:5000", "", "")), request(openData("10.0.0.2:1503", 3))),
			userUser(5, new(perEnc).bits(2, 0).oid(), request(open("192.0.2.1:5000", "", "")), request(openData("192.0.2.1:1503", 3)))},
		{callee, userUser(4, new(perEnc).bits(1, 0).oid(), []byte{0x4a, 0x40}, response("", "", "192.0.2.9:6000", "192.0.2.9:6001")), ""},
	}, []string{
		"0/udp 192.0.2.9:0>10.0.0.2:5000", "0/udp 192.0.2.9:0>10.0.0.2:5001", "0/tcp 192.0.2.9:0>10.0.0.2:1503 permanent",
		"0/udp 192.0.2.1:0>192.0.2.9:6000", "0/udp 192.0.2.1:0>192.0.2.9:6001",
		"0/udp 192.0.2.1:0>192.0.2.9:6000", "0/udp 192.0.2.1:0>192.0.2.9:6001",
	}, ""},
	{"channels", h245, seen, []h323Line{
		{caller, tpkt(request(open("10.0.0.2:5000", "10.0.0.2:5001", ""))), tpkt(request(open("192.0.2.1:5000", "192.0.2.1:5001", "")))},
		{caller, tpkt(request(open("10.0.0.9:5000", "10.0.0.2:0", ""))), ""}, // another's, and none
		{caller, tpkt(request(openData("10.0.0.2:1503", 2))), ""},            // not over a connection of its own
		{caller, tpkt([]byte{0x02, 0x70, 0x01}), ""},                         // terminalCapabilitySet
		{caller, tpkt([]byte{0x68, 0x00}), ""},                               // indication
		{callee, tpkt(response("192.0.2.9:6003", "192.0.2.9:1503", "192.0.2.9:6000", "192.0.2.9:6001")), ""},
		{caller, tpkt(response("", "", "10.0.0.2:5004", "10.0.0.2:5005")), tpkt(response("", "", "192.0.2.1:5004", "192.0.2.1:5005"))},
	}, []string{
		"0/udp 192.0.2.9:0>10.0.0.2:5000", "0/udp 192.0.2.9:0>10.0.0.2:5001",
		"0/udp 192.0.2.9:0>10.0.0.2:5000", "0/udp 192.0.2.9:0>10.0.0.2:5001",
		"0/udp 192.0.2.1:0>192.0.2.9:6002", "0/udp 192.0.2.1:0>192.0.2.9:6003", "0/tcp 192.0.2.1:0>192.0.2.9:1503 permanent",
		"0/udp 192.0.2.1:0>192.0.2.9:6000", "0/udp 192.0.2.1:0>192.0.2.9:6001",
		"0/udp 192.0.2.1:0>192.0.2.9:6000", "0/udp 192.0.2.1:0>192.0.2.9:6001",
		"0/udp 192.0.2.9:0>10.0.0.2:5004", "0/udp 192.0.2.9:0>10.0.0.2:5005",
		"0/udp 192.0.2.9:0>10.0.0.2:5004", "0/udp 192.0.2.9:0>10.0.0.2:5005",
	}, ""},
	{"facility", q931, "", []h323Line{
		{callee, userUser(6, facility("192.0.2.9:1720", 5, "192.0.2.9:3000")), ""},
		{callee, userUser(6, facility("10.0.0.77:1720", 1, "192.0.2.9:3001")), ""},
		{callee, userUser(6, facility("203.0.113.5:1720", 3, "192.0.2.9:3002")), ""},
	}, []string{
		"0/tcp 10.0.0.2:0>192.0.2.9:3000 H.245", "0/tcp 10.0.0.2:0>10.0.0.77:1720 Q.931",
		"0/tcp 10.0.0.2:0>192.0.2.9:3002 H.245",
	}, "Linux expects the forwarded call where its routes to both differ; here the environment refuses it"},

	{"registration", ras, "", []h323Line{
		{caller, gatekeeperRequest("10.0.0.2:4000"), ""},
		{callee, gatekeeperConfirm("192.0.2.9:1719"), ""},
		{caller, registrationRequest(one("10.0.0.2:1720"), one("10.0.0.2:4000"), 0), ""},
		{callee, registrationConfirm(one("192.0.2.9:1720"), 600), ""},
		{caller, unregistrationRequest("10.0.0.2:1720"), ""},
	}, []string{
		"0/tcp 192.0.2.9:0>10.0.0.2:1720 Q.931 permanent", "refresh 600", "renew 0 10.0.0.2:1720 300 s",
		"forget 0 invalid AddrPort", "refresh 30",
	}, "no expectation is for longer than five minutes"},
	{"registration, translated", ras, seen, []h323Line{
		{caller, gatekeeperRequest("10.0.0.2:4000"), gatekeeperRequest(seen)},
		{caller, registrationRequest([]string{"127.0.0.1:1720", "10.0.0.2:1720"}, []string{"10.0.0.2:4001", "10.0.0.2:4000"}, 120),
			registrationRequest([]string{"192.0.2.1:1720", "192.0.2.1:1720"}, []string{"10.0.0.2:4001", seen}, 120)},
		{callee, registrationConfirm([]string{"192.0.2.9:1721", "192.0.2.1:1720"}, 0),
			registrationConfirm([]string{"192.0.2.9:1721", "10.0.0.2:1720"}, 0)},
		{caller, admissionRequest("10.0.0.2:1720", "192.0.2.9:1720"), admissionRequest("192.0.2.1:1720", "192.0.2.9:1720")},
		{caller, admissionRequest("192.0.2.9:1720", "10.0.0.2:1730"), admissionRequest("192.0.2.9:1720", "192.0.2.1:1730")},
		{callee, admissionConfirm("192.0.2.1:1720"), admissionConfirm("10.0.0.2:1720")},
		{caller, infoResponse("10.0.0.2:4000", "10.0.0.2:1720"), infoResponse(seen, "192.0.2.1:1720")},
		{caller, locationRequest("10.0.0.2:4000"), locationRequest(seen)},
		{caller, unregistrationRequest("10.0.0.2:1720"), unregistrationRequest("192.0.2.1:1720")},
		{caller, unregistrationRequest("10.0.0.2:1720"), ""},
	}, []string{
		"0/tcp 192.0.2.9:0>10.0.0.2:1720 Q.931 permanent", "refresh 120", "renew 0 192.0.2.1:1720 120 s",
		"forget 0 invalid AddrPort", "refresh 30", "forget 0 invalid AddrPort", "refresh 30",
	}, ""},
	{"where to call", ras, "", []h323Line{
		{caller, admissionRequest("", ""), ""},
		{callee, admissionConfirm("192.0.2.8:1720"), ""},
		{callee, locationConfirm("192.0.2.7:1720", "192.0.2.7:1719"), ""},
		{callee, gatekeeperConfirm("192.0.2.6:1719"), ""},
		{caller, registrationRequest(one("10.0.0.3:1720"), one("10.0.0.2:4000"), 60), ""},
		{callee, registrationConfirm(one("192.0.2.9:1720"), 0), ""},
	}, []string{
		"0/tcp 10.0.0.2:0>192.0.2.8:1720 Q.931 permanent", "0/tcp 10.0.0.2:0>192.0.2.7:1720 Q.931 permanent",
		"0/udp 10.0.0.2:0>192.0.2.6:1719 RAS", "refresh 60",
	}, "the environment refuses the addresses of others"},
}

func TestH323(t *testing.T) {
	for _, c := range h323Cases {
		t.Run(c.name, func(t *testing.T) { c.play(t, len(c.lines[0].sent)) })
	}
}

// h323Server is who the client of the cases talks to.
var h323Server = map[flow.HelperID]string{rasID: "192.0.2.9:1719", q931ID: "192.0.2.9:1720", h245ID: "192.0.2.9:3000"}

// play plays a case, with the messages of a stream split at a byte.
func (c *h323Case) play(t *testing.T, at int) {
	t.Helper()
	h := c.h()
	g := newDialogue(t, h, fakeConn(h.Protos[0], "10.0.0.2:4000", h323Server[h.ID], c.seen))
	for i, l := range c.lines {
		want := l.want
		if want == "" {
			want = l.sent
		}
		n := min(at, len(l.sent))
		got := ""
		if h.ID == rasID {
			got = g.say(l.d, l.sent)
		} else {
			got = g.say(l.d, l.sent[:n]) + g.say(l.d, l.sent[n:])
		}
		if got != want || g.err != nil {
			t.Fatalf("split at %d, line %d: %v\n%x, want\n%x", at, i, g.err, got, want)
		}
	}
	if !slices.Equal(g.env.log, c.log) {
		t.Fatalf("split at %d: expected\n%s, want\n%s", at, strings.Join(g.env.log, "\n"), strings.Join(c.log, "\n"))
	}
}

// TestH323Split: a stream that is split at any byte is read as it is in one piece.
func TestH323Split(t *testing.T) {
	for _, c := range h323Cases {
		if c.h().ID == rasID {
			continue
		}
		for at := range 600 {
			c.play(t, at)
		}
	}
}

// TestH323IPv6: addresses of 18 bytes.
func TestH323IPv6(t *testing.T) {
	const client, known = "[fd00::2]", "[2001:db8::1]"
	g := newDialogue(t, q931(), fakeConn(flow.TCP, client+":4000", "[2001:db8::9]:1720", known+":5787"))
	sent := userUser(0, setup(client+":3000", "10.0.0.1:1720", client+":4000", open(client+":5000", client+":5001", client+":5003")))
	want := userUser(0, setup(known+":3000", "10.0.0.1:1720", known+":5787", open(known+":5000", known+":5001", known+":5003")))
	if got := g.say(caller, sent); got != want {
		t.Errorf("%x, want\n%x", got, want)
	}
	if len(g.env.log) != 7 || g.env.log[0] != "0/tcp [2001:db8::9]:0>[fd00::2]:3000 H.245" {
		t.Errorf("%q", g.env.log)
	}
}

// TestH323OtherPort: the ports that are told are those that are free.
func TestH323OtherPort(t *testing.T) {
	g := newDialogue(t, h245(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:3000", seen))
	g.env.shift = 10
	got := g.say(caller, tpkt(request(open("10.0.0.2:5000", "10.0.0.2:5001", ""))))
	if want := tpkt(request(open("192.0.2.1:5010", "192.0.2.1:5011", ""))); got != want {
		t.Errorf("%x, want\n%x", got, want)
	}
	g.env.err = ErrNoPort
	sent := tpkt(request(open("10.0.0.2:5000", "10.0.0.2:5001", "")))
	if got := g.say(caller, sent); got != sent || g.err != nil {
		t.Errorf("%x, %v", got, g.err)
	}
}

// TestH323Off: what is not H.323 is not read on.
func TestH323Off(t *testing.T) {
	good := userUser(2, connect("192.0.2.9:3003"))
	bare := func(d ...byte) string { return tpkt(d) }
	for _, c := range []struct {
		name        string
		h           func() *Helper
		first, then string
		want        error
	}{
		{"HTTP", q931, "", "POST / HTTP/1.1\r\n", ErrProtocol},
		{"another version", q931, "", "\x03\x01", ErrProtocol},
		{"a TPKT shorter than its header", q931, "", "\x03\x00\x00\x03", ErrProtocol},
		{"a huge TPKT", q931, "", "\x03\x00\xff\xff\x08", ErrProtocol},
		{"a huge TPKT later", q931, good, "\x03\x00\xff\xff\x08", ErrTooLong},
		{"TLS", q931, "", "\x16\x03\x01\x02\x00", ErrProtocol},
		{"another discriminator", q931, "", bare(9, 2, 0, 0, 5), ErrProtocol},
		{"a call reference that is too long", q931, "", bare(8, 16, 0), ErrProtocol},
		{"a call reference that is not there", q931, "", bare(8, 2, 0, 0), ErrProtocol},
		{"an element that is not there", q931, "", bare(8, 0, 5, 0x28), ErrProtocol},
		{"an element longer than the message", q931, "", bare(8, 0, 5, 0x28, 3, 'a', 'b'), ErrProtocol},
		{"user-user without a length", q931, "", bare(8, 0, 5, 0x7e, 0), ErrProtocol},
		{"user-user of no length (CVE-2026-23455)", q931, "", bare(8, 0, 5, 0x7e, 0, 0, 5, 0x20), ErrProtocol},
		{"user-user of one byte", q931, "", bare(8, 0, 5, 0x7e, 0, 1, 5), ErrProtocol},
		{"user-user longer than the message", q931, "", bare(8, 0, 5, 0x7e, 0, 4, 5, 0x20, 0x20), ErrProtocol},
		{"user-user that ends in the middle", q931, good, good[:2] + "\x00\x30" + good[4:18] + "\x00\x1f" + good[20:48], ErrMalformed},
		{"RDP", q931, "", "\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x00\x00\x00\x00", ErrProtocol},
		{"H.245 that ends in the middle", h245, "", tpkt(request(open("10.0.0.2:5000", "", ""))[:30]), ErrProtocol},
		{"a datagram of DNS", ras, "", "\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01", ErrProtocol},
		{"an empty datagram", ras, "", "", ErrProtocol},
		{"a datagram that ends in the middle", ras, "", registrationRequest(one("10.0.0.2:1720"), one("10.0.0.2:4000"), 0)[:20], ErrProtocol},
		{"a datagram of another", ras, gatekeeperRequest("10.0.0.2:4000"), "\xff\xff", nil},
	} {
		h := c.h()
		g := newDialogue(t, h, fakeConn(h.Protos[0], "10.0.0.2:4000", "192.0.2.9:1720", ""))
		if c.first != "" {
			g.say(callee, c.first)
			g.env.log = nil
		}
		m := &Message{Conn: g.c, Dir: callee, Data: []byte(c.then), Env: &g.env}
		if _, err := g.s.Message(m); !errors.Is(err, c.want) || m.Edits != nil || g.env.log != nil {
			t.Errorf("%s: %v, %v, %q", c.name, err, m.Edits, g.env.log)
		}
	}
	// What has no message of H.225.0 is none of ours, but is Q.931.
	g := newDialogue(t, q931(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1720", ""))
	g.say(caller, bare(8, 0, 0x7d, 0x14, 1, 3)+bare())
	if g.err != nil {
		t.Error(g.err)
	}
}

// TestH323SingleOctet: an element of one octet (sending complete) in front of the user-user
// element. Linux takes the next octet for its length, and misses the message.
func TestH323SingleOctet(t *testing.T) {
	d := []byte(userUser(2, connect("192.0.2.9:3003")))[tpktHeader:]
	at := slices.Index(d, q931UserUser)
	g := newDialogue(t, q931(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1720", ""))
	g.say(callee, tpkt(slices.Insert(d, at, 0xa1)))
	if want := []string{"0/tcp 10.0.0.2:0>192.0.2.9:3003 H.245"}; g.err != nil || !slices.Equal(g.env.log, want) {
		t.Errorf("%v, %q", g.err, g.env.log)
	}
}

// TestH323Elements: values of no size in any number do not cost time.
func TestH323Elements(t *testing.T) {
	e := new(perEnc).bits(1, 0).bits(1, 1).bits(2, 3).bits(1, 0).bits(2, 0).bits(1, 0) // setup
	e.oid().address("10.0.0.2:3000").word(0x8000 | 0x3fff)
	g := newDialogue(t, q931(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1720", ""))
	if g.say(caller, userUser(0, e)); !errors.Is(g.err, ErrProtocol) || g.env.log != nil {
		t.Errorf("%v, %q", g.err, g.env.log)
	}
	deep := perOf(perOf(perOf(perNil)))
	if _, err := deep.decode(slices.Repeat([]byte{0xbf, 0xff}, 1000)); err == nil {
		t.Error("16383 times 16383 values were read")
	}
}

// TestH323Captures: the calls of the capture are those that are expected. Its H.245
// connection is to port 1232, its sound between 5000 and 2006; tshark reads the same.
func TestH323Captures(t *testing.T) {
	const name = "nDPI__h323.pcap"
	calls, rest := hear(t, name, q931(), flow.TCP, 1720)
	if len(calls) != 3 || !slices.Equal(calls[0].env.log, []string{"0/tcp 10.1.3.143:0>10.1.6.18:1232 H.245"}) {
		t.Fatalf("%d calls", len(calls))
	}
	for _, g := range calls {
		if g.err != nil {
			t.Errorf("%v: %v", g.client, g.err)
		}
	}
	found := slices.ContainsFunc(rest, func(p captured) bool {
		return p.proto == flow.TCP && p.src.Addr() == calls[0].client.Addr() && p.dst.String() == "10.1.6.18:1232"
	})
	if !found {
		t.Error("the connection that is expected does not come")
	}

	controls, _ := hear(t, name, h245(), flow.TCP, 1232)
	a := []string{"0/udp 10.1.6.18:0>10.1.3.143:5000", "0/udp 10.1.6.18:0>10.1.3.143:5001"}
	b := []string{"0/udp 10.1.3.143:0>10.1.6.18:2006", "0/udp 10.1.3.143:0>10.1.6.18:2007"}
	if len(controls) != 1 || controls[0].err != nil || !slices.Equal(controls[0].env.log, slices.Concat(a, b, a, a, b, b)) {
		t.Errorf("%q", controls[0].env.log)
	}

	gatekeepers, _ := hear(t, name, ras(), flow.UDP, 1719)
	want := [][]string{
		{
			"0/tcp 17.2.0.161:0>17.2.0.124:1720 Q.931 permanent", "refresh 3600", "renew 0 17.2.0.124:1720 300 s",
			"0/tcp 17.2.0.124:0>17.2.0.122:1720 Q.931 permanent: " + ErrForeign.Error(),
		},
		{
			"0/tcp 10.47.208.50:0>10.47.208.204:1720 Q.931 permanent", "refresh 60", "renew 0 10.47.208.204:1720 60 s",
			"0/tcp 10.47.208.50:0>10.47.208.204:1720 Q.931 permanent", "refresh 60", "renew 0 10.47.208.204:1720 60 s",
			"0/tcp 10.47.208.50:0>10.47.208.204:1720 Q.931 permanent",
		},
	}
	for i, g := range gatekeepers {
		if g.err != nil || i >= len(want) || !slices.Equal(g.env.log, want[i]) {
			t.Errorf("%v: %v, %q", g.client, g.err, g.env.log)
		}
	}
	if len(gatekeepers) != len(want) {
		t.Errorf("%d gatekeepers", len(gatekeepers))
	}
}

// fuzzH323 has a helper read dialogues; those of RAS are datagrams.
func fuzzH323(f *testing.F, h func() *Helper) {
	f.Helper()
	for _, c := range h323Cases {
		if c.h().ID != h().ID {
			continue
		}
		for _, l := range c.lines {
			f.Add([]byte(l.sent), uint16(40), true)
			f.Add([]byte(l.sent), uint16(5), false)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16, translated bool) {
		if h().ID != rasID {
			fuzzStream(t, h(), append([]byte{byte(at)}, b...), int(at), translated, true)
			return
		}
		g := newDialogue(t, h(), fakeConn(flow.UDP, "10.0.0.2:4000", "192.0.2.9:1719", map[bool]string{true: seen}[translated]))
		for _, turn := range [][]byte{b, b[:min(int(at), len(b))], b} {
			if len(turn) == 0 {
				continue
			}
			if got := g.say(flow.Direction(at&1), string(turn)); len(got) != len(turn) {
				t.Fatalf("%d bytes are read as %d", len(turn), len(got))
			}
		}
		if len(g.env.log) > 3*perMost {
			t.Fatalf("%d of one message", len(g.env.log))
		}
	})
}

func FuzzRAS(f *testing.F) { fuzzH323(f, ras) }

func FuzzQ931(f *testing.F) { fuzzH323(f, q931) }

func FuzzH245(f *testing.F) { fuzzH323(f, h245) }
