package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// IP describes the IP header of a datagram to build. Src and Dst must be of one
// family; zero fields get their usual values.
type IP struct {
	Src, Dst netip.Addr
	TTL      uint8  // 0 means 64
	ID       uint16 // IPv4 identification, IPv6 flow label
}

// AppendIP appends an IP datagram that carries payload.
func AppendIP(b []byte, ip IP, proto flow.Proto, payload []byte) []byte {
	return append(appendHeader(b, ip, proto, len(payload)), payload...)
}

// appendHeader appends the IP header of a datagram with n bytes of payload.
func appendHeader(b []byte, ip IP, proto flow.Proto, n int) []byte {
	ttl := ip.TTL
	if ttl == 0 {
		ttl = 64
	}
	at := len(b)
	if ip.Src.Is4() {
		src, dst := ip.Src.As4(), ip.Dst.As4()
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(ipv4Len+n))
		b = binary.BigEndian.AppendUint16(b, ip.ID)
		b = append(b, 0, 0, ttl, byte(proto), 0, 0)
		b = append(append(b, src[:]...), dst[:]...)
		binary.BigEndian.PutUint16(b[at+10:], ^sum(b[at:], 0))
		return b
	}
	src, dst := ip.Src.As16(), ip.Dst.As16()
	b = append(b, 0x60, 0)
	b = binary.BigEndian.AppendUint16(b, ip.ID)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, byte(proto), ttl)
	return append(append(b, src[:]...), dst[:]...)
}

// Segment is a TCP segment to build.
type Segment struct {
	Seq, Ack uint32
	Window   uint16
	Flags    TCPFlags
	Options  []byte // padded to a multiple of four with End of Option List
	Payload  []byte
}

// AppendTCP appends an IP datagram with a TCP segment between two ports.
func AppendTCP(b []byte, ip IP, sport, dport uint16, s Segment) []byte {
	options := (len(s.Options) + 3) &^ 3
	b = appendHeader(b, ip, flow.TCP, 20+options+len(s.Payload))
	at := len(b)
	b = binary.BigEndian.AppendUint16(b, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint32(b, s.Seq)
	b = binary.BigEndian.AppendUint32(b, s.Ack)
	b = append(b, byte(5+options/4)<<4, byte(s.Flags))
	b = binary.BigEndian.AppendUint16(b, s.Window)
	b = append(append(b, 0, 0, 0, 0), s.Options...)
	for len(b) < at+20+options {
		b = append(b, 0)
	}
	b = append(b, s.Payload...)
	setChecksum(b[at:], 16, ip, flow.TCP)
	return b
}

// AppendUDP appends an IP datagram with a UDP datagram between two ports.
func AppendUDP(b []byte, ip IP, sport, dport uint16, payload []byte) []byte {
	d := binary.BigEndian.AppendUint16(nil, sport)
	d = binary.BigEndian.AppendUint16(d, dport)
	d = binary.BigEndian.AppendUint16(d, uint16(8+len(payload)))
	d = append(append(d, 0, 0), payload...)
	setChecksum(d, 6, ip, flow.UDP)
	return AppendIP(b, ip, flow.UDP, d)
}

// AppendUDPLite appends an IP datagram with a UDP-Lite datagram between two ports,
// the first covered bytes of which the checksum is over; 0 means all.
func AppendUDPLite(b []byte, ip IP, sport, dport, covered uint16, payload []byte) []byte {
	d := binary.BigEndian.AppendUint16(nil, sport)
	d = binary.BigEndian.AppendUint16(d, dport)
	d = binary.BigEndian.AppendUint16(d, covered)
	d = append(append(d, 0, 0), payload...)
	n := len(d)
	if covered != 0 {
		n = min(n, int(covered))
	}
	c := ^sum(d[:n], ip.pseudoSum(len(d), flow.UDPLite))
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(d[6:], c)
	return AppendIP(b, ip, flow.UDPLite, d)
}

// AppendSCTP appends an IP datagram with an SCTP packet of chunks.
func AppendSCTP(b []byte, ip IP, sport, dport uint16, vtag uint32, chunks []byte) []byte {
	s := binary.BigEndian.AppendUint16(nil, sport)
	s = binary.BigEndian.AppendUint16(s, dport)
	s = binary.BigEndian.AppendUint32(s, vtag)
	s = append(append(s, 0, 0, 0, 0), chunks...)
	binary.LittleEndian.PutUint32(s[8:], sctpSum(s))
	return AppendIP(b, ip, flow.SCTP, s)
}

// AppendChunk appends an SCTP chunk, padded to a multiple of four.
func AppendChunk(b []byte, typ, flags uint8, value []byte) []byte {
	b = append(b, typ, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(value)))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// AppendICMP appends an IP datagram with an ICMP or ICMPv6 message, by the
// family of ip. rest is the second word of the header: identifier and sequence
// number, or what an error has there.
func AppendICMP(b []byte, ip IP, typ, code uint8, rest uint32, payload []byte) []byte {
	proto := flow.ICMP
	if ip.Src.Is6() {
		proto = flow.ICMPv6
	}
	b = appendHeader(b, ip, proto, icmpLen+len(payload))
	at := len(b)
	b = append(b, typ, code, 0, 0)
	b = binary.BigEndian.AppendUint32(b, rest)
	b = append(b, payload...)
	setChecksum(b[at:], 2, ip, proto)
	return b
}

// setChecksum fills in the checksum at offset at of a segment.
func setChecksum(seg []byte, at int, ip IP, proto flow.Proto) {
	var pseudo uint64
	if proto != flow.ICMP {
		pseudo = ip.pseudoSum(len(seg), proto)
	}
	c := ^sum(seg, pseudo)
	if c == 0 && proto == flow.UDP {
		c = 0xffff // 0 means none (RFC 768)
	}
	binary.BigEndian.PutUint16(seg[at:], c)
}

func (ip IP) pseudoSum(n int, proto flow.Proto) uint64 {
	f := flow.IPv6
	if ip.Src.Is4() {
		f = flow.IPv4
	}
	return pseudoSum(flow.AddrFrom(ip.Src), flow.AddrFrom(ip.Dst), f, uint32(n), proto)
}

// MAC is an Ethernet address.
type MAC [6]byte

// AppendEthernet appends an Ethernet frame that carries an IP datagram.
func AppendEthernet(b []byte, dst, src MAC, datagram []byte) []byte {
	b = append(append(b, dst[:]...), src[:]...)
	typ := EtherIPv4
	if len(datagram) > 0 && datagram[0]>>4 == 6 {
		typ = EtherIPv6
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(typ)), datagram...)
}
