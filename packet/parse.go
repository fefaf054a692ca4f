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

// MaxLink is the length in bytes of the longest link header that Parse reads: Ethernet
// with two VLAN tags.
const MaxLink = ethernetLen + maxVLANs*vlanLen

// Parse reads an Ethernet frame into p. wire is the length that the frame had
// on the wire: len(frame), or more if a capture cut it. Every field of p is set.
func (p *Packet) Parse(frame []byte, wire int, checks Checks) {
	if p.parsePlain(frame, checks) {
		return
	}
	if len(frame) < ethernetLen {
		p.reset(frame)
		p.Reason = flow.ReasonFrameTooShort
		return
	}
	p.ParseFrom(frame, wire, ethernetLen, EtherType(binary.BigEndian.Uint16(frame[12:])), checks)
}

// ParseDatagram is Parse for a frame that has no link header: it begins with its IP
// header, as on tun, WireGuard and PPP devices. The version field says which.
func (p *Packet) ParseDatagram(frame []byte, wire int, checks Checks) {
	p.ParseFrom(frame, wire, 0, versionType(frame), checks)
}

// versionType returns the EtherType of what begins with an IP header.
func versionType(b []byte) EtherType {
	if len(b) > 0 && b[0]>>4 == 6 {
		return EtherIPv6
	}
	return EtherIPv4
}

// DatagramLen returns how many bytes of b the IP datagram takes that b begins with,
// which is all of them if its length field says more, or nothing (a jumbogram).
func DatagramLen(b []byte) int {
	n := len(b)
	switch {
	case len(b) >= ipv4Len && b[0]>>4 == 4:
		n = int(binary.BigEndian.Uint16(b[2:]))
	case len(b) >= ipv6Len && b[0]>>4 == 6:
		if v := int(binary.BigEndian.Uint16(b[4:])); v != 0 {
			n = ipv6Len + v
		}
	}
	return min(n, len(b))
}

// ParseFrom reads a frame whose link header, VLAN tags excepted, ends at off and
// names typ as its content. off must not be beyond len(frame).
func (p *Packet) ParseFrom(frame []byte, wire, off int, typ EtherType, checks Checks) {
	p.reset(frame)
	outer := typ
	for tags := 0; typ == EtherVLAN || typ == EtherQinQ || typ == EtherOld; tags++ {
		if tags == maxVLANs {
			p.Kind, p.Reason = Untracked, flow.ReasonVLANTooDeep
			return
		}
		if len(frame) < off+vlanLen {
			p.Reason = flow.ReasonFrameTooShort
			if outer == EtherOld { // to Linux that is no tag, and it looks no further
				p.Kind = Untracked
			}
			return
		}
		if tags == 0 {
			p.VLAN = binary.BigEndian.Uint16(frame[off:]) & 0xfff
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

// ParseWhole is ParseFrom for a frame whose IP header is at off: one that was
// assembled from fragments. If it still is one, it is Malformed.
func (p *Packet) ParseWhole(frame []byte, wire, off int, checks Checks) {
	p.ParseFrom(frame, wire, off, versionType(frame[min(off, len(frame)):]), checks)
	if p.Kind == Fragmented {
		p.Kind, p.Reason = Malformed, flow.ReasonFragmentNested
	}
}

// reset makes p the verdict on nothing yet. It leaves alone what is valid only
// beside a Kind that sets it.
func (p *Packet) reset(frame []byte) {
	p.Frame = frame
	p.Kind, p.Reason, p.Flipped, p.Misdirected = Malformed, flow.NoReason, false, false
	p.Key.L4, p.Hash = 0, 0
	p.Zone, p.VLAN = flow.ZoneID{}, 0
	p.Family, p.Proto, p.L3, p.L4, p.Len = 0, 0, 0, 0, 0
}

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
	if ihl == ipv4Len && sum20(b) != 0xffff || ihl > ipv4Len && sum(b[:ihl], 0) != 0xffff {
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
		p.fragmentIPv4(b, off, ihl, total)
		return
	}
	p.L4 = uint16(off + ihl)
	p.Key.Src, p.Key.Dst = flow.AddrFrom4(b[12:]), flow.AddrFrom4(b[16:])
	p.parseL4(segment{clip(b, total)[ihl:], total - ihl, len(b) >= total}, checks)
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
	x := skipExtensions(b, flow.Proto(b[6]), ipv6Len)
	p.Proto = x.proto
	switch {
	case x.cut && x.fragAt > 0 && x.fragAt <= total && total <= x.fragAt+fragmentLen && total > ipv6Len:
		// nf_ct_frag6_gather drops it, unless a header before it is cut off, or there is no
		// payload at all, which it takes for that of a jumbogram.
		p.Reason = flow.ReasonFragmentHeader
		return
	case x.fragment && (x.at > len(b) || off+x.at > 0xffff): // not whole, or too far away
		p.invalid(flow.ReasonIPv6ExtHeader)
		return
	case x.fragment:
		p.fragmentIPv6(b, off, total, &x)
		return
	case x.cut || off+x.at > 0xffff:
		p.invalid(flow.ReasonIPv6ExtHeader)
		return
	}
	at := x.at
	p.L4 = uint16(off + at)
	p.Key.Src, p.Key.Dst = flow.AddrFrom16(b[8:]), flow.AddrFrom16(b[24:])
	p.parseL4(segment{b[min(at, len(b)):], total - at, len(b) >= total}, checks)
}

func clip(b []byte, n int) []byte {
	if len(b) > n {
		return b[:n]
	}
	return b
}
