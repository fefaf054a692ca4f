package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// What came in fragments leaves in fragments (ip_do_fragment, ip6_fragment): cut at
// the same places if the link out takes that, and each with the header that the whole
// datagram has got on its way.

// minMTU6 is the least MTU of an IPv6 link, in bytes (RFC 8200, 5).
const minMTU6 = 1280

// PathMTU returns what a path takes whose link or route says mtu: for IPv6 it is never
// less than a link has to take (ip6_forward).
func (p *Packet) PathMTU(mtu int) int {
	if p.Family == flow.IPv6 {
		return max(mtu, minMTU6)
	}
	return mtu
}

// DontFragment reports whether a datagram must not be fragmented by a router.
func (p *Packet) DontFragment() bool {
	return p.Family == flow.IPv6 || p.Frame[p.L3+6]&dontFragment != 0
}

// TooBig reports whether a datagram does not fit the path, and may not be made to:
// Largest is the length of the largest fragment that it came in, if in any
// (ip_exceeds_mtu, ip6_pkt_too_big).
func (p *Packet) TooBig(mtu int) bool {
	m := uint32(p.PathMTU(mtu))
	return p.Len > m && p.DontFragment() && (p.Largest == 0 || p.Largest > m)
}

// Divided reports whether a datagram that is not TooBig leaves in fragments.
func (p *Packet) Divided(mtu int) bool {
	m := uint32(p.PathMTU(mtu))
	if p.Largest == 0 {
		return p.Len > m
	}
	return p.Family == flow.IPv4 || p.Len > m || p.Len > p.Largest
}

// Keeps reports whether p, which was assembled from pieces and has not become longer,
// leaves in just these: each fits the path with the header that p has.
func (p *Packet) Keeps(pieces []Piece, mtu int) bool {
	if len(pieces) == 0 {
		return false
	}
	room := p.room(pieces, mtu)
	for i := range pieces {
		if int(pieces[i].End-pieces[i].Offset) > room {
			return false
		}
	}
	return p.Len == uint32(p.unfragmentable(pieces))+pieces[len(pieces)-1].End
}

// unfragmentable returns the length of the headers that each fragment of p has, the
// fragment header left out.
func (p *Packet) unfragmentable(pieces []Piece) int {
	if p.Family == flow.IPv4 {
		return int(p.Frame[p.L3]&15) * 4
	}
	return int(pieces[0].Header - pieces[0].L3)
}

// room returns how many bytes of p's payload a fragment may carry.
func (p *Packet) room(pieces []Piece, mtu int) int {
	mtu = p.PathMTU(mtu)
	if p.Largest != 0 {
		mtu = min(mtu, p.PathMTU(int(p.Largest))) // none larger than those that came
	}
	if p.Family == flow.IPv4 {
		return mtu - int(p.Frame[p.L3]&15)*4
	}
	return mtu - p.unfragmentable(pieces) - fragmentLen
}

// InPlace reports whether Scatter may be used: each piece has a header as long as p's.
func (p *Packet) InPlace(pieces []Piece) bool {
	n := p.unfragmentable(pieces)
	if p.Family == flow.IPv6 {
		n += fragmentLen
	}
	for i := range pieces {
		if int(pieces[i].At-pieces[i].L3) != n {
			return false
		}
	}
	return true
}

// Scatter writes p, which was assembled from pieces of whole frames, back to those:
// its header to each, and what they carry. Valid iff p Keeps them and they are
// InPlace.
func (p *Packet) Scatter(pieces []Piece) {
	h := p.Frame[p.L3 : int(p.L3)+int(p.Len)]
	n := p.unfragmentable(pieces)
	for i := range pieces {
		q := &pieces[i]
		copy(q.Frame[q.At:], h[n+int(q.Offset):n+int(q.End)])
		f := q.Frame[q.L3:]
		if p.Family == flow.IPv4 {
			copy(f, h[:n])
			p.head4(f[:n], int(q.End-q.Offset), q.Offset, q.More, 0)
			continue
		}
		id := binary.BigEndian.Uint32(f[n+4:])
		copy(f, h[:n])
		p.head6(f, pieces, int(q.End-q.Offset), q.Offset, q.More, id)
	}
}

// head4 makes an IPv4 header, which is a copy of the whole datagram's, that of the
// fragment with n bytes from offset on.
func (p *Packet) head4(h []byte, n int, offset uint32, more bool, flags uint16) {
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+n))
	field := uint16(offset/8) | flags
	if more {
		field |= moreFragments << 8
	}
	binary.BigEndian.PutUint16(h[6:], field)
	if offset > 0 && len(h) > ipv4Len && !p.Bridged {
		fragmentOptions(h)
	}
	sumHeader4(h)
}

// head6 makes the headers of p at f those of the fragment with n bytes from offset on,
// and puts a fragment header behind them.
func (p *Packet) head6(f []byte, pieces []Piece, n int, offset uint32, more bool, id uint32) {
	q := &pieces[0]
	at := p.unfragmentable(pieces)
	h := f[at : at+fragmentLen]
	announced := int(q.Next - q.L3)
	h[0], h[1] = f[announced], 0
	f[announced] = fragment
	field := uint16(offset)
	if more {
		field |= 1
	}
	binary.BigEndian.PutUint16(h[2:], field)
	binary.BigEndian.PutUint32(h[4:], id)
	binary.BigEndian.PutUint16(f[4:], uint16(at+fragmentLen-ipv6Len+n))
}

// Fragments cuts p to the MTU of its path and calls yield with each fragment, an IP
// datagram that is built in buf and valid until yield returns. pieces are those that p
// was assembled from, nil if it came whole: if p Keeps them it is cut where they are,
// else anew, and no fragment is larger than the largest of them. ok is false if p
// cannot be cut: the MTU has no room, or it is IPv6 and came whole.
//
// buf must have room for the largest fragment: 65,535 bytes always are enough.
func (p *Packet) Fragments(mtu int, pieces []Piece, buf []byte, yield func(datagram []byte)) (ok bool) {
	if p.Family == flow.IPv6 && len(pieces) == 0 {
		return false
	}
	room := p.room(pieces, mtu) &^ 7
	if room < 8 {
		return false
	}
	d := p.Frame[p.L3 : int(p.L3)+int(p.Len)]
	n := p.unfragmentable(pieces)
	body := d[n:]
	if p.Keeps(pieces, mtu) {
		for i := range pieces {
			q := &pieces[i]
			yield(p.fragmentOf(buf, d[:n], body[q.Offset:q.End], q.Offset, q.More, pieces, 0))
		}
		return true
	}
	flags := uint16(0)
	if p.Family == flow.IPv4 && len(pieces) > 0 { // IPSKB_FRAG_PMTU
		flags = binary.BigEndian.Uint16(d[6:]) & (dontFragment << 8)
	}
	for at := 0; at < len(body); at += room {
		end := min(at+room, len(body))
		yield(p.fragmentOf(buf, d[:n], body[at:end], uint32(at), end < len(body), pieces, flags))
	}
	return true
}

// fragmentOf builds a fragment in buf.
func (p *Packet) fragmentOf(buf, head, body []byte, offset uint32, more bool, pieces []Piece, flags uint16) []byte {
	f := append(buf[:0], head...)
	if p.Family == flow.IPv4 {
		p.head4(f, len(body), offset, more, flags)
	} else {
		q := &pieces[0]
		f = append(f, 0, 0, 0, 0, 0, 0, 0, 0)
		p.head6(f, pieces, len(body), offset, more, binary.BigEndian.Uint32(q.Frame[q.Header+4:]))
	}
	return append(f, body...)
}
