package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
)

// The pace of IPv4 redirects (net.ipv4.route.redirect_*), in milliseconds: the next one
// to a host is held back for load times two to the power of those that it got; after
// number of them it gets no more until it has sent nothing for silence.
const (
	redirectLoad    = 20
	redirectNumber  = 9
	redirectSilence = redirectLoad << (redirectNumber + 1)
)

// redirects remembers which hosts were told of a better next hop (struct inet_peer), by a
// hash of their address.
type redirects [256]struct {
	to   flow.Addr
	last int64 // milliseconds
	sent uint8
}

// allow is the pace of ip_rt_send_redirect. A host that shares its place with another
// waits until that has been silent.
func (r *redirects) allow(to flow.Addr, now int64) bool {
	e := &r[(to.Lo^to.Hi)*0x9e3779b97f4a7c15>>56]
	if e.sent == 0 || now-e.last > redirectSilence {
		e.to, e.sent = to, 0
	}
	if e.to != to {
		return false
	}
	if e.sent >= redirectNumber {
		e.last = now
		return false
	}
	if e.sent > 0 && now-e.last <= redirectLoad<<e.sent {
		return false
	}
	e.last, e.sent = now, e.sent+1
	return true
}

// exhausted reports whether a host gets no more redirects for now.
func (r *redirects) exhausted(to flow.Addr) bool {
	e := &r[(to.Lo^to.Hi)*0x9e3779b97f4a7c15>>56]
	return e.to == to && e.sent >= redirectNumber
}

// redirectDue reports whether a packet goes back to where it came from, so that its
// sender could have sent it to the next hop itself (__mkroute_input, ip6_forward).
func (s *Shard) redirectDue(t *transit) bool {
	p, hop, routes := t.p, &t.hop, s.forward.Routes
	if hop.Out != p.In {
		return false
	}
	if p.Family == flow.IPv6 {
		return true
	}
	in := &routes.Interfaces[p.In]
	return in.SendRedirects && routes.OnLink(p.Family, t.routed.src, t.routed.dst, p.In) &&
		(in.SharedMedia || in.OnLink(hop.Next))
}

// sendRedirect tells the sender of a packet of a better next hop
// (ip_rt_send_redirect, ndisc_send_redirect).
func (s *Shard) sendRedirect(t *transit) {
	if t.p.Family == flow.IPv6 {
		s.sendRedirect6(t)
		return
	}
	f, p := &s.forward, t.p
	if !f.redirects.allow(t.routed.src, s.now) || !p.Answerable() {
		return
	}
	to, _ := p.Addrs()
	hop := f.Routes.Lookup(route.Key{Family: p.Family, Dst: to, In: -1})
	if hop.Kind != route.Unicast || hop.Out < 0 || hop.Src == (flow.Addr{}) {
		return
	}
	gateway := t.hop.Next.As4()
	info := uint32(gateway[0])<<24 | uint32(gateway[1])<<16 | uint32(gateway[2])<<8 | uint32(gateway[3])
	const redirect, host = 5, 1 // ICMP_REDIRECT, ICMP_REDIR_HOST
	if d, ok := p.AppendError(f.room(), hop.Src, redirect, host, info, &t.options, t); ok {
		s.sendAnswer(t, f.keep(d), hop)
	}
}

// redirectOfTranslated reports whether translation refuses a redirect of our own for what it
// does, or may yet do, to its connection (nf_nat_icmp_reply_translation): the host must not
// go around the router that translates. Of a connection that begins the source is not mapped
// before POSTROUTING, so if there are rules for translation its first packet is told of no
// better next hop whatever they say. Redirects of IPv6 belong to no connection.
func (s *Shard) redirectOfTranslated(o *transit) bool {
	if o.view.Conn == nil || o.p.Family != flow.IPv4 || o.p.Kind != packet.Error || !o.p.IsRedirect() {
		return false
	}
	return o.status()&(flow.SrcNAT|flow.DstNAT) != 0 || o.ref.at == begun && s.forward.Rules.NAT(flow.IPv4)
}

// redirectLimits hold IPv6 redirects back, about a destination and to a host
// (inet_peer_xrlim_allow), by a hash of its address.
type redirectLimits [256]int64 // when the bucket will be full again, in milliseconds

const (
	redirectRate  = 1000 // the least time between two, in milliseconds
	redirectBurst = 6    // of which so many may come at once (XRLIM_BURST_FACTOR)
)

func (l *redirectLimits) allow(to flow.Addr, now int64) bool {
	b := &l[(to.Lo^to.Hi)*0x9e3779b97f4a7c15>>56]
	start := max(*b, now)
	if start-now > redirectRate*(redirectBurst-1) {
		return false
	}
	*b = start + redirectRate
	return true
}

// sendRedirect6 sends an ICMPv6 redirect (RFC 4861, 8.2). Like all of neighbour
// discovery it belongs to no connection.
func (s *Shard) sendRedirect6(t *transit) {
	f, p := &s.forward, t.p
	src, dst := t.routed.src, t.routed.dst
	target, to := t.hop.Next, src.Netip(flow.IPv6)
	in := &f.Routes.Interfaces[p.In]
	self, ok := in.LinkLocal()
	if !ok || target != dst.Netip(flow.IPv6) && !target.IsLinkLocalUnicast() || to.IsMulticast() {
		return
	}
	if !f.Routes.OnLink(flow.IPv6, src, dst, p.In) || !f.redirects6.allow(dst, s.now) || !f.redirects6.allow(src, s.now) {
		return
	}
	hop := f.Routes.LookupOn(route.Key{Family: flow.IPv6, Dst: src, In: -1}, p.In)
	if hop.Kind != route.Unicast || hop.Out != p.In {
		return
	}
	var mac *[6]byte
	if t.hop.Known {
		mac = &t.hop.DstMAC
	}
	quote := p.Frame[p.L3:min(int(p.L3)+int(p.Len), len(p.Frame))]
	d := packet.AppendRedirect(f.room(), self, to, target, dst.Netip(flow.IPv6), mac, quote)
	f.own = append(f.own, Own{Datagram: f.keep(d), Hop: hop, Out: hop.Out})
}
