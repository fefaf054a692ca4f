package packet

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

// hopByHopOf makes a UDP datagram with a hop-by-hop header of these options, padded
// with Pad1.
func hopByHopOf(options []byte) []byte {
	h := append([]byte{17, 0}, options...)
	for len(h)%8 != 0 {
		h = append(h, 0)
	}
	h[1] = byte(len(h)/8 - 1)
	udp := AppendUDP(nil, IP{Src: a6, Dst: b6}, 1000, 2000, []byte("abcd"))[40:]
	return AppendIP(nil, IP{Src: a6, Dst: b6}, hopByHop, append(h, udp...))
}

// TestHopByHopFacts is what a router of Linux 6.18 makes of hop-by-hop options (asked in
// namespaces; internal/kernel asks again).
func TestHopByHopFacts(t *testing.T) {
	const ok, silent, answered = 0, 1, 2
	for _, c := range []struct {
		options string
		fate    int
		code    uint8
		pointer uint32
	}{
		{"010400000000", ok, 0, 0},
		{"000000000000", ok, 0, 0},
		{"010400000100", silent, 0, 0}, // padding that is not zero
		{"010c000000000000000000000000", silent, 0, 0},
		{"010500000000001e050101010101", ok, 0, 0},     // seven bytes of it
		{"01060000000000001e0401010101", silent, 0, 0}, // eight
		{"000000000000001e050101010101", ok, 0, 0},
		{"00000000000000001e0401010101", silent, 0, 0},
		{"1e0401020304", ok, 0, 0}, // options that are not known
		{"3e0401020304", ok, 0, 0},
		{"5e0401020304", silent, 0, 0},
		{"9e0401020304", answered, 2, 42},
		{"de0401020304", answered, 2, 42},
		{"0100de020304", answered, 2, 44},
		{"050200000100", ok, 0, 0}, // Router Alert
		{"050200630100", ok, 0, 0},
		{"050300000000", silent, 0, 0},
		{"0502000005020000000000000000", ok, 0, 0},
		{"1e0501020304", silent, 0, 0}, // beyond the header
		{"01030000001e", silent, 0, 0},
		{"c20400010000", answered, 0, 42}, // a jumbogram that says how long it is twice
		{"c2040000000c", answered, 0, 44}, // and is none
		{"c20300000000", silent, 0, 0},
		{"0100c20400010000010400000000", silent, 0, 0}, // not aligned
		{"0708000000010000000001020000", silent, 0, 0}, // CALIPSO
		{"070200000000", silent, 0, 0},
		{"310200000000", silent, 0, 0}, // IOAM, not aligned
		{"0100310200003102000000000000", ok, 0, 0},
		{"0100310a00000000000000000000", ok, 0, 0},
		{"040400000000", ok, 0, 0},
		{"1e001e001e001e001e001e001e00", ok, 0, 0},
		{"1e001e001e001e001e001e001e001e00010400000000", ok, 0, 0}, // eight
		{"1e001e001e001e001e001e001e001e001e0001020000", silent, 0, 0},
		{"1e001e001e001e001e001e001e001e009e0001020000", silent, 0, 0},
	} {
		p := parsed(t, hopByHopOf(hexBytes(c.options)))
		r, code, pointer, tell := p.HopByHop()
		fate := ok
		if tell {
			fate = answered
		} else if r != flow.NoReason {
			fate = silent
		}
		if fate != c.fate || code != c.code || pointer != c.pointer {
			t.Errorf("%s: %v, fate %d, code %d, pointer %d; want %d, %d, %d", c.options, r, fate, code, pointer, c.fate, c.code, c.pointer)
		}
	}
	// To several hosts, the strictest action is not to answer.
	many := hopByHopOf(hexBytes("de0401020304"))
	many[24] = 0xff
	p := parsed(t, many)
	if r, _, _, tell := p.HopByHop(); r != flow.ReasonHopByHopUnknown || tell {
		t.Errorf("to a multicast address: %v, answered %v", r, tell)
	}
	long := hopByHopOf(hexBytes("010400000000"))
	long[41] = 200
	p = &Packet{Frame: long, Family: flow.IPv6, Len: uint32(len(long))}
	if r, _, _, tell := p.HopByHop(); r != flow.ReasonHopByHop || tell {
		t.Errorf("a header beyond the datagram: %v", r)
	}
	// Only the first header counts, and only as such.
	d := chainOf([]flow.Proto{destOptions, hopByHop, flow.UDP}, 8)
	d[40+2], d[48+2] = 0xde, 0xde
	p = parsed(t, d)
	if r, _, _, _ := p.HopByHop(); r != flow.NoReason {
		t.Errorf("options behind others: %v", r)
	}
}

// TestHopByHopProperties: of any bytes, it reads only those of the datagram, and what it
// points at lies in the header.
func TestHopByHopProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := []byte{0, 1, 1, 5, 7, 49, 0x1e, 0x5e, 0x9e, 0xde, 0xc2}
		var options []byte
		for range rapid.IntRange(0, 12).Draw(t, "options") {
			n := rapid.IntRange(0, 6).Draw(t, "n")
			options = append(options, rapid.SampledFrom(kinds).Draw(t, "type"))
			if options[len(options)-1] != 0 {
				options = append(append(options, byte(n)), make([]byte, n)...)
			}
		}
		d := hopByHopOf(options)
		d = d[:rapid.IntRange(40, len(d)).Draw(t, "cut")]
		p := &Packet{Frame: slices.Clip(d), Family: flow.IPv6, Len: uint32(len(d))}
		r, _, pointer, answered := p.HopByHop()
		if answered && (r == flow.NoReason || pointer < 42 || int(pointer) >= len(d)) {
			t.Fatalf("%x: %v at %d", d, r, pointer)
		}
		p.Frame = append(slices.Clone(d), 0xde, 4, 1, 2, 3, 4, 5, 6)
		if again, _, at, tell := p.HopByHop(); again != r || at != pointer || tell != answered {
			t.Fatalf("%x: %v, and with a trailer %v", d, r, again)
		}
	})
}
