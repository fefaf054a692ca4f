package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// The hop-by-hop options that are looked at (RFC 8200, 4.2; include/uapi/linux/in6.h).
const (
	hopPad1        = 0
	hopPadN        = 1
	hopRouterAlert = 5
	hopCALIPSO     = 7
	hopIOAM        = 49
	hopJumbo       = 0xc2

	maxPadding    = 7 // bytes one after the other: they align, they are no room (RFC 4942, 2.1.9.5)
	maxHopOptions = 8 // net.ipv6.max_hbh_opts_number
)

// Codes of an ICMPv6 parameter problem (RFC 4443, 3.4).
const (
	ProblemField  = 0 // ICMPV6_HDR_FIELD
	ProblemOption = 2 // ICMPV6_UNK_OPTION
)

// HopByHop makes the checks of ipv6_parse_hopopts, which come before all others: r is
// why the packet is to be dropped, NoReason if it is not. If answered, an ICMPv6
// parameter problem with that code and pointer is the answer to it.
//
// Valid iff Family is IPv6.
func (p *Packet) HopByHop() (r flow.Reason, code uint8, pointer uint32, answered bool) {
	d := p.Frame[p.L3:min(int(p.L3)+int(p.Len), len(p.Frame))]
	if d[6] != hopByHop {
		return flow.NoReason, 0, 0, false
	}
	if len(d) < ipv6Len+8 || len(d) < ipv6Len+extensionLen(hopByHop, d[ipv6Len:]) {
		return flow.ReasonHopByHop, 0, 0, false
	}
	o := d[:ipv6Len+extensionLen(hopByHop, d[ipv6Len:])]
	options, padding := 0, 0
	for at := ipv6Len + 2; at < len(o); {
		if o[at] == hopPad1 {
			if padding++; padding > maxPadding {
				return flow.ReasonHopByHop, 0, 0, false
			}
			at++
			continue
		}
		if at+2 > len(o) || at+2+int(o[at+1]) > len(o) {
			return flow.ReasonHopByHop, 0, 0, false
		}
		opt := o[at : at+2+int(o[at+1])]
		if opt[0] == hopPadN {
			if padding += len(opt); padding > maxPadding || !allZero(opt[2:]) {
				return flow.ReasonHopByHop, 0, 0, false
			}
			at += len(opt)
			continue
		}
		padding = 0
		if options++; options > maxHopOptions {
			return flow.ReasonHopByHop, 0, 0, false
		}
		switch opt[0] {
		case hopRouterAlert:
			if len(opt) != 4 {
				return flow.ReasonHopByHop, 0, 0, false
			}
		case hopIOAM: // in-situ measurement is off, but the option has to be aligned
			if at&3 != 0 {
				return flow.ReasonHopByHop, 0, 0, false
			}
		case hopCALIPSO: // no domain of interpretation is configured
			return flow.ReasonHopByHop, 0, 0, false
		case hopJumbo:
			if r, pointer, answered := p.jumbo(opt, at); r != flow.NoReason {
				return r, ProblemField, pointer, answered
			}
		default:
			switch opt[0] >> 6 { // ip6_tlvopt_unknown
			case 1:
				return flow.ReasonHopByHopUnknown, 0, 0, false
			case 2, 3:
				answered := opt[0]>>6 == 2 || d[24] != 0xff
				return flow.ReasonHopByHopUnknown, ProblemOption, uint32(at), answered
			}
		}
		at += len(opt)
	}
	return flow.NoReason, 0, 0, false
}

// HopByHopLengths reports whether the lengths of hop-by-hop options are right, which is all that
// a bridge asks of them (nf_ip6_check_hbh_len): they fill their header, and none says that the
// datagram is a jumbogram. One of those fits no frame.
//
// Valid iff Family is IPv6.
func (p *Packet) HopByHopLengths() bool {
	d := p.Frame[p.L3:min(int(p.L3)+int(p.Len), len(p.Frame))]
	if d[6] != hopByHop {
		return true
	}
	if len(d) < ipv6Len+8 || len(d) < ipv6Len+extensionLen(hopByHop, d[ipv6Len:]) {
		return false
	}
	for o := d[ipv6Len+2 : ipv6Len+extensionLen(hopByHop, d[ipv6Len:])]; len(o) > 0; {
		if o[0] == hopPad1 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) || o[0] == hopJumbo {
			return false
		}
		o = o[2+int(o[1]):]
	}
	return true
}

// jumbo makes the checks of ipv6_hop_jumbo, for the option at an offset of the
// packet. A datagram of more than 65,535 bytes fits no frame here: there is always
// something wrong.
func (p *Packet) jumbo(opt []byte, at int) (r flow.Reason, pointer uint32, answered bool) {
	if len(opt) != 6 || at&3 != 2 {
		return flow.ReasonHopByHop, 0, false
	}
	if binary.BigEndian.Uint32(opt[2:]) <= MaxDatagram {
		return flow.ReasonHopByHop, uint32(at) + 2, true
	}
	if h := p.Frame[p.L3:]; h[4]|h[5] != 0 {
		return flow.ReasonHopByHop, uint32(at), true
	}
	return flow.ReasonHopByHop, 0, false
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
