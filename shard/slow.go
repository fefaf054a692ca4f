package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
)

// slow takes a packet that was tracked through the rules of each hook and through
// translation and routing, in the order in which Linux does (ip_forward).
func (s *Shard) slow(p *packet.Packet, v *Verdict) {
	w := &s.forward
	mark, helper, timeout := w.view.Mark, w.view.Helper, w.view.Timeout
	s.look(p, v.State)
	if w.rawRan {
		w.view.Mark, w.view.Helper, w.view.Timeout = mark, helper, timeout
	}
	if w.rawLate {
		w.view.State = flow.Invalid
		w.Rules.Run(policy.RawPrerouting, &w.view)
		w.view.State = v.State
	}
	s.attach(v)

	code := s.codeFor(p, v)
	reason := s.steps(p, v, &code)
	s.keepMark()
	if reason != flow.NoReason {
		v.refuse(reason)
	}
	if w.at == fresh && w.view.Counted { // it did not come into the table
		w.Rules.Gone(s.fresh.Tuple(flow.Original, &s.extra))
	}
	if code == nil && w.at == existing && w.view.Conn != &s.fresh && p.Kind == packet.Data && s.specialises(v) {
		s.specialise(p, v)
	}
}

// refuse makes an accepted packet one that is dropped.
func (v *Verdict) refuse(r flow.Reason) { v.Action, v.Reason, v.Hop = Drop, r, nil }

// attach lets the view see the packet's connection.
func (s *Shard) attach(v *Verdict) {
	w := &s.forward
	view := &w.view
	view.Dir = v.Dir
	switch w.at {
	case nowhere:
		return
	case existing:
		view.Conn, view.Extra = s.table.Conn(w.entry), s.table.Extra(w.entry)
	default:
		view.Conn, view.Extra = &s.fresh, &s.extra
	}
	view.Tracked = true
	if view.Extra != nil && view.Conn.Extended() {
		view.ConnMark = uint32(view.Extra.Mark)
	}
}

// codeFor returns the code for a packet, nil if the rules are to be walked.
func (s *Shard) codeFor(p *packet.Packet, v *Verdict) *policy.Code {
	if s.forward.at != existing || p.Kind != packet.Data {
		return nil
	}
	return s.code(&s.forward.paths[s.forward.entry][v.Dir], p.In)
}

// ask asks the rules at a hook.
func (s *Shard) ask(h policy.Hook, code *policy.Code) flow.Reason {
	w := &s.forward
	var verdict policy.Verdict
	if code != nil {
		verdict = code.Run(h, &w.view)
	} else {
		verdict = w.Rules.Run(h, &w.view)
	}
	if verdict == policy.Drop {
		return flow.ReasonRule
	}
	return flow.NoReason
}

// steps does it, and returns why the packet goes no further, if it does not. code is
// nil afterwards if it was for another way out than the packet's.
func (s *Shard) steps(p *packet.Packet, v *Verdict, code **policy.Code) flow.Reason {
	w := &s.forward
	if r := s.ask(policy.ManglePrerouting, *code); r != flow.NoReason {
		return r
	}
	if r := s.translate(p, v, false); r != flow.NoReason {
		return r
	}
	w.between = addressesOf(p)
	if w.Routes == nil {
		v.Out = p.In ^ 1
	} else if r := s.route(p, v); r != flow.NoReason || v.Action == Host {
		return r
	}
	w.view.Out = v.Out
	if *code != nil && (*code).Out != v.Out { // routes have changed
		*code = nil
	}
	for _, h := range [...]policy.Hook{policy.MangleForward, policy.FilterForward, policy.SecurityForward} {
		if r := s.ask(h, *code); r != flow.NoReason {
			return s.rejected(p, v, r)
		}
	}
	if r := s.ask(policy.ManglePostrouting, *code); r != flow.NoReason {
		return r
	}
	if r := s.translate(p, v, true); r != flow.NoReason {
		return r
	}
	if w.at == fresh {
		if r := s.confirmFresh(p, v); r != flow.NoReason {
			return r
		}
	}
	return s.fit(p, v)
}

// translate asks the rules of table nat, if the packet begins a connection, and
// rewrites its source (or destination).
func (s *Shard) translate(p *packet.Packet, v *Verdict, source bool) flow.Reason {
	w := &s.forward
	view := &w.view
	if !view.Tracked {
		return flow.NoReason
	}
	if w.at == fresh {
		if r := s.setUp(p, source); r != flow.NoReason {
			return r
		}
	}
	c, x := view.Conn, view.Extra
	if w.at == existing && source && x != nil && x.Masqueraded != 0 && v.Dir == flow.Original && int(x.Masqueraded)-1 != v.Out {
		s.Remove(w.entry) // nf_nat_oif_changed
		return flow.ReasonMasquerade
	}
	if !nat.Applies(c.Status, v.Dir, source) {
		return flow.NoReason
	}
	if p.Kind == packet.Error {
		nat.Error(p, c, x, v.Dir, source)
	} else {
		t := nat.Target(c, x, v.Dir)
		nat.Packet(p, &t, source)
	}
	a := addressesOf(p)
	view.Src, view.Dst, view.SrcPort, view.DstPort = a.src, a.dst, a.sport, a.dport
	return flow.NoReason
}

// setUp decides what the source (or destination) of the fresh connection is mapped
// to (nf_nat_inet_fn and nf_nat_setup_info).
func (s *Shard) setUp(p *packet.Packet, source bool) flow.Reason {
	w := &s.forward
	view := &w.view
	if !w.Rules.NAT(p.Family) {
		return flow.NoReason
	}
	hook := policy.NATPrerouting
	if source {
		hook = policy.NATPostrouting
	}
	view.NAT, w.exhausted = nil, false
	view.NoAddress = false
	if w.Rules.Run(hook, view) == policy.Drop {
		if view.NoAddress {
			return flow.ReasonMasquerade
		}
		return flow.ReasonRule
	}
	c, x := &s.fresh, &s.extra
	now, _ := c.Tuple(flow.Reply, x).Invert()
	now.L4 = now.L4.WithZone(p.Zone.In(flow.Original))
	r := view.NAT
	if r == nil {
		if !source {
			return flow.NoReason
		}
		r = &nat.Range{Min: now.Src, Max: now.Src, Addrs: true} // nf_nat_alloc_null_binding
	}
	mapped, ok := nat.Choose(now, r, source, s.taken(p), s.alike, w.rand)
	w.exhausted = !ok // of the destination alone it does not matter: the source may yet make a difference
	if source && view.NAT != nil && view.Masquerade() {
		if !c.Extended() {
			*x = flow.Extra{}
			c.SetExtended()
		}
		x.Masqueraded = uint8(view.Out + 1)
	}
	if mapped == now {
		return flow.NoReason
	}
	reply, _ := mapped.Invert()
	reply.L4 = reply.L4.WithZone(p.Zone.In(flow.Reply))
	if !c.Extended() {
		*x = flow.Extra{}
	}
	s.secondKey(reply)
	x.ZoneDirs = p.Zone.Dirs
	if source {
		c.Status |= flow.SrcNAT
	} else {
		c.Status |= flow.DstNAT
	}
	return flow.NoReason
}

// taken says which reply tuples the connection that p begins cannot have.
func (s *Shard) taken(p *packet.Packet) nat.Taken {
	return func(reply *flow.Tuple, hard bool) bool {
		t := *reply
		t.L4 = t.L4.WithZone(p.Zone.In(flow.Reply))
		key, flipped := t.Canonical()
		hash := key.Hash(&s.cfg.Secret)
		if s.cfg.Shards > 1 && Owner(hash, s.cfg.Shards) != s.cfg.Number {
			return true
		}
		if r := s.forward.Routes; r != nil && r.Ports != nil && !r.Ports.Has(t.L4.Proto(), t.L4.Dst()) &&
			r.KindOf(t.Dst, t.L4.Family(), -1) == route.Local {
			return true // the host's own port
		}
		i, found := s.table.Find(&key, flipped, hash, s.time())
		if !found {
			return false
		}
		if hard && s.mayReplace(i, p) {
			s.Remove(i)
			return false
		}
		return true
	}
}

// mayReplace reports whether an entry is about to end anyway and has to make room
// for the SYN p (nf_nat_used_tuple_harder).
func (s *Shard) mayReplace(i uint32, p *packet.Packet) bool {
	c := s.table.Conn(i)
	if p.Proto != flow.TCP || p.TCP.Flags&(packet.SYN|packet.ACK|packet.RST|packet.FIN) != packet.SYN {
		return false
	}
	if c.Status&flow.SrcNAT == 0 || c.Status&flow.FixedTimeout != 0 || flow.TCPState(c.State) < flow.TCPTimeWait {
		return false
	}
	return int32(p.TCP.Seq-c.TCP.Seen[flow.Original].End) > 0
}

// route finds the way of a packet and says why it cannot go there.
func (s *Shard) route(p *packet.Packet, v *Verdict) flow.Reason {
	w := &s.forward
	a, f := w.between, p.Family
	if martian(a.src, a.dst, f) {
		return flow.ReasonMartian
	}
	t := w.Routes
	if t.KindOf(a.src, f, -1) == route.Local {
		return flow.ReasonMartian
	}
	if in := p.In; f == flow.IPv4 && in < len(t.Interfaces) {
		if rp := t.Interfaces[in].ReversePath; rp != 0 && !t.Reverse(a.src, a.dst, f, in, rp == 2) {
			return flow.ReasonReversePath
		}
	}
	hop := t.Lookup(route.Key{Family: f, Src: a.src, Dst: a.dst, In: p.In, Mark: w.view.Mark})
	w.nextHop, w.haveHop = hop, true
	switch hop.Kind {
	case route.Local:
		if nat.Applies(statusOf(w.view.Conn), v.Dir, false) {
			return flow.ReasonLocalRedirect
		}
		v.Action = Host
		return flow.NoReason
	case route.Broadcast, route.Multicast, route.Anycast:
		v.Action = Host
		return flow.NoReason
	case route.Blackhole:
		return flow.ReasonBlackhole
	case route.Prohibit:
		return s.answer(p, v, flow.ReasonProhibited, 3, 13, 1, 1, 0)
	case route.Unreachable:
		return s.answer(p, v, flow.ReasonNoRoute, 3, 1, 1, 3, 0)
	case route.None, route.Throw:
		return s.answer(p, v, flow.ReasonNoRoute, 3, 0, 1, 0, 0)
	}
	if f == flow.IPv6 && (a.dst.Netip(f).IsMulticast() || a.dst.Netip(f).IsLinkLocalUnicast() || a.src.Netip(f).IsLinkLocalUnicast()) {
		return flow.ReasonNotForwarded
	}
	if len(p.Frame) > 0 && p.L3 >= 14 && p.Frame[0]&1 != 0 { // not to this host alone
		return flow.ReasonNotForwarded
	}
	if hop.Out < 0 {
		return flow.ReasonElsewhere
	}
	v.Out = hop.Out
	if p.Hops() <= 1 {
		return s.answer(p, v, flow.ReasonTTLExceeded, 11, 0, 3, 0, 0)
	}
	size := p.Len
	if p.Largest != 0 { // it leaves as it came, in pieces
		size = p.Largest
	}
	if size > uint32(hop.MTU) && p.DontFragment() {
		return s.answer(p, v, flow.ReasonTooBig, 3, 4, 2, 0, uint32(hop.MTU))
	}
	p.SetHops(p.Hops() - 1)
	v.Hop = s.hop(hop, v)
	return flow.NoReason
}

func statusOf(c *flow.Conn) flow.Status {
	if c == nil {
		return 0
	}
	return c.Status
}

// hop remembers the way of a packet's connection, and returns where it is kept.
func (s *Shard) hop(h route.Hop, v *Verdict) *route.Hop {
	w := &s.forward
	if h.Marked && w.view.Mark != 0 {
		return w.unkept(h)
	}
	i, ok := w.hopIndex[h]
	if !ok {
		i = uint16(len(w.hops))
		if cap(w.hops) == 0 {
			w.hops = make([]route.Hop, 0, maxHops) // never moves: verdicts point into it
		}
		if i == maxHops {
			return w.unkept(h)
		}
		w.hops = append(w.hops, h)
		w.hopIndex[h] = i
	}
	if w.at == existing {
		w.paths[w.entry][v.Dir].hop = w.hopBase + i
	}
	return &w.hops[i]
}

// unkept keeps a way until the end of the batch.
func (w *forwarding) unkept(h route.Hop) *route.Hop {
	w.passing[w.slot] = h
	return &w.passing[w.slot]
}

// maxHops is how many different ways a shard remembers.
const maxHops = 8192

// martian reports whether a packet with these addresses is not to be on any link
// (ip_route_input_slow, ip6_rcv_core).
func martian(src, dst flow.Addr, f flow.Family) bool {
	s, d := src.Netip(f), dst.Netip(f)
	if f == flow.IPv6 {
		return s.IsMulticast() || s.IsLoopback() || d.IsLoopback() || s.IsUnspecified()
	}
	a, b := s.As4(), d.As4()
	return s.IsMulticast() || a[0] == 127 || a[0] == 0 || a[0] >= 240 || b[0] == 127 || b[0] == 0 ||
		b[0] >= 240 && b != [4]byte{255, 255, 255, 255}
}

// fit cuts a datagram that is longer than its link takes.
func (s *Shard) fit(p *packet.Packet, v *Verdict) flow.Reason {
	w := &s.forward
	if w.Routes == nil || v.Hop == nil || p.Largest != 0 || p.Len <= uint32(v.Hop.MTU) || p.Family != flow.IPv4 {
		return flow.NoReason
	}
	hop := *v.Hop
	p.Fragments(hop.MTU, func(d []byte) {
		w.own = append(w.own, Own{Datagram: d, Hop: hop, Out: hop.Out})
	})
	v.Action = Replaced
	return flow.NoReason
}

// keepMark writes the mark of the connection back, and what else rules made of it.
func (s *Shard) keepMark() {
	w := &s.forward
	view := &w.view
	if !view.Tracked || w.at != existing || view.Conn == &s.fresh {
		return
	}
	if mark := flow.Mark(view.ConnMark); view.Extra == nil && mark != 0 || view.Extra != nil && view.Extra.Mark != mark {
		if s.table.Conn(w.entry).Status&flow.Confirmed != 0 {
			s.setMark(w.entry, mark)
			s.observe(flow.EventUpdate, w.entry)
		}
	}
	if view.Counted {
		s.table.Extend(w.entry).Counted = true
	}
}

// confirmFresh puts the fresh connection into the table.
func (s *Shard) confirmFresh(p *packet.Packet, v *Verdict) flow.Reason {
	w := &s.forward
	view := &w.view
	c, x := &s.fresh, &s.extra
	policyOf := w.Timeouts[view.Timeout]
	if view.ConnMark != 0 || view.Counted || view.Helper != 0 || policyOf != 0 {
		if !c.Extended() {
			*x = flow.Extra{}
			c.SetExtended()
		}
		x.Mark, x.Counted = flow.Mark(view.ConnMark), view.Counted
		if view.Helper != 0 {
			x.Helper = view.Helper
			c.Status |= flow.Helper
		}
		if policyOf != 0 {
			x.Policy = policyOf
		}
	}
	if w.exhausted {
		v.Conn = false
		return flow.ReasonNATExhausted
	}
	i, reason := s.insert(p.Key.Hash(&s.cfg.Secret), w.zone)
	if reason != flow.NoReason {
		v.Conn = false
		return reason
	}
	w.paths[i] = [2]path{}
	e := s.table.Conn(i)
	if w.Rules.NAT(p.Family) {
		t := e.Tuple(flow.Original, s.table.Extra(i))
		w.sources.add(sourceHash(&t, &s.cfg.Secret), i)
	}
	v.L4State, v.Status, v.Expires = e.State, e.PublicStatus(), e.Expires
	w.at, w.entry = existing, i
	if w.haveHop && v.Hop != nil && !w.nextHop.Marked {
		s.hop(w.nextHop, v)
	}
	return flow.NoReason
}

// specialises reports whether code can be made for packets like the one that was
// just judged: that is, whether it came far enough to know its way out.
func (s *Shard) specialises(v *Verdict) bool {
	return s.forward.view.Out >= 0 && len(s.forward.codes) < maxCodes && v.Reason != flow.ReasonMasquerade &&
		s.table.Conn(s.forward.entry).Status&flow.Confirmed != 0
}

// specialise makes code of the rules for packets like p, which was just judged.
func (s *Shard) specialise(p *packet.Packet, v *Verdict) {
	w := &s.forward
	view := &w.view
	sp := &w.special
	sp.Begin(p.In, view.Out)
	s.seen(w.before, -1)
	tracked := view.Tracked
	view.Tracked, view.State = false, flow.Invalid
	sp.Hook(w.Rules, policy.RawPrerouting, view)
	view.Tracked, view.State = tracked, v.State
	sp.Hook(w.Rules, policy.ManglePrerouting, view)
	s.seen(w.between, sp.Out())
	for _, h := range [...]policy.Hook{policy.MangleForward, policy.FilterForward, policy.SecurityForward, policy.ManglePostrouting} {
		sp.Hook(w.Rules, h, view)
	}
	code, key, ok := sp.End()
	if !ok {
		return
	}
	i, there := w.codeIndex[string(key)]
	if !there {
		i = uint16(len(w.codes))
		w.codes = append(w.codes, code)
		w.codeIndex[string(key)] = i
	}
	w.paths[w.entry][v.Dir].code = i
}

// seen lets the view have other addresses.
func (s *Shard) seen(a addresses, out int) {
	v := &s.forward.view
	v.Src, v.Dst, v.SrcPort, v.DstPort, v.Out = a.src, a.dst, a.sport, a.dport, out
}
