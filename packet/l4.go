package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// l4 is a transport segment and the addresses that its checksum covers.
type l4 struct {
	src, dst flow.Addr
	body     []byte // the segment, cut where the capture was
	len      int    // its length by the IP header; negative if headers overrun it
	whole    bool   // body was not cut
}

func (p *Packet) parseL4(s l4, checks Checks) {
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
		p.data(s, binary.BigEndian.Uint16(s.body), binary.BigEndian.Uint16(s.body[2:]))
	default:
		p.data(s, 0, 0)
	}
}

// data names the connection of a packet between the ids src and dst.
func (p *Packet) data(s l4, src, dst uint16) {
	t := flow.Tuple{Src: s.src, Dst: s.dst, L4: flow.MakeL4(p.Family, p.Proto, 0, src, dst)}
	p.Kind = Data
	p.Key, p.Flipped = t.Canonical()
}

// parseTCP makes the checks of tcp_error.
func (p *Packet) parseTCP(s l4, checks Checks) {
	b := s.body
	if len(b) < 20 {
		p.invalid(flow.ReasonL4TooShort)
		return
	}
	p.data(s, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	hdr := int(b[12]>>4) * 4
	if hdr < 20 || hdr > s.len {
		p.invalid(flow.ReasonTCPHeaderLength)
		return
	}
	if !p.checksumOK(s, checks, 16) {
		p.invalid(flow.ReasonL4Checksum)
		return
	}
	flags := TCPFlags(b[13])
	if !flags.valid() {
		p.invalid(flow.ReasonTCPFlags)
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
func (p *Packet) parseUDP(s l4, checks Checks) {
	b := s.body
	if len(b) < 8 {
		p.invalid(flow.ReasonL4TooShort)
		return
	}
	p.data(s, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	if n := int(binary.BigEndian.Uint16(b[4:])); n > s.len || n < 8 {
		p.invalid(flow.ReasonL4Length)
		return
	}
	if b[6]|b[7] != 0 && !p.checksumOK(s, checks, 6) {
		p.invalid(flow.ReasonL4Checksum)
	}
}

// checksumOK verifies the transport checksum at offset at of the segment. The
// kernel sums up to the end of the IP datagram, whatever the UDP length says.
func (p *Packet) checksumOK(s l4, checks Checks, at int) bool {
	if !checks.Transport || !s.whole {
		return true
	}
	pseudo := pseudoSum(s.src, s.dst, p.Family, uint32(s.len), p.Proto)
	if sum(s.body, pseudo) == 0xffff {
		return true
	}
	return checks.Partial && fold16(pseudo) == binary.BigEndian.Uint16(s.body[at:])
}
