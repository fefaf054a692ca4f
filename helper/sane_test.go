package helper

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// words32 is 32 bit words as SANE writes them, most significant byte first.
func words32(all ...uint32) string {
	var b []byte
	for _, w := range all {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return string(b)
}

const toSANEServer = "0/tcp 10.0.1.2:0>192.0.2.2:51210"

// saneBegin is how a session begins: INIT of version 1.0.3 by "me", OPEN of "x".
var saneBegin = []string{
	">" + words32(0, 0x01000003, 3) + "me\x00", "<" + words32(0, 0x01000003),
	">" + words32(2, 2) + "x\x00", "<" + words32(0, 0, 0),
}

// saneStarted is the answer to START with a port.
func saneStarted(port uint32) string { return "<" + words32(0, port, 0x1234, 0) }

// TestSANE: requests of any kind, and the answer to START among their answers.
func TestSANE(t *testing.T) {
	start := ">" + words32(7, 0)
	sets := func(action, typ, size, count uint32) string { return ">" + words32(5, 0, 1, action, typ, size, count) }
	for _, before := range [][]string{
		{}, // a client that does not wait for its OPEN to be answered is none
		{">" + words32(1), "<" + words32(0, 1, 0)},                                  // GET_DEVICES
		{">" + words32(4, 0), "<" + words32(1, 1)},                                  // GET_OPTION_DESCRIPTORS
		{">" + words32(6, 0), "<" + words32(0, 1, 1, 100, 100, 100, 8)},             // GET_PARAMETERS
		{">" + words32(8, 0), "<" + words32(0)},                                     // CANCEL
		{">" + words32(9, 2) + "r\x00" + words32(0, 2) + "p\x00", "<" + words32(0)}, // AUTHORIZE
		{sets(1, 1, 4, 1) + words32(7), "<" + words32(0, 0, 1, 4, 1, 7, 0)},         // CONTROL_OPTION of an INT that looks like START
		{sets(1, 3, 12, 12) + words32(7, 0, 7), "<" + words32(0)},                   // of a STRING
		{sets(1, 4, 0, 0), "<" + words32(0)},                                        // of a BUTTON
		{">" + words32(5, 0, 1, 2), "<" + words32(0)},                               // SET_AUTO, which has no value
	} {
		_, log, err := everyCut(t, sane(), textConn(flow.TCP, "6566", plain), append(append(saneBegin[:4:4], before...), start, saneStarted(51210)))
		if got := strings.Join(log, "; "); got != toSANEServer || err != nil {
			t.Errorf("after %q: expected %q, %v", before, got, err)
		}
	}
	// Version 2 has a value also for SET_AUTO.
	begin := []string{">" + words32(0, 0x01000003, 0), "<" + words32(0, 0x01000002)}
	_, log, err := everyCut(t, sane(), textConn(flow.TCP, "6566", plain), append(begin, sets(2, 1, 4, 1)+words32(7), "<"+words32(0), start, saneStarted(51210)))
	if len(log) != 1 || err != nil {
		t.Errorf("version 2: expected %q, %v", log, err)
	}
}

// TestSANEAnswers: what is taken for a port. Linux 6.18 was asked with the same bytes.
func TestSANEAnswers(t *testing.T) {
	start := []string{">" + words32(7, 0)}
	textCases(t, sane(), textConn(flow.TCP, "6566", plain), start, []textCase{
		{say: saneStarted(51210), expect: toSANEServer},
		{say: saneStarted(0x10000 + 51210)},
		{say: "<" + words32(5, 51210, 0x1234, 0)},
		{say: "<" + words32(0)},
		{say: saneStarted(80), expect: "0/tcp 10.0.1.2:0>192.0.2.2:80: a port below 1024"}, // not Linux: expected
		{say: saneStarted(0), expect: "0/tcp 10.0.1.2:0>192.0.2.2:0: a port below 1024"},   // not Linux: expected
		{say: saneStarted(51210) + words32(0, 51211, 0x1234, 0), expect: toSANEServer},
	})
	textCases(t, sane(), textConn(flow.TCP, "6566", plain), []string{">" + words32(6, 0)}, []textCase{{say: saneStarted(51210)}})
	textCases(t, sane(), textConn6(flow.TCP, "6566", plain), start, []textCase{{say: saneStarted(51210), expect: "0/tcp [fd00:1::2]:0>[fd00:2::2]:51210"}})
	// A request that is sent before the last one is answered: whose answer comes is unknown.
	textCases(t, sane(), textConn(flow.TCP, "6566", plain), []string{">" + words32(6, 0) + words32(7, 0)}, []textCase{{say: saneStarted(51210)}})
	// The port moves with the server (Linux does not write it).
	g := newDialogue(t, sane(), textConn(flow.TCP, "6566", dnat))
	g.env.shift = 1
	g.say(flow.Original, words32(7, 0))
	if got, want := g.say(flow.Reply, saneStarted(51210)[1:]), saneStarted(51211)[1:]; got != want {
		t.Errorf("read as %x, want %x", got, want)
	}
}

// TestSlipstreamSANE (H1): what begins otherwise is not read.
func TestSlipstreamSANE(t *testing.T) {
	for _, begin := range []string{">POST / HTTP/1.1\r\n", ">\x16\x03\x01\x02\x00", ">" + words32(11, 0), ">" + words32(5, 0, 0, 0, 9, 0, 0)} {
		_, log, err := everyCut(t, sane(), textConn(flow.TCP, "6566", plain), []string{begin, ">" + words32(7, 0), saneStarted(51210)})
		if !errors.Is(err, ErrProtocol) || len(log) != 0 {
			t.Errorf("%q: %v, expected %q", begin, err, log)
		}
	}
}

// TestHugeNumbersSANE (H4): a length that cannot be ends the reading, and nothing is kept for
// one that can.
func TestHugeNumbersSANE(t *testing.T) {
	for _, huge := range []string{
		words32(2, 0xffffffff), words32(2, saneRest+1), words32(9, 0, 0, 0x80000000), words32(0, 3, 1<<31),
		words32(5, 0, 1, 1, 1, 4, 0x40000001), words32(5, 0, 1, 1, 3, 4, saneRest+1), words32(99),
	} {
		_, log, err := everyCut(t, sane(), textConn(flow.TCP, "6566", plain), append(saneBegin[:4:4], ">"+huge))
		if !errors.Is(err, ErrMalformed) || len(log) != 0 {
			t.Errorf("%x: %v, expected %q", huge, err, log)
		}
	}
	g := newDialogue(t, sane(), textConn(flow.TCP, "6566", dnat))
	g.say(flow.Original, words32(2, saneRest))
	for range 16 {
		g.say(flow.Original, strings.Repeat("\x00", saneRest/16))
		if len(g.rest[0]) != 0 {
			t.Fatal("a string is held back")
		}
	}
	g.say(flow.Reply, words32(0, 0, 0))
	g.say(flow.Original, words32(7, 0))
	g.say(flow.Reply, saneStarted(51210)[1:])
	if g.err != nil || len(g.env.log) != 1 {
		t.Errorf("after a long string: %v, %q", g.err, g.env.log)
	}
}

func FuzzSANE(f *testing.F) {
	seeds(f,
		append(saneBegin[:4:4], ">"+words32(7, 0), saneStarted(51210)),
		append(saneBegin[:4:4], ">"+words32(5, 0, 1, 1, 1, 4, 1, 7), "<"+words32(0)),
		append(saneBegin[:4:4], ">"+words32(9, 0, 2)+"p\x00"+words32(0), "<"+words32(0)),
	)
	f.Fuzz(func(t *testing.T, input string, at uint16, nat uint8) {
		fuzzText(t, sane(), textConn(flow.TCP, "6566", int(nat%3)), input, int(at))
	})
}
