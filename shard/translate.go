package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/table"
)

// manip is the end of a packet that a mapping is of (enum nf_nat_manip_type).
type manip uint8

const (
	manipSrc manip = iota // NF_NAT_MANIP_SRC
	manipDst              // NF_NAT_MANIP_DST
)

func (m manip) source() bool { return m == manipSrc }

// hook returns where rules say what an end is mapped to.
func (m manip) hook() policy.Hook {
	if m == manipSrc {
		return policy.NATPostrouting
	}
	return policy.NATPrerouting
}

// bit returns the status of a connection that has such a mapping.
func (m manip) bit() flow.Status {
	if m == manipSrc {
		return flow.SrcNAT
	}
	return flow.DstNAT
}

// natPrerouting maps the destination of a connection that begins, and rewrites that of
// the packet.
func (s *Shard) natPrerouting(t *transit) flow.Reason {
	r := s.natHook(t, manipDst)
	t.routed = endpoints{t.view.Src, t.view.Dst, t.view.SrcPort, t.view.DstPort}
	return r
}

// natPostrouting maps the source of a connection that begins, and rewrites that of the
// packet.
func (s *Shard) natPostrouting(t *transit) flow.Reason {
	x := t.view.Extra
	if t.ref.at == inTable && x != nil && x.Masqueraded != 0 && t.v.Dir == flow.Original && int(x.Masqueraded)-1 != t.v.Out {
		t.end(table.Deleted) // nf_nat_oif_changed
		return flow.ReasonMasquerade
	}
	return s.natHook(t, manipSrc)
}

// natHook is nf_nat_inet_fn: a connection that begins gets its mapping, and the packet
// is rewritten.
func (s *Shard) natHook(t *transit, m manip) flow.Reason {
	if t.p.Kind == packet.Error && t.p.IsRedirect() && t.status()&(flow.SrcNAT|flow.DstNAT) != 0 {
		return flow.ReasonNATRedirect
	}
	if t.ref.at == begun {
		if r := s.natSetup(t, m); r != flow.NoReason {
			return r
		}
	}
	return s.manipPacket(t, m)
}

// natOutput undoes for a datagram of our own what was done to the destination of the
// packet that it answers, and routes it anew if it did (ip_route_me_harder).
func (s *Shard) natOutput(o *transit) flow.Reason {
	if s.redirectOfTranslated(o) {
		return flow.ReasonNATRedirect
	}
	if !nat.Applies(o.status(), o.v.Dir, manipDst.source()) {
		return flow.NoReason
	}
	if r := s.manipPacket(o, manipDst); r != flow.NoReason {
		return r
	}
	if routes := s.forward.Routes; routes != nil {
		o.hop = routes.LookupOn(route.Key{Family: o.p.Family, Src: o.view.Src, Dst: o.view.Dst, In: -1}, o.hop.Out)
		if o.hop.Kind != route.Unicast || o.hop.Out < 0 {
			return flow.ReasonNoRoute
		}
	}
	return flow.NoReason
}

// natPostroutingOwn is natPostrouting for a datagram of our own. If the connection of
// the packet that it answers begins with that packet, no rule has been asked for its
// source yet: they see the answer, but what they map is of no use to it.
func (s *Shard) natPostroutingOwn(o *transit) flow.Reason {
	if o.ref.at == begun && o.p.Kind == packet.Data && s.forward.Rules.NAT(o.p.Family) {
		if r := s.ask(o, policy.NATPostrouting); r != flow.NoReason {
			return r
		}
	}
	return s.manipPacket(o, manipSrc)
}

// natSetup asks the rules what an end of the connection that begins is mapped to, and
// maps it (nf_nat_setup_info).
func (s *Shard) natSetup(t *transit, m manip) flow.Reason {
	view, u := &t.view, &t.un
	if !u.follow.On && !s.forward.Rules.NAT(t.p.Family) {
		return flow.NoReason
	}
	view.NAT, view.NoAddress, t.noTuple = nil, false, flow.NoReason
	if !u.follow.On && s.forward.Rules.Run(m.hook(), view) == policy.Drop {
		if view.NoAddress {
			return flow.ReasonMasquerade
		}
		return flow.ReasonRule
	}
	now, _ := u.conn.Tuple(flow.Reply, &u.extra).Invert()
	now.L4 = now.L4.WithZone(t.p.Zone.In(flow.Original))
	r := view.NAT
	if u.follow.On {
		r = t.followMaster(m, &now)
	}
	if r == nil {
		if m == manipDst {
			return flow.NoReason
		}
		t.null = nat.Range{Min: now.Src, Max: now.Src, Addrs: true} // nf_nat_alloc_null_binding
		r = &t.null
	}
	mapped, reason := s.bind(t, m, now, r)
	t.noTuple = reason // of the destination alone it does not matter: the source may yet make a difference
	if m == manipSrc && view.NAT != nil && view.Masquerade() {
		u.extend()
		u.extra.Masqueraded = uint8(view.Out + 1)
	}
	if mapped == now {
		return flow.NoReason
	}
	reply, _ := mapped.Invert()
	reply.L4 = reply.L4.WithZone(t.p.Zone.In(flow.Reply))
	u.secondKey(reply)
	u.extra.ZoneDirs = t.p.Zone.Dirs
	u.conn.Status |= m.bit()
	view.Conn, view.Extra = t.conn()
	return flow.NoReason
}

// manipPacket rewrites an end of the packet, if its connection asks for that in the
// direction in which the packet runs (nf_nat_packet, nf_nat_icmp_reply_translation).
func (s *Shard) manipPacket(t *transit, m manip) flow.Reason {
	c, x := t.view.Conn, t.view.Extra
	if c == nil || !nat.Applies(c.Status, t.v.Dir, m.source()) {
		return flow.NoReason
	}
	if t.p.Kind == packet.Error {
		if !manipulable(t.p.Quote(), t.p) {
			return flow.ReasonNATTooShort
		}
		nat.Error(t.p, c, x, t.v.Dir, m.source())
	} else {
		if !manipulable(t.p.Header(), t.p) {
			return flow.ReasonNATTooShort
		}
		to := nat.Target(c, x, t.v.Dir)
		nat.Packet(t.p, &to, m.source())
	}
	t.see(endpointsOf(t.p), t.view.Out)
	return flow.NoReason
}

// manipulable reports whether as much of a transport header is there as translation
// writes to (skb_ensure_writable in l4proto_manip_pkt): h is that of p, or of the packet
// that p quotes.
func manipulable(h packet.Header, p *packet.Packet) bool {
	switch h.Proto {
	case flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP, flow.ICMP, flow.ICMPv6, flow.GRE:
		return h.L4+8 <= int(p.L3)+int(p.Len)
	}
	return true
}

// rewrite translates both ends of a packet of a connection.
func (s *Shard) rewrite(p *packet.Packet, c *flow.Conn, x *flow.Extra, d flow.Direction) {
	t := nat.Target(c, x, d)
	for _, m := range [...]manip{manipDst, manipSrc} {
		if nat.Applies(c.Status, d, m.source()) {
			nat.Packet(p, &t, m.source())
		}
	}
}
