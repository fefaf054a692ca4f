package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// What a router answers with. All are whole IP datagrams, appended to b.

const (
	ipv4MaxLen = 60
	maxErrorV4 = 576  // icmp_send quotes as much as fits (RFC 1812, 4.3.2.3)
	maxErrorV6 = 1280 // RFC 4443, 2.4
	answerTTL  = 64   // net.ipv4.ip_default_ttl
)

// Answerable reports whether an ICMP error about p may be sent at all (icmp_send,
// icmpv6_send; RFC 1122, 3.2.2): not about an ICMP error, nor about what came to or
// from more than one host.
func (p *Packet) Answerable() bool { return !p.ToGroup() && p.HasSender() }

// Unrecognised reports whether an IPv6 option at an offset of the datagram is one that its
// sender is to be told of if it is not known, whomever the packet was sent to (opt_unrec;
// RFC 8200, 4.2: the two highest bits are 10).
func (p *Packet) Unrecognised(at uint32) bool {
	i := int(p.L3) + int(at)
	return p.Family == flow.IPv6 && i < len(p.Frame) && p.Frame[i]&0xc0 == 0x80
}

// HasSender is Answerable for an error that is sent even if the frame went to a group.
func (p *Packet) HasSender() bool {
	src, dst := p.Addrs()
	s, d := src.Netip(p.Family), dst.Netip(p.Family)
	if !s.IsValid() || s.IsUnspecified() || s.IsMulticast() || s.IsLoopback() || d.IsMulticast() {
		return false
	}
	if limited := [4]byte{255, 255, 255, 255}; p.Family == flow.IPv4 && (s.As4() == limited || d.As4() == limited) {
		return false
	}
	proto, b := p.transport()
	switch {
	case proto == flow.ICMP && p.Family == flow.IPv4:
		return len(b) > 0 && (b[0] == 0 || b[0] == 8 || b[0] >= 13 && b[0] <= 18)
	case proto == flow.ICMPv6 && p.Family == flow.IPv6:
		return len(b) > 0 && b[0] >= icmp6FirstInfo && b[0] != icmp6Redirect
	}
	return true
}

// transport returns the protocol of a packet and what it carries of it, even if it is a
// first fragment of IPv6: of those Parse says neither.
func (p *Packet) transport() (flow.Proto, []byte) {
	if p.Kind != Fragmented || p.Family != flow.IPv6 {
		return p.Proto, p.Body()
	}
	var last Extension
	for last = range p.Extensions {
	}
	end := min(int(p.L3)+int(p.Len), len(p.Frame))
	return last.Proto, p.Frame[min(last.At, end):end]
}

// Summed reports whether a packet's checksum is right, as far as REJECT asks
// (nf_reject_verify_csum): that of a protocol which it does not know is taken to be
// over all of the payload, so that most packets of such protocols are not answered.
// tracked says that conntrack has looked at the packet, which may have verified it.
func (p *Packet) Summed(tracked bool) bool {
	b := p.Body()
	if p.Family == flow.IPv6 && (p.L4 == 0 || len(b) == 0) { // reject6_csum_ok
		return false
	}
	switch p.Proto {
	case 50, 51, flow.SCTP, flow.UDPLite, flow.GRE: // ESP, AH
		return true
	case flow.UDP:
		if len(b) >= 8 && b[6]|b[7] == 0 {
			return true
		}
	}
	pseudo := uint64(0)
	if p.Family == flow.IPv6 || p.Proto == flow.TCP || p.Proto == flow.UDP {
		src, dst := p.Addrs()
		pseudo = pseudoSum(src, dst, p.Family, uint32(len(b)), p.Proto)
	}
	if p.Family == flow.IPv4 {
		if tracked && p.verified() {
			pseudo += 0xffff // nothing is right if all is zero
		} else { // the IP header is summed as well, and options may have made it wrong
			pseudo += uint64(sum(p.header4(), 0))
		}
	}
	return sum(b, pseudo) == 0xffff
}

// verified reports whether conntrack, if it looks at a packet, comes as far as to its
// checksum.
func (p *Packet) verified() bool {
	switch p.Proto {
	case flow.TCP, flow.UDP, flow.ICMP:
	default:
		return false
	}
	switch p.Reason {
	case flow.ReasonL4TooShort, flow.ReasonL4Length, flow.ReasonTCPHeaderLength:
		return false
	}
	return true
}

// AppendError appends an ICMP or ICMPv6 error about p, to its source. rest is the
// second word of the header: the MTU, a pointer (ProblemPointer), or nothing. o is what
// CompileOptions said of p, and s what it was told: the error has the routes and times
// that p has recorded. ok is false if there can be no error because of them.
func (p *Packet) AppendError(b []byte, src flow.Addr, typ, code uint8, rest uint32, o *Options, s Stamper) (out []byte, ok bool) {
	to, _ := p.Addrs()
	quote := p.Frame[p.L3:min(int(p.L3)+int(p.Len), len(p.Frame))]
	ip := IP{Src: src.Netip(p.Family), Dst: to.Netip(p.Family), TTL: answerTTL}
	if p.Family == flow.IPv6 {
		return AppendICMP(b, ip, typ, code, rest, clip(quote, maxErrorV6-ipv6Len-icmpLen)), true
	}
	var room [ipv4MaxLen - ipv4Len]byte
	echo, ok := o.appendEcho(room[:0], quote, src, s)
	if !ok {
		return b, false
	}
	at := len(b)
	b = AppendICMP(b, ip, typ, code, rest, clip(quote, maxErrorV4-ipv4Len-len(echo)-icmpLen))
	b = insertOptions(b, at, echo)
	h := b[at : at+ipv4Len+len(echo)]
	h[1] = p.Frame[p.L3+1]&0x1e | 0xc0 // IPTOS_TOS_MASK, IPTOS_PREC_INTERNETCONTROL
	sumHeader4(h)
	return b, true
}

// ProblemPointer is the second word of an ICMP parameter problem that points at a byte
// of the datagram (RFC 792; RFC 4443, 3.4).
func (p *Packet) ProblemPointer(at uint32) uint32 {
	if p.Family == flow.IPv6 {
		return at
	}
	return at << 24
}

// insertOptions puts options into the IPv4 datagram that begins at an offset of b. Its
// checksum is to be made afterwards.
func insertOptions(b []byte, at int, options []byte) []byte {
	if len(options) == 0 {
		return b
	}
	b = append(b, options...) // for the room
	copy(b[at+ipv4Len+len(options):], b[at+ipv4Len:])
	copy(b[at+ipv4Len:], options)
	h := b[at:]
	h[0] = 0x40 | uint8(ipv4Len+len(options))/4
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
	return b
}

// unicast6 reports whether an IPv6 address has IPV6_ADDR_UNICAST (ipv6_addr_type): one that
// is mapped from IPv4 has not.
func unicast6(a flow.Addr) bool {
	ip := a.Netip(flow.IPv6)
	return !ip.IsMulticast() && !ip.IsUnspecified() && !ip.Is4In6()
}

// AppendReset appends the RST that answers a TCP segment (nf_send_reset). ok is
// false if there must be none: the segment is a RST itself, or not whole, or wrong, or not
// from one host to another (nf_send_reset6).
func (p *Packet) AppendReset(b []byte) (out []byte, ok bool) {
	t := p.Body()
	if len(t) < 20 || TCPFlags(t[13])&RST != 0 {
		return b, false
	}
	src, dst := p.Addrs()
	if p.Family == flow.IPv6 && !(unicast6(src) && unicast6(dst)) {
		return b, false
	}
	all := pseudoSum(src, dst, p.Family, uint32(len(t)), flow.TCP)
	if p.Family == flow.IPv4 { // with the IP header, which options may have made wrong
		all += uint64(sum(p.header4(), 0))
	}
	if sum(t, all) != 0xffff {
		return b, false
	}
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
