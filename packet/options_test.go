package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

// withOptions puts options into an IPv4 datagram.
func withOptions(d, options []byte) []byte {
	options = slices.Clone(options)
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	d = insertOptions(slices.Clone(d), 0, options)
	sumHeader4(d[:ipv4Len+len(options)])
	return d
}

// parsed parses a datagram in a frame.
func parsed(t interface{ Fatalf(string, ...any) }, d []byte) *Packet {
	f := AppendEthernet(nil, MAC{2}, MAC{4}, d)
	p := &Packet{}
	p.Parse(f, len(f), Checks{Transport: true})
	if p.Kind == Malformed {
		t.Fatalf("%x: %v", d, p.Reason)
	}
	return p
}

// lab is the router that the tables below were asked of: 10.1.1.254 on the side of
// the sender and 10.2.2.254 on the other, at 03e15f83 milliseconds since midnight.
type lab struct{ asked int }

var (
	labIn, labOut  = flow.AddrFrom(netip.MustParseAddr("10.1.1.254")), flow.AddrFrom(netip.MustParseAddr("10.2.2.254"))
	labSrc, labDst = netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("10.2.2.1")
)

func (l *lab) Address() flow.Addr    { l.asked++; return labIn }
func (l *lab) Here(a flow.Addr) bool { return a == labIn || a == labOut }
func (l *lab) Midnight() uint32      { return 0x03e15f83 }
func hexBytes(s string) (b []byte)   { b, _ = hex.DecodeString(strings.ReplaceAll(s, " ", "")); return b }
func labUDP(payload int) (d []byte) {
	return AppendUDP(nil, IP{Src: labSrc, Dst: labDst, ID: 7}, 1000, 2000, make([]byte, payload))
}
func right4(d []byte) bool { return slow16(d[:int(d[0]&15)*4], nil) == 0xffff }
func slow16(b, pseudo []byte) (s uint16) {
	var c uint32
	for _, part := range [][]byte{pseudo, b} {
		for i, x := range part {
			c += uint32(x) << (8 * uint(1-i&1))
		}
	}
	for c > 0xffff {
		c = c>>16 + c&0xffff
	}
	return uint16(c)
}

// optionFacts is what a router of Linux 6.18 makes of the options of a UDP packet from
// 10.1.1.1 to 10.2.2.1 (asked in namespaces; internal/kernel asks again): out is what
// they are when it is forwarded, "" if it is not; pointer is where the parameter
// problem points that is the answer.
var optionFacts = []struct {
	in, out string
	pointer uint8
}{
	{"01010101", "01010101", 0},
	{"00000000", "00000000", 0},
	{"00010203", "00000000", 0}, // what follows the end is cleared
	{"010005060708090a", "0100000000000000", 0},
	// Record Route: the address of the interface out.
	{"0707040000000000", "0707080a0202fe00", 0},
	{"07030400", "07030400", 0}, // full: there was no room ever
	{"0707080000000000", "0707080000000000", 0},
	{"070b08010203040506070800", "070b0c010203040a0202fe00", 0},
	{"070b0400000000070b0400000000", "070b080a0202fe070b04000000000000", 0},
	{"07270400000000000000000000000000000000000000000000000000000000000000000000000000", "0727080a0202fe000000000000000000000000000000000000000000000000000000000000000000", 0},
	{"07020400", "", 21},
	{"0707050000000000", "", 22},
	{"0707030000000000", "", 22},
	{"070b09010203040506070800", "", 22},
	{"0706040000000000", "", 22},
	{"070704000000000707040000000001", "", 27}, // a second one
	// Timestamps: the address is the one that an answer would have, not that of the
	// interface out.
	{"4408050000000000", "4408090003e15f83", 0},
	{"440c05010000000000000000", "440c0d010a0101fe03e15f83", 0},
	{"440c05110000000000000000", "440c0d110a0101fe03e15f83", 0},
	{"440c05f10000000000000000", "440c0df10a0101fe03e15f83", 0},
	{"4408091000000000", "4408092000000000", 0}, // one more that had no room
	{"44040500", "44040510", 0},
	{"44080a0000000000", "44080a1000000000", 0},
	{"440c05030a0202fe00000000", "440c0d030a0202fe03e15f83", 0},
	{"440c05030a0101fe09090909", "440c0d030a0101fe03e15f83", 0},
	{"440c05030a02020109090909", "440c05030a02020109090909", 0}, // another host's turn
	{"440c05020a0101fe09090909", "440c05020a0101fe09090909", 0},
	{"440c05f20a0101fe09090909", "440c05f20a0101fe09090909", 0},
	{"440809f000000000", "", 23}, // nobody can be counted any more
	{"440809f100000000", "", 23},
	{"440c0df10000000000000000", "", 23},
	{"440c09010000000000000000", "", 22},
	{"440c09f10000000000000000", "", 22},
	{"4408070000000000", "", 22},
	{"44030500", "", 21},
	{"4405050001010101", "", 22},
	{"44040400", "", 22},
	// Source routes.
	{"8307040a02020100", "", 0},
	{"8907040a02020100", "", 0},
	{"8307080a02020100", "", 0},
	{"83030400", "", 0},
	{"83020400", "", 21},
	{"8307030101010100", "", 22},
	{"8307040a0202018307040a0202010000", "", 27},
	// Router Alert.
	{"94040000", "94040000", 0},
	{"94040001", "94040001", 0},
	{"94030000", "", 21},
	// CIPSO, whose domain is not configured.
	{"860a00000001010401010000", "", 22},
	{"8605000000000000", "", 21},
	// Security, stream id, and such that are not known.
	{"820b00000000000000000000", "820b00000000000000000000", 0},
	{"88040007", "88040007", 0},
	{"99040102", "99040102", 0},
	{"19040102", "19040102", 0},
	{"19010102", "", 20},
	{"19000102", "", 20},
	{"19050102", "", 20},
	{"1909010200000000", "", 20},
	{"01010107", "", 23},
	{"01010119", "", 23},
}

// TestOptionFacts holds CompileOptions and ForwardOptions to the kernel's doings.
func TestOptionFacts(t *testing.T) {
	for _, c := range optionFacts {
		d := withOptions(labUDP(4), hexBytes(c.in))
		p := parsed(t, d)
		o, problem := p.CompileOptions(&lab{})
		if problem != c.pointer || (problem == 0 && !o.SourceRoute) != (c.out != "") {
			t.Errorf("%s: problem at %d, source route %v; want %d, %q", c.in, problem, o.SourceRoute, c.pointer, c.out)
			continue
		}
		if c.out == "" {
			continue
		}
		p.ForwardOptions(&o, labOut)
		got := p.Frame[p.L3 : int(p.L3)+int(p.Len)]
		if hex.EncodeToString(p.header4()[20:]) != c.out || !right4(got) || !bytes.Equal(got[len(p.header4()):], d[len(p.header4()):]) {
			t.Errorf("%s: %x, want %s; checksum right: %v", c.in, p.header4()[20:], c.out, right4(got))
		}
	}
	o, _ := parsed(t, withOptions(labUDP(4), hexBytes("94040000"))).CompileOptions(&lab{})
	if !o.RouterAlert {
		t.Error("a router alert was not seen")
	}
}

// TestOptionsAsk: nobody is asked for an address that no option wants.
func TestOptionsAsk(t *testing.T) {
	l := &lab{}
	parsed(t, withOptions(labUDP(4), hexBytes("94040000 4408050000000000"))).CompileOptions(l)
	if l.asked != 0 {
		t.Errorf("asked %d times", l.asked)
	}
}

// TestEcho: an ICMP error has the route and the times that the packet has recorded, and
// the router's own (asked of Linux 6.18 with packets whose TTL was used up).
func TestEcho(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"0707040000000000", "0707080a0101fe00"},
		{"070b040000000000000000", "070b0c0a0101fe0a0101fe00"},
		{"01070b040000000000000000", "070b0c0a0101fe0a0101fe00"},
		{"440c05010000000000000000", "440c0d010a0101fe03e15f83"},
		{"4414050100000000000000000000000000000000", "441415010a0101fe03e15f830a0101fe03e15f83"},
		{"4408050000000000", "4408090003e15f83"},
		{"440c05000000000000000000", "440c0d0003e15f8303e15f83"},
		{"44100500000000000000000000000000", "44100d0003e15f8303e15f8300000000"},
		{"440c05030a0101fe00000000", "440c0d030a0101fe03e15f83"},
		{"441405030a0101fe000000000a0202fe00000000", "441415030a0101fe03e15f830a0202fe03e15f83"},
		{"441c05030a0101fe000000000a0202fe000000000a0202fe00000000", "441c15030a0101fe03e15f830a0202fe03e15f830a0202fe00000000"},
		{"440c05030a01010100000000", "440c05030a01010100000000"},
		{"07070400000000440c0501000000000000000000", "0707080a0101fe440c0d010a0101fe03e15f8300"},
		{"94040000", ""},
		{"00010203", ""},
		// What is wrong ends what is repeated.
		{"070b04000000000000000009", "070b0c0a0101fe0a0101fe00"},
		{"440c050100000000000000006301", "440c0d010a0101fe03e15f83"},
		{"070b040000000000000000070b040000000000000000", "070b0c0a0101fe0a0101fe00"},
		{"860a00000001010401010000", "860a00000001010401010000"},
		{"070b040000000000000000860a00000001010401010000", "070b0c0a0101fe0a0101fe860a0000000101040101000000"},
		{"070904000000000000000000", "none"}, // no room for the whole of the router's own address
	} {
		for _, size := range []int{4, 1200} {
			p := parsed(t, withOptions(labUDP(size), hexBytes(c.in)))
			l := &lab{}
			o, _ := p.CompileOptions(l)
			d, ok := p.AppendError(nil, labIn, 11, 0, 0, &o, l)
			if ok != (c.out != "none") {
				t.Errorf("%s: an answer %v", c.in, ok)
			}
			if !ok {
				continue
			}
			n := int(d[0]&15) * 4
			if got := hex.EncodeToString(d[20:n]); got != c.out || !right4(d) || slow16(d[n:], nil) != 0xffff {
				t.Errorf("%s: the answer has %s, want %s", c.in, got, c.out)
			}
			if want := min(576, n+8+int(p.Len)); len(d) != want || int(binary.BigEndian.Uint16(d[2:])) != want {
				t.Errorf("%s: the answer has %d bytes, want %d", c.in, len(d), want)
			}
			if quote := d[n+8:]; !bytes.Equal(quote, p.Frame[14:14+len(quote)]) {
				t.Errorf("%s: the answer quotes %x", c.in, quote)
			}
		}
	}
}

// TestFragmentOptions: later fragments have those options only that say so.
func TestFragmentOptions(t *testing.T) {
	for in, want := range map[string]string{
		"94040000 0707080a0202fe 01 99040102 19040304 44080900 03e5d161": "94040000 01010101010101 01 99040102 01010101 01010101 01010101",
		"94040000 00 0707040000000000":                                   "94040000 00 0707040000000000", // nothing is looked at behind the end
		"19090102":                                                       "19090102",                     // nor behind what is wrong
		"010101 94":                                                      "010101 94",
	} {
		h := append(make([]byte, 20), hexBytes(in)...)
		fragmentOptions(h)
		if !bytes.Equal(h[20:], hexBytes(want)) {
			t.Errorf("%s: %x", in, h[20:])
		}
	}
}

// anyOptions draws options that are nearly right.
func anyOptions(t *rapid.T) (b []byte) {
	for range rapid.IntRange(0, 4).Draw(t, "options") {
		typ := rapid.SampledFrom([]byte{0, 1, 7, 7, 68, 68, 130, 131, 134, 137, 148, 0x99, 0x19}).Draw(t, "type")
		n := rapid.IntRange(0, 16).Draw(t, "n")
		opt := append([]byte{typ, byte(2 + n)}, make([]byte, n)...)
		if n > 0 {
			opt[2] = rapid.SampledFrom([]byte{0, 3, 4, 5, 8, 9, 12, 13, 16, 200}).Draw(t, "pointer")
		}
		if n > 1 {
			opt[3] = rapid.SampledFrom([]byte{0, 1, 3, 2, 0xf0, 0x13}).Draw(t, "flags")
		}
		if rapid.IntRange(0, 9).Draw(t, "wrong") == 0 {
			opt[1] = rapid.Byte().Draw(t, "length")
		}
		b = append(b, opt...)
	}
	return b[:min(len(b), 40)]
}

// TestOptionsProperties: whatever the options are, nothing but they and the checksum
// changes, the checksum is right afterwards, the frame behind the datagram is not
// touched, and an answer is a whole datagram.
func TestOptionsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := withOptions(labUDP(rapid.IntRange(0, 40).Draw(t, "payload")), anyOptions(t))
		trailer := bytes.Repeat([]byte{0xee}, 64)
		f := append(AppendEthernet(nil, MAC{2}, MAC{4}, d), trailer...)
		p := &Packet{}
		p.Parse(f, len(f), whole)
		l := &lab{}
		o, problem := p.CompileOptions(l)
		if problem != 0 && (problem < 20 || int(problem) >= len(p.header4())) {
			t.Fatalf("a problem at %d of %x", problem, d)
		}
		if e, ok := p.AppendError(nil, labIn, 12, 0, p.ProblemPointer(uint32(problem)), &o, l); ok {
			q := parsed(t, e)
			if n := int(e[0]&15) * 4; !right4(e) || slow16(e[n:], nil) != 0xffff || int(q.Len) != len(e) || len(e) > 576 {
				t.Fatalf("the answer is %x", e)
			}
		}
		if problem != 0 {
			return
		}
		p.ForwardOptions(&o, labOut)
		got, n := f[14:14+len(d)], len(p.header4())
		if !right4(got) || !bytes.Equal(got[:10], d[:10]) || !bytes.Equal(got[12:20], d[12:20]) || !bytes.Equal(got[n:], d[n:]) || !bytes.Equal(f[14+len(d):], trailer) {
			t.Fatalf("%x became %x", d, f[14:])
		}
		q := &Packet{}
		if q.Parse(f, len(f), whole); q.Kind != p.Kind {
			t.Fatalf("afterwards it is %v", q.Reason)
		}
	})
}
