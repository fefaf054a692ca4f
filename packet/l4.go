package packet

import (
	"encoding/binary"
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
	case flow.SCTP, flow.UDPLite:
		if len(s.body) < 4 {
			p.invalid(flow.ReasonL4TooShort)
			return
		}
		p.data(binary.BigEndian.Uint16(s.body), binary.BigEndian.Uint16(s.body[2:]))
	default:
		p.data(0, 0)
	}
}

// data names the connection of a packet between two ports: it makes the key of
// the addresses in p.Key, as flow.Tuple.Canonical does, but without a branch
// that depends on which way the packet runs.
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

// parseTCP makes the checks of tcp_error.
func (p *Packet) parseTCP(s segment, checks Checks) {
	b := s.body
	if len(b) < 20 {
		p.invalid(flow.ReasonL4TooShort)
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
		p.invalid(flow.ReasonL4TooShort)
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
