package shard

import (
	"github.com/xdpct/xdpct/flow"
)

// extend gives the connection an Extra, an empty one if it had none.
func (u *unconfirmed) extend() {
	if !u.conn.Extended() {
		u.extra = flow.Extra{}
		u.conn.SetExtended()
	}
}

// secondKey gives the connection a reply tuple that is not the inverse of the original
// one.
func (u *unconfirmed) secondKey(reply flow.Tuple) {
	u.extend()
	key, flipped := reply.Canonical()
	u.extra.Reply, u.extra.ReplyFlip = key, 0
	if flipped {
		u.extra.ReplyFlip = 1
	}
	u.conn.SetTwoKeyed()
}

// confirm puts the connection that the packet begins into the table
// (__nf_conntrack_confirm): only now, since a packet that was dropped before is to
// leave none.
func (s *Shard) confirm(t *transit) flow.Reason {
	if t.ref.at != begun {
		return flow.NoReason
	}
	u, v := &t.un, t.v
	s.takeOver(t)
	if t.noTuple != flow.NoReason {
		v.Conn = false
		return t.noTuple
	}
	i, reason := s.insert(u, t.p.Key.Hash(&s.cfg.Secret))
	if reason != flow.NoReason {
		v.Conn = false
		return reason
	}
	s.forgetPaths(i)
	s.attachHelper(i, t.p)
	c := s.table.Conn(i)
	v.L4State, v.Status, v.Expires = c.State, c.PublicStatus(), c.Expires
	t.ref = connRef{at: inTable, entry: i}
	if t.hasHop && v.Hop != nil && !t.hop.Marked && !t.hop.Varies {
		s.keepHop(t)
	}
	return flow.NoReason
}

// takeOver gives the connection that begins what rules said of it.
func (s *Shard) takeOver(t *transit) {
	view, u := &t.view, &t.un
	timeouts := t.timeout
	if view.ConnMark == 0 && view.Member == 0 && view.Helper == 0 && timeouts == 0 && view.Labels == (flow.Labels{}) && !u.conn.Extended() {
		return
	}
	u.extend()
	u.extra.Mark, u.extra.Counted, u.extra.Labels = flow.Mark(view.ConnMark), view.Member, view.Labels
	if view.Helper != 0 && u.conn.Status&flow.Expected == 0 { // what was expected has the helper that its master says
		u.extra.Helper = view.Helper
		u.conn.Status |= flow.Helper
	}
	if timeouts != 0 {
		u.extra.Policy = timeouts
	}
}

// writeBack writes back what rules made of a connection that is in the table: its
// mark, its labels, and that they count it.
func (s *Shard) writeBack(t *transit) {
	if t.ref.at != inTable || !t.view.Tracked {
		return
	}
	i, mark := t.ref.entry, flow.Mark(t.view.ConnMark)
	x := s.table.Extra(i)
	if x == nil && mark != 0 || x != nil && x.Mark != mark {
		s.setMark(i, mark)
		s.observe(flow.EventUpdate, i)
	}
	if x = s.table.Extra(i); x == nil && t.view.Labels != (flow.Labels{}) || x != nil && x.Labels != t.view.Labels {
		s.table.Extend(i).Labels = t.view.Labels
		s.observe(flow.EventUpdate, i)
	}
	s.keepMembers(t)
}

// keepMembers writes down which rules count a connection that is in the table.
func (s *Shard) keepMembers(t *transit) {
	if i := t.ref.entry; t.view.Member != s.counted(i) {
		s.table.Extend(i).Counted = t.view.Member
	}
}

// counted returns the list of the rules that count the connection of entry i.
func (s *Shard) counted(i uint32) uint32 {
	if x := s.table.Extra(i); x != nil {
		return x.Counted
	}
	return 0
}

// uncount tells rules that count connections that entry i is none any more.
func (s *Shard) uncount(i uint32) {
	if list := s.counted(i); list != 0 {
		s.table.Extra(i).Counted = 0
		s.forward.members.Release(list)
	}
}
