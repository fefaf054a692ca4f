package helper

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
)

// pptpMsg is a control message of a type, as long as the RFC says, that begins with fields
// of 16 bits.
func pptpMsg(kind int, fields ...uint16) string {
	b := make([]byte, pptpSizes[kind])
	binary.BigEndian.PutUint16(b, uint16(len(b)))
	copy(b[2:], "\x00\x01\x1a\x2b\x3c\x4d")
	binary.BigEndian.PutUint16(b[8:], uint16(kind))
	for i, f := range fields {
		binary.BigEndian.PutUint16(b[12+2*i:], f)
	}
	return string(b)
}

// fine is the result code of success with the error code 0.
const fine = 0x0100

// pptpLine is one message of a dialogue.
type pptpLine struct {
	d    flow.Direction
	sent string
	want string // as it is to be read, "" for the same
}

const (
	pns = flow.Original
	pac = flow.Reply
)

var pptpOpen = []pptpLine{
	{pns, pptpMsg(pptpStartRequest, fine), ""},
	{pac, pptpMsg(pptpStartReply, fine, fine), ""},
}

// pptpCases is what Linux 6.18 does with these messages, but for what fields called ours say.
// The client is 10.0.0.2:4000, the server 192.0.2.9.
var pptpCases = []struct {
	name  string
	seen  string // what the server knows the client as
	lines []pptpLine
	log   []string // what is expected
	ours  string   // where and why we differ
}{
	{"outgoing call", "", []pptpLine{
		{pns, pptpMsg(pptpOutCallRequest, 0x1111, 1), ""},
		{pac, pptpMsg(pptpOutCallReply, 0x2222, 0x1111, fine), ""},
		{pns, pptpMsg(pptpSetLink, 0x2222), ""},
		{pac, pptpMsg(pptpSetLink, 0x1111), ""},
		{pac, pptpMsg(pptpWANError, 0x1111), ""},
		{pns, pptpMsg(pptpEchoRequest), ""},
		{pac, pptpMsg(pptpEchoReply), ""},
		{pns, pptpMsg(pptpCallClear, 0x1111), ""},
		{pac, pptpMsg(pptpCallDisconnect, 0x2222), ""},
	}, []string{"0/gre 10.0.0.2:4369>192.0.2.9:8738 seen 0", "hangup"}, ""},
	{"outgoing call, translated", "192.0.2.1:5787", []pptpLine{
		{pns, pptpMsg(pptpOutCallRequest, 0x1111, 1), pptpMsg(pptpOutCallRequest, 5787, 1)},
		{pac, pptpMsg(pptpOutCallReply, 0x2222, 5787, fine), pptpMsg(pptpOutCallReply, 0x2222, 0x1111, fine)},
		{pns, pptpMsg(pptpSetLink, 0x2222), ""},
		{pac, pptpMsg(pptpSetLink, 5787), pptpMsg(pptpSetLink, 0x1111)},
		{pac, pptpMsg(pptpWANError, 5787), pptpMsg(pptpWANError, 0x1111)},
		{pns, pptpMsg(pptpCallClear, 0x1111), pptpMsg(pptpCallClear, 5787)},
		{pac, pptpMsg(pptpCallDisconnect, 5787), pptpMsg(pptpCallDisconnect, 0x1111)},
		// The next call has the port again.
		{pns, pptpMsg(pptpOutCallRequest, 0x3333, 2), pptpMsg(pptpOutCallRequest, 5787, 2)},
		{pac, pptpMsg(pptpOutCallReply, 0x4444, 5787, fine), pptpMsg(pptpOutCallReply, 0x4444, 0x3333, fine)},
		{pns, pptpMsg(pptpCallClear, 0x9999), pptpMsg(pptpCallClear, 5787)},
		{pac, pptpMsg(pptpCallDisconnect, 0x4444), pptpMsg(pptpCallDisconnect, 0x3333)},
	}, []string{
		"0/gre 192.0.2.1:4369>192.0.2.9:8738 seen 5787", "hangup",
		"0/gre 192.0.2.1:13107>192.0.2.9:17476 seen 5787", "hangup",
	}, ""},
	{"server answers no call", "192.0.2.1:5117", []pptpLine{
		{pac, pptpMsg(pptpOutCallReply, 0x2222, 0x1111, fine), ""},
		{pns, pptpMsg(pptpOutCallRequest, 0x1111, 1), pptpMsg(pptpOutCallRequest, 5117, 1)},
		{pac, pptpMsg(pptpOutCallReply, 0x2222, 5116, fine), ""},                                                  // of another
		{pac, pptpMsg(pptpOutCallReply, 0x2222, 5117, 0x0200), pptpMsg(pptpOutCallReply, 0x2222, 0x1111, 0x0200)}, // refused
		{pac, pptpMsg(pptpOutCallReply, 0x2222, 5117, fine), ""},                                                  // and no call any more
		{pac, pptpMsg(pptpInCallConnect, 5117), ""},
		{pns, pptpMsg(pptpInCallReply, 0x1111, 0x2222, fine), ""},
	}, nil, ""},
	{"incoming call", "", []pptpLine{
		{pac, pptpMsg(pptpInCallRequest, 0x2222, 1), ""},
		{pns, pptpMsg(pptpInCallReply, 0x1111, 0x2222, fine), ""},
		{pac, pptpMsg(pptpInCallConnect, 0x1111), ""},
	}, []string{"0/gre 10.0.0.2:4369>192.0.2.9:8738 seen 0"}, ""},
	{"incoming call, translated", "192.0.2.1:5713", []pptpLine{
		{pac, pptpMsg(pptpInCallRequest, 0x2222, 1), ""},
		{pns, pptpMsg(pptpInCallReply, 0x1111, 0x2222, fine), pptpMsg(pptpInCallReply, 5713, 0x2222, fine)},
		{pac, pptpMsg(pptpInCallConnect, 5713), pptpMsg(pptpInCallConnect, 0x1111)},
		{pac, pptpMsg(pptpCallDisconnect, 0x2222), pptpMsg(pptpCallDisconnect, 0x1111)},
	}, []string{"0/gre 192.0.2.1:4369>192.0.2.9:8738 seen 5713", "hangup"},
		"Linux leaves the reply as it is and has the client read the call id 0 from then on: no such call works"},
	{"refused incoming call", "192.0.2.1:5713", []pptpLine{
		{pac, pptpMsg(pptpInCallRequest, 0x2222, 1), ""},
		{pns, pptpMsg(pptpInCallReply, 0x1111, 0x2222, 0x0200), ""},
		{pac, pptpMsg(pptpInCallConnect, 0x1111), ""},
	}, nil, ""},
	{"another call before the first has ended", "", []pptpLine{
		{pns, pptpMsg(pptpOutCallRequest, 0x1111, 1), ""},
		{pac, pptpMsg(pptpOutCallReply, 0x2222, 0x1111, fine), ""},
		{pac, pptpMsg(pptpOutCallReply, 0x2222, 0x1111, fine), ""},
		{pac, pptpMsg(pptpOutCallReply, 0x5555, 0x1111, fine), ""},
	}, []string{
		"0/gre 10.0.0.2:4369>192.0.2.9:8738 seen 0", "0/gre 10.0.0.2:4369>192.0.2.9:8738 seen 0",
		"forget 0 invalid AddrPort", "0/gre 10.0.0.2:4369>192.0.2.9:21845 seen 0",
	}, "Linux forgets the first, and expects neither"},
	{"stop", "192.0.2.1:5787", []pptpLine{
		{pns, pptpMsg(pptpOutCallRequest, 0x1111, 1), pptpMsg(pptpOutCallRequest, 5787, 1)},
		{pac, pptpMsg(pptpOutCallReply, 0x2222, 5787, fine), pptpMsg(pptpOutCallReply, 0x2222, 0x1111, fine)},
		{pac, pptpMsg(pptpStopReply, fine), ""}, // nobody asked
		{pns, pptpMsg(pptpStopRequest, fine), ""},
		{pac, pptpMsg(pptpStopReply, fine), ""},
		{pns, pptpMsg(pptpOutCallRequest, 0x3333, 1), ""},
		{pac, pptpMsg(pptpOutCallReply, 0x4444, 0x3333, fine), ""},
	}, []string{"0/gre 192.0.2.1:4369>192.0.2.9:8738 seen 5787", "forget 0 invalid AddrPort"},
		"Linux expects the tunnel until the control connection is gone"},
	{"a message that is too short for its type", "192.0.2.1:5787", []pptpLine{
		{pns, pptpShort(pptpOutCallRequest, 0x1111), ""},
		{pns, "\x00\x0c\x00\x01\x1a\x2b\x3c\x4d\x00\x00\x00\x00", ""}, // of no type
		{pns, "\x00\x0d\x00\x01\x1a\x2b\x3c\x4d\x00\x63\x00\x00-", ""},
		{pns, "\x00\x0c\x00\x01\x1a\x2b\x3c\x4d\x00\x05\x00\x00", ""},
		{pac, pptpMsg(pptpOutCallReply, 0x2222, 0, fine), ""},
	}, nil, ""},
}

func pptpShort(kind int, fields ...uint16) string {
	s := pptpMsg(kind, fields...)
	s = s[:len(s)-1]
	return string([]byte{0, byte(len(s))}) + s[2:]
}

func TestPPTP(t *testing.T) {
	for _, c := range pptpCases {
		t.Run(c.name, func(t *testing.T) {
			g := newDialogue(t, pptp(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1723", c.seen))
			for i, l := range slices.Concat(pptpOpen, c.lines) {
				want := l.want
				if want == "" {
					want = l.sent
				}
				if got := g.say(l.d, l.sent); got != want || g.err != nil {
					t.Errorf("line %d: %x, want %x, %v", i, got, want, g.err)
				}
			}
			if !slices.Equal(g.env.log, c.log) {
				t.Errorf("expected %q, want %q", g.env.log, c.log)
			}
		})
	}
}

// TestPPTPServerTranslated: behind -j DNAT the call id is that of the client's port, too.
func TestPPTPServerTranslated(t *testing.T) {
	g := newDialogue(t, pptp(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.77:1723", ""))
	g.c.Tuples[flow.Reply].Src = flow.AddrFrom4([]byte{192, 0, 2, 9})
	for _, l := range pptpOpen {
		g.say(l.d, l.sent)
	}
	if got := g.say(pns, pptpMsg(pptpOutCallRequest, 0x1111)); got != pptpMsg(pptpOutCallRequest, 4000) {
		t.Errorf("%x", got)
	}
	if got := g.say(pac, pptpMsg(pptpOutCallReply, 0x2222, 4000, fine)); got != pptpMsg(pptpOutCallReply, 0x2222, 0x1111, fine) {
		t.Errorf("%x", got)
	}
	if want := []string{"0/gre 10.0.0.2:4369>192.0.2.9:8738 seen 4000"}; !slices.Equal(g.env.log, want) {
		t.Errorf("%q", g.env.log)
	}
}

// TestPPTPSplit: a dialogue that is split or joined at any byte is the same.
func TestPPTPSplit(t *testing.T) {
	c := pptpCases[1]
	lines := slices.Concat(pptpOpen, c.lines)
	for at := range 300 {
		g := newDialogue(t, pptp(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1723", c.seen))
		for i, l := range lines {
			want := l.want
			if want == "" {
				want = l.sent
			}
			n := min(at, len(l.sent))
			if got := g.say(l.d, l.sent[:n]) + g.say(l.d, l.sent[n:]); got != want {
				t.Fatalf("line %d split at %d: %x, want %x", i, n, got, want)
			}
		}
		if !slices.Equal(g.env.log, c.log) {
			t.Fatalf("split at %d: expected %q", at, g.env.log)
		}
	}
	// Several messages in one segment: Linux reads the first only.
	g := newDialogue(t, pptp(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1723", c.seen))
	g.say(pns, pptpOpen[0].sent)
	g.say(pac, pptpOpen[1].sent)
	if got := g.say(pns, c.lines[2].sent+c.lines[0].sent); got != c.lines[2].sent+c.lines[0].want {
		t.Errorf("two messages: %x", got)
	}
}

// TestPPTPOff: what is not PPTP is not read on, and nothing of it is waited for.
func TestPPTPOff(t *testing.T) {
	for _, c := range []struct {
		first, then string
		want        error
	}{
		{"", "GET / HTTP/1.1\r\n", ErrProtocol},
		{"", "PO", ErrProtocol},                                               // the length would be 20559, but no type
		{"", "\x00\x00", ErrProtocol},                                         // zero length
		{"", "\x00\x0b\x00\x01\x1a\x2b\x3c\x4d", ErrProtocol},                 // a message without a type
		{"", "\x00\x9c\x00\x02", ErrProtocol},                                 // a management message
		{"", "\x00\x9c\x00\x01\x1a\x2b\x3c\x4e", ErrProtocol},                 // the cookie
		{"", "\xff\xff\x00\x01\x1a\x2b\x3c\x4d\x00\x07\x00\x00", ErrProtocol}, // huge
		{pptpOpen[0].sent, "\x00\x00\x00\x01\x1a\x2b\x3c\x4d", ErrMalformed},  // in the middle
		{pptpOpen[0].sent, "\xff\xff\x00\x01\x1a\x2b\x3c\x4d\x00\x07\x00\x00", ErrTooLong},
		{pptpOpen[0].sent, "\x00\x9c\x00\x01\x1a\x2b\x3c\x00", ErrMalformed},
	} {
		g := newDialogue(t, pptp(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1723", "192.0.2.1:5787"))
		got := g.say(pns, c.first) + g.say(pns, c.then)
		// A length that no message has is refused as soon as all of it is there.
		if c.then == "PO" {
			got += g.say(pns, "ST")
			c.then += "ST"
		}
		if !errors.Is(g.err, c.want) || got != c.first+c.then || g.env.log != nil {
			t.Errorf("%q: %v, read as %q, %q", c.then, g.err, got, g.env.log)
		}
	}
}

// TestPPTPRefused: the call ids are put right even where nothing can be expected.
func TestPPTPRefused(t *testing.T) {
	g := newDialogue(t, pptp(), fakeConn(flow.TCP, "10.0.0.2:4000", "192.0.2.9:1723", "192.0.2.1:5787"))
	g.env.err = ErrLimit
	for _, l := range slices.Concat(pptpOpen, pptpCases[1].lines[:2]) {
		if got := g.say(l.d, l.sent); l.want != "" && got != l.want {
			t.Errorf("%x", got)
		}
	}
}

// TestPPTPCaptures: the tunnels of the captures are those that are expected.
func TestPPTPCaptures(t *testing.T) {
	for _, c := range []struct {
		name  string
		calls int
		gre   int // packets of version 1
	}{
		{"tcpdump__pptp.pcap", 1, 1},
		{"nDPI__pptp.pcap", 1, 0},
	} {
		all, rest := hear(t, c.name, pptp(), flow.TCP, 1723)
		var expected []string
		for _, g := range all {
			if g.err != nil {
				t.Errorf("%s: %v", c.name, g.err)
			}
			for _, l := range g.env.log {
				if l != "hangup" {
					expected = append(expected, l)
				}
			}
		}
		if len(expected) != c.calls {
			t.Errorf("%s: %q", c.name, expected)
		}
		n := 0
		for _, p := range rest {
			if p.proto != flow.GRE {
				continue
			}
			n++
			to := fmt.Sprintf(">%v ", p.dst)
			from := fmt.Sprintf("%v:", p.src.Addr())
			if !slices.ContainsFunc(expected, func(l string) bool { return strings.Contains(l, to) && strings.Contains(l, from) }) {
				t.Errorf("%s: nobody expects %v > %v: %q", c.name, p.src, p.dst, expected)
			}
		}
		if n != c.gre {
			t.Errorf("%s: %d GRE packets, there should be %d", c.name, n, c.gre)
		}
	}
}

// TestPPTPIPFVectors reads the control connections of IPFilter's tests of PPTP. It does not
// choose call ids, Linux does: but for those the bytes are the same.
func TestPPTPIPFVectors(t *testing.T) {
	f, err := os.Open(testenv.Shared(t, "vectors/ipf_vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ran := 0
	for s := bufio.NewScanner(bufio.NewReaderSize(f, 1<<20)); s.Scan(); {
		var v struct {
			Test     string
			Input    []struct{ Dir, Hex, Comment string }
			Expected [][]string
		}
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		if v.Test != "ni13" && v.Test != "ni15" && v.Test != "ni16" {
			continue
		}
		ran++
		seen := "" // ni13, ni15: nothing is translated
		self := "192.168.113.1:1511"
		if v.Test == "ni16" {
			self, seen = "10.2.2.2:1511", "192.168.113.1:1511"
		}
		g := newDialogue(t, pptp(), fakeConn(flow.TCP, self, "192.168.113.3:1723", seen))
		messages, rewritten := 0, 0
		var wants [][]byte // of the messages; of ni16 a packet of GRE is missing in the input
		for _, x := range v.Expected[0] {
			if w := pptpIn(t, strings.NewReplacer(" ", "", "IPCKSUM", "0000", "NIC0HEXADDR", "00000000").Replace(x)); w != nil {
				wants = append(wants, w)
			}
		}
		for i, in := range v.Input {
			sent := pptpIn(t, in.Hex)
			if sent == nil {
				continue
			}
			if messages++; messages > len(wants) {
				t.Fatalf("%s: %d messages are expected", v.Test, len(wants))
			}
			want := wants[messages-1]
			d := pns
			if strings.Contains(in.Comment, ".1723 >") {
				d = pac
			}
			// The server answers to the id that it was told.
			msg := append([]byte(nil), sent...)
			if seen != "" && d == pac {
				rewritten += bytes.Count(msg, []byte{0x40, 0x00, 0x01, 0x00})
				msg = bytes.Replace(msg, []byte{0x40, 0x00, 0x01, 0x00}, []byte{0x05, 0xe7, 0x01, 0x00}, 1)
			}
			got := []byte(g.say(d, string(msg)))
			if seen != "" && d == pns && got[9] == pptpOutCallRequest {
				if binary.BigEndian.Uint16(got[12:]) != 1511 {
					t.Errorf("%s: the server reads %x", v.Test, got[12:14])
				}
				copy(got[12:], msg[12:14])
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s, packet %d:\n%x\n%x", v.Test, i, got, want)
			}
		}
		wantSeen := map[bool]string{true: "192.168.113.1:16384>192.168.113.3:0 seen 1511", false: "192.168.113.1:16384>192.168.113.3:0 seen 0"}
		if messages != 6 || len(g.env.log) != 1 || g.env.log[0] != "0/gre "+wantSeen[seen != ""] || (rewritten == 1) != (seen != "") {
			t.Errorf("%s: %d messages, %d replies, expected %q", v.Test, messages, rewritten, g.env.log)
		}
	}
	if ran != 3 {
		t.Errorf("%d vectors", ran)
	}
}

// pptpIn returns the message that a packet holds, nil for none.
func pptpIn(t *testing.T, packet string) []byte {
	t.Helper()
	b, err := hex.DecodeString(packet)
	if err != nil {
		t.Fatal(err)
	}
	if at := bytes.Index(b, []byte("\x00\x01\x1a\x2b\x3c\x4d")); at > 1 {
		return b[at-2:]
	}
	return nil
}

// FuzzPPTP: whatever is said, and however it is split, comes to the same, and of lengths
// nothing changes.
func FuzzPPTP(f *testing.F) {
	for _, c := range pptpCases {
		var b []byte
		for _, l := range slices.Concat(pptpOpen, c.lines) {
			b = append(b, byte(l.d))
			b = append(b, l.sent...)
		}
		f.Add(b, uint16(170), c.seen != "")
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16, translated bool) {
		fuzzStream(t, pptp(), b, int(at), translated, true)
	})
}
