package packet

import (
	"encoding/binary"
	"math/bits"

	"github.com/xdpct/xdpct/flow"
)

// Nearly every frame is a whole datagram of UDP or TCP over IP without options,
// tags and fragments, in which nothing is wrong. For those there is a short path
// here: each header is loaded once, in words, and all of its checks are made on
// them. A frame that fails any is for the general path, which says what it is.

// The shortest frames that the short paths read: with the headers of Ethernet,
// of IP without options, and of TCP (IPv4) or UDP (IPv6). Ethernet pads to 60.
const (
	plainLen4 = ethernetLen + ipv4Len + 20
	plainLen6 = ethernetLen + ipv6Len + 8
)

// parsePlain reports whether the frame is plain. If not, p is not to be read.
func (p *Packet) parsePlain(frame []byte, checks Checks) bool {
	if len(frame) < plainLen4 {
		return false
	}
	switch w := binary.BigEndian.Uint32(frame[12:]); {
	case w>>8 == 0x0800_45: // EtherType, version and header length
		return p.parsePlain4(frame, checks)
	case w>>12 == 0x86dd_6 && len(frame) >= plainLen6:
		return p.parsePlain6(frame, checks)
	}
	return false
}

func (p *Packet) parsePlain4(frame []byte, checks Checks) bool {
	h := (*[plainLen4]byte)(frame)
	w0, w1, w2 := binary.LittleEndian.Uint64(h[14:]), binary.LittleEndian.Uint64(h[22:]), binary.LittleEndian.Uint32(h[30:])
	total := int(bits.ReverseBytes16(uint16(w0 >> 16)))
	const fragment = 0xff3f // MF and the offset, as they lie in memory
	acc, carry := bits.Add64(w0, w1, 0)
	acc, carry = bits.Add64(acc, uint64(w2), carry)
	// A ones' complement sum of 0xffff is a multiple of it; it is not zero.
	if (acc+carry)%0xffff != 0 || w0>>48&fragment != 0 || total > len(frame)-ethernetLen || total < ipv4Len {
		return false
	}
	proto := flow.Proto(w1 >> 8)
	from, to := bits.ReverseBytes32(uint32(w1>>32)), bits.ReverseBytes32(w2)
	body := frame[ethernetLen+ipv4Len : ethernetLen+total]
	if !p.plainL4(body, proto) {
		return false
	}
	if checks.Transport && !summed(body, proto, uint64(from)+uint64(to)) {
		return false
	}
	p.plain(frame, flow.IPv4, proto, ethernetLen+ipv4Len, total)
	// The key, as data makes it: an end is an address and a port, in one word.
	ports := uint64(binary.BigEndian.Uint32(h[34:]))
	src, dst := uint64(from)<<16|ports>>16, uint64(to)<<16|ports&0xffff
	_, less := bits.Sub64(dst, src, 0)
	p.Flipped = less != 0
	swap := (src ^ dst) & -less
	src, dst = src^swap, dst^swap
	p.Key.Src, p.Key.Dst = flow.AddrFromUint32(uint32(src>>16)), flow.AddrFromUint32(uint32(dst>>16))
	p.Key.L4 = flow.MakeL4(flow.IPv4, proto, 0, uint16(src), uint16(dst))
	return true
}

func (p *Packet) parsePlain6(frame []byte, checks Checks) bool {
	h := (*[plainLen6]byte)(frame)
	n, proto := int(binary.BigEndian.Uint16(h[18:])), flow.Proto(h[20])
	if n > len(frame)-ethernetLen-ipv6Len {
		return false
	}
	body := frame[ethernetLen+ipv6Len : ethernetLen+ipv6Len+n]
	if !p.plainL4(body, proto) {
		return false
	}
	src, dst := flow.AddrFrom16(h[22:]), flow.AddrFrom16(h[38:])
	if checks.Transport && !summed(body, proto, pseudoSum(src, dst, flow.IPv6, 0, 0)) {
		return false
	}
	p.plain(frame, flow.IPv6, proto, ethernetLen+ipv6Len, ipv6Len+n)
	p.Key.Src, p.Key.Dst = src, dst
	p.data(binary.BigEndian.Uint16(h[54:]), binary.BigEndian.Uint16(h[56:]))
	return true
}

// plain sets what a plain packet has besides key and TCP.
func (p *Packet) plain(frame []byte, f flow.Family, proto flow.Proto, l4, n int) {
	p.Frame = frame
	p.Kind, p.Reason, p.Misdirected = Data, flow.NoReason, false
	p.Zone, p.VLAN = flow.ZoneID{}, 0
	p.Family, p.Proto, p.Len = f, proto, uint32(n)
	p.L3, p.L4 = ethernetLen, uint16(l4)
}

// plainL4 makes the checks of parseUDP and parseTCP but for the checksum, and
// reads the TCP header.
func (p *Packet) plainL4(b []byte, proto flow.Proto) bool {
	switch proto {
	case flow.UDP:
		if len(b) < 8 {
			return false
		}
		n := int(binary.BigEndian.Uint16(b[4:]))
		return n >= 8 && n <= len(b)
	case flow.TCP:
		if len(b) < 20 {
			return false
		}
		h := (*[20]byte)(b)
		hdr, flags := int(h[12]>>4)*4, TCPFlags(h[13])
		if hdr < 20 || hdr > len(b) || !flags.valid() {
			return false
		}
		t := &p.TCP // field by field: a literal would be made elsewhere and copied
		t.Seq, t.Ack = binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])
		t.SegLen = uint32(len(b)-hdr) + uint32(flags>>1&1) + uint32(flags&1)
		t.Window, t.Flags, t.HeaderLen = binary.BigEndian.Uint16(h[14:]), flags, uint8(hdr)
		return true
	}
	return false
}

// summed verifies the transport checksum of a segment; addresses is the sum of
// those in the pseudo header.
func summed(body []byte, proto flow.Proto, addresses uint64) bool {
	if proto == flow.UDP && binary.LittleEndian.Uint16(body[6:]) == 0 {
		return true
	}
	pseudo, carry := bits.Add64(addresses, uint64(proto)+uint64(len(body)), 0)
	return sum(body, pseudo+carry) == 0xffff
}
