package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// What a router answers with. All are whole IP datagrams, appended to b.

const (
	maxErrorV4 = 576  // icmp_send quotes as much as fits (RFC 1812, 4.3.2.3)
	maxErrorV6 = 1280 // RFC 4443, 2.4
	answerTTL  = 64   // net.ipv4.ip_default_ttl
)

// Answerable reports whether an ICMP error about p may be sent at all (icmp_send,
// icmpv6_send; RFC 1122, 3.2.2): not about an ICMP error, nor about what came to or
// from more than one host.
func (p *Packet) Answerable() bool {
	src, dst := p.Addrs()
	if p.L3 >= ethernetLen && p.Frame[0]&1 != 0 { // to several on its link
		return false
	}
	s, d := src.Netip(p.Family), dst.Netip(p.Family)
	if !s.IsValid() || s.IsUnspecified() || s.IsMulticast() || s.IsLoopback() || d.IsMulticast() {
		return false
	}
	if p.Family == flow.IPv4 && (s.As4()[0] >= 240 || d.As4() == [4]byte{255, 255, 255, 255}) {
		return false
	}
	b := p.Frame[min(int(p.L4), len(p.Frame)):]
	switch {
	case p.Proto == flow.ICMP && len(b) > 0:
		return b[0] == 0 || b[0] == 8 || b[0] >= 13 && b[0] <= 18
	case p.Proto == flow.ICMPv6 && len(b) > 0:
		return b[0] >= icmp6FirstInfo && b[0] != icmp6Redirect
	}
	return true
}

// Summed reports whether a packet's checksum is right, as far as REJECT asks
// (nf_reject_verify_csum): that of a protocol which it does not know is taken to be
// over all of the payload, so that most packets of such protocols are not answered.
func (p *Packet) Summed() bool {
	b := p.Body()
	switch p.Proto {
	case 50, 51, flow.SCTP, flow.UDPLite, flow.DCCP: // ESP, AH
		return true
	case flow.UDP:
		if len(b) < 8 || b[6]|b[7] == 0 {
			return true
		}
	case flow.GRE:
		if len(b) < 4 || b[0]&0x80 == 0 {
			return true
		}
	}
	pseudo := uint64(0)
	if p.Family == flow.IPv6 || p.Proto == flow.TCP || p.Proto == flow.UDP {
		src, dst := p.Addrs()
		pseudo = pseudoSum(src, dst, p.Family, uint32(len(b)), p.Proto)
	}
	if p.Family == flow.IPv4 {
		pseudo += 0xffff // the kernel sums the IP header as well, and nothing is right if all is zero
	}
	return sum(b, pseudo) == 0xffff
}

// AppendError appends an ICMP or ICMPv6 error about p, to its source. rest is the
// second word of the header: the MTU, or nothing.
func (p *Packet) AppendError(b []byte, src flow.Addr, typ, code uint8, rest uint32) []byte {
	to, _ := p.Addrs()
	quote := p.Frame[p.L3:min(int(p.L3)+int(p.Len), len(p.Frame))]
	ip := IP{Src: src.Netip(p.Family), Dst: to.Netip(p.Family), TTL: answerTTL}
	at := len(b)
	if p.Family == flow.IPv6 {
		return AppendICMP(b, ip, typ, code, rest, clip(quote, maxErrorV6-ipv6Len-icmpLen))
	}
	b = AppendICMP(b, ip, typ, code, rest, clip(quote, maxErrorV4-ipv4Len-icmpLen))
	h := b[at:]
	tos := p.Frame[p.L3+1]&0x1e | 0xc0 // IPTOS_TOS_MASK, IPTOS_PREC_INTERNETCONTROL
	h[1] = tos
	binary.BigEndian.PutUint16(h[10:], 0)
	binary.BigEndian.PutUint16(h[10:], ^sum(h[:ipv4Len], 0))
	return b
}

// AppendReset appends the RST that answers a TCP segment (nf_send_reset). ok is
// false if there must be none: the segment is a RST itself, or not whole.
func (p *Packet) AppendReset(b []byte) (out []byte, ok bool) {
	t := p.Body()
	if len(t) < 20 || TCPFlags(t[13])&RST != 0 {
		return b, false
	}
	src, dst := p.Addrs()
	hdr := int(t[12]>>4) * 4
	flags := TCPFlags(t[13])
	seg := Segment{Flags: RST}
	if flags&ACK != 0 {
		seg.Seq = binary.BigEndian.Uint32(t[8:])
	} else {
		n := uint32(int(p.L3) + int(p.Len) - int(p.L4) - hdr)
		seg.Flags |= ACK
		seg.Ack = binary.BigEndian.Uint32(t[4:]) + n + uint32(flags>>1&1) + uint32(flags&1)
	}
	at := len(b)
	b = AppendTCP(b, IP{Src: dst.Netip(p.Family), Dst: src.Netip(p.Family), TTL: answerTTL},
		binary.BigEndian.Uint16(t[2:]), binary.BigEndian.Uint16(t), seg)
	if h := b[at:]; p.Family == flow.IPv4 {
		h[6] = 0x40 // DF
		binary.BigEndian.PutUint16(h[10:], 0)
		binary.BigEndian.PutUint16(h[10:], ^sum(h[:ipv4Len], 0))
	}
	return b, true
}

// Fragments cuts an IPv4 datagram into pieces of at most mtu bytes (ip_do_fragment),
// and calls yield with each. Options are copied to all of them.
func (p *Packet) Fragments(mtu int, yield func(datagram []byte)) {
	d := p.Frame[p.L3 : int(p.L3)+int(p.Len)]
	ihl := int(d[0]&15) * 4
	step := (mtu - ihl) &^ 7
	if step < 8 {
		return
	}
	body := d[ihl:]
	first := binary.BigEndian.Uint16(d[6:])
	for at := 0; at < len(body); at += step {
		end := min(at+step, len(body))
		piece := append(append(make([]byte, 0, ihl+end-at), d[:ihl]...), body[at:end]...)
		off := first&^0x3fff | uint16(at/8)
		if end < len(body) {
			off |= 0x2000 // MF
		}
		binary.BigEndian.PutUint16(piece[2:], uint16(len(piece)))
		binary.BigEndian.PutUint16(piece[6:], off)
		binary.BigEndian.PutUint16(piece[10:], 0)
		binary.BigEndian.PutUint16(piece[10:], ^sum(piece[:ihl], 0))
		yield(piece)
	}
}

// DontFragment reports whether an IPv4 datagram must not be cut.
func (p *Packet) DontFragment() bool {
	return p.Family == flow.IPv6 || p.Frame[p.L3+6]&0x40 != 0
}
