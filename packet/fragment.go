package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// Fragment is what a fragment of a datagram says of itself.
type Fragment struct {
	// Offset and End bound its part of the datagram's payload, in bytes. End is at
	// most 0xffff+0xfff8.
	Offset, End uint32
	// Where in the frame: the IP header, that part of the payload, the header that
	// the datagram has only in fragments (IPv6), and the type of that header.
	L3, At, Header, Next uint16
	More                 bool
	ECN                  uint8 // the ECN field of the IP header, 0..3
}

// MaxDatagram is the longest IP datagram, in bytes.
const MaxDatagram = 0xffff

// fragment makes p a fragment, whose Key names the datagram that it belongs to:
// addresses, protocol (of IPv6: that of the fragment header) and identification.
// It makes the checks that need no other fragment.
func (p *Packet) fragment(f Fragment, id uint32, unfragmented int) {
	p.Kind, p.Fragment = Fragmented, f
	p.Key.L4 = flow.MakeL4(p.Family, p.Proto, 0, uint16(id), uint16(id>>16))
	p.Flipped = false
	switch n := f.End - f.Offset; {
	case n == 0, f.More && n%8 != 0:
		p.Reason = flow.ReasonFragmentLength
	case unfragmented+int(f.End) > MaxDatagram:
		p.Reason = flow.ReasonFragmentTooLong
	}
}

// tiny reports whether a first fragment of n bytes ends within the header of its
// protocol, or another begins in it (RFC 1858, RFC 3128, RFC 7112): an attempt to
// hide the header from whoever looks at one fragment at a time.
func (f *Fragment) tiny(proto flow.Proto) bool {
	header := uint32(1)
	switch proto {
	case flow.TCP:
		header = 20
	case flow.UDP, flow.UDPLite, flow.ICMP, flow.ICMPv6:
		header = 8
	case flow.SCTP:
		header = sctpLen
	}
	if f.Offset == 0 {
		return f.End < header
	}
	return f.Offset < header
}

func (p *Packet) fragmentIPv4(b []byte, off, ihl, total int) {
	const mf, offset = 0x2000, 0x1fff
	field := binary.BigEndian.Uint16(b[6:])
	f := Fragment{
		Offset: uint32(field&offset) * 8, L3: uint16(off), At: uint16(off + ihl),
		More: field&mf != 0, ECN: b[1] & 3,
	}
	f.End = f.Offset + uint32(total-ihl)
	p.Key.Src, p.Key.Dst = flow.AddrFrom4(b[12:]), flow.AddrFrom4(b[16:])
	p.fragment(f, uint32(binary.BigEndian.Uint16(b[4:])), ihl)
	if p.Reason == flow.NoReason && f.tiny(p.Proto) {
		p.Reason = flow.ReasonFragmentTiny
	}
}

// fragmentIPv6 is for a packet b of total bytes with a fragment header that is
// whole, at x.fragAt.
func (p *Packet) fragmentIPv6(b []byte, off, total int, x *extensions) {
	h := b[x.fragAt:]
	field := binary.BigEndian.Uint16(h[2:])
	f := Fragment{
		Offset: uint32(field &^ 7), L3: uint16(off), At: uint16(off + x.fragAt + 8), Header: uint16(off + x.fragAt),
		Next: uint16(off + x.fragNext), More: field&1 != 0, ECN: b[1] >> 4 & 3,
	}
	f.End = f.Offset + uint32(total-x.fragAt-8)
	p.Key.Src, p.Key.Dst = flow.AddrFrom16(b[8:]), flow.AddrFrom16(b[24:])
	p.Proto = fragment
	p.fragment(f, binary.BigEndian.Uint32(h[4:]), x.fragAt-ipv6Len)
	if p.Reason == flow.NoReason && f.Offset == 0 {
		// All headers must be in the first fragment.
		y := skipExtensions(b, flow.Proto(h[0]), x.fragAt+8)
		switch {
		case y.fragAt > 0:
			p.Reason = flow.ReasonFragmentNested
		case y.cut && y.proto != noNext:
			p.Reason = flow.ReasonFragmentTiny
		default:
			rest := Fragment{End: uint32(max(total-y.at, 0))}
			if rest.tiny(y.proto) {
				p.Reason = flow.ReasonFragmentTiny
			}
		}
	}
}

// Piece is a fragment and its frame.
type Piece struct {
	Fragment
	Frame []byte
}

// Assemble appends to b the frame that the pieces would have been, had their
// datagram not been fragmented: the link and IP header of the first, and what all
// of them carry. They must be complete, and in order. cut says that a capture has
// left out part of it; what is missing is zero.
//
// The header is that of ip_frag_reasm and ip6_frag_reasm: Don't Fragment iff the
// largest piece said so, no reserved bit, and Congestion Experienced if any piece was.
func Assemble(b []byte, pieces []Piece) (frame []byte, cut bool) {
	first := &pieces[0]
	at, l3 := len(b), int(first.L3)
	if first.Frame[l3]>>4 == 4 {
		b = append(b, first.Frame[:first.At]...)
	} else {
		b = append(b, first.Frame[:first.Header]...)
		b[at+int(first.Next)] = first.Frame[first.Header]
	}
	for i := range pieces {
		p := &pieces[i]
		n := int(p.End - p.Offset)
		have := clip(p.Frame[min(int(p.At), len(p.Frame)):], n)
		b = append(b, have...)
		for range n - len(have) {
			b, cut = append(b, 0), true
		}
	}
	h := b[at+l3:]
	ecn := byte(0)
	for i := range pieces {
		if pieces[i].ECN == congested {
			ecn = congested
		}
	}
	if h[0]>>4 == 4 {
		h[1] |= ecn
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
		h[6], h[7] = 0, 0
		if _, firm := Largest(pieces); firm {
			h[6] = dontFragment
		}
		sumHeader4(h[:int(h[0]&15)*4])
	} else {
		h[1] |= ecn << 4
		binary.BigEndian.PutUint16(h[4:], uint16(len(h)-ipv6Len))
	}
	return b, cut
}

const (
	congested     = 3    // Congestion Experienced, in the ECN field (RFC 3168, 5)
	dontFragment  = 0x40 // in byte 6 of an IPv4 header
	moreFragments = 0x20
)

// Largest returns the length in bytes of the largest datagram of the pieces
// (frag_max_size), and whether one of that length must not be fragmented.
func Largest(pieces []Piece) (n uint32, firm bool) {
	for i := range pieces {
		p := &pieces[i]
		size := uint32(p.At-p.L3) + p.End - p.Offset
		df := p.Frame[p.L3]>>4 == 4 && p.Frame[p.L3+6]&dontFragment != 0
		if size > n {
			n, firm = size, df
		} else if size == n {
			firm = firm || df
		}
	}
	return n, firm
}
