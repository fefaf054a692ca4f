package packet

import (
	"encoding/binary"
	"math/bits"

	"github.com/xdpct/xdpct/flow"
)

// sum returns the ones' complement sum (RFC 1071) of b and of acc, folded to 16
// bits. Over data that includes a right checksum it is 0xffff.
func sum(b []byte, acc uint64) uint16 {
	var c uint64
	for len(b) >= 32 {
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b), 0)
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b[8:]), c)
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b[16:]), c)
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b[24:]), c)
		acc += c
		b = b[32:]
	}
	for len(b) >= 8 {
		acc, c = bits.Add64(acc, binary.BigEndian.Uint64(b), 0)
		acc += c
		b = b[8:]
	}
	var tail uint64 // at most seven bytes, first to the left
	if len(b)&4 != 0 {
		tail = uint64(binary.BigEndian.Uint32(b)) << 32
		b = b[4:]
	}
	if len(b) >= 2 {
		tail += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) > 0 {
		tail += uint64(b[0]) << 8
	}
	acc, c = bits.Add64(acc, tail, 0)
	return fold16(acc + c)
}

// sum20 is sum of the first 20 bytes of b, an IPv4 header without options.
func sum20(b []byte) uint16 {
	_ = b[19]
	acc, c := bits.Add64(binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), 0)
	return fold16(acc>>32 + acc&0xffffffff + c + uint64(binary.BigEndian.Uint32(b[16:])))
}

func fold16(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

// pseudoSum is the sum of the pseudo header (RFC 9293 3.1, RFC 8200 8.1),
// unfolded.
func pseudoSum(src, dst flow.Addr, f flow.Family, n uint32, p flow.Proto) uint64 {
	acc := uint64(n) + uint64(p)
	if f == flow.IPv4 {
		return acc + src.Lo&0xffffffff + dst.Lo&0xffffffff
	}
	var c uint64
	acc, c = bits.Add64(acc, src.Hi, 0)
	acc, c = bits.Add64(acc, src.Lo, c)
	acc, c = bits.Add64(acc, dst.Hi, c)
	acc, c = bits.Add64(acc, dst.Lo, c)
	return acc + c
}

// CompleteChecksum finishes a partial transport checksum in place and reports
// whether it had to. A local stack behind veth or virtio leaves only the sum of
// the pseudo header in the field and counts on the device; a frame that goes
// out through AF_XDP has no such device behind it. A checksum that is right as
// it stands is never touched, even if it looks like a partial one.
//
// Valid iff p was parsed from a whole frame; p.Kind may be any.
func (p *Packet) CompleteChecksum() bool {
	end := int(p.L3) + int(p.Len)
	if p.L4 == 0 || end > len(p.Frame) || int(p.L4) > end { // extension headers may point beyond the end
		return false
	}
	var at int
	switch p.Proto {
	case flow.SCTP:
		return completeSCTP(p.Frame[p.L4:end])
	case flow.TCP:
		at = 16
	case flow.UDP, flow.UDPLite:
		at = 6
	default:
		return false
	}
	body := p.Frame[p.L4:end]
	if len(body) < at+2 {
		return false
	}
	ip := p.Frame[p.L3:]
	var pseudo uint64
	if p.Family == flow.IPv4 {
		pseudo = pseudoSum(flow.AddrFrom4(ip[12:]), flow.AddrFrom4(ip[16:]), p.Family, uint32(len(body)), p.Proto)
	} else {
		pseudo = pseudoSum(flow.AddrFrom16(ip[8:]), flow.AddrFrom16(ip[24:]), p.Family, uint32(len(body)), p.Proto)
	}
	field := body[at : at+2]
	if fold16(pseudo) != binary.BigEndian.Uint16(field) || sum(body, pseudo) == 0xffff {
		return false
	}
	// The field holds the pseudo header's sum already: summing the segment with
	// it in place gives the sum of both.
	done := ^sum(body, 0)
	if done == 0 && p.Proto != flow.TCP {
		done = 0xffff
	}
	binary.BigEndian.PutUint16(field, done)
	return true
}

// completeSCTP is CompleteChecksum for an SCTP packet.
func completeSCTP(b []byte) bool {
	if len(b) < sctpLen || !partialSCTP(b) {
		return false
	}
	c := sctpSum(b)
	binary.LittleEndian.PutUint32(b[8:], c)
	return c != 0
}
