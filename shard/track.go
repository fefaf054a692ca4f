package shard

import (
	"errors"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/table"
)

func (s *Shard) time() flow.Millis { return flow.Millis(s.now) }

// find looks for the connection that p names, and says in which direction of it
// p runs (nf_conntrack_find_get). i and hit are what the packet's first key found.
func (s *Shard) find(p *packet.Packet, i uint32, hit bool) (uint32, flow.Direction, bool) {
	if hit {
		d := s.table.Direction(i, &p.Key, p.Flipped)
		if p.Zone.In(d) == p.Key.L4.Zone() {
			return i, d, true
		}
	}
	if !p.Zone.Directional() {
		return 0, 0, false
	}
	key := p.Key
	key.L4 = key.L4.WithZone(p.Zone.In(flow.Reply))
	if i, hit = s.table.Find(&key, p.Flipped, key.Hash(&s.cfg.Secret), s.time()); !hit {
		return 0, 0, false
	}
	d := s.table.Direction(i, &key, p.Flipped)
	return i, d, d == flow.Reply
}

// related judges an ICMP error (nf_conntrack_inet_error): it neither counts nor
// refreshes.
func (s *Shard) related(p *packet.Packet, v *Verdict) connRef {
	i, ok := s.table.Find(&p.Key, p.Flipped, p.Hash, s.time())
	i, d, ok := s.find(p, i, ok)
	if !ok {
		v.invalid(flow.ReasonICMPErrorUnknown)
		return connRef{}
	}
	if p.Misdirected {
		v.invalid(flow.ReasonICMPErrorAddress)
		return connRef{}
	}
	v.State, v.Dir = flow.Related, d
	v.accept(s.table.Conn(i), flow.NoReason)
	return connRef{inTable, i}
}

// track judges a packet that names a connection (resolve_normal_ct and
// nf_conntrack_handle_packet), and returns its connection. i and hit are what the
// packet's key found in the table. It writes all of v.
//
// A connection that the packet begins or ends is left in u, for the rules to see; if
// u is nil there are none, and it goes into the table at once.
func (s *Shard) track(p *packet.Packet, v *Verdict, u *unconfirmed, i uint32, hit bool) connRef {
	var d flow.Direction
	if hit && p.Zone.Dirs == 0 {
		d = s.table.Direction(i, &p.Key, p.Flipped)
	} else if i, d, hit = s.find(p, i, hit); !hit {
		return s.begin(p, v, u)
	}
	c := s.table.Conn(i)
	v.State, v.Dir = classify(c, d), d
	status, l4state := c.PublicStatus(), c.State

	trackers, seen := &s.cfg.L4, p
	if c.Extended() {
		x := s.table.Extra(i)
		trackers = s.policy(x.Policy)
		if c.Status&flow.SeqAdjust != 0 {
			seen = s.asSent(i, p, d)
		}
	}
	r := trackers.Packet(c, seen, d, s.time())
	switch r.Outcome {
	case l4.Invalid:
		if c.PublicStatus() != status || c.State != l4state { // by the SCTP chunks before the bad one
			s.changed(i, c, status)
		}
		v.invalid(r.Reason)
		return connRef{}
	case l4.Shorten:
		s.table.Refresh(i, s.in(r.Timeout), s.time())
		v.invalid(r.Reason)
		return connRef{}
	case l4.Reopen:
		s.table.Remove(i, table.Closed)
		return s.begin(p, v, u)
	}
	c.Status |= flow.SeenReply * flow.Status(d) // no branch: it would be mispredicted half of the time
	switch r.Outcome {
	case l4.Accept:
		if c.Status&flow.FixedTimeout == 0 {
			s.table.Refresh(i, s.expiry(c, r.Timeout), s.time())
		}
		s.table.Count(i, d, p.Len)
	case l4.Close:
		s.table.Count(i, d, p.Len)
		v.accept(c, r.Reason)
		v.Expires = s.time()
		return s.end(i, u, table.Closed) // rules see the timeout that it had (nf_ct_kill)
	}
	if c.PublicStatus() != status || c.State != l4state {
		s.changed(i, c, status)
	}
	v.accept(c, r.Reason)
	return connRef{inTable, i}
}

// end removes entry i because of a packet that is still on its way: what that may need
// of the connection is kept in u.
func (s *Shard) end(i uint32, u *unconfirmed, why table.Cause) connRef {
	if u != nil {
		u.conn, u.extra = *s.table.Conn(i), flow.Extra{}
		if x := s.table.Extra(i); x != nil {
			u.extra = *x
			u.extra.Counted = 0 // released with the entry
		}
	}
	s.table.Remove(i, why)
	return connRef{at: ended}
}

// trackers returns the trackers with the timeouts of entry i.
func (s *Shard) trackers(i uint32, c *flow.Conn) *l4.Config {
	if c.Extended() {
		return s.policy(s.table.Extra(i).Policy)
	}
	return &s.cfg.L4
}

func (s *Shard) policy(n uint16) *l4.Config {
	if n > 0 && int(n) <= len(s.cfg.Policies) {
		return &s.cfg.Policies[n-1]
	}
	return &s.cfg.L4
}

// changed follows a change of status or state of entry i, whose status was
// before.
func (s *Shard) changed(i uint32, c *flow.Conn, before flow.Status) {
	if (c.Status^before)&flow.SeenReply != 0 && s.forward.Forwarding != nil {
		s.forgetPaths(i) // what was NEW is ESTABLISHED from now on
	}
	if (c.Status^before)&flow.Assured != 0 {
		s.table.Protect(i)
	}
	if st := flow.TCPState(c.State); c.Extended() && c.Key.L4.Proto() == flow.TCP && (st == flow.TCPTimeWait || st == flow.TCPClose) {
		s.uncount(i) // nf_conncount: already_closed
	}
	s.observe(flow.EventUpdate, i)
}

// classify is the end of resolve_normal_ct: what a packet in direction d of c
// is called, by what was known before it.
func classify(c *flow.Conn, d flow.Direction) flow.State {
	switch {
	case c.Status&flow.SeenReply != 0 || d == flow.Reply:
		return flow.Established
	case c.Status&flow.Expected != 0:
		return flow.Related
	}
	return flow.New
}

// begin judges the first packet of a connection, which is left in u for confirm, or,
// if u is nil, is put into the table.
func (s *Shard) begin(p *packet.Packet, v *Verdict, u *unconfirmed) connRef {
	if u == nil {
		return s.beginAtOnce(p, v)
	}
	if owner, ok := s.childElsewhere(p); ok {
		v.invalid(flow.NoReason)
		return connRef{away, uint32(owner)}
	}
	if !s.initConn(p, v, u) {
		return connRef{}
	}
	return connRef{at: begun}
}

// beginAtOnce begins a connection and puts it into the table.
func (s *Shard) beginAtOnce(p *packet.Packet, v *Verdict) connRef {
	var u unconfirmed
	if !s.initConn(p, v, &u) {
		return connRef{}
	}
	s.assigned(p, &u)
	i, reason := s.insert(&u, p.Hash)
	if reason != flow.NoReason {
		*v = Verdict{Action: Drop, State: flow.Invalid, Reason: reason}
		return connRef{}
	}
	s.attachHelper(i, p)
	c := s.table.Conn(i)
	v.accept(c, v.Reason)
	return connRef{inTable, i}
}

// initConn makes in u the connection that a packet begins (init_conntrack). ok is false
// if its tracker does not accept the packet: then it is INVALID, costs no other
// connection its place, and uses no expectation up.
func (s *Shard) initConn(p *packet.Packet, v *Verdict, u *unconfirmed) (ok bool) {
	c, trackers := &u.conn, &s.cfg.L4
	*c, u.zone, u.follow = flow.Conn{Key: p.Key}, Zone{}, expect.Follow{}
	c.SetFlip(p.Flipped)
	if len(s.cfg.Zones) > 0 {
		u.zone = s.cfg.Zones[p.Zone.Zone]
		trackers = s.policy(u.zone.Policy)
	}
	r := trackers.New(c, p, s.time())
	if r.Outcome != l4.Accept {
		v.invalid(r.Reason)
		return false
	}
	c.Expires = s.expiry(c, r.Timeout)
	c.Count(flow.Original, p.Len)
	s.initExtra(p, u)
	v.State, v.Dir = classify(c, flow.Original), flow.Original
	v.accept(c, r.Reason)
	return true
}

// initExtra gives the connection in u, which begins with p, what only some have.
func (s *Shard) initExtra(p *packet.Packet, u *unconfirmed) {
	expected := s.cfg.Expect != nil && s.cfg.Expect.Len() > 0
	if u.zone.Policy == 0 && !s.cfg.Timestamp && !expected && !p.Zone.Directional() {
		return
	}
	if u.zone.Policy != 0 || s.cfg.Timestamp {
		u.extend()
		u.extra.Policy = u.zone.Policy
	}
	if s.cfg.Timestamp {
		u.extra.Start = s.wall()
	}
	if expected {
		s.adopt(p, u)
	}
	if p.Zone.Directional() {
		t, _ := p.Tuple().Invert()
		t.L4 = t.L4.WithZone(p.Zone.In(flow.Reply))
		u.secondKey(t)
		u.extra.ZoneDirs = p.Zone.Dirs
	}
}

// insert gives the connection in u a place, or says why there is none. hash is that of
// its key.
func (s *Shard) insert(u *unconfirmed, hash uint64) (i uint32, reason flow.Reason) {
	if u.zone.Limit != nil && !u.zone.Limit.Take() {
		return 0, flow.ReasonZoneFull
	}
	if reason = s.claimAll(&u.conn, &u.extra); reason == flow.NoReason {
		i, reason = s.insertClaimed(u, hash)
	}
	if reason != flow.NoReason && u.zone.Limit != nil {
		u.zone.Limit.Give()
	}
	return i, reason
}

// insertClaimed puts the connection in u, whose tuples are claimed, into the table.
func (s *Shard) insertClaimed(u *unconfirmed, hash uint64) (i uint32, reason flow.Reason) {
	i, err := s.table.Insert(&u.conn, &u.extra, hash, s.time())
	if err == nil {
		if u.conn.Status&flow.SrcNAT != 0 {
			s.mapped(&u.conn, &u.extra)
		}
		s.observe(flow.EventNew, i)
		return i, flow.NoReason
	}
	s.unclaim(&u.conn, &u.extra)
	switch {
	case errors.Is(err, table.ErrProbes):
		return 0, flow.ReasonProbeLimit
	case errors.Is(err, table.ErrClash):
		return 0, flow.ReasonClash
	}
	return 0, flow.ReasonTableFull
}

// wall is the time in nanoseconds since 1970.
func (s *Shard) wall() int64 { return s.cfg.Epoch + s.now*1e6 }

func (s *Shard) in(seconds uint32) flow.Millis {
	return s.time() + flow.Millis(min(seconds, flow.MaxTimeout))*1000
}

// expiry returns when a connection with the given timeout ends. As the table
// fills, connections that are not ASSURED get less.
func (s *Shard) expiry(c *flow.Conn, seconds uint32) flow.Millis {
	start, end := s.cfg.AdaptiveStart, s.cfg.AdaptiveEnd
	if n := s.table.Len(); start > 0 && n > start && c.Status&flow.Assured == 0 {
		if n >= end {
			return s.time()
		}
		return s.time() + flow.Millis(uint64(min(seconds, flow.MaxTimeout))*1000*uint64(end-n)/uint64(end-start))
	}
	return s.in(seconds)
}

func (s *Shard) observe(k flow.EventKind, i uint32) {
	if s.cfg.Observe != nil {
		s.cfg.Observe(k, i)
	}
}

// removed is told by the table of an entry that goes.
func (s *Shard) removed(i uint32, c *flow.Conn, _ table.Cause) {
	s.observe(flow.EventDestroy, i)
	if len(s.cfg.Zones) > 0 {
		if z := s.cfg.Zones[s.zoneOf(i, c)]; z.Limit != nil {
			z.Limit.Give()
		}
	}
	s.gone(c, s.table.Extra(i))
	s.uncount(i)
	if c.Extended() {
		s.unhelp(i)
	}
	if c.Extended() && s.table.Extra(i).Expects {
		t := c.Tuple(flow.Original, s.table.Extra(i))
		s.cfg.Expect.RemoveMaster(&t)
	}
}

// zoneOf returns the zone of entry i, whatever the directions that it counts for.
func (s *Shard) zoneOf(i uint32, c *flow.Conn) flow.Zone {
	if z := c.Key.L4.Zone(); z != 0 || !c.TwoKeyed() {
		return z
	}
	return s.table.Extra(i).Reply.L4.Zone()
}
