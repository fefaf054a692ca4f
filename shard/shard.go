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

// Group is how many packets to Expect at once: enough to make little of a call,
// few enough for all of their cache misses to be under way together.
const Group = 8

// step is how many packets Process takes through a stage at once. It is measured:
// TCP, with two lines for each, is fastest with 4, UDP with 6 (docs/performance.md).
const step = 4

// Expect says that packets, which are hashed, will be judged soon. Called for
// each Group of them as it is parsed, it makes Process faster and changes nothing else.
func (s *Shard) Expect(pkts []packet.Packet) {
	for len(pkts) > 0 {
		n := min(len(pkts), Group)
		for i := range pkts[:n] {
			s.batch.Hash[i] = pkts[i].Hash
		}
		s.table.Expect(s.batch.Hash[:n])
		pkts = pkts[n:]
	}
}

// Process judges a batch of parsed and hashed packets at the time of the last
// Tick and writes a verdict for each. len(out) must be at least len(pkts).
//
// It is a pipeline: while one group is judged, the entries of the next two are on
// their way (table.Batch).
func (s *Shard) Process(pkts []packet.Packet, out []Verdict) {
	for len(pkts) > table.MaxBatch {
		s.Process(pkts[:table.MaxBatch], out)
		pkts, out = pkts[table.MaxBatch:], out[table.MaxBatch:]
	}
	out = out[:len(pkts)]
	n, b, t := len(pkts), &s.batch, s.table
	s.stats.Packets += uint64(n)
	for i := range pkts {
		b.Hash[i&(table.MaxBatch-1)] = pkts[i].Hash
		both := uint8(0)
		if pkts[i].Proto == flow.TCP {
			both = 1
		}
		b.Both[i&(table.MaxBatch-1)] = both
	}
	t.Locate(b, 0, min(step, n))
	t.Locate(b, min(step, n), min(2*step, n))
	for at := 0; at < n; at += step {
		t.Locate(b, min(at+2*step, n), min(at+3*step, n))
		t.LocateOn(b, min(at+step, n), min(at+2*step, n))
		for i := at; i < min(at+step, n); i++ {
			p, v := &pkts[i], &out[i]
			if p.Kind == packet.Data {
				s.track(p, i, v)
			} else {
				s.judge(p, v)
			}
			s.count(p, v)
		}
	}
}

// count is the one place where a verdict becomes a counter.
func (s *Shard) count(p *packet.Packet, v *Verdict) {
	st := &s.stats
	st.Bytes += uint64(len(p.Frame))
	st.States[v.State]++
	if v.Reason != flow.NoReason {
		st.Reasons[v.Reason]++
	}
	if v.Action == Drop {
		st.Dropped++
	}
}

// judge is nf_conntrack_in for packets that belong to no connection by
// themselves. It writes all of v.
func (s *Shard) judge(p *packet.Packet, v *Verdict) {
	switch p.Kind {
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

// accept lets a packet pass that belongs to c, as c is now. State and Dir are
// set already.
func (v *Verdict) accept(c *flow.Conn, r flow.Reason) {
	v.Action, v.Reason, v.Conn = Accept, r, true
	v.L4State, v.Status, v.Expires = c.State, c.PublicStatus(), c.Expires
}

func (s *Shard) time() flow.Millis { return flow.Millis(s.now) }

func direction(p *packet.Packet, c *flow.Conn) flow.Direction {
	var flipped flow.Direction // not an if: which way is a coin toss
	if p.Flipped {
		flipped = 1
	}
	return flow.Direction(c.Flip) ^ flipped
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
	v.State, v.Dir = flow.Related, direction(p, c)
	v.accept(c, flow.NoReason)
}

// track judges a packet that names a connection (resolve_normal_ct and
// nf_conntrack_handle_packet), packet n of the batch. It writes all of v.
func (s *Shard) track(p *packet.Packet, n int, v *Verdict) {
	i, ok := s.table.Lookup(&s.batch, n, &p.Key, s.time())
	if !ok {
		s.begin(p, v)
		return
	}
	c := s.table.Conn(i)
	d := direction(p, c)
	v.State, v.Dir = classify(c, d), d
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
	c.Status |= flow.SeenReply * flow.Status(d) // no branch, see direction
	switch r.Outcome {
	case l4.Accept:
		if c.Status&flow.FixedTimeout == 0 {
			s.table.Refresh(i, s.expiry(c, r.Timeout), s.time())
		}
		s.table.Count(i, d, p.Len)
	case l4.Close:
		s.table.Count(i, d, p.Len)
		c.Expires = s.time()
		v.accept(c, r.Reason)
		s.table.Remove(i, table.Closed)
		return
	}
	if c.PublicStatus() != status || c.State != l4state {
		s.changed(i, c, status)
	}
	v.accept(c, r.Reason)
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
	case c.Status&flow.SeenReply != 0 || d == flow.Reply:
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
	v.State, v.Dir = flow.New, flow.Original
	v.accept(e, r.Reason)
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
