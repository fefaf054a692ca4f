package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
)

// What a router does to the options in the header of an IP packet. A bridge leaves them
// alone, and so does this host with its own packets: its stack looks at them.

// errParameter is ICMP_PARAMETERPROB and ICMPV6_PARAMPROB with a code of IPv6's, for byte
// pointer of p.
func errParameter(p *packet.Packet, code uint8, pointer uint32) icmpError {
	return icmpError{v4: icmpType{12, 0}, v6: icmpType{4, code}, info: p.ProblemPointer(pointer)}
}

// rcvCore checks the addresses and the hop-by-hop options of an IPv6 packet, before
// anything else sees it (ip6_rcv_core), and takes the fragment header from one that is
// whole in spite of it (nf_ct_frag6_gather).
func (s *Shard) rcvCore(t *transit) flow.Reason {
	p := t.p
	if p.Family != flow.IPv6 {
		return flow.NoReason
	}
	if r := s.ip6RcvCore(t); r != flow.NoReason {
		return r
	}
	p.Unfragment()
	return flow.NoReason
}

// impossible6 reports whether no packet on a link has these IPv6 addresses.
func impossible6(src, dst flow.Addr) bool {
	d := dst.Netip(flow.IPv6)
	if d.IsMulticast() {
		if scope := d.As16()[1] & 15; scope <= 1 { // reserved, or of one interface (RFC 4291, 2.7)
			return true
		}
	}
	s := src.Netip(flow.IPv6)
	return s.IsMulticast() || s.IsLoopback() || d.IsLoopback()
}

// ip6RcvCore makes the checks of ip6_rcv_core that Parse does not make: of addresses, and
// of hop-by-hop options. A bridge looks at the lengths of options only (br_validate_ipv6).
func (s *Shard) ip6RcvCore(t *transit) flow.Reason {
	if s.forward.Routes == nil {
		if !t.p.HopByHopLengths() {
			return flow.ReasonHopByHop
		}
		return flow.NoReason
	}
	if impossible6(t.came.src, t.came.dst) {
		return flow.ReasonMartian
	}
	return s.parseHopOptions(t)
}

// parseHopOptions refuses what ipv6_parse_hopopts refuses, and answers it: what is for
// this host, too, for translation may yet send it elsewhere. What is for everyone the
// host's stack looks at.
func (s *Shard) parseHopOptions(t *transit) flow.Reason {
	p := t.p
	r, code, pointer, answered := p.HopByHop()
	if r == flow.NoReason || forEveryone(t.came.dst, p.Family) {
		return flow.NoReason
	}
	if answered {
		s.sendError(t, errParameter(p, code, pointer))
	}
	return r
}

// Screen says why a fragment is not to wait for the rest of its datagram, NoReason if
// it is to: its Ethernet destination, its IPv6 addresses and its own hop-by-hop options are
// looked at before it is put together with others (ip_rcv_core, ip6_rcv_core). It is to be
// dropped then, and has been answered.
func (s *Shard) Screen(p *packet.Packet) flow.Reason {
	f := &s.forward
	if f.Forwarding == nil {
		return flow.NoReason
	}
	if f.Routes != nil && !p.ToGroup() && !f.links[p.In].own(p) {
		return flow.ReasonOtherHost
	}
	if p.Family != flow.IPv6 {
		return flow.NoReason
	}
	t := &f.forwarded
	t.reset(s, p, 0, &f.screened)
	return s.ip6RcvCore(t)
}

// Expired answers the first fragment of a datagram whose others have not come in time, if
// it is one of IPv6 that was to be forwarded: Linux leaves the answer for IPv4 to hosts
// (ip6frag_expire_frag_queue, ip_expire).
func (s *Shard) Expired(p *packet.Packet) {
	f := &s.forward
	if f.Forwarding == nil || f.Routes == nil || p.Family != flow.IPv6 || p.Fragment.Offset != 0 {
		return
	}
	t := &f.forwarded
	t.reset(s, p, 0, &f.screened)
	if f.Routes.KindOf(t.came.dst, p.Family, -1) == route.Unicast {
		s.sendError(t, errFragmentTime)
	}
}

// ipRcvOptions checks the options of a packet that is to be forwarded, and fills them
// in (ip_rcv_options). Source routes are not followed (accept_source_route).
func (s *Shard) ipRcvOptions(t *transit) flow.Reason {
	if t.p.Family != flow.IPv4 || !t.p.HasOptions() {
		return flow.NoReason
	}
	var problem uint8
	if t.options, problem = t.p.CompileOptions(t); problem != 0 {
		s.sendError(t, errParameter(t.p, 0, uint32(problem)))
		return flow.ReasonIPOptions
	}
	if t.options.SourceRoute {
		return flow.ReasonSourceRoute
	}
	return flow.NoReason
}

// ipForwardFinish records the interface out in the options of a packet that no rule has
// dropped (ip_forward_finish).
func (s *Shard) ipForwardFinish(t *transit) flow.Reason {
	if t.options != (packet.Options{}) {
		t.p.ForwardOptions(&t.options, t.hop.Src)
	}
	return flow.NoReason
}

// fragment cuts a datagram that is longer than its path takes (ip_finish_output). One
// that came in fragments is left to who has those.
func (s *Shard) fragment(t *transit) flow.Reason {
	p, v, f := t.p, t.v, &s.forward
	if v.Hop == nil || !p.Divided(v.Hop.MTU) {
		return flow.NoReason
	}
	if p.TooBig(v.Hop.MTU) { // for the route, or since rules have made it longer
		s.sendError(t, errTooBig(p.PathMTU(v.Hop.MTU)))
		return flow.ReasonTooBig
	}
	if p.Largest != 0 {
		return flow.NoReason
	}
	if f.piece == nil {
		f.piece = make([]byte, 0, packet.MaxDatagram)
	}
	hop := *v.Hop
	if !p.Fragments(hop.MTU, nil, f.piece, func(d []byte) {
		at := len(f.pieces)
		f.pieces = append(f.pieces, d...)
		f.own = append(f.own, Own{Datagram: f.pieces[at:len(f.pieces):len(f.pieces)], Hop: hop, Out: hop.Out})
	}) {
		return flow.ReasonTooBig
	}
	v.Action = Replaced
	return flow.NoReason
}

// The methods below are what options are filled in with: packet.Stamper.

// Address implements packet.Stamper.
func (t *transit) Address() flow.Addr {
	src, _ := t.p.Addrs()
	routes := t.s.forward.Routes
	if h := routes.Lookup(route.Key{Family: flow.IPv4, Dst: src, In: -1}); h.Kind == route.Unicast {
		return h.Src
	}
	a, _ := t.InAddr(t.p.In, flow.IPv4, src)
	return a
}

// Here implements packet.Stamper.
func (t *transit) Here(a flow.Addr) bool {
	return t.s.forward.Routes.KindOf(a, flow.IPv4, -1) != route.Unicast
}

// Midnight implements packet.Stamper.
func (t *transit) Midnight() uint32 { return uint32(t.s.wall() / 1e6 % 86_400_000) }

var _ packet.Stamper = (*transit)(nil)
