package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
)

// icmpError is an ICMP error, as each family has it.
type icmpError struct {
	v4, v6 icmpType
	info   uint32 // the second word of the header: an MTU, or nothing
}

// icmpType is type and code of an ICMP message.
type icmpType struct{ typ, code uint8 }

// Types and codes (RFC 792, RFC 1812, RFC 4443).
var (
	errNoRoute         = icmpError{v4: icmpType{3, 0}, v6: icmpType{1, 0}}  // ICMP_NET_UNREACH, ICMPV6_NOROUTE
	errHostUnreachable = icmpError{v4: icmpType{3, 1}, v6: icmpType{1, 3}}  // ICMP_HOST_UNREACH, ICMPV6_ADDR_UNREACH
	errUnreachable     = icmpError{v4: icmpType{3, 1}, v6: icmpType{1, 0}}  // ICMP_HOST_UNREACH, ICMPV6_NOROUTE (ip6_pkt_discard)
	errProhibited      = icmpError{v4: icmpType{3, 13}, v6: icmpType{1, 1}} // ICMP_PKT_FILTERED, ICMPV6_ADM_PROHIBITED
	errBeyondScope     = icmpError{v6: icmpType{1, 2}}                      // ICMPV6_NOT_NEIGHBOUR
	errFragmentTime    = icmpError{v4: icmpType{11, 1}, v6: icmpType{3, 1}} // ICMP_EXC_FRAGTIME, ICMPV6_EXC_FRAGTIME
	errTimeExceeded    = icmpError{v4: icmpType{11, 0}, v6: icmpType{3, 0}} // ICMP_EXC_TTL, ICMPV6_EXC_HOPLIMIT
)

// errUnknownOption is ICMPV6_PARAMPROB, ICMPV6_UNK_OPTION.
var errUnknownOption = icmpType{4, packet.ProblemOption}

// errTooBig is ICMP_FRAG_NEEDED and ICMPV6_PKT_TOOBIG.
func errTooBig(mtu int) icmpError {
	return icmpError{v4: icmpType{3, 4}, v6: icmpType{2, 0}, info: uint32(mtu)}
}

// of returns the error as a family has it.
func (e *icmpError) of(f flow.Family) icmpType {
	if f == flow.IPv6 {
		return e.v6
	}
	return e.v4
}

// reject answers a packet that a rule rejects, and returns the reason of its drop: r,
// if the rule only drops it.
func (s *Shard) reject(t *transit, r flow.Reason) flow.Reason {
	with := t.view.Reject
	switch {
	case with == nil:
		return r
	case with.Reset:
		s.sendReset(t)
	case !t.p.Summed(!t.noTrack && s.cfg.Checks.Transport): // nf_reject_verify_csum
	default:
		typ := icmpType{with.Type, with.Code}
		s.sendError(t, icmpError{v4: typ, v6: typ})
	}
	return flow.ReasonRejected
}

// sendError sends an ICMP error about the packet of t to its source (icmp_send,
// icmp6_send). A bridge has no address of its own and takes that of the destination
// (nf_reject_bridge).
func (s *Shard) sendError(t *transit, e icmpError) {
	f, p := &s.forward, t.p
	if !p.Answerable() && !(e.v6 == errUnknownOption && p.Unrecognised(e.info) && p.HasSender()) {
		return
	}
	to, self := p.Addrs()
	hop := route.Hop{Out: p.In}
	if f.Routes != nil {
		hop = f.Routes.LookupOn(route.Key{Family: p.Family, Dst: to, In: -1}, p.In)
		switch {
		case hop.Kind == route.Local && nat.Applies(t.status(), t.v.Dir, manipSrc.source()):
			hop.Src = to // masqueraded already: undoing that finds the sender
		case hop.Kind != route.Unicast || hop.Out < 0 || hop.Src == (flow.Addr{}):
			return
		}
		self = hop.Src
		if p.Family == flow.IPv6 && hop.Kind != route.Local { // icmp6_send: an address of the interface that the packet came by
			if in, ok := f.Routes.Interfaces[p.In].Source(flow.IPv6, to.Netip(flow.IPv6)); ok {
				self = in
			}
		}
	}
	typ := e.of(p.Family)
	// To an address of this host, as far as the error knows, there is no limit.
	if f.Errors != nil && hop.Kind != route.Local && !f.Errors.Allow(p.Family, typ.typ, typ.code, to, s.now) {
		return
	}
	if d, ok := p.AppendError(f.room(), self, typ.typ, typ.code, e.info, &t.options, t); ok {
		s.sendAnswer(t, f.keep(d), hop)
	}
}

// sendReset answers a TCP segment with a RST (nf_send_reset), and closes its connection
// (nf_conntrack_tcp_set_closing).
func (s *Shard) sendReset(t *transit) {
	f, p := &s.forward, t.p
	d, ok := p.AppendReset(f.room())
	if !ok || p.Proto != flow.TCP {
		return
	}
	hop := route.Hop{Out: p.In}
	if f.Routes != nil {
		to, _ := p.Addrs()
		hop = f.Routes.LookupOn(route.Key{Family: p.Family, Dst: to, In: -1}, p.In)
		if hop.Kind != route.Unicast || hop.Out < 0 {
			return
		}
	}
	s.sendAnswer(t, f.keep(d), hop)
	if i := t.ref.entry; t.ref.at == inTable {
		c := s.table.Conn(i)
		before := c.Status
		c.State = uint8(flow.TCPClose)
		s.table.Refresh(i, s.in(s.trackers(i, c).Timeouts.TCP[flow.TCPClose]), s.time())
		s.keepMembers(t)
		s.changed(i, c, before)
		t.view.Member = s.counted(i)
	}
}

// sendAnswer sends a datagram of our own that answers the packet of t: it belongs to
// the same connection, in the other direction, so what translation did to that packet
// is undone for its sender.
func (s *Shard) sendAnswer(t *transit, d []byte, hop route.Hop) {
	a := &s.forward.answer
	a.packet.ParseWhole(d, len(d), 0, packet.Checks{})
	a.packet.In, a.packet.Largest = t.p.In, 0
	a.verdict = Verdict{State: flow.Invalid}
	o := &a.transit
	o.reset(s, &a.packet, t.n, &a.verdict)
	o.hop = hop
	o.view.Own = true
	dropped := s.traverseOutput(o, t) != flow.NoReason
	if t.view.Tracked {
		t.view.ConnMark, t.view.Labels = o.view.ConnMark, o.view.Labels
	} else {
		s.writeBack(o)
	}
	if dropped {
		return
	}
	own := Own{Datagram: o.p.Frame, Hop: o.hop, Out: o.hop.Out}
	own.LinkLen = uint8(copy(own.Link[:], t.p.Frame[:t.p.L3]))
	s.forward.own = append(s.forward.own, own)
}

var _ policy.Env = (*transit)(nil)
