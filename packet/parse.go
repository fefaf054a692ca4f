package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// EtherType is the protocol field of an Ethernet header.
type EtherType uint16

// The EtherTypes that Parse knows.
const (
	EtherIPv4 EtherType = 0x0800
	EtherIPv6 EtherType = 0x86dd
	EtherVLAN EtherType = 0x8100 // 802.1Q
	EtherQinQ EtherType = 0x88a8 // 802.1ad
	EtherOld  EtherType = 0x9100 // QinQ before 802.1ad
)

const (
	ethernetLen = 14
	vlanLen     = 4
	maxVLANs    = 2
	ipv4Len     = 20
	ipv6Len     = 40
)

// Parse reads an Ethernet frame into p. wire is the length that the frame had
// on the wire: len(frame), or more if a capture cut it. Every field of p is set.
func (p *Packet) Parse(frame []byte, wire int, checks Checks) {
	if len(frame) < ethernetLen {
		p.reset(frame)
		p.Reason = flow.ReasonFrameTooShort
		return
	}
	p.ParseFrom(frame, wire, ethernetLen, EtherType(binary.BigEndian.Uint16(frame[12:])), checks)
}

// ParseFrom reads a frame whose link header, VLAN tags excepted, ends at off and
// names typ as its content. off must not be beyond len(frame).
func (p *Packet) ParseFrom(frame []byte, wire, off int, typ EtherType, checks Checks) {
	p.reset(frame)
	for tags := 0; typ == EtherVLAN || typ == EtherQinQ || typ == EtherOld; tags++ {
		if tags == maxVLANs {
			p.Kind, p.Reason = Untracked, flow.ReasonVLANTooDeep
			return
		}
		if len(frame) < off+vlanLen {
			p.Reason = flow.ReasonFrameTooShort
			return
		}
		typ = EtherType(binary.BigEndian.Uint16(frame[off+2:]))
		off += vlanLen
	}
	p.L3 = uint16(off)
	switch typ {
	case EtherIPv4:
		p.parseIPv4(off, wire, checks)
	case EtherIPv6:
		p.parseIPv6(off, wire, checks)
	default:
		p.Kind = Untracked
	}
}

func (p *Packet) reset(frame []byte) { *p = Packet{Frame: frame} }

func (p *Packet) invalid(r flow.Reason) { p.Kind, p.Reason = Invalid, r }

// parseIPv4 makes the checks of ip_rcv_core in its order.
func (p *Packet) parseIPv4(off, wire int, checks Checks) {
	b := p.Frame[off:]
	if len(b) < ipv4Len {
		p.Reason = flow.ReasonIPTooShort
		return
	}
	if b[0]>>4 != 4 {
		p.Reason = flow.ReasonIPVersion
		return
	}
	ihl := int(b[0]&15) * 4
	if ihl < ipv4Len {
		p.Reason = flow.ReasonIPHeaderLength
		return
	}
	if len(b) < ihl {
		p.Reason = flow.ReasonIPTooShort
		return
	}
	if sum(b[:ihl], 0) != 0xffff {
		p.Reason = flow.ReasonIPHeaderChecksum
		return
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total > wire-off || total < ihl {
		p.Reason = flow.ReasonIPTotalLength
		return
	}
	p.Family, p.Len = flow.IPv4, uint32(total)
	p.Proto = flow.Proto(b[9])
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // MF or an offset
		p.invalid(flow.ReasonFragment)
		return
	}
	p.L4 = uint16(off + ihl)
	src, dst := flow.AddrFrom4(b[12:]), flow.AddrFrom4(b[16:])
	p.parseL4(l4{
		src: src, dst: dst, body: clip(b, total)[ihl:], len: total - ihl,
		whole: len(b) >= total,
	}, checks)
}

// parseIPv6 makes the checks of ip6_rcv_core, then walks the extension headers
// as ipv6_skip_exthdr does.
func (p *Packet) parseIPv6(off, wire int, checks Checks) {
	b := p.Frame[off:]
	if len(b) < ipv6Len {
		p.Reason = flow.ReasonIPTooShort
		return
	}
	if b[0]>>4 != 6 {
		p.Reason = flow.ReasonIPVersion
		return
	}
	total := ipv6Len + int(binary.BigEndian.Uint16(b[4:]))
	if total > wire-off {
		p.Reason = flow.ReasonIPTotalLength
		return
	}
	if total == ipv6Len && b[6] == hopByHop { // a jumbogram: the frame's length rules
		total = wire - off
	}
	b = clip(b, total)
	p.Family, p.Len = flow.IPv6, uint32(total)
	proto, at, frag := skipExtensions(b, flow.Proto(b[6]), ipv6Len)
	p.Proto = proto
	if frag {
		p.invalid(flow.ReasonFragment)
		return
	}
	if at < 0 || off+at > 0xffff {
		p.invalid(flow.ReasonIPv6ExtHeader)
		return
	}
	p.L4 = uint16(off + at)
	p.parseL4(l4{
		src: flow.AddrFrom16(b[8:]), dst: flow.AddrFrom16(b[24:]),
		body: b[min(at, len(b)):], len: total - at, whole: len(b) >= total,
	}, checks)
}

// The extension headers that are walked over (ipv6_ext_hdr).
const (
	hopByHop    = 0
	routing     = 43
	fragment    = 44
	authHeader  = 51
	noNext      = 59
	destOptions = 60
)

// skipExtensions returns the transport protocol and its offset in the packet b,
// whose first header after off is proto. at is negative where the chain is cut
// off or ends in No Next Header; frag is set for all fragments but atomic ones.
func skipExtensions(b []byte, proto flow.Proto, off int) (_ flow.Proto, at int, frag bool) {
	for {
		switch proto {
		case hopByHop, routing, authHeader, destOptions, fragment:
		case noNext:
			return proto, -1, false
		default:
			return proto, off, false
		}
		if len(b) < off+8 {
			return proto, -1, false
		}
		size := 8
		switch proto {
		case fragment:
			if binary.BigEndian.Uint16(b[off+2:])&^6 != 0 { // MF or an offset
				return flow.Proto(b[off]), off + 8, true
			}
		case authHeader:
			size = (int(b[off+1]) + 2) * 4
		default:
			size = (int(b[off+1]) + 1) * 8
		}
		proto = flow.Proto(b[off])
		off += size
	}
}

func clip(b []byte, n int) []byte {
	if len(b) > n {
		return b[:n]
	}
	return b
}
