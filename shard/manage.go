package shard

import (
	"errors"
	"fmt"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/table"
)

// Walk visits at most n connections from the cursor on, 0 at first, and returns
// the cursor for the next call, 0 at the end. visit returns whether to remove
// the connection. Connections that stay from the first call to the last are
// visited exactly once.
func (s *Shard) Walk(cursor uint32, n int, visit func(entry uint32, c *flow.Conn) (remove bool)) uint32 {
	return s.table.Walk(cursor, n, s.time(), visit)
}

// Conn returns an entry, to be read only. Valid until the next call of a method that
// is not about entries.
func (s *Shard) Conn(entry uint32) *flow.Conn { return s.table.Conn(entry) }

// Record takes a snapshot of an entry.
func (s *Shard) Record(entry uint32) flow.Record {
	r := s.table.Conn(entry).Record(s.time(), s.table.Extra(entry))
	r.ID = uint32(r.Orig.Hash(&s.cfg.Secret) >> 24)
	return r
}

// Find returns the entry of the live connection with the tuple t, in the zone that
// t names, in either direction.
func (s *Shard) Find(t flow.Tuple) (entry uint32, ok bool) {
	key, flipped := t.Canonical()
	return s.table.Find(&key, flipped, key.Hash(&s.cfg.Secret), s.time())
}

// Remove removes an entry.
func (s *Shard) Remove(entry uint32) { s.table.Remove(entry, table.Deleted) }

// settable are the status bits that an operator may set.
const settable = flow.SeenReply | flow.Assured | flow.FixedTimeout

// Update changes an entry (ctnetlink_change_conntrack). SEEN_REPLY and ASSURED can
// be set, but not taken back: that is flow.ErrBusy, and nothing is changed.
func (s *Shard) Update(entry uint32, ch flow.Change) error {
	c := s.table.Conn(entry)
	before := c.Status
	if ch.Status != nil {
		if lost := before &^ *ch.Status & (flow.SeenReply | flow.Assured); lost != 0 {
			return fmt.Errorf("%w: %v", flow.ErrBusy, lost)
		}
		c.Status = before&^flow.FixedTimeout | *ch.Status&settable
	}
	if ch.State != nil {
		c.State = *ch.State
	}
	if ch.Timeout != nil {
		s.table.Refresh(entry, s.in(*ch.Timeout), s.time())
	}
	if ch.Mark != nil && (*ch.Mark != 0 || c.Extended()) {
		s.setMark(entry, *ch.Mark)
	}
	if ch.Labels != nil && (*ch.Labels != flow.Labels{} || c.Extended()) {
		s.table.Extend(entry).Labels = *ch.Labels
	}
	if ch.Helper != nil && (*ch.Helper != 0 || c.Extended()) {
		s.table.Extend(entry).Helper = *ch.Helper
	}
	s.changed(entry, c, before)
	return nil
}

// Zero sets the counters of an entry to zero.
func (s *Shard) Zero(entry uint32) { s.table.Conn(entry).ZeroCounters() }

// setMark marks a connection and tells those that it will have children by.
func (s *Shard) setMark(entry uint32, mark flow.Mark) {
	x := s.table.Extend(entry)
	x.Mark = mark
	if x.Expects {
		t := s.table.Conn(entry).Tuple(flow.Original, x)
		s.cfg.Expect.SetMark(&t, mark)
	}
}

// Create makes a connection that no packet began, as r says
// (ctnetlink_create_conntrack); r.Timeout and r.Zone count, the zones in the
// tuples do not.
func (s *Shard) Create(r flow.Record) error {
	r.Orig.L4 = r.Orig.L4.WithZone(r.Zone.In(flow.Original))
	r.Reply.L4 = r.Reply.L4.WithZone(r.Zone.In(flow.Reply))
	if _, ok := s.Find(r.Orig); ok {
		return flow.ErrExists
	}
	inverse, ok := r.Orig.Invert()
	if !ok || r.Orig.L4.Family() != r.Reply.L4.Family() || r.Orig.L4.Proto() != r.Reply.L4.Proto() {
		return flow.ErrInvalid
	}
	key, flipped := r.Orig.Canonical()
	var u unconfirmed
	c, x := &u.conn, &u.extra
	*c = flow.Conn{Key: key, Status: r.Status & (settable | flow.Expected), State: r.State, Expires: s.in(r.Timeout)}
	c.SetFlip(flipped)
	if r.Orig.L4.Proto() == flow.SCTP {
		c.SetSCTP(flow.SCTPTrack{VTag: r.VTag})
	}
	*x = flow.Extra{Mark: r.Mark, Labels: r.Labels, Helper: r.Helper, Master: r.Master}
	if s.cfg.Timestamp {
		x.Start = s.wall()
	}
	u.zone = s.cfg.Zones[r.Zone.Zone]
	x.Policy = u.zone.Policy
	if *x != (flow.Extra{}) {
		c.SetExtended()
	}
	if inverse != r.Reply {
		u.secondKey(r.Reply)
		if r.Zone.Directional() {
			x.ZoneDirs = r.Zone.Dirs
		}
	}
	switch _, reason := s.insert(&u, key.Hash(&s.cfg.Secret)); reason {
	case flow.NoReason:
		return nil
	case flow.ReasonClash:
		return flow.ErrExists
	default:
		return errors.New(reason.Text())
	}
}

// Expect adds an expectation whose master is a connection of this shard. Its
// zone, master and helper are filled in.
func (s *Shard) Expect(master flow.Tuple, e expect.Expectation) error {
	i, ok := s.Find(master)
	if !ok || s.cfg.Expect == nil {
		return flow.ErrNotFound
	}
	r := s.Record(i)
	e.Master, e.Helper = r.Orig, r.Helper
	e.Tuple.L4 = e.Tuple.L4.WithZone(r.Zone.In(flow.Original))
	if err := s.cfg.Expect.Insert(e, r.Mark, s.now); err != nil {
		return err
	}
	s.table.Extend(i).Expects = true
	return nil
}

// Now returns the shard's clock in milliseconds.
func (s *Shard) Now() int64 { return s.now }
