package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
)

// rejected answers a packet that a rule rejects.
func (s *Shard) rejected(p *packet.Packet, v *Verdict, r flow.Reason) flow.Reason {
	w := s.forward.view.Reject
	switch {
	case w == nil:
		return r
	case w.Reset && p.Reason != flow.ReasonL4Checksum:
		s.reset(p, v)
	case w.Reset:
	case !p.Summed(): // nf_reject_verify_csum
	default:
		s.fail(p, v, w.Type, w.Code, 0)
	}
	return flow.ReasonRejected
}

// answer sends an ICMP error about a packet, by type and code for each family, and
// returns r.
func (s *Shard) answer(p *packet.Packet, v *Verdict, r flow.Reason, typ4, code4, typ6, code6 uint8, rest uint32) flow.Reason {
	if p.Family == flow.IPv6 {
		s.fail(p, v, typ6, code6, rest)
	} else {
		s.fail(p, v, typ4, code4, rest)
	}
	return r
}

// fail sends an ICMP error about a packet to its source. A bridge has no address of
// its own and takes that of the destination (nf_reject_bridge's way).
func (s *Shard) fail(p *packet.Packet, v *Verdict, typ, code uint8, rest uint32) {
	w := &s.forward
	if !p.Answerable() {
		return
	}
	to, self := p.Addrs()
	if !w.limits.allow(to, s.now, w.ErrorRate) {
		return
	}
	hop := route.Hop{Out: p.In}
	if w.Routes != nil {
		hop = w.Routes.Lookup(route.Key{Family: p.Family, Dst: to, In: -1})
		if hop.Kind != route.Unicast || hop.Out < 0 || hop.Src == (flow.Addr{}) {
			return
		}
		self = hop.Src
	}
	s.emit(p.AppendError(nil, self, typ, code, rest), v, hop, p.In)
}

// reset answers a TCP segment with a RST.
func (s *Shard) reset(p *packet.Packet, v *Verdict) {
	w := &s.forward
	d, ok := p.AppendReset(nil)
	if !ok || p.Proto != flow.TCP {
		return
	}
	to, _ := p.Addrs()
	hop := route.Hop{Out: p.In}
	if w.Routes != nil {
		hop = w.Routes.Lookup(route.Key{Family: p.Family, Dst: to, In: -1})
		if hop.Kind != route.Unicast || hop.Out < 0 {
			return
		}
	}
	s.emit(d, v, hop, p.In)
	if w.at == existing { // nf_conntrack_tcp_set_closing
		c := s.table.Conn(w.entry)
		before := c.Status
		c.State = uint8(flow.TCPClose)
		s.table.Refresh(w.entry, s.in(s.trackers(w.entry, c).Timeouts.TCP[flow.TCPClose]), s.time())
		s.changed(w.entry, c, before)
	}
}

// emit sends a datagram of our own that belongs to the connection of the packet under
// way, in the other direction: what translation did to that packet is undone for
// its sender, and the rules of mangle POSTROUTING see it.
func (s *Shard) emit(d []byte, v *Verdict, hop route.Hop, in int) {
	w := &s.forward
	var p packet.Packet
	p.ParseWhole(d, len(d), 0, packet.Checks{})
	p.In = in
	saved := w.view
	view := &w.view
	before := w.before
	s.look(&p, flow.Related)
	w.before = before
	if saved.Tracked {
		view.Tracked, view.Conn, view.Extra, view.Dir = true, saved.Conn, saved.Extra, v.Dir.Other()
		view.ConnMark = saved.ConnMark
	} else {
		defer s.trackOwn(&p)()
	}
	drop := false
	if view.Tracked && nat.Applies(view.Conn.Status, view.Dir, false) {
		s.translateOwn(&p, false)
		if to := view.Dst; w.Routes != nil { // ip_route_me_harder
			hop = w.Routes.Lookup(route.Key{Family: p.Family, Src: view.Src, Dst: to, In: -1})
			drop = hop.Kind != route.Unicast || hop.Out < 0
		}
	}
	view.In, view.Out = -1, hop.Out
	drop = drop || w.Rules.Run(policy.ManglePostrouting, view) == policy.Drop
	if !drop && view.Tracked && w.at == fresh && p.Kind == packet.Data && w.Rules.NAT(p.Family) {
		// The source of the connection has not been looked at yet, so its rules see
		// this packet; what they map is of no use to it.
		drop = w.Rules.Run(policy.NATPostrouting, view) == policy.Drop
	}
	if !drop && view.Tracked && nat.Applies(view.Conn.Status, view.Dir, true) {
		s.translateOwn(&p, true)
	}
	if saved.Tracked {
		saved.ConnMark = view.ConnMark
	} else {
		s.keepMark()
	}
	saved.Logs = view.Logs
	*view = saved
	if !drop {
		own := Own{Datagram: p.Frame, Hop: hop, Out: hop.Out}
		copy(own.Link[:], saved.P.Frame)
		w.own = append(w.own, own)
	}
}

// translateOwn rewrites the source (or destination) of a datagram of our own.
func (s *Shard) translateOwn(p *packet.Packet, source bool) {
	v := &s.forward.view
	if p.Kind == packet.Error {
		nat.Error(p, v.Conn, v.Extra, v.Dir, source)
	} else {
		t := nat.Target(v.Conn, v.Extra, v.Dir)
		nat.Packet(p, &t, source)
	}
	a := addressesOf(p)
	v.Src, v.Dst, v.SrcPort, v.DstPort = a.src, a.dst, a.sport, a.dport
}

// trackOwn tracks a datagram of our own that answers one which belongs to no
// connection: it may belong to one itself. What it returns brings things back to
// where they were.
func (s *Shard) trackOwn(p *packet.Packet) (restore func()) {
	w := &s.forward
	at, entry, hash := w.at, w.entry, s.batch.Hash[w.slot]
	restore = func() { w.at, w.entry, s.batch.Hash[w.slot] = at, entry, hash }
	w.at = nowhere
	s.Hash(p)
	s.batch.Hash[w.slot] = p.Hash
	var v Verdict
	if p.Kind == packet.Data {
		s.track(p, w.slot, &v)
	} else {
		s.judge(p, &v)
	}
	if w.at == fresh { // not by an answer
		w.at = nowhere
	}
	w.view.State = v.State
	s.attach(&v)
	return restore
}

// errorLimits hold ICMP errors back that go to one host too often
// (inet_peer_xrlim_allow), by a hash of the host.
type errorLimits struct {
	full [1024]int64 // when the bucket will be full again, in milliseconds
}

const errorBurst = 6 // XRLIM_BURST_FACTOR

func (l *errorLimits) allow(to flow.Addr, now int64, rate int) bool {
	if rate == 0 {
		return true
	}
	b := &l.full[(to.Lo^to.Hi)*0x9e3779b97f4a7c15>>54]
	start := max(*b, now)
	if start-now > int64(rate*(errorBurst-1)) {
		return false
	}
	*b = start + int64(rate)
	return true
}

// env answers what rules ask about the machine, for one shard.
type env struct {
	s   *Shard
	hop *route.Hop
}

func (e *env) routes() *route.Table { return e.s.forward.Routes }

// AddrType implements policy.Env.
func (e *env) AddrType(a flow.Addr, f flow.Family, dev int) policy.AddrTypes {
	k := route.Unicast
	if t := e.routes(); t != nil {
		k = t.KindOf(a, f, dev)
	} else if a.Netip(f).IsMulticast() {
		k = route.Multicast
	}
	return 1 << k
}

// PathMTU implements policy.Env.
func (e *env) PathMTU(a flow.Addr, f flow.Family) int {
	if t := e.routes(); t != nil {
		if h := t.Lookup(route.Key{Family: f, Dst: a, In: -1}); h.Kind == route.Unicast && h.MTU > 0 {
			return h.MTU
		}
	}
	return 65535
}

// InAddr implements policy.Env.
func (e *env) InAddr(dev int, f flow.Family, to flow.Addr) (flow.Addr, bool) {
	t := e.routes()
	if t == nil || dev < 0 || dev >= len(t.Interfaces) {
		return flow.Addr{}, false
	}
	next := to.Netip(f)
	if h := &e.s.forward.nextHop; e.s.forward.haveHop && h.Out == dev && h.Next.IsValid() && to != (flow.Addr{}) {
		next = h.Next
		if f == flow.IPv6 {
			next = to.Netip(f)
		}
	}
	return t.Interfaces[dev].Source(f, next)
}

// ReverseOK implements policy.Env.
func (e *env) ReverseOK(src flow.Addr, f flow.Family, dev int, loose bool) bool {
	t := e.routes()
	return t == nil || t.Reverse(src, flow.Addr{}, f, dev, loose)
}
