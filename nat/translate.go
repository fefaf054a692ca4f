package nat

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// Target returns what a packet in direction d of a connection looks like when it
// leaves: the inverse of the other direction's tuple.
func Target(c *flow.Conn, x *flow.Extra, d flow.Direction) flow.Tuple {
	t, _ := c.Tuple(d.Other(), x).Invert()
	return t
}

// Applies reports whether packets in direction d of a connection have their source
// (or destination) rewritten.
func Applies(s flow.Status, d flow.Direction, source bool) bool {
	if source == (d == flow.Original) {
		return s&flow.SrcNAT != 0
	}
	return s&flow.DstNAT != 0
}

// Packet rewrites the source (or destination) of a packet to that of t
// (nf_nat_manip_pkt).
func Packet(p *packet.Packet, t *flow.Tuple, source bool) { rewrite(p.Header(), t, source) }

func rewrite(h packet.Header, t *flow.Tuple, source bool) {
	a := t.Dst
	if source {
		a = t.Src
	}
	h.SetAddr(source, a)
	switch p := t.L4.Proto(); {
	case p != h.Proto: // the outside of an ICMP error
	case source || isICMP(p):
		h.SetPort(source, t.L4.Src())
	default:
		h.SetPort(source, t.L4.Dst())
	}
}

// Error rewrites an ICMP error in direction d of a connection, inside and out, as
// far as its source (or destination) is concerned (nf_nat_icmp_reply_translation).
// Valid iff Applies.
func Error(p *packet.Packet, c *flow.Conn, x *flow.Extra, d flow.Direction, source bool) {
	other := c.Tuple(d.Other(), x)
	rewrite(p.Quote(), &other, !source)
	p.SumICMP()
	target, _ := other.Invert()
	outer := p.Header()
	a := target.Dst
	if source {
		a = target.Src
	}
	outer.SetAddr(source, a)
}
