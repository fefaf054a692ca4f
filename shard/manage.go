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
	r.ID = s.id(entry, &r.Orig)
	return r
}

// id returns what the connection in an entry is called by. As nf_ct_get_id it is a keyed
// hash of the tuple and of where the connection is; unlike there, a later connection of
// the same tuple in the same place has another, until the place has been used 128 times.
func (s *Shard) id(entry uint32, orig *flow.Tuple) uint32 {
	k := s.cfg.Secret
	k[len(k)-1] ^= uint64(entry)<<8 | uint64(s.table.Conn(entry).Generation())
	return uint32(orig.Hash(&k) >> 24)
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
func (s *Shard) Zero(entry uint32) { s.table.Conn(entry).ZeroCounters(s.table.Extra(entry)) }

// setMark marks a connection and tells those that it will have children by.
func (s *Shard) setMark(entry uint32, mark flow.Mark) {
	x := s.table.Extend(entry)
	x.Mark = mark
	if x.Expects {
		t := s.table.Conn(entry).Tuple(flow.Original, x)
		s.cfg.Expect.SetMark(&t, mark)
	}
}

// errOtherShard says that the packets of the reply direction would come to another shard.
var errOtherShard = errors.New("no rule translates to its address, and packets for that come to another shard")

// Create makes a connection that no packet began, as r says
// (ctnetlink_create_conntrack); r.Timeout and r.Zone count, the zones in the
// tuples do not. It is translated where r.Status has SRC_NAT or DST_NAT, and the
// reply tuple differs at that end (nf_nat_setup_info); both tuples are its own from
// then on. If another connection has one of them the error is flow.ErrExists.
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
	mappings := translated(&r, &inverse)
	if mappings != 0 && !s.cfg.Translates {
		return flow.ErrNoNAT
	}
	key, flipped := r.Orig.Canonical()
	var u unconfirmed
	c, x := &u.conn, &u.extra
	*c = flow.Conn{Key: key, Status: r.Status&(settable|flow.Expected) | mappings, State: r.State, Expires: s.in(r.Timeout)}
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
		if !s.reaches(&r.Reply) {
			return errOtherShard
		}
		u.secondKey(r.Reply)
		if r.Zone.Directional() {
			x.ZoneDirs = r.Zone.Dirs
		}
	}
	hash := key.Hash(&s.cfg.Secret)
	switch i, reason := s.insert(&u, hash); reason {
	case flow.NoReason:
		if s.forward.paths != nil { // what is remembered of an earlier connection in this place
			s.forgetPaths(i)
		}
		return nil
	case flow.ReasonClash:
		return flow.ErrExists
	default:
		return errors.New(reason.Text())
	}
}

// translated returns the bits of SRC_NAT and DST_NAT that r asks for and its tuples bear
// out; inverse is that of its original tuple.
func translated(r *flow.Record, inverse *flow.Tuple) (bits flow.Status) {
	if r.Reply.Dst != inverse.Dst || r.Reply.L4.Dst() != inverse.L4.Dst() || isQuery(r.Reply.L4) && r.Reply.L4.Src() != inverse.L4.Src() {
		bits |= flow.SrcNAT
	}
	if r.Reply.Src != inverse.Src || !isQuery(r.Reply.L4) && r.Reply.L4.Src() != inverse.L4.Src() {
		bits |= flow.DstNAT
	}
	return bits & r.Status
}

// isQuery reports whether a tuple is of ICMP or ICMPv6, whose identifier, which stands
// in place of the source port, is mapped with the source.
func isQuery(l flow.L4) bool { return l.Proto() == flow.ICMP || l.Proto() == flow.ICMPv6 }

// reaches reports whether packets with a reply tuple come to this shard once it is that of
// one of its connections: because its hash says so, or because it can be claimed.
func (s *Shard) reaches(reply *flow.Tuple) bool {
	key, _ := reply.Canonical()
	return s.cfg.Shards <= 1 || Home(key.Hash(&s.cfg.Secret), s.cfg.Shards) == s.cfg.Number ||
		s.tuples.dir != nil && s.tuples.dir.Concerns(&key)
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
	if err := s.cfg.Expect.Insert(r.Mark, s.now, e); err != nil {
		return err
	}
	s.table.Extend(i).Expects = true
	return nil
}

// Now returns the shard's clock in milliseconds.
func (s *Shard) Now() int64 { return s.now }
