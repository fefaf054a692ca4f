package shard

import (
	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
)

// The children of connections with a helper: those that were expected.

// adopt makes the connection in u, which begins with p, the child of the one that expects it,
// if any does (init_conntrack).
func (s *Shard) adopt(p *packet.Packet, u *unconfirmed) {
	t := p.Tuple()
	m, ok := s.cfg.Expect.Match(&t, s.now)
	if !ok {
		return
	}
	u.extend()
	u.extra.Master, u.extra.Mark, u.extra.MasterHelper = m.Master, m.Mark, m.Helper
	u.extra.Helper = m.Child
	u.conn.Status |= flow.Expected
	u.follow = m.Follow
	if m.Paired {
		s.cfg.Expect.Withdraw(&m.Master, func(x *expect.Expectation) bool { return x.Paired })
	}
}

// childElsewhere returns the shard that is to have the connection which a packet begins, if
// it was expected and that is another.
//
// Packets in the original direction come to whoever has claimed their tuple, since it has an
// address that translation maps to. Those of the other direction may have none, if what was
// translated is the destination alone: the client behind a masquerading router gets its FTP
// data at its own address. Then the home of that tuple is the one place where the connection
// can be.
func (s *Shard) childElsewhere(p *packet.Packet) (owner int, ok bool) {
	d := s.tuples.dir
	if d == nil || s.cfg.Expect == nil || s.cfg.Expect.Len() == 0 || !d.Concerns(&p.Key) {
		return 0, false
	}
	t := p.Tuple()
	follow, ok := s.cfg.Expect.Find(&t, s.now)
	if !ok || !follow.On {
		return 0, false
	}
	reply, ok := follow.Mapped(t).Invert()
	if !ok {
		return 0, false
	}
	reply.L4 = reply.L4.WithZone(p.Zone.In(flow.Reply))
	key, _ := reply.Canonical()
	if d.Concerns(&key) {
		return 0, false
	}
	owner = Home(key.Hash(&s.cfg.Secret), s.cfg.Shards)
	return owner, owner != s.cfg.Number
}

// followMaster returns what an end of the connection that begins is mapped to because its
// master is translated, nil for nothing (nf_nat_follow_master). Table nat is not asked.
func (t *transit) followMaster(m manip, now *flow.Tuple) *nat.Range {
	f := &t.un.follow
	switch {
	case m == manipDst:
		t.null = nat.Range{Min: f.Dst, Max: f.Dst, Addrs: true, MinPort: f.Port, MaxPort: f.Port, Ports: true}
	case f.Takes(now.Src):
		t.null = nat.Range{Min: f.Src, Max: f.Src, Addrs: true, MinPort: f.SrcPort, MaxPort: f.SrcPort, Ports: f.SrcPort != 0}
	default:
		return nil
	}
	return &t.null
}

// master returns the original tuple of the connection that u was expected by, the zero Tuple if
// it was not.
func (u *unconfirmed) master() *flow.Tuple {
	if u.conn.Status&flow.Expected == 0 { // the Extra may be that of an earlier connection
		return &noMaster
	}
	return &u.extra.Master
}

var noMaster flow.Tuple

// reserved reports whether a reply tuple is one that a connection is expected with, by
// another than the master of the one that is to have it: no other is to be mapped to it.
func (s *Shard) reserved(reply, master *flow.Tuple) bool {
	return s.cfg.Expect != nil && s.cfg.Expect.Len() > 0 && s.cfg.Expect.Reserved(reply, master, s.now)
}
