package shard

import (
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/route"
)

// routeInput decides where a packet goes (ip_route_input_slow, ip6_route_input): to
// this host, by an interface, or nowhere. On a bridge it leaves by the other interface.
func (s *Shard) routeInput(t *transit) flow.Reason {
	p, v, routes := t.p, t.v, s.forward.Routes
	if routes == nil {
		t.leaveBy(p.In ^ 1)
		return flow.NoReason
	}
	if r := s.validateSource(t); r != flow.NoReason {
		return r
	}
	e := &t.routed
	if neverRouted(e.src, e.dst, p.Family) {
		v.Action = Host
		return flow.NoReason
	}
	t.hop = routes.Lookup(t.routeKey())
	t.hasHop = true
	switch t.hop.Kind {
	case route.Local:
		if nat.Applies(t.status(), v.Dir, manipDst.source()) {
			return flow.ReasonLocalRedirect
		}
		v.Action = Host
		return flow.NoReason
	case route.Broadcast, route.Multicast, route.Anycast:
		v.Action = Host
		return flow.NoReason
	case route.Blackhole:
		return flow.ReasonBlackhole
	}
	if r := s.ipRcvOptions(t); r != flow.NoReason {
		return r
	}
	switch t.hop.Kind {
	case route.Prohibit:
		s.ipError(t, errProhibited)
		return flow.ReasonProhibited
	case route.Unreachable:
		s.ipError(t, errUnreachable)
		return flow.ReasonNoRoute
	case route.None, route.Throw:
		s.ipError(t, errNoRoute)
		return flow.ReasonNoRoute
	}
	if !s.lookedUpSource(t) {
		return flow.ReasonMartian
	}
	return flow.NoReason
}

// ipError answers a packet that cannot be routed (ip_error, ip6_pkt_discard). Those of IPv4
// have a limit of their own besides.
func (s *Shard) ipError(t *transit, e icmpError) {
	if l := s.forward.Errors; l != nil && t.p.Family == flow.IPv4 {
		if src, _ := t.p.Addrs(); !l.AllowNoRoute(src, s.now) {
			return
		}
	}
	s.sendError(t, e)
}

// validateSource refuses packets whose addresses cannot be (ip_route_input_slow,
// ip6_rcv_core), and those whose source is elsewhere (fib_validate_source).
func (s *Shard) validateSource(t *transit) flow.Reason {
	src, dst, f, in := t.routed.src, t.routed.dst, t.p.Family, t.p.In
	routes := s.forward.Routes
	if martian(src, dst, f, t.p.Proto) {
		return flow.ReasonMartian
	}
	if f != flow.IPv4 || src == (flow.Addr{}) {
		return flow.NoReason // an IPv6 source is not looked up: even an address of the router is forwarded
	}
	if !routes.Interfaces[in].AcceptLocal && routes.KindOf(src, f, -1) == route.Local {
		return flow.ReasonMartian
	}
	if !routes.FilterOK(route.ReverseKey{Family: f, Src: src, Dst: dst, In: in, Mark: t.view.Mark, TOS: t.p.TOS()}) {
		return flow.ReasonReversePath
	}
	return flow.NoReason
}

// lookedUpSource reports whether the source of an IPv4 packet is that of one host, where
// Linux looks that up: if there are rules for routing, or if a redirect may be due
// (fib_validate_source, __fib_validate_source). Where it does not, the broadcast address
// of a net may be a source.
func (s *Shard) lookedUpSource(t *transit) bool {
	routes, p := s.forward.Routes, t.p
	in := &routes.Interfaces[p.In]
	if p.Family != flow.IPv4 || !(in.SendRedirects && t.hop.Out == p.In) && !routes.CustomRules(flow.IPv4) {
		return true
	}
	key := route.Key{Family: p.Family, Src: t.routed.dst, Dst: t.routed.src, In: -1, TOS: p.TOS()}
	if in.SrcValidMark {
		key.Mark = t.view.Mark
	}
	switch routes.Lookup(key).Kind {
	case route.Broadcast, route.Multicast, route.Anycast:
		return false
	case route.Local:
		return in.AcceptLocal
	}
	return true
}

// limitedBroadcast is the broadcast address of every link (INADDR_BROADCAST).
var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// forEveryone reports whether an address is a multicast one, or the limited broadcast.
func forEveryone(dst flow.Addr, f flow.Family) bool {
	d := dst.Netip(f)
	return d.IsMulticast() || d == limitedBroadcast
}

// neverRouted reports whether a packet goes to a group or to all on its link, whatever
// routes there are, a default route among them: whether it is of interest is for the host
// to say (ip_route_input_rcu, brd_input of ip_route_input_slow; ip6_mc_input).
func neverRouted(src, dst flow.Addr, f flow.Family) bool {
	return forEveryone(dst, f) || f == flow.IPv4 && src == dst && dst.Netip(f).IsUnspecified()
}

// martian reports whether a packet with these addresses is not to be on any link
// (ip_route_input_slow, ip_mc_validate_source). One without a source, which asks for an
// address, may go to all, and to groups of its link. Of IPv6 packets impossible6 has said so
// before rules have seen them, who may have changed the destination.
func martian(src, dst flow.Addr, f flow.Family, proto flow.Proto) bool {
	s, d := src.Netip(f), dst.Netip(f)
	if f == flow.IPv6 {
		return d.IsLoopback()
	}
	switch {
	case s.IsMulticast() || s.IsLoopback() || s == limitedBroadcast || d.IsLoopback():
		return true
	case s.IsUnspecified() && d.IsMulticast():
		return !d.IsLinkLocalMulticast() && proto != igmp
	case s.IsUnspecified():
		return !neverRouted(src, dst, f)
	}
	return d.IsUnspecified()
}

const igmp flow.Proto = 2

// ipForward makes the checks of ip_forward and ip6_forward, before the rules for
// packets that are forwarded, and takes one off the TTL. A bridge makes none.
func (s *Shard) ipForward(t *transit) flow.Reason {
	if s.forward.Routes == nil {
		return flow.NoReason
	}
	p, hop := t.p, &t.hop
	if p.ToGroup() {
		return flow.ReasonNotForwarded
	}
	if hop.Out < 0 {
		return flow.ReasonElsewhere
	}
	t.leaveBy(hop.Out)
	if p.Hops() <= 1 {
		s.sendError(t, errTimeExceeded)
		return flow.ReasonTTLExceeded
	}
	if hop.Out != p.In && p.Family == flow.IPv6 {
		if r := s.checkScope(t); r != flow.NoReason {
			return r
		}
	}
	redirect := s.redirectDue(t)
	if redirect && p.Family == flow.IPv6 {
		s.sendRedirect(t)
	}
	mtu := hop.MTU
	if p.Family == flow.IPv6 { // that of the route is looked at behind the rules (ip6_dst_mtu_maybe_forward)
		mtu = s.forward.Routes.Interfaces[hop.Out].MTU
	}
	if p.TooBig(mtu) {
		s.sendError(t, errTooBig(p.PathMTU(mtu)))
		return flow.ReasonTooBig
	}
	p.SetHops(p.Hops() - 1)
	if redirect {
		if p.Family == flow.IPv4 {
			s.sendRedirect(t)
		}
		// The next packet may have to be told of, too, unless that is of no use.
		t.hop.Varies = t.hop.Varies || p.Family == flow.IPv6 || !s.forward.redirects.exhausted(t.routed.src)
	}
	t.v.Hop = s.keepHop(t)
	return flow.NoReason
}

// checkScope refuses an IPv6 packet that leaves by another link than it came by, and whose
// source is none there (the "security critical" check of ip6_forward).
func (s *Shard) checkScope(t *transit) flow.Reason {
	src := t.routed.src.Netip(flow.IPv6)
	switch {
	case src.IsUnspecified():
		return flow.ReasonMartian
	case src.IsLinkLocalUnicast():
		s.sendError(t, errBeyondScope)
		return flow.ReasonNotForwarded
	}
	return flow.NoReason
}

// leaveBy says by which interface the packet leaves. Code that was made for another
// one is of no use any more: routes have changed.
func (t *transit) leaveBy(out int) {
	t.v.Out, t.view.Out = out, out
	if t.code != nil && t.code.Out != out {
		t.code = nil
	}
}

// keepHop remembers the next hop of the packet for those of its connection that
// follow, and returns where it is kept.
func (s *Shard) keepHop(t *transit) *route.Hop {
	f := &s.forward
	if t.hop.Varies || t.hop.Marked && t.view.Mark != 0 {
		return f.passing.keep(&t.hop)
	}
	i, ok := f.hops.number(&t.hop)
	if !ok {
		return f.passing.keep(&t.hop)
	}
	if t.ref.at == inTable {
		s.pathOf(t.ref.entry, t.v.Dir).hop = f.hops.base + i
	}
	return &f.hops.all[i]
}
