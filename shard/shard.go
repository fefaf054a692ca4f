package shard

import (
	"errors"
	"fmt"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/table"
)

// Config is what a Shard is made of.
type Config struct {
	L4     l4.Config
	Checks packet.Checks
	// MaxConns is the most connections that this shard holds, 1..table.MaxConns.
	MaxConns int
	// Secret keys the hash of every shard of one tracker.
	Secret flow.Secret
	// AdaptiveStart and AdaptiveEnd shrink the timeouts of connections that are
	// not ASSURED, linearly from full at AdaptiveStart connections to nothing at
	// AdaptiveEnd (pf.conf: adaptive.start, adaptive.end). 0 turns it off.
	AdaptiveStart, AdaptiveEnd int
	// Observe, if not nil, is told of every new, changed and removed connection.
	// c is valid during the call only.
	Observe func(k flow.EventKind, c *flow.Conn)
}

// Action is what becomes of a frame. The zero Action drops it.
type Action uint8

// The actions.
const (
	Drop Action = iota
	Accept
)

func (a Action) String() string {
	if a == Accept {
		return "accept"
	}
	return "drop"
}

// Verdict is what the tracker says of a packet.
type Verdict struct {
	Action Action
	State  flow.State
	Dir    flow.Direction // valid iff Conn
	Reason flow.Reason
	// Conn says that the packet belongs to a connection, which the packet left
	// with this status, protocol state and expiry.
	Conn    bool
	L4State uint8
	Status  flow.Status
	Expires flow.Millis
}

// Shard is the state of one core. Make it with New. It is not safe for
// concurrent use.
type Shard struct {
	cfg   Config
	table *table.Table
	now   int64 // milliseconds, of the current batch
	stats Stats
	fresh flow.Conn // the connection that begin works on
	batch table.Batch
}

// New makes a shard whose clock begins at now, in milliseconds. Close it.
func New(cfg Config, now int64) (*Shard, error) {
	s := &Shard{cfg: cfg, now: now}
	t, err := table.New(cfg.MaxConns, &s.cfg.Secret, now, s.removed)
	if err != nil {
		return nil, fmt.Errorf("making a shard: %w", err)
	}
	s.table = t
	return s, nil
}

// Close frees the shard's memory.
func (s *Shard) Close() error { return s.table.Close() }

// Owner returns which of n shards owns the connection whose key has this hash.
// It uses other bits of the hash than those that pick bucket and tag.
func Owner(hash uint64, n int) int {
	return int(uint64(uint32(hash>>8)) * uint64(n) >> 32)
}

// Hash fills in p.Hash.
func (s *Shard) Hash(p *packet.Packet) { p.Hash = p.Key.Hash(&s.cfg.Secret) }

// Stats returns the counters.
func (s *Shard) Stats() Stats {
	st := s.stats
	st.Table, st.Conns, st.MaxConns = s.table.Stats, s.table.Len(), s.table.Max()
	return st
}

// Len returns the number of connections.
func (s *Shard) Len() int { return s.table.Len() }

// MaxConns returns the number of connections that there is room for.
func (s *Shard) MaxConns() int { return s.table.Max() }

// Bytes returns the size of the memory mapped for connections.
func (s *Shard) Bytes() int { return s.table.Bytes() }

// reapBudget is how many timers are looked at before a batch. At a tenth of a
// microsecond each, a million expiring at once delay no batch noticeably.
const reapBudget = 128

// maxJump is the longest step of the clock, twelve days in milliseconds: half of
// what a timeout may be, so that no expiry is ever so far past that it looks
// like one to come (flow.Millis). Only a capture with a gap, or a machine that
// slept, makes more than one step.
const maxJump = flow.MaxTimeout * 1000 / 2

// Tick moves the clock to now, in milliseconds, and reaps some of what has
// expired. It reports whether nothing is left to reap. Time never runs
// backwards: an earlier now counts as the latest one seen.
func (s *Shard) Tick(now int64) bool {
	for now-s.now > maxJump {
		s.now += maxJump
		for !s.table.Advance(s.now, reapBudget) {
		}
	}
	s.now = max(s.now, now)
	return s.table.Advance(s.now, reapBudget)
}

// Process judges a batch of parsed and hashed packets at the time of the last
// Tick and writes a verdict for each. len(out) must be at least len(pkts).
func (s *Shard) Process(pkts []packet.Packet, out []Verdict) {
	s.prefetch(pkts)
	out = out[:len(pkts)]
	for i := range pkts {
		s.judge(&pkts[i], &out[i])
		s.count(&pkts[i], &out[i])
	}
}

// prefetch asks for what the packets will need, one pass for each access that
// depends on the one before.
func (s *Shard) prefetch(pkts []packet.Packet) {
	b := &s.batch
	for len(pkts) > 1 {
		n := min(len(pkts), table.MaxBatch)
		for i := range pkts[:n] {
			b.Hash[i&(table.MaxBatch-1)] = pkts[i].Hash
			b.Both[i&(table.MaxBatch-1)] = pkts[i].Proto == flow.TCP
		}
		s.table.PrefetchBuckets(b, n)
		s.table.PrefetchConns(b, n)
		pkts = pkts[n:]
	}
}

// count is the one place where a verdict becomes a counter.
func (s *Shard) count(p *packet.Packet, v *Verdict) {
	st := &s.stats
	st.Packets++
	st.Bytes += uint64(len(p.Frame))
	st.States[v.State]++
	if v.Reason != flow.NoReason {
		st.Reasons[v.Reason]++
	}
	if v.Action == Drop {
		st.Dropped++
	}
}

// judge is nf_conntrack_in. It writes all of v.
func (s *Shard) judge(p *packet.Packet, v *Verdict) {
	switch p.Kind {
	case packet.Data:
		s.track(p, v)
	case packet.Error:
		s.related(p, v)
	case packet.Untracked:
		*v = Verdict{Action: Accept, State: flow.Untracked, Reason: p.Reason}
	case packet.Invalid:
		v.invalid(p.Reason)
	default:
		*v = Verdict{Action: Drop, State: flow.Invalid, Reason: p.Reason}
	}
}

// invalid lets a packet pass that conntrack can make nothing of, as the kernel
// does: to drop it is the ruleset's business.
func (v *Verdict) invalid(r flow.Reason) {
	*v = Verdict{Action: Accept, State: flow.Invalid, Reason: r}
}

// belongs says that the packet belongs to c, as c is now.
func (v *Verdict) belongs(c *flow.Conn, st flow.State, d flow.Direction, r flow.Reason) {
	v.Action, v.State, v.Dir, v.Reason = Accept, st, d, r
	v.Conn, v.L4State, v.Status, v.Expires = true, c.State, c.PublicStatus(), c.Expires
}

func (s *Shard) time() flow.Millis { return flow.Millis(s.now) }

func direction(p *packet.Packet, c *flow.Conn) flow.Direction {
	d := flow.Direction(c.Flip)
	if p.Flipped {
		d ^= 1
	}
	return d
}

// related judges an ICMP error (nf_conntrack_inet_error): it neither counts nor
// refreshes.
func (s *Shard) related(p *packet.Packet, v *Verdict) {
	i, ok := s.table.Find(&p.Key, p.Hash, s.time())
	if !ok {
		v.invalid(flow.ReasonICMPErrorUnknown)
		return
	}
	if p.Misdirected {
		v.invalid(flow.ReasonICMPErrorAddress)
		return
	}
	c := s.table.Conn(i)
	v.belongs(c, flow.Related, direction(p, c), flow.NoReason)
}

// track judges a packet that names a connection (resolve_normal_ct and
// nf_conntrack_handle_packet).
func (s *Shard) track(p *packet.Packet, v *Verdict) {
	i, ok := s.table.Find(&p.Key, p.Hash, s.time())
	if !ok {
		s.begin(p, v)
		return
	}
	c := s.table.Conn(i)
	d := direction(p, c)
	state := classify(c, d)
	status, l4state := c.PublicStatus(), c.State

	r := s.cfg.L4.Packet(c, p, d, s.time())
	switch r.Outcome {
	case l4.Invalid:
		v.invalid(r.Reason)
		return
	case l4.Shorten:
		s.table.Refresh(i, s.in(r.Timeout), s.time())
		v.invalid(r.Reason)
		return
	case l4.Reopen:
		s.table.Remove(i, table.Closed)
		s.begin(p, v)
		return
	}
	if d == flow.Reply {
		c.Status |= flow.SeenReply
	}
	switch r.Outcome {
	case l4.Accept:
		if c.Status&flow.FixedTimeout == 0 {
			s.table.Refresh(i, s.expiry(c, r.Timeout), s.time())
		}
		s.table.Count(i, d, p.Len)
	case l4.Close:
		s.table.Count(i, d, p.Len)
		c.Expires = s.time()
		v.belongs(c, state, d, r.Reason)
		s.table.Remove(i, table.Closed)
		return
	}
	if c.PublicStatus() != status || c.State != l4state {
		s.changed(i, c, status)
	}
	v.belongs(c, state, d, r.Reason)
}

// changed follows a change of status or state of entry i, whose status was
// before.
func (s *Shard) changed(i uint32, c *flow.Conn, before flow.Status) {
	if (c.Status^before)&flow.Assured != 0 {
		s.table.Protect(i)
	}
	s.observe(flow.EventUpdate, c)
}

// classify is the end of resolve_normal_ct: what a packet in direction d of c
// is called, by what was known before it.
func classify(c *flow.Conn, d flow.Direction) flow.State {
	switch {
	case d == flow.Reply || c.Status&flow.SeenReply != 0:
		return flow.Established
	case c.Status&flow.Expected != 0:
		return flow.Related
	}
	return flow.New
}

// begin judges the first packet of a connection (init_conntrack and
// __nf_conntrack_confirm). The connection gets a place only if its tracker
// accepts the packet, so that an INVALID packet never costs another its place.
func (s *Shard) begin(p *packet.Packet, v *Verdict) {
	c := &s.fresh
	*c = flow.Conn{Key: p.Key}
	if p.Flipped {
		c.Flip = 1
	}
	r := s.cfg.L4.New(c, p, s.time())
	if r.Outcome != l4.Accept {
		v.invalid(r.Reason)
		return
	}
	c.Expires = s.expiry(c, r.Timeout)
	c.Count(flow.Original, p.Len)
	i, err := s.table.Insert(c, p.Hash, s.time())
	if err != nil {
		reason := flow.ReasonTableFull
		if errors.Is(err, table.ErrProbes) {
			reason = flow.ReasonProbeLimit
		}
		*v = Verdict{Action: Drop, State: flow.Invalid, Reason: reason}
		return
	}
	e := s.table.Conn(i)
	s.observe(flow.EventNew, e)
	v.belongs(e, flow.New, flow.Original, r.Reason)
}

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

func (s *Shard) observe(k flow.EventKind, c *flow.Conn) {
	if s.cfg.Observe != nil {
		s.cfg.Observe(k, c)
	}
}

func (s *Shard) removed(c *flow.Conn, _ table.Cause) { s.observe(flow.EventDestroy, c) }

// Walk visits at most n connections from the cursor on, 0 at first, and returns
// the cursor for the next call, 0 at the end. visit returns whether to remove
// the connection.
func (s *Shard) Walk(cursor uint32, n int, visit func(*flow.Conn) (remove bool)) uint32 {
	return s.table.Walk(cursor, n, s.time(), visit)
}

// Find returns the live connection with the tuple t in either direction.
func (s *Shard) Find(t flow.Tuple) (*flow.Conn, bool) {
	key, _ := t.Canonical()
	i, ok := s.table.Find(&key, key.Hash(&s.cfg.Secret), s.time())
	if !ok {
		return nil, false
	}
	return s.table.Conn(i), true
}
