package shard

import (
	"errors"
	"fmt"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
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
	// Timestamp keeps when a connection began (nf_conntrack_timestamp). Epoch is
	// the time, in nanoseconds since 1970, at which the shard's clock is 0.
	Timestamp bool
	Epoch     int64
	// Policies are the trackers of timeout policies, numbered from 1.
	Policies []l4.Config
	// Zones are the zones that are not like all others.
	Zones map[flow.Zone]Zone
	// Expect is the table of expectations that all shards share; nil: there is none.
	Expect *expect.Table
	// ExpectPerSource is the most expectations of what one host announces, 0 for any number.
	ExpectPerSource int
	// Helpers are those that there are; nil: none.
	Helpers *helper.Registry
	// HelpFlows and HelpBytes bound what helpers keep: connections that they read, and bytes
	// of incomplete messages and of edits; 0 for any number.
	HelpFlows, HelpBytes int
	// HelpPerSource is how many connections that one host has begun helpers read at a time, 0
	// for any number (helper.Budget.Source).
	HelpPerSource int
	// Keys are the call ids of PPTP tunnels, which all shards share, and which packets are
	// parsed with (packet.Checks); nil: there are none.
	Keys *flow.GREKeys
	// Assign gives connections helpers where there are no rules.
	Assign []Assignment
	// Observe, if not nil, is told of every new, changed and removed connection,
	// by its entry, which is valid during the call only.
	Observe func(k flow.EventKind, entry uint32)
	// Number is the shard's among Shards of one tracker; 0 of 0 is one of its own.
	Number, Shards int
	// Forwards says that SetForwarding may be called, Translates that rules of table
	// nat may be among what it sets: there is room for two keys of each connection.
	Forwards, Translates bool
	// Seed is for rules that draw lots.
	Seed uint64
	// NAT is what translation of all shards shares, made for Shards of them; nil where
	// there is one, which then makes its own from Seed. Valid iff Translates.
	NAT *nat.Shared
}

// Zone is what is particular to a zone.
type Zone struct {
	Policy uint16  // timeout policy of its connections, 0 is that of all
	Limit  Limiter // of its connections over all shards; nil: none
}

// Limiter counts connections of a zone. All shards share it.
type Limiter interface {
	Take() bool // one more, if there may be one more
	Give()      // one less
}

// Action is what becomes of a frame. The zero Action drops it.
type Action uint8

// The actions.
const (
	Drop Action = iota
	Accept
	Hold     // a fragment that waits for the rest; a Shard never says so
	Host     // for this host itself
	Replaced // dropped, but sent on in pieces (Shard.TakeOwn)
	HandOver // the connection is that of shard Verdict.Out, which is to go on (TakeRaw, Resume)
)

func (a Action) String() string {
	switch a {
	case Accept:
		return "accept"
	case Hold:
		return "hold"
	case Host:
		return "host"
	case Replaced:
		return "replaced"
	case HandOver:
		return "hand over"
	}
	return "drop"
}

// Verdict is what the tracker says of a packet.
type Verdict struct {
	Action Action
	State  flow.State
	Dir    flow.Direction // valid iff Conn
	Reason flow.Reason
	// Conntrack is what conntrack said of a packet that is dropped for another Reason:
	// why it is INVALID, for one. Valid iff Action is Drop.
	Conntrack flow.Reason
	// Conn says that the packet belongs to a connection, which the packet left
	// with this status, protocol state and expiry.
	Conn    bool
	L4State uint8
	Status  flow.Status
	Expires flow.Millis
	// Out is the interface by which an accepted packet leaves, and Hop its next hop,
	// valid until the next Process or SetForwarding. Both are set iff the shard forwards, Hop iff
	// there are routes. Of a packet that is to be handed over Out is the shard.
	Out int
	Hop *route.Hop
}

// Shard is the state of one core. Make it with New. It is not safe for
// concurrent use.
type Shard struct {
	cfg   Config
	table *table.Table
	now   int64 // milliseconds, of the current batch
	stats Stats
	batch table.Batch

	forward forwarding
	tuples  tuples
	help    helping
	beside  *table.Beside[[2]path]
}

// New makes a shard whose clock begins at now, in milliseconds. Close it.
func New(cfg Config, now int64) (*Shard, error) {
	s := &Shard{cfg: cfg, now: now}
	if cfg.Translates && cfg.Shards > 1 && cfg.NAT == nil {
		return nil, errors.New("making a shard: several that translate need something to share (Config.NAT)")
	}
	makeTable := table.New
	if cfg.Translates {
		makeTable = table.NewTwoKeyed
	}
	t, err := makeTable(cfg.MaxConns, &s.cfg.Secret, now, s.removed)
	if err != nil {
		return nil, fmt.Errorf("making a shard: %w", err)
	}
	s.table = t
	s.openHelp()
	if cfg.Translates {
		shared := cfg.NAT
		if shared == nil {
			shared = nat.NewShared(1, cfg.MaxConns, nat.Key{cfg.Seed})
		}
		s.tuples = tuples{Allocator: *shared.NewAllocator(cfg.Number), dir: shared.Directory, number: cfg.Number}
	}
	if cfg.Forwards {
		if s.beside, err = table.MapBeside[[2]path](cfg.MaxConns); err != nil {
			return nil, errors.Join(fmt.Errorf("making a shard: %w", err), t.Close())
		}
		s.forward.paths, s.forward.rand = s.beside.Of, nat.NewRand(cfg.Seed)
	}
	return s, nil
}

// Size returns the bytes that a shard takes once it has as many connections as it may, of
// what grows with that number. What shards share (Config.NAT) is not among it.
func Size(cfg *Config) int {
	size := table.Size(cfg.MaxConns, cfg.Translates)
	if cfg.Forwards {
		size += table.SizeBeside[[2]path](cfg.MaxConns)
	}
	return size
}

// Close frees the shard's memory.
func (s *Shard) Close() error {
	err := s.table.Close()
	if s.beside != nil {
		err = errors.Join(err, s.beside.Close())
	}
	return err
}

// Home returns which of n shards a tuple belongs to whose key has this hash, unless
// another has claimed it. It uses other bits of the hash than those that pick bucket and
// tag.
func Home(hash uint64, n int) int {
	return int(uint64(uint32(hash>>8)) * uint64(n) >> 32)
}

// Owner returns which of n shards owns the connection of a tuple, by its key: that which
// has claimed it in dir, which may be nil, or else its home. Any goroutine may call it.
func Owner(dir *nat.Directory, key *flow.Tuple, flipped bool, hash uint64, n int) int {
	if dir != nil && dir.Concerns(key) {
		if owner, ok := dir.Owner(key, flipped); ok {
			return owner
		}
	}
	return Home(hash, n)
}

// Hash fills in p.Hash.
func (s *Shard) Hash(p *packet.Packet) { p.Hash = p.Key.Hash(&s.cfg.Secret) }

// Stats returns the counters.
func (s *Shard) Stats() Stats {
	st := s.stats
	st.Help = s.HelpStats()
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

// memberBudget is how many counts of connlimit are looked at before a batch, after rules have
// changed. One that is dropped takes as long as a timer.
const memberBudget = 128

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
	s.forward.hops.sweep(s.forward.paths, sweepBudget)
	s.forward.numbers.sweep(s.table, numberBudget)
	s.forward.members.Sweep(memberBudget)
	s.hangUp()
	return s.table.Advance(s.now, reapBudget)
}

// Group is how many packets to Prefetch at once: enough to make little of a call,
// few enough for all of their cache misses to be under way together.
const Group = 8

// step is how many packets Process takes through a stage at once. It is measured:
// TCP, with two lines for each, is fastest with 4, UDP with 6 (docs/performance.md).
const step = 4

// Prefetch says that packets, which are hashed, will be judged soon. Called for
// each Group of them as it is parsed, it makes Process faster and changes nothing else.
func (s *Shard) Prefetch(pkts []packet.Packet) {
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
	s.forward.passing.begin()
	for len(pkts) > table.MaxBatch {
		s.process(pkts[:table.MaxBatch], out)
		pkts, out = pkts[table.MaxBatch:], out[table.MaxBatch:]
	}
	s.process(pkts, out)
}

// process is Process for at most table.MaxBatch packets.
func (s *Shard) process(pkts []packet.Packet, out []Verdict) {
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
	forwards, hears := s.forward.Forwarding != nil, s.help.registry != nil
	t.Locate(b, 0, min(step, n))
	t.Locate(b, min(step, n), min(2*step, n))
	if forwards {
		s.expectPaths(0, min(step, n))
	}
	for at := 0; at < n; at += step {
		t.Locate(b, min(at+2*step, n), min(at+3*step, n))
		t.LocateOn(b, min(at+step, n), min(at+2*step, n))
		if forwards {
			s.expectPaths(min(at+step, n), min(at+2*step, n))
		}
		for i := at; i < min(at+step, n); i++ {
			p, v := &pkts[i], &out[i]
			if forwards {
				s.pass(p, i, v)
			} else if p.Kind == packet.Data {
				entry, hit := t.Lookup(b, i, &p.Key, p.Flipped, s.time())
				ref := s.track(p, v, nil, entry, hit)
				if hears && (len(s.help.flows) != 0 || p.TCP.Flags&packet.SYN != 0) {
					s.overhear(p, v, ref)
				}
			} else {
				s.judge(p, v)
			}
			s.count(p, v)
		}
	}
}

// expectPaths asks for what packets from to to-1 of the batch, which are located, will
// need besides their connections to be forwarded.
func (s *Shard) expectPaths(from, to int) {
	if s.forward.numbers.full() { // else few packets look beside the table
		s.beside.Expect(&s.batch, from, to)
	}
	if s.forward.translates {
		s.table.ExpectExtras(&s.batch, from, to)
	}
}

// count is the one place where a verdict becomes a counter.
func (s *Shard) count(p *packet.Packet, v *Verdict) {
	st := &s.stats
	if v.Action == HandOver { // it counts where it is judged
		st.Packets--
		return
	}
	st.Bytes += uint64(len(p.Frame))
	st.States[v.State]++
	if v.Reason != flow.NoReason {
		st.Reasons[v.Reason]++
	}
	if v.Action == Drop {
		st.Dropped++
		if v.Conntrack != flow.NoReason {
			st.Reasons[v.Conntrack]++
		}
	}
}

// judge is nf_conntrack_in for packets that name no connection of their own, and
// returns that which an ICMP error is about. It writes all of v.
func (s *Shard) judge(p *packet.Packet, v *Verdict) connRef {
	switch p.Kind {
	case packet.Error:
		return s.related(p, v)
	case packet.Untracked:
		*v = Verdict{Action: Accept, State: flow.Untracked, Reason: p.Reason}
	case packet.Invalid:
		v.invalid(p.Reason)
	case packet.Fragmented:
		v.invalid(flow.ReasonFragment)
	default:
		*v = Verdict{Action: Drop, State: flow.Invalid, Reason: p.Reason}
	}
	return connRef{}
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
