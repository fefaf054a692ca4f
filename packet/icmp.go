package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

const icmpLen = 8

// parseICMP makes the checks of nf_conntrack_icmpv4_error. ICMP over IPv6 is
// nonsense that no connection can begin with (nf_conntrack_icmp_packet).
func (p *Packet) parseICMP(s segment, checks Checks) {
	if len(s.body) < icmpLen {
		p.invalid(flow.ReasonL4TooShort)
		return
	}
	if p.Family != flow.IPv4 {
		p.invalid(flow.ReasonICMPType)
		return
	}
	if checks.Transport && s.whole && sum(s.body, 0) != 0xffff {
		if !isError4(s.body[0]) {
			p.query(s) // what an error about it quotes
		}
		p.invalid(flow.ReasonL4Checksum)
		return
	}
	if isError4(s.body[0]) {
		p.parseQuote(s, s.body[icmpLen:], checks)
		return
	}
	p.query(s)
}

// isError4 reports whether an ICMP message of a type quotes a packet (icmp_is_err).
func isError4(typ uint8) bool {
	switch typ {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

// The ICMPv6 types that are treated specially.
const (
	icmp6FirstInfo   = 128
	icmp6Redirect    = 137
	redirectLen      = 40 // struct rd_msg
	redirectedOption = 4  // ND_OPT_REDIRECT_HDR
)

// parseICMPv6 makes the checks of nf_conntrack_icmpv6_error.
func (p *Packet) parseICMPv6(s segment, checks Checks) {
	if len(s.body) < icmpLen {
		p.invalid(flow.ReasonL4TooShort)
		return
	}
	if p.Family != flow.IPv6 {
		p.invalid(flow.ReasonICMPType)
		return
	}
	if !p.checksumOK(s, checks, 2) {
		if s.body[0] >= icmp6FirstInfo {
			p.query(s) // what an error about it quotes
		}
		p.invalid(flow.ReasonL4Checksum)
		return
	}
	switch typ := s.body[0]; {
	case typ >= 130 && typ <= 136, typ == 143, typ == 151, typ == 152:
		p.Kind = Untracked // multicast listeners and routers, neighbour discovery
	case typ == icmp6Redirect:
		p.parseRedirect(s, checks)
	case typ < icmp6FirstInfo:
		p.parseQuote(s, s.body[icmpLen:], checks)
	default:
		p.query(s)
	}
}

// parseRedirect follows nf_conntrack_icmpv6_redirect.
func (p *Packet) parseRedirect(s segment, checks Checks) {
	if len(s.body) < redirectLen {
		p.invalid(flow.ReasonL4TooShort)
		return
	}
	if s.body[1] != 0 {
		p.query(s)
		return
	}
	const linkLocal, linkLocalMask = 0xfe80 << 48, 0xffc0 << 48
	if p.Frame[p.L3+7] != 255 || p.Key.Src.Hi&linkLocalMask != linkLocal {
		p.invalid(flow.ReasonICMPRedirect)
		return
	}
	opts := s.body[redirectLen:]
	if len(opts) < 2 || opts[1] == 0 {
		p.invalid(flow.ReasonICMPRedirect)
		return
	}
	if opts[0] != redirectedOption {
		p.query(s)
		return
	}
	p.parseQuote(s, opts[min(8, len(opts)):], checks)
}

// query handles an ICMP message that stands for itself.
func (p *Packet) query(s segment) {
	t := flow.Tuple{Src: p.Key.Src, Dst: p.Key.Dst, L4: flow.MakeL4(p.Family, p.Proto, 0,
		binary.BigEndian.Uint16(s.body[4:]), binary.BigEndian.Uint16(s.body))}
	if _, ok := t.Invert(); !ok {
		p.invalid(flow.ReasonICMPType)
		return
	}
	p.Kind = Data
	p.Key, p.Flipped = t.Canonical()
}

// parseQuote handles an ICMP error that quotes the packet q: it names the
// connection of the answer to q, and the error must go to where that answer
// goes (nf_conntrack_inet_error).
func (p *Packet) parseQuote(s segment, q []byte, checks Checks) {
	t, ok := quoted(q, p.Family, checks.Keys)
	if ok {
		t, ok = t.Invert()
	}
	if !ok {
		p.invalid(flow.ReasonICMPErrorQuote)
		return
	}
	p.Kind, p.Misdirected = Error, t.Dst != p.Key.Dst
	p.Key, p.Flipped = t.Canonical()
}

// quoted returns the tuple of a packet that may be cut anywhere
// (nf_ct_get_tuplepr). Like the kernel it trusts the header length of the quote
// and reads no more than it needs.
func quoted(q []byte, f flow.Family, keys *flow.GREKeys) (t flow.Tuple, ok bool) {
	var proto flow.Proto
	var at int
	if f == flow.IPv4 {
		if len(q) < ipv4Len || binary.BigEndian.Uint16(q[6:])&0x1fff != 0 {
			return t, false
		}
		proto, at = flow.Proto(q[9]), int(q[0]&15)*4
		if at > len(q) {
			return t, false
		}
		t.Src, t.Dst = flow.AddrFrom4(q[12:]), flow.AddrFrom4(q[16:])
	} else {
		if len(q) < ipv6Len {
			return t, false
		}
		x := skipExtensions(q, flow.Proto(q[6]), ipv6Len)
		for x.fragment && binary.BigEndian.Uint16(q[x.at-6:])&^7 == 0 {
			x = skipExtensions(q, x.proto, x.at) // a first fragment names its connection
		}
		if x.cut || x.fragment {
			return t, false
		}
		proto, at = x.proto, x.at
		t.Src, t.Dst = flow.AddrFrom16(q[8:]), flow.AddrFrom16(q[24:])
	}
	var src, dst uint16
	switch {
	case proto.TracksPorts():
		if len(q) < at+4 {
			return t, false
		}
		src, dst = binary.BigEndian.Uint16(q[at:]), binary.BigEndian.Uint16(q[at+2:])
	case proto == flow.ICMP || proto == flow.ICMPv6:
		if len(q) < at+icmpLen {
			return t, false
		}
		src, dst = binary.BigEndian.Uint16(q[at+4:]), binary.BigEndian.Uint16(q[at:])
	case proto == flow.GRE:
		if dst, ok = greKey(q[min(at, len(q)):]); !ok {
			return t, false
		}
		src = keys.Source(t.Src, t.Dst, dst)
	}
	t.L4 = flow.MakeL4(f, proto, 0, src, dst)
	return t, true
}
