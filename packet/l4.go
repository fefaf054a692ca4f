package packet

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"github.com/xdpct/xdpct/flow"
)

// segment is what an IP datagram carries. While it is parsed, p.Key holds the
// datagram's addresses as they are.
type segment struct {
	body  []byte // cut where the capture was
	len   int    // its length by the IP header; negative if headers overrun it
	whole bool   // body was not cut
}

func (p *Packet) parseL4(s segment, checks Checks) {
	switch p.Proto {
	case flow.TCP:
		p.parseTCP(s, checks)
	case flow.UDP:
		p.parseUDP(s, checks)
	case flow.ICMP:
		p.parseICMP(s, checks)
	case flow.ICMPv6:
		p.parseICMPv6(s, checks)
	case flow.SCTP:
		p.parseSCTP(s, checks)
	case flow.UDPLite:
		p.parseUDPLite(s, checks)
	case flow.GRE:
		p.parseGRE(s, checks)
	default:
		p.data(0, 0)
	}
}

// data names the connection of a packet between two ports: it makes the key of
// the addresses in p.Key, as flow.Tuple.Canonical does, but without a branch
// that depends on the direction of the packet.
func (p *Packet) data(src, dst uint16) {
	p.Kind = Data
	k := &p.Key
	_, less := bits.Sub64(uint64(dst), uint64(src), 0)
	_, less = bits.Sub64(k.Dst.Lo, k.Src.Lo, less)
	_, less = bits.Sub64(k.Dst.Hi, k.Src.Hi, less)
	p.Flipped = less != 0
	swap := -less
	hi, lo := (k.Src.Hi^k.Dst.Hi)&swap, (k.Src.Lo^k.Dst.Lo)&swap
	k.Src.Hi, k.Src.Lo = k.Src.Hi^hi, k.Src.Lo^lo
	k.Dst.Hi, k.Dst.Lo = k.Dst.Hi^hi, k.Dst.Lo^lo
	port := (src ^ dst) & uint16(swap)
	k.L4 = flow.MakeL4(p.Family, p.Proto, 0, src^port, dst^port)
}

// tooShort is for a transport header of which only b is there. Its ports name the
// connection all the same (nf_ct_get_tuple_ports): an error about the packet is quoted to
// whoever has that, and rules may count it.
func (p *Packet) tooShort(b []byte) {
	if len(b) >= 4 {
		p.data(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	}
	p.invalid(flow.ReasonL4TooShort)
}

// parseTCP makes the checks of tcp_error.
func (p *Packet) parseTCP(s segment, checks Checks) {
	b := s.body
	if len(b) < 20 {
		p.tooShort(b)
		return
	}
	hdr := int(b[12]>>4) * 4
	flags := TCPFlags(b[13])
	bad := flow.NoReason
	switch {
	case hdr < 20 || hdr > s.len:
		bad = flow.ReasonTCPHeaderLength
	case !p.checksumOK(s, checks, 16):
		bad = flow.ReasonL4Checksum
	case !flags.valid():
		bad = flow.ReasonTCPFlags
	}
	p.data(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	if bad != flow.NoReason {
		p.invalid(bad)
		return
	}
	p.TCP = TCP{
		Seq:       binary.BigEndian.Uint32(b[4:]),
		Ack:       binary.BigEndian.Uint32(b[8:]),
		SegLen:    uint32(s.len-hdr) + uint32(flags>>1&1) + uint32(flags&1),
		Window:    binary.BigEndian.Uint16(b[14:]),
		Flags:     flags,
		HeaderLen: uint8(hdr),
	}
}

// parseUDP makes the checks of udp_error.
func (p *Packet) parseUDP(s segment, checks Checks) {
	b := s.body
	if len(b) < 8 {
		p.tooShort(b)
		return
	}
	bad := flow.NoReason
	if n := int(binary.BigEndian.Uint16(b[4:])); n > s.len || n < 8 {
		bad = flow.ReasonL4Length
	} else if b[6]|b[7] != 0 && !p.checksumOK(s, checks, 6) {
		bad = flow.ReasonL4Checksum
	}
	p.data(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	if bad != flow.NoReason {
		p.invalid(bad)
	}
}

// parseUDPLite makes the checks of udplite_error. The field that is a length in
// UDP says how much of the datagram the checksum covers (RFC 3828). The kernel
// sums a pseudo header that names UDP, and so does this: a checksum that is right
// by the RFC is wrong to both (docs/parity.md).
func (p *Packet) parseUDPLite(s segment, checks Checks) {
	b := s.body
	if len(b) < 8 {
		p.tooShort(b)
		return
	}
	covered := int(binary.BigEndian.Uint16(b[4:]))
	if covered == 0 {
		covered = s.len
	}
	bad := flow.NoReason
	switch {
	case covered < 8 || covered > s.len:
		bad = flow.ReasonL4Length
	case b[6]|b[7] == 0:
		bad = flow.ReasonL4Checksum
	case checks.Transport && s.whole &&
		sum(b[:covered], pseudoSum(p.Key.Src, p.Key.Dst, p.Family, uint32(s.len), flow.UDP)) != 0xffff:
		bad = flow.ReasonL4Checksum
	}
	p.data(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	if bad != flow.NoReason {
		p.invalid(bad)
	}
}

// sctpLen is the size of the SCTP common header, and castagnoli the polynomial
// of its checksum (RFC 9260, 6.8).
const sctpLen = 12

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// noChecksum is the field while the sum is made; here, since crc32 lets it escape.
var noChecksum [4]byte

// sctpSum returns the checksum of an SCTP packet of at least sctpLen bytes, as it
// stands in the header.
func sctpSum(b []byte) uint32 {
	c := crc32.Update(0, castagnoli, b[:8])
	c = crc32.Update(c, castagnoli, noChecksum[:])
	return crc32.Update(c, castagnoli, b[sctpLen:])
}

// parseSCTP makes the checks of sctp_error.
func (p *Packet) parseSCTP(s segment, checks Checks) {
	b := s.body
	if len(b) < sctpLen {
		p.tooShort(b)
		return
	}
	p.data(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	if checks.Transport && s.whole && binary.LittleEndian.Uint32(b[8:]) != sctpSum(b) && (!checks.Partial || !partialSCTP(b)) {
		p.invalid(flow.ReasonL4Checksum)
	}
}

// partialSCTP reports whether a local stack may have left the checksum of an SCTP
// packet to the device: it then is zero.
func partialSCTP(b []byte) bool { return binary.LittleEndian.Uint32(b[8:]) == 0 }

// parseGRE names a tunnel as gre_pkt_to_tuple does: version 1, which carries PPTP
// (RFC 2637), by its call ids, as far as they are known; others by their addresses alone.
func (p *Packet) parseGRE(s segment, checks Checks) {
	key, ok := greKey(s.body)
	if !ok {
		p.invalid(flow.ReasonGREProtocol)
		return
	}
	p.data(checks.Keys.Source(p.Key.Src, p.Key.Dst, key), key)
}

// greKey returns the id of the destination that a GRE header names.
func greKey(b []byte) (key uint16, ok bool) {
	const version, version1, ppp = 0x0007, 0x0001, 0x880b
	if len(b) < 8 || binary.BigEndian.Uint16(b)&version != version1 {
		return 0, true
	}
	return binary.BigEndian.Uint16(b[6:]), binary.BigEndian.Uint16(b[2:]) == ppp
}

// checksumOK verifies the transport checksum at offset at of the segment. The
// kernel sums up to the end of the IP datagram, whatever the UDP length says.
func (p *Packet) checksumOK(s segment, checks Checks, at int) bool {
	if !checks.Transport || !s.whole {
		return true
	}
	pseudo := pseudoSum(p.Key.Src, p.Key.Dst, p.Family, uint32(s.len), p.Proto)
	if sum(s.body, pseudo) == 0xffff {
		return true
	}
	return checks.Partial && fold16(pseudo) == binary.BigEndian.Uint16(s.body[at:])
}
