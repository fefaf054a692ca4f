package table

import (
	"errors"
	"fmt"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/timerwheel"
)

// MaxConns is the largest table: entry numbers have 31 bits, one tells the two
// keys of a connection apart, and the wheel's slots need a few.
const MaxConns = 1<<31 - 1

// Cause says why a connection was removed.
type Cause uint8

// The causes.
const (
	Expired Cause = iota // its time had come
	Evicted              // it made room for a new one (early_drop)
	Closed               // a packet ended it
	Deleted              // an operator asked for it
)

// Table is the connections of one shard. Make it with New.
type Table struct {
	conns      []flow.Conn
	buckets    []bucket
	wheel      *timerwheel.Wheel
	arena      *arena
	secret     *flow.Secret
	extras     *arena // mapped, and given memory only where it is used
	extra      []flow.Extra
	removed    func(i uint32, c *flow.Conn, why Cause)
	probeLimit int

	now    int64 // milliseconds, of the last Advance
	count  int
	unused uint32 // entries from here on were never used
	free   uint32 // first of the list of entries that were
	queue  queue

	twoKeyed int // connections with two keys

	// Stats are counted since New. The owner may read them between calls.
	Stats Stats
}

// Stats are a table's counters.
type Stats struct {
	Inserts, Expired, Evicted, Closed, Deleted uint64
	// Probes counts insertions by the number of buckets looked at, less one.
	Probes [maxProbes]uint64
}

// none marks the end of a list of entries.
const none = 0xffffffff

// New maps a table for at most maxConns connections, 1..MaxConns. Hashes passed
// to it must be made with secret. removed, if not nil, is called for every
// connection just before it goes; it must not touch the table. now is the time
// in milliseconds.
func New(maxConns int, secret *flow.Secret, now int64, removed func(uint32, *flow.Conn, Cause)) (*Table, error) {
	return makeTable(maxConns, 1, secret, now, removed)
}

// NewTwoKeyed is New for a table in which any connection may be two-keyed: its index
// has twice the slots.
func NewTwoKeyed(maxConns int, secret *flow.Secret, now int64, removed func(uint32, *flow.Conn, Cause)) (*Table, error) {
	return makeTable(maxConns, 2, secret, now, removed)
}

// Size returns the bytes that a table of maxConns connections takes when it is full: of one
// that is two-keyed, with extras for all of them; of another, which has them where something
// asks for one, without.
func Size(maxConns int, twoKeyed bool) int {
	if twoKeyed {
		return arenaSize(maxConns, 2) + sizeOf[flow.Extra](maxConns)
	}
	return arenaSize(maxConns, 1)
}

// arenaSize returns the size of what New maps at once.
func arenaSize(maxConns, keys int) int {
	return sizeOf[bucket](numBuckets(keys*maxConns)) + sizeOf[flow.Conn](maxConns) + sizeOf[timerwheel.Link](timerwheel.Links(maxConns))
}

func makeTable(maxConns, keys int, secret *flow.Secret, now int64, removed func(uint32, *flow.Conn, Cause)) (*Table, error) {
	if maxConns < 1 || maxConns > MaxConns {
		return nil, fmt.Errorf("a table of %d connections: must be 1..%d", maxConns, MaxConns)
	}
	nb, nl := numBuckets(keys*maxConns), timerwheel.Links(maxConns)
	a, err := newArena(arenaSize(maxConns, keys))
	if err != nil {
		return nil, err
	}
	x, err := newLazyArena(sizeOf[flow.Extra](maxConns), keys > 1)
	if err != nil {
		return nil, errors.Join(err, a.close())
	}
	rest, restExtra := a.mem, x.mem
	t := &Table{
		extras: x, extra: carve[flow.Extra](&restExtra, maxConns),
		buckets: carve[bucket](&rest, nb), conns: carve[flow.Conn](&rest, maxConns),
		arena: a, secret: secret, removed: removed, probeLimit: min(maxProbes, nb),
		now: now, free: none, queue: queue{none, none},
	}
	t.wheel = timerwheel.New(carve[timerwheel.Link](&rest, nl), maxConns, tickBefore(now))
	return t, nil
}

// Close unmaps the table. It must not be used afterwards.
func (t *Table) Close() error {
	t.conns, t.buckets, t.wheel, t.extra = nil, nil, nil, nil
	return errors.Join(t.arena.close(), t.extras.close())
}

// Len returns the number of connections, expired ones not yet reaped included.
func (t *Table) Len() int { return t.count }

// Entries returns how many entries have ever been used: those from it on never were.
func (t *Table) Entries() uint32 { return t.unused }

// Max returns the number of connections that there is room for.
func (t *Table) Max() int { return len(t.conns) }

// Bytes returns the size of the mapped memory: index, slab and wheel. What
// extras take comes on top, where there are any.
func (t *Table) Bytes() int { return len(t.arena.mem) }

// Conn returns entry i. Valid until the connection is removed.
func (t *Table) Conn(i uint32) *flow.Conn { return &t.conns[i] }

// Find returns the entry with the given key, which must be canonical; flipped says
// that the tuple had to be inverted to reach it. An expired connection is removed
// on sight.
func (t *Table) Find(key *flow.Tuple, flipped bool, hash uint64, now flow.Millis) (i uint32, ok bool) {
	b := &t.buckets[t.home(hash)]
	i, ok = t.search(b, tagOf(hash), key, flipped)
	if !ok && b.passed != 0 {
		i, ok = t.searchOn(key, flipped, hash)
	}
	if ok && t.conns[i].Expires.Until(now) <= 0 {
		t.Remove(i, Expired)
		return 0, false
	}
	return i, ok
}

// search looks for a key in a bucket.
func (t *Table) search(b *bucket, tag uint8, key *flow.Tuple, flipped bool) (i uint32, ok bool) {
	for m := b.match(tag); !m.empty(); {
		i = b.conns[m.pop()]
		if i >= second {
			if i -= second; t.isReply(i, key, flipped) {
				return i, true
			}
			continue
		}
		c := &t.conns[i]
		if c.Key.Equal(key) && (!c.TwoKeyed() || flipped == c.Flipped()) {
			return i, true
		}
	}
	return 0, false
}

// searchOn looks for a key in the buckets after its home.
func (t *Table) searchOn(key *flow.Tuple, flipped bool, hash uint64) (i uint32, ok bool) {
	p := t.probes(hash)
	for range t.probeLimit - 1 {
		p.next()
		b := &t.buckets[p.at]
		if i, ok = t.search(b, tagOf(hash), key, flipped); ok || b.passed == 0 {
			return i, ok
		}
	}
	return 0, false
}

// ErrFull and ErrProbes say why Insert failed.
var (
	ErrFull   = errors.New("the table is full of ASSURED connections")
	ErrProbes = errors.New("no slot within the bounded probe sequence")
)

// Insert copies c into the table, whose Key must not be there yet, and x, nil
// unless c is Extended, and returns the entry. c.Expires must be set; CONFIRMED is
// set here. If the table is full the oldest connection that is not ASSURED makes
// room; if there is none the error is ErrFull. If c is two-keyed and its reply
// tuple is that of a connection in the table, the error is ErrClash.
func (t *Table) Insert(c *flow.Conn, x *flow.Extra, hash uint64, now flow.Millis) (uint32, error) {
	if c.TwoKeyed() {
		if _, taken := t.Find(&x.Reply, x.ReplyFlip == 1, x.Reply.Hash(t.secret), now); taken {
			return 0, ErrClash
		}
	} else if t.twoKeyed > 0 { // only such a one may have the inverse of its tuple, and not the tuple
		if _, taken := t.Find(&c.Key, !c.Flipped(), hash, now); taken {
			return 0, ErrClash
		}
	}
	if t.count == len(t.conns) && !t.evict() {
		return 0, ErrFull
	}
	i := t.allocate()
	probes := t.place(hash, i)
	if probes != 0 && c.TwoKeyed() && !t.placeReply(i, x) {
		t.displace(hash, i)
		probes = 0
	}
	if probes == 0 {
		t.release(i)
		return 0, ErrProbes
	}
	t.Stats.Inserts++
	t.Stats.Probes[probes-1]++
	t.count++
	e := &t.conns[i]
	before := e.Generation()
	*e = *c
	e.Succeed(before)
	e.Status |= flow.Confirmed
	if c.Extended() {
		t.extra[i] = *x
	}
	if c.TwoKeyed() {
		t.twoKeyed++
	}
	if e.Status&flow.Assured == 0 {
		t.queue.push(t.conns, i)
	}
	t.wheel.Arm(i, t.tickFor(e.Expires, now))
	return i, nil
}

// evict removes the oldest connection that may go.
func (t *Table) evict() bool {
	if t.queue.head == none {
		return false
	}
	t.Remove(t.queue.head, Evicted)
	return true
}

func (t *Table) allocate() uint32 {
	if i := t.free; i != none {
		t.free, _ = t.conns[i].Link()
		return i
	}
	t.unused++
	return t.unused - 1
}

func (t *Table) release(i uint32) {
	c := &t.conns[i]
	c.Status = 0
	c.SetLink(t.free, none)
	t.free = i
}

// Refresh sets the expiry of entry i.
func (t *Table) Refresh(i uint32, expires, now flow.Millis) {
	c := &t.conns[i]
	sooner := int32(expires-c.Expires) < 0
	c.Expires = expires
	if sooner && expires.Until(now) < armCap {
		t.rearm(i, expires, now)
	}
}

func (t *Table) rearm(i uint32, expires, now flow.Millis) {
	t.wheel.Disarm(i)
	t.wheel.Arm(i, t.tickFor(expires, now))
}

// Protect takes entry i, which has become ASSURED, out of the eviction queue.
func (t *Table) Protect(i uint32) {
	if t.conns[i].Queued() {
		t.queue.remove(t.conns, i)
	}
}

// Count adds a packet of n bytes to the counters of entry i.
func (t *Table) Count(i uint32, d flow.Direction, n uint32) {
	c := &t.conns[i]
	if carry := c.Count(d, n); carry != 0 {
		t.carry(i, d, carry)
	}
}

// carry adds what the counters of entry i have no room for. A connection whose byte count
// needs the space of the links leaves the eviction queue.
func (t *Table) carry(i uint32, d flow.Direction, carry flow.Carry) {
	if carry&flow.CarryBytes != 0 {
		t.queue.remove(t.conns, i)
		t.conns[i].CarryBytes(d)
	}
	if carry&flow.CarryPackets != 0 {
		t.Extend(i).PacketsHi[d]++
	}
}

// Remove takes entry i out of the table.
func (t *Table) Remove(i uint32, why Cause) {
	t.remove(i, t.conns[i].Key.Hash(t.secret), why)
}

func (t *Table) remove(i uint32, hash uint64, why Cause) {
	t.wheel.Disarm(i)
	t.drop(i, hash, why)
}

// drop is remove for an entry that is out of the wheel already.
func (t *Table) drop(i uint32, hash uint64, why Cause) {
	expectBucket(&t.buckets[t.home(hash)]) // on its way while the rest is done
	c := &t.conns[i]
	if t.removed != nil {
		t.removed(i, c, why)
	}
	switch why {
	case Expired:
		t.Stats.Expired++
	case Evicted:
		t.Stats.Evicted++
	case Closed:
		t.Stats.Closed++
	case Deleted:
		t.Stats.Deleted++
	}
	t.Protect(i)
	t.displace(hash, i)
	if c.TwoKeyed() {
		t.displaceReply(i)
		t.twoKeyed--
	}
	t.count--
	t.release(i)
}

// tickShift makes ticks of 64 ms.
const tickShift = 6

// armCap is the longest time in milliseconds for which an entry waits in the
// wheel unseen. Timers of at least that length can shrink and grow without
// touching the wheel: TCP goes back and forth between five days and five
// minutes with each segment and its ACK.
const armCap = 256_000

func tickBefore(ms int64) timerwheel.Tick { return timerwheel.Tick(ms >> tickShift) }

// tickFor returns the first tick that is not before expires, or before armCap
// has passed.
func (t *Table) tickFor(expires, now flow.Millis) timerwheel.Tick {
	wait := min(int64(expires.Until(now)), armCap)
	// now has 32 bits and may be a little ahead of t.now, which has 64.
	at := t.now + int64(now.Until(flow.Millis(t.now))) + wait
	return timerwheel.Tick((at + 1<<tickShift - 1) >> tickShift)
}

// Advance reaps what has expired by now, in milliseconds. It looks at no more
// than budget entries (valid iff > 0) and reports whether it is done; if not,
// the next call goes on.
func (t *Table) Advance(now int64, budget int) bool {
	t.now = max(t.now, now)
	return t.wheel.Advance(tickBefore(t.now), budget, (*reaper)(t))
}

// reaper is the Table as the wheel sees it.
type reaper Table

// Due reaps entry i if it has expired.
func (r *reaper) Due(i uint32) (timerwheel.Tick, bool) {
	t := (*Table)(r)
	c := &t.conns[i]
	now := flow.Millis(t.now)
	if c.Expires.Until(now) > 0 {
		return t.tickFor(c.Expires, now), true
	}
	t.drop(i, c.Key.Hash(t.secret), Expired)
	return 0, false
}

// Walk calls visit for at most n entries from the cursor on, expired ones left
// out, and returns the cursor for the next call, or 0 at the end. visit returns
// whether the connection is to be removed. Connections that stay from the first
// call to the last are visited exactly once.
func (t *Table) Walk(cursor uint32, n int, now flow.Millis, visit func(i uint32, c *flow.Conn) (remove bool)) uint32 {
	end := uint32(min(uint64(cursor)+uint64(n), uint64(t.unused)))
	for i := cursor; i < end; i++ {
		c := &t.conns[i]
		if c.Status&flow.Confirmed == 0 || c.Expires.Until(now) <= 0 {
			continue
		}
		if visit(i, c) {
			t.Remove(i, Deleted)
		}
	}
	if end == t.unused {
		return 0
	}
	return end
}

// Add adds the counters of o.
func (s *Stats) Add(o Stats) {
	s.Inserts += o.Inserts
	s.Expired += o.Expired
	s.Evicted += o.Evicted
	s.Closed += o.Closed
	s.Deleted += o.Deleted
	for i, n := range o.Probes {
		s.Probes[i] += n
	}
}

// MaxProbes returns the most buckets that an insertion looked at.
func (s *Stats) MaxProbes() uint64 {
	for n := len(s.Probes); n > 0; n-- {
		if s.Probes[n-1] > 0 {
			return uint64(n)
		}
	}
	return 0
}

// ProbesQuantile returns how many buckets a share q of the insertions looked at,
// at most. Valid iff 0 < q <= 1.
func (s *Stats) ProbesQuantile(q float64) int {
	rest := q * float64(s.Inserts)
	for n, count := range s.Probes {
		if rest -= float64(count); rest <= 0 {
			return n + 1
		}
	}
	return len(s.Probes)
}
