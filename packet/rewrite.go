package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// What changes a packet in place keeps its checksums right, or as wrong as they
// were: they are updated by the difference (RFC 1624), never made anew, but for
// SCTP's, which is no sum. Partial ones have to be completed before
// (CompleteChecksum).

// update adds the change of a 16-bit word to the checksum at b.
func update(b []byte, old, now uint16) {
	// HC' = ~(~HC + ~m + m')
	c := uint32(^binary.BigEndian.Uint16(b)) + uint32(^old) + uint32(now)
	c = c>>16 + c&0xffff
	c = c>>16 + c&0xffff
	binary.BigEndian.PutUint16(b, ^uint16(c))
}

// updateBytes adds the change of an even number of bytes.
func updateBytes(sum, old, now []byte) {
	for i := 0; i+1 < len(old); i += 2 {
		update(sum, binary.BigEndian.Uint16(old[i:]), binary.BigEndian.Uint16(now[i:]))
	}
}

// Header is where the headers of an IP packet are in a frame: of the packet that the
// frame carries, or of one that an ICMP error quotes, which may be cut anywhere
// behind its IP header.
type Header struct {
	Frame  []byte
	L3, L4 int // offsets
	Family flow.Family
	Proto  flow.Proto
}

// Header returns the headers of the packet itself.
func (p *Packet) Header() Header {
	return Header{p.Frame, int(p.L3), int(p.L4), p.Family, p.Proto}
}

// Quote returns the headers of the packet that an ICMP error quotes. Valid iff Kind
// is Error.
func (p *Packet) Quote() Header {
	h := Header{Frame: p.Frame[:min(int(p.L3)+int(p.Len), len(p.Frame))], L3: int(p.L4) + icmpLen, Family: p.Family}
	if p.Frame[p.L4] == icmp6Redirect && p.Family == flow.IPv6 {
		h.L3 = int(p.L4) + redirectLen + 8
	}
	q := h.Frame[h.L3:]
	if h.Family == flow.IPv4 {
		h.Proto, h.L4 = flow.Proto(q[9]), h.L3+int(q[0]&15)*4
		return h
	}
	x := skipExtensions(q, flow.Proto(q[6]), ipv6Len)
	for x.fragment && binary.BigEndian.Uint16(q[x.at-6:])&^7 == 0 {
		x = skipExtensions(q, x.proto, x.at)
	}
	h.Proto, h.L4 = x.proto, h.L3+x.at
	return h
}

// IsRedirect reports whether an ICMP error is a redirect. Valid iff Kind is Error.
func (p *Packet) IsRedirect() bool {
	const icmpRedirect = 5
	typ := p.Frame[p.L4]
	return p.Family == flow.IPv4 && typ == icmpRedirect || p.Family == flow.IPv6 && typ == icmp6Redirect
}

// sum returns where the transport checksum is, nil if there is none to update.
func (h Header) sum() []byte {
	at, least := 0, 0
	switch h.Proto {
	case flow.TCP:
		at, least = 16, 20
	case flow.UDP, flow.UDPLite:
		at, least = 6, 8
	case flow.ICMPv6, flow.ICMP:
		at, least = 2, 8
	default:
		return nil
	}
	if h.L4+least > len(h.Frame) {
		return nil
	}
	b := h.Frame[h.L4+at : h.L4+at+2]
	if h.Proto == flow.UDP && b[0]|b[1] == 0 {
		return nil
	}
	return b
}

// udpZero writes a sum that came out as zero as UDP does.
func udpZero(sum []byte, proto flow.Proto) {
	if (proto == flow.UDP || proto == flow.UDPLite) && sum[0]|sum[1] == 0 {
		sum[0], sum[1] = 0xff, 0xff
	}
}

// SetAddr writes the source (or destination) address.
func (h Header) SetAddr(source bool, a flow.Addr) {
	at, n := h.L3+12, 4
	if h.Family == flow.IPv6 {
		at, n = h.L3+8, 16
	}
	if !source {
		at += n
	}
	var now, was [16]byte
	binary.BigEndian.PutUint64(now[:], a.Hi)
	binary.BigEndian.PutUint64(now[8:], a.Lo)
	addr := h.Frame[at : at+n]
	copy(was[:], addr)
	copy(addr, now[16-n:])
	if h.Family == flow.IPv4 {
		updateBytes(h.Frame[h.L3+10:h.L3+12], was[:n], addr)
	}
	if sum := h.sum(); sum != nil && h.Proto != flow.ICMP {
		updateBytes(sum, was[:n], addr)
		udpZero(sum, h.Proto)
	}
}

// SetPort writes the source (or destination) port, or the identifier of an ICMP
// query.
func (h Header) SetPort(source bool, port uint16) {
	at := h.L4
	switch {
	case h.Proto.TracksPorts():
		if !source {
			at += 2
		}
	case h.Proto == flow.ICMP || h.Proto == flow.ICMPv6:
		at += 4
	case h.Proto == flow.GRE && !source: // gre_manip_pkt: the id of the sender is not in the packet
		if key, ok := greKey(h.Frame[min(at, len(h.Frame)):]); !ok || key == 0 && port == 0 {
			return
		}
		at += 6
	default:
		return
	}
	if at+2 > len(h.Frame) {
		return
	}
	old := binary.BigEndian.Uint16(h.Frame[at:])
	binary.BigEndian.PutUint16(h.Frame[at:], port)
	if sum := h.sum(); sum != nil {
		update(sum, old, port)
		udpZero(sum, h.Proto)
	}
	if h.Proto == flow.SCTP && h.L4+sctpLen <= len(h.Frame) {
		b := h.Frame[h.L4:]
		binary.LittleEndian.PutUint32(b[8:], sctpSum(b))
	}
}

// SumICMP makes the checksum of an ICMP or ICMPv6 packet anew. Valid iff it is whole.
func (p *Packet) SumICMP() {
	b := p.Body()
	b[2], b[3] = 0, 0
	pseudo := uint64(0)
	if p.Proto == flow.ICMPv6 {
		src, dst := p.Addrs()
		pseudo = pseudoSum(src, dst, p.Family, uint32(len(b)), p.Proto)
	}
	binary.BigEndian.PutUint16(b[2:], ^sum(b, pseudo))
}

// TOS returns the TOS or traffic class byte.
func (p *Packet) TOS() uint8 {
	h := p.Frame[p.L3:]
	if p.Family == flow.IPv6 {
		return h[0]<<4 | h[1]>>4
	}
	return h[1]
}

// SetTOS writes the TOS or traffic class byte.
func (p *Packet) SetTOS(tos uint8) {
	h := p.Frame[p.L3:]
	if p.Family == flow.IPv6 {
		h[0], h[1] = h[0]&0xf0|tos>>4, h[1]&0x0f|tos<<4
		return
	}
	old := binary.BigEndian.Uint16(h)
	h[1] = tos
	update(h[10:], old, binary.BigEndian.Uint16(h))
}

// Hops returns the TTL or hop limit.
func (p *Packet) Hops() uint8 {
	if p.Family == flow.IPv6 {
		return p.Frame[p.L3+7]
	}
	return p.Frame[p.L3+8]
}

// SetHops writes it.
func (p *Packet) SetHops(n uint8) {
	h := p.Frame[p.L3:]
	if p.Family == flow.IPv6 {
		h[7] = n
		return
	}
	old := binary.BigEndian.Uint16(h[8:])
	h[8] = n
	update(h[10:], old, binary.BigEndian.Uint16(h[8:]))
}

// SetMSS writes the value of an MSS option, which is part of the packet's frame.
func (p *Packet) SetMSS(option []byte, mss uint16) {
	sum := p.Header().sum()
	offset := int(p.L4) + 20
	for ; offset < len(p.Frame) && &p.Frame[offset] != &option[0]; offset++ { // the slice does not know where it lies
	}
	old := [4]byte(option)
	binary.BigEndian.PutUint16(option[2:], mss)
	if (offset-int(p.L4))%2 == 0 {
		updateBytes(sum, old[:], option)
		return
	}
	// The option lies across words: take it apart into words that begin a byte before.
	update(sum, uint16(old[0]), uint16(option[0]))
	update(sum, binary.BigEndian.Uint16(old[1:]), binary.BigEndian.Uint16(option[1:]))
	update(sum, uint16(old[3])<<8, uint16(option[3])<<8)
}

// AddMSS gives a TCP segment without data an MSS option, if the frame has room for
// it behind its end. The Frame is four bytes longer afterwards.
func (p *Packet) AddMSS(mss uint16) bool {
	end := int(p.L3) + int(p.Len)
	hdr := int(p.Frame[p.L4+12]>>4) * 4
	if int(p.L4)+hdr != end || hdr > 56 || end != len(p.Frame) || cap(p.Frame) < end+4 {
		return false
	}
	f := p.Frame[:end+4]
	t := f[p.L4:]
	check := p.Header().sum()
	copy(t[24:], t[20:hdr])
	t[20], t[21] = 2, 4
	binary.BigEndian.PutUint16(t[22:], mss)
	// What changes: the length in the pseudo header, the option, the data offset. What
	// is moved is moved by whole words, and the sum does not care.
	update(check, uint16(hdr), uint16(hdr+4))
	update(check, 0, binary.BigEndian.Uint16(t[20:]))
	update(check, 0, mss)
	old := binary.BigEndian.Uint16(t[12:])
	t[12] = uint8(hdr+4)/4<<4 | t[12]&15
	update(check, old, binary.BigEndian.Uint16(t[12:]))
	p.Frame = f
	p.Len += 4
	p.TCP.HeaderLen += 4
	h := f[p.L3:]
	if p.Family == flow.IPv4 {
		was := binary.BigEndian.Uint16(h[2:])
		binary.BigEndian.PutUint16(h[2:], uint16(p.Len))
		update(h[10:], was, uint16(p.Len))
	} else {
		n := binary.BigEndian.Uint16(h[4:])
		binary.BigEndian.PutUint16(h[4:], n+4)
	}
	return true
}

// Addrs returns the addresses in the IP header.
func (p *Packet) Addrs() (src, dst flow.Addr) {
	h := p.Frame[p.L3:]
	if p.Family == flow.IPv4 {
		return flow.AddrFrom4(h[12:]), flow.AddrFrom4(h[16:])
	}
	return flow.AddrFrom16(h[8:]), flow.AddrFrom16(h[24:])
}

// SetTransportWord writes the 16-bit word at an even offset of the transport header,
// and brings its checksum along. Valid iff the frame has that word.
func (p *Packet) SetTransportWord(at int, w uint16) {
	h := p.Header()
	b := h.Frame[h.L4+at:]
	old := binary.BigEndian.Uint16(b)
	binary.BigEndian.PutUint16(b, w)
	if sum := h.sum(); sum != nil {
		update(sum, old, w)
		udpZero(sum, h.Proto)
	}
}

// SetTransportByte is SetTransportWord for one byte, at any offset.
func (p *Packet) SetTransportByte(at int, v uint8) {
	even := at &^ 1
	b := p.Frame[int(p.L4)+even:]
	w := [2]byte{b[0], b[1]}
	w[at-even] = v
	p.SetTransportWord(even, binary.BigEndian.Uint16(w[:]))
}

// SetAddrNeutral writes the source (or destination) address of an IPv6 packet, one with
// the same ones' complement sum: no checksum changes (RFC 6296).
func (p *Packet) SetAddrNeutral(source bool, a flow.Addr) {
	at := int(p.L3) + 8
	if !source {
		at += 16
	}
	binary.BigEndian.PutUint64(p.Frame[at:], a.Hi)
	binary.BigEndian.PutUint64(p.Frame[at+8:], a.Lo)
}
