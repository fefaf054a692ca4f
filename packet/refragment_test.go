package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

// cutDatagram cuts a datagram at these bytes of what may be fragmented, which begins at
// byte n. Of IPv6, byte announces says what is there.
func cutDatagram(d []byte, n, announces int, at ...int) (out [][]byte) {
	body := d[n:]
	at = append(append([]int{0}, at...), len(body))
	for i := range len(at) - 1 {
		f := slices.Clone(d[:n])
		last := i == len(at)-2
		if d[0]>>4 == 4 {
			f = append(f, body[at[i]:at[i+1]]...)
			binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
			field := binary.BigEndian.Uint16(f[6:])&0xc000 | uint16(at[i]/8)
			if !last {
				field |= 0x2000
			}
			binary.BigEndian.PutUint16(f[6:], field)
			sumHeader4(f[:n])
		} else {
			field := uint16(at[i])
			if !last {
				field |= 1
			}
			f = append(f, f[announces], 0, byte(field>>8), byte(field), 9, 8, 7, 6)
			f[announces] = fragment
			f = append(f, body[at[i]:at[i+1]]...)
			binary.BigEndian.PutUint16(f[4:], uint16(len(f)-ipv6Len))
		}
		out = append(out, f)
	}
	return out
}

// joined parses fragments in frames with a trailer and assembles their datagram.
func joined(t interface{ Fatalf(string, ...any) }, fragments [][]byte) (*Packet, []Piece) {
	var pieces []Piece
	for _, d := range fragments {
		f := append(AppendEthernet(nil, MAC{2}, MAC{4}, d), 0xee, 0xee, 0xee)
		var p Packet
		p.Parse(f, len(f), whole)
		if p.Kind != Fragmented || p.Reason != flow.NoReason {
			t.Fatalf("%x is no fragment: %v", d, p.Reason)
		}
		p.Trim()
		pieces = append(pieces, Piece{Fragment: p.Fragment, Frame: p.Frame})
	}
	f, _ := Assemble(nil, pieces)
	p := &Packet{}
	p.ParseWhole(f, len(f), int(pieces[0].L3), whole)
	p.Largest, _ = Largest(pieces)
	return p, pieces
}

// sizes tells what fragments are: length, offset and flags of each.
func sizes(fragments [][]byte) (s string) {
	for _, f := range fragments {
		if f[0]>>4 == 4 {
			field := binary.BigEndian.Uint16(f[6:])
			s += fmt.Sprintf("%d@%d", len(f), field&0x1fff*8)
			for bit, name := range map[uint16]string{0x8000: "R", 0x4000: "D", 0x2000: "+"} {
				if field&bit != 0 {
					s += name
				}
			}
		} else {
			at := bytes.Index(f, []byte{9, 8, 7, 6}) - 4
			field := binary.BigEndian.Uint16(f[at+2:])
			s += fmt.Sprintf("%d@%d", len(f), field&^7)
			if field&1 != 0 {
				s += "+"
			}
		}
		s += " "
	}
	return s
}

// TestFragmentFacts is how a router of Linux 6.18 with conntrack cuts what came whole or
// in fragments (asked in namespaces; internal/kernel asks again).
func TestFragmentFacts(t *testing.T) {
	flagged := func(d []byte, flags byte) []byte {
		d[6] = flags
		sumHeader4(d[:20])
		return d
	}
	options := hexBytes("94040000 07070400000000 01 99040102 19040304 4408050000000000")
	six := func(n int) []byte { return AppendUDP(nil, IP{Src: a6, Dst: b6}, 1000, 2000, make([]byte, n-8)) }
	hbh := func(n int) []byte {
		d := six(n)
		return slices.Concat(d[:4], []byte{byte((len(d) - 32) >> 8), byte(len(d) - 32), 0}, d[7:40], []byte{17, 0, 1, 4, 0, 0, 0, 0}, d[40:])
	}
	for _, c := range []struct {
		what string
		mtu  int
		in   [][]byte
		out  string // "" if it is too big
	}{
		{"whole", 600, [][]byte{labUDP(1400)}, "596@0+ 596@576+ 276@1152 "},
		{"reserved bit", 600, [][]byte{flagged(labUDP(1400), 0x80)}, "596@0+ 596@576+ 276@1152 "},
		{"Don't Fragment", 600, [][]byte{flagged(labUDP(1400), 0x40)}, ""},
		{"options", 600, [][]byte{withOptions(labUDP(1400), options)}, "600@0+ 600@552+ 352@1104 "},
		{"fragments too big", 600, cutDatagram(labUDP(1400), 20, 0, 800), "596@0+ 596@576+ 276@1152 "},
		{"the last too big", 600, cutDatagram(labUDP(1400), 20, 0, 400, 800), "596@0+ 596@576+ 276@1152 "},
		{"one too big", 600, cutDatagram(labUDP(1400), 20, 0, 160, 568, 1200), "596@0+ 596@576+ 276@1152 "},
		{"fragments too big, DF", 600, cutDatagram(flagged(labUDP(1400), 0x40), 20, 0, 800), ""},
		{"fragments that fit", 600, cutDatagram(labUDP(1400), 20, 0, 400, 800, 1200), "420@0+ 420@400+ 420@800+ 228@1200 "},
		{"fragments that fit, DF", 600, cutDatagram(flagged(labUDP(1400), 0x40), 20, 0, 400, 800, 1200), "420@0+ 420@400+ 420@800+ 228@1200 "},
		{"uneven fragments", 600, cutDatagram(labUDP(1400), 20, 0, 160, 568, 1104), "180@0+ 428@160+ 556@568+ 324@1104 "},
		{"reserved bit in fragments", 600, cutDatagram(flagged(labUDP(1400), 0x80), 20, 0, 160, 568, 1104), "180@0+ 428@160+ 556@568+ 324@1104 "},
		{"options in fragments", 600, cutDatagram(withOptions(labUDP(1400), options), 48, 0, 400, 800, 1104), "448@0+ 448@400+ 352@800+ 352@1104 "},
		{"small fragments", 1500, cutDatagram(labUDP(1000), 20, 0, 200, 800), "220@0+ 620@200+ 228@800 "},
		{"IPv6", 1500, cutDatagram(six(2408), 40, 6, 1208), "1256@0+ 1248@1208 "},
		{"IPv6, small", 1500, cutDatagram(six(2408), 40, 6, 400, 800, 1200, 1600, 2000, 2400), "448@0+ 448@400+ 448@800+ 448@1200+ 448@1600+ 448@2000+ 56@2400 "},
		{"IPv6, hop-by-hop", 1500, cutDatagram(hbh(2408), 48, 40, 408, 1408), "464@0+ 1056@408+ 1056@1408 "},
		{"IPv6, 1300", 1300, cutDatagram(six(2408), 40, 6, 1248), "1296@0+ 1208@1248 "},
		{"IPv6, 1280", 1280, cutDatagram(six(2408), 40, 6, 1248), ""},
		{"IPv6, less than 1280", 600, cutDatagram(six(2408), 40, 6, 1208), "1256@0+ 1248@1208 "},
		{"IPv6, whole", 1300, [][]byte{six(1408)}, ""},
	} {
		var p *Packet
		var pieces []Piece
		if len(c.in) == 1 {
			p = parsed(t, c.in[0])
		} else {
			p, pieces = joined(t, c.in)
		}
		if p.TooBig(c.mtu) != (c.out == "") {
			t.Errorf("%s: too big: %v", c.what, p.TooBig(c.mtu))
			continue
		}
		if c.out == "" {
			continue
		}
		var out [][]byte
		p.Fragments(c.mtu, pieces, make([]byte, 0, 1500), func(d []byte) { out = append(out, slices.Clone(d)) })
		if got := sizes(out); got != c.out || !p.Divided(c.mtu) {
			t.Errorf("%s: %s, want %s", c.what, got, c.out)
		}
		for i, d := range out {
			if d[0]>>4 != 4 {
				continue
			}
			if !right4(d) {
				t.Errorf("%s: the header of fragment %d is wrong", c.what, i)
			}
			if i > 0 && d[0] > 0x45 && !bytes.Equal(d[20:48], hexBytes("94040000 01010101010101 01 99040102 01010101 0101010101010101")) {
				t.Errorf("%s: fragment %d has options %x", c.what, i, d[20:48])
			}
		}
	}
}

// TestFragmentHeaders: all fragments leave with the header of the first, as it has become
// on the way; and one that was congested makes all so.
func TestFragmentHeaders(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		d, n := labUDP(1400), 20
		if v6 {
			d, n = AppendUDP(nil, IP{Src: a6, Dst: b6}, 1000, 2000, make([]byte, 1400)), 40
		}
		in := cutDatagram(d, n, 6, 400, 800)
		for i, f := range in {
			if v6 {
				f[1], f[7] = []byte{0x20, 0x30, 0x10}[i], []byte{40, 1, 99}[i]
			} else {
				f[1], f[8] = []byte{2, 3, 1}[i], []byte{40, 1, 99}[i]
				sumHeader4(f[:20])
			}
		}
		p, pieces := joined(t, in)
		p.SetHops(p.Hops() - 1)
		dst := flow.AddrFrom(netip.MustParseAddr("10.2.2.9"))
		if v6 {
			dst = flow.AddrFrom(b6.Next())
		}
		p.Header().SetAddr(false, dst)
		if !p.Keeps(pieces, 1500) || !p.InPlace(pieces) {
			t.Fatal("it does not leave as it came")
		}
		var out [][]byte
		p.Fragments(1500, pieces, nil, func(d []byte) { out = append(out, slices.Clone(d)) })
		p.Scatter(pieces)
		for i, f := range pieces {
			if !bytes.Equal(f.Frame[14:], out[i]) {
				t.Errorf("in place %x\nanew     %x", f.Frame[14:], out[i])
			}
			q := &Packet{}
			q.Parse(f.Frame, len(f.Frame), whole)
			ecn := f.Frame[15] & 3
			if v6 {
				ecn = f.Frame[15] >> 4 & 3
			}
			if _, to := q.Addrs(); q.Hops() != 39 || to != dst || ecn != congested {
				t.Errorf("fragment %d: hops %d, to %v, ECN %d", i, q.Hops(), to, ecn)
			}
		}
	}
}

// TestUnfragment: a fragment header that fragments nothing goes, the first one only, and
// a datagram without one stays as it is.
func TestUnfragment(t *testing.T) {
	for _, c := range []struct{ in, out []flow.Proto }{
		{[]flow.Proto{fragment, 17}, []flow.Proto{17}},
		{[]flow.Proto{hopByHop, fragment, 17}, []flow.Proto{hopByHop, 17}},
		{[]flow.Proto{fragment, hopByHop, 17}, []flow.Proto{hopByHop, 17}},
		{[]flow.Proto{fragment, destOptions, 17}, []flow.Proto{destOptions, 17}},
		{[]flow.Proto{fragment, fragment, 17}, []flow.Proto{fragment, 17}},
		{[]flow.Proto{hopByHop, 17}, nil},
		{[]flow.Proto{17}, nil},
	} {
		udp := AppendUDP(nil, IP{Src: a6, Dst: b6}, 1000, 2000, []byte("abcd"))[40:]
		build := func(chain []flow.Proto) []byte {
			d := append(chainOf(chain, 0), udp...)
			binary.BigEndian.PutUint16(d[4:], uint16(len(d)-40))
			return d
		}
		d := build(c.in)
		f := append(AppendEthernet(nil, MAC{2}, MAC{4}, d), 0xee)
		p := &Packet{}
		p.Parse(f, len(f), whole)
		want := d
		if c.out != nil {
			want = build(c.out)
		}
		if done := p.Unfragment(); done != (c.out != nil) {
			t.Errorf("%v: %v", c.in, done)
		}
		if p.Trim(); !bytes.Equal(p.Frame[14:], want) {
			t.Errorf("%v: %x, want %x", c.in, p.Frame[14:], want)
		}
		q := &Packet{}
		if q.Parse(p.Frame, len(p.Frame), whole); q.Key != p.Key || q.L4 != p.L4 || q.Len != p.Len || q.Kind != Data {
			t.Errorf("%v: %+v, parsed again %+v", c.in, p, q)
		}
	}
}

// TestTrim: what is behind the datagram goes, and a frame without one stays.
func TestTrim(t *testing.T) {
	for _, d := range [][]byte{labUDP(4), AppendUDP(nil, IP{Src: a6, Dst: b6}, 1, 2, nil), withOptions(labUDP(4), []byte{1, 1, 1, 1})} {
		f := append(AppendEthernet(nil, MAC{2}, MAC{4}, d), 1, 2, 3, 4)
		var p Packet
		p.Parse(f, len(f), whole)
		if p.Trim(); !bytes.Equal(p.Frame[14:], d) {
			t.Errorf("%x became %x", d, p.Frame)
		}
	}
	arp := append(bytes.Repeat([]byte{1}, 12), append([]byte{8, 6}, make([]byte, 46)...)...)
	var p Packet
	p.Parse(arp, len(arp), whole)
	if p.Trim(); len(p.Frame) != len(arp) {
		t.Errorf("an ARP request has %d of %d bytes left", len(p.Frame), len(arp))
	}
}

// TestFragmentsProperties: whatever a datagram, its fragments and the MTU are, what leaves
// fits, has right headers, and is the datagram when it is put together again.
func TestFragmentsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6, mtu := rapid.Bool().Draw(t, "v6"), rapid.IntRange(68, 1500).Draw(t, "mtu")
		payload := rapid.SliceOfN(rapid.Byte(), 40, 60).Draw(t, "payload")
		payload = bytes.Repeat(payload, rapid.IntRange(1, 60).Draw(t, "times"))
		d, n, announces := AppendUDP(nil, IP{Src: labSrc, Dst: labDst}, 1, 2, payload), 20, 0
		if v6 {
			d, n, announces = AppendUDP(nil, IP{Src: a6, Dst: b6}, 1, 2, payload), 40, 6
		} else if rapid.Bool().Draw(t, "options") {
			d = withOptions(d, hexBytes("94040000 07070400000000 00"))
			n = 32
		}
		p := parsed(t, d)
		var pieces []Piece
		if at := cutPoints(t, len(d)-n); at != nil {
			p, pieces = joined(t, cutDatagram(d, n, announces, at...))
		}
		before := slices.Clone(p.Frame)
		if p.TooBig(mtu) || !p.Divided(mtu) {
			return
		}
		var out [][]byte
		ok := p.Fragments(mtu, pieces, make([]byte, 0, 1600), func(d []byte) { out = append(out, slices.Clone(d)) })
		if !ok || !bytes.Equal(p.Frame, before) {
			t.Fatalf("cut: %v; it has changed: %v", ok, !bytes.Equal(p.Frame, before))
		}
		for _, f := range out {
			if len(f) > p.PathMTU(mtu) || f[0]>>4 == 4 && !right4(f) {
				t.Fatalf("with an MTU of %d: %x", mtu, f)
			}
		}
		q, _ := joined(t, out)
		if !bytes.Equal(q.Body(), p.Body()) || q.Key != p.Key {
			t.Fatalf("%x has become %x", p.Frame, q.Frame)
		}
	})
}

// cutPoints draws where a body of n bytes is cut, nil if it is not.
func cutPoints(t *rapid.T, n int) (at []int) {
	for last := 0; rapid.IntRange(0, 3).Draw(t, "more") > 0 && len(at) < 20; {
		last += 8 * rapid.IntRange(1, 60).Draw(t, "cut")
		if last+8 > n || last < 8 {
			return at
		}
		at = append(at, last)
	}
	return at
}

// TestFragmentsAllocate: given a buffer, cutting makes no garbage.
func TestFragmentsAllocate(t *testing.T) {
	p, pieces := joined(t, cutDatagram(labUDP(1400), 20, 0, 400, 800))
	buf, n := make([]byte, 0, 1500), 0
	yield := func(d []byte) { n += len(d) }
	if allocs := testing.AllocsPerRun(50, func() { p.Fragments(600, pieces, buf, yield) }); allocs != 0 || n == 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// TestScatterLargest: the longest datagrams there are, whose ends lie beyond 65535 bytes
// of their frames, go back into their fragments as they came.
func TestScatterLargest(t *testing.T) {
	var at []int
	for n := 1480; n < 65000; n += 1480 {
		at = append(at, n)
	}
	for _, size := range []int{65535, 65534, 65522, 65521, 65500} {
		d := labUDP(size - 28)
		fragments := cutDatagram(d, 20, 0, at...)
		p, pieces := joined(t, fragments)
		if int(p.Len) != size || p.Kind != Data {
			t.Fatalf("%d bytes: %v, %v, %d bytes", size, p.Kind, p.Reason, p.Len)
		}
		p.Scatter(pieces)
		for i := range pieces {
			if got := pieces[i].Frame[14:]; !bytes.Equal(got, fragments[i]) {
				t.Fatalf("%d bytes: fragment %d came back different", size, i)
			}
		}
	}
}
