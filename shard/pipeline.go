package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
)

// traverse takes a packet through the hooks and what lies between them, in the order
// in which Linux does (ip_rcv, ip_forward, ip_output). Each step says why the packet
// goes no further; flow.NoReason lets it go on.
func (s *Shard) traverse(t *transit) flow.Reason {
	if r := s.rcvCore(t); r != flow.NoReason {
		return r
	}
	if r := s.rawPrerouting(t); r != flow.NoReason || t.v.Action == HandOver {
		return r
	}
	return s.traverseTracked(t)
}

// traverseTracked is traverse from conntrack on.
func (s *Shard) traverseTracked(t *transit) flow.Reason {
	if r := s.conntrackIn(t); r != flow.NoReason || t.v.Action == HandOver {
		return r
	}
	if r := s.manglePrerouting(t); r != flow.NoReason {
		return r
	}
	if r := s.natPrerouting(t); r != flow.NoReason {
		return r
	}
	if r := s.routeInput(t); r != flow.NoReason || t.v.Action == Host {
		return r
	}
	if r := s.ipForward(t); r != flow.NoReason {
		return r
	}
	if r := s.filterForward(t); r != flow.NoReason {
		return r
	}
	if r := s.ipForwardFinish(t); r != flow.NoReason {
		return r
	}
	if r := s.manglePostrouting(t); r != flow.NoReason {
		return r
	}
	if r := s.natPostrouting(t); r != flow.NoReason {
		return r
	}
	began := t.ref.at == begun
	if r := s.confirm(t); r != flow.NoReason {
		return r
	}
	if r := s.nfHelp(t, began); r != flow.NoReason || t.v.Action == Replaced {
		return r
	}
	return s.fragment(t)
}

// traverseOutput takes a datagram of our own, which answers the packet of t, through
// the hooks that a host's own packets pass (ip_local_out, ip_output).
func (s *Shard) traverseOutput(o, t *transit) flow.Reason {
	s.conntrackOut(o, t)
	if r := s.natOutput(o); r != flow.NoReason {
		return r
	}
	o.view.In, o.view.Out = -1, o.hop.Out
	if r := s.manglePostrouting(o); r != flow.NoReason {
		return r
	}
	return s.natPostroutingOwn(o)
}

// pass judges packet n of the batch, lets it through the rules and says where it
// leaves. It writes all of v.
func (s *Shard) pass(p *packet.Packet, n int, v *Verdict) {
	f := &s.forward
	t := &f.forwarded
	own := f.Routes == nil || f.links[p.In].own(p)
	if !own && !p.ToGroup() {
		*v = Verdict{State: flow.Invalid}
		v.refuse(flow.ReasonOtherHost)
		return
	}
	if i, hit, ahead := s.lookAhead(p, n); ahead {
		ref := s.track(p, v, &t.un, i, hit)
		if ref.at == inTable && own && s.shortcut(p, v, ref.entry) {
			return
		}
		t.reset(s, p, n, v)
		t.ref, t.tracked = ref, true
	} else {
		if p.Family == 0 || p.Kind == packet.Malformed || p.Kind == packet.Fragmented {
			s.passOther(p, v)
			return
		}
		*v = Verdict{State: flow.Invalid}
		t.reset(s, p, n, v)
	}
	s.finish(t, s.traverse(t))
}

// passOther judges a frame that no hook sees, since it carries no whole IP packet.
// What is not IP at all passes a bridge as it is, as it passes a Linux bridge without
// arptables; to a router it is of no use.
func (s *Shard) passOther(p *packet.Packet, v *Verdict) {
	s.judge(p, v)
	v.Out, v.Hop = p.In^1, nil
	switch {
	case v.Action != Accept:
	case p.Kind == packet.Fragmented: // it came without its datagram, so rules cannot be asked
		v.refuse(flow.ReasonFragment)
	case p.Reason == flow.ReasonVLANTooDeep: // hosts strip any number of priority tags, and find IP inside
		v.refuse(flow.ReasonVLANTooDeep)
	case s.forward.Routes != nil:
		v.refuse(flow.ReasonNotIP)
	}
}

// finish does what is left once it is known what becomes of a packet.
func (s *Shard) finish(t *transit, reason flow.Reason) {
	s.writeBack(t)
	s.forgo()
	if reason != flow.NoReason {
		t.v.refuse(reason)
	}
	if t.ref.at != inTable { // rules that count its connection do so no longer: there is none
		s.forward.members.Release(t.view.Member)
	}
	if s.specialises(t) {
		s.specialise(t)
	}
}

// refuse makes an accepted packet one that is dropped. What conntrack said of it is kept
// beside the reason.
func (v *Verdict) refuse(r flow.Reason) {
	v.Conntrack = flow.NoReason
	if v.Reason != r {
		v.Conntrack = v.Reason
	}
	v.Action, v.Reason, v.Hop = Drop, r, nil
}

// ask asks the rules at a hook (nf_hook).
func (s *Shard) ask(t *transit, h policy.Hook) flow.Reason {
	var verdict policy.Verdict
	if t.code != nil {
		verdict = t.code.Run(h, &t.view)
	} else {
		verdict = s.forward.Rules.Run(h, &t.view)
	}
	if verdict == policy.Drop {
		return flow.ReasonRule
	}
	return flow.NoReason
}

// rawPrerouting asks table raw, before conntrack, what conntrack is to do. Its rules
// see no connection, even that of a packet which a shortcut has tracked already.
func (s *Shard) rawPrerouting(t *transit) flow.Reason {
	if !s.forward.rawBusy[t.p.Family.Index()] {
		return flow.NoReason
	}
	if s.forward.Rules.Run(policy.RawPrerouting, &t.view) == policy.Drop {
		return flow.ReasonRule
	}
	if t.tracked {
		return flow.NoReason
	}
	t.noTrack, t.timeout = t.view.NoTrack, s.forward.Timeouts[t.view.Timeout]
	if z := t.view.Zone; z != nil && *z != (flow.ZoneID{}) && t.p.Kind != packet.Untracked {
		t.p.SetZone(*z)
		s.Hash(t.p)
		if owner, ok := s.elsewhere(t.p); ok && !t.noTrack {
			s.handOver(t, owner)
		}
	}
	return flow.NoReason
}

// conntrackIn is nf_conntrack_in: it finds the connection of the packet, or begins one.
func (s *Shard) conntrackIn(t *transit) flow.Reason {
	switch {
	case t.tracked:
	case t.noTrack:
		*t.v = Verdict{Action: Accept, State: flow.Untracked}
	case t.p.Kind == packet.Data:
		i, hit := s.table.Find(&t.p.Key, t.p.Flipped, t.p.Hash, s.time())
		t.ref = s.track(t.p, t.v, &t.un, i, hit)
	default:
		t.ref = s.judge(t.p, t.v)
	}
	t.tracked = true
	if t.ref.at == away {
		s.handOver(t, int(t.ref.entry))
		t.ref = connRef{}
		return flow.NoReason
	}
	if t.v.Action != Accept {
		return t.v.Reason
	}
	t.attach()
	if t.ref.at == inTable && t.p.Kind == packet.Data && !t.view.Traced() {
		pa, _ := s.path(s.table.Conn(t.ref.entry), t.ref.entry, t.v.Dir)
		t.code = s.code(pa, t.p.In)
	}
	return flow.NoReason
}

// conntrackOut gives a datagram of our own the connection of the packet of t, which it
// answers (nf_ct_attach). If that packet has none the datagram may still belong to one.
func (s *Shard) conntrackOut(o, t *transit) {
	if t.view.Tracked {
		o.ref, o.un = t.ref, t.un
		o.v.State, o.v.Dir = flow.Related, t.v.Dir.Other()
		o.attach()
		o.view.ConnMark, o.view.Labels = t.view.ConnMark, t.view.Labels
		return
	}
	s.Hash(o.p)
	if o.p.Kind == packet.Data {
		i, hit := s.table.Find(&o.p.Key, o.p.Flipped, o.p.Hash, s.time())
		o.ref = s.track(o.p, o.v, &o.un, i, hit)
	} else {
		o.ref = s.judge(o.p, o.v)
	}
	if o.ref.at == begun || o.ref.at == away { // an answer begins no connection
		o.ref = connRef{}
	}
	o.attach()
}

// manglePrerouting asks table mangle about a packet that came.
func (s *Shard) manglePrerouting(t *transit) flow.Reason { return s.ask(t, policy.ManglePrerouting) }

// manglePostrouting asks table mangle about a packet that leaves.
func (s *Shard) manglePostrouting(t *transit) flow.Reason { return s.ask(t, policy.ManglePostrouting) }

// filterForward asks the tables that have a chain FORWARD, and answers what REJECT
// rejects.
func (s *Shard) filterForward(t *transit) flow.Reason {
	for _, h := range [...]policy.Hook{policy.MangleForward, policy.FilterForward, policy.SecurityForward} {
		if r := s.ask(t, h); r != flow.NoReason {
			return s.reject(t, r)
		}
	}
	return flow.NoReason
}
