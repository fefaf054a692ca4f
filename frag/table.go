package frag

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

const (
	maxHeld      = 1024
	maxDatagrams = 512
	// maxPieces is enough for the longest datagram over the smallest MTU that
	// IPv4 hosts must take, 576.
	maxPieces  = 128
	maxPerFrom = maxHeld / 4
)

// Config is how long fragments wait for the rest of their datagram, in
// milliseconds.
type Config struct{ TimeoutIPv4, TimeoutIPv6 int64 }

// Linux returns the defaults of Linux 6.18: net.ipv4.ipfrag_time and
// nf_conntrack_frag6_timeout.
func Linux() Config { return Config{30_000, 60_000} }

// MaxHeld is the most frames that a Table holds.
const MaxHeld = maxHeld

// piece is a fragment that waits. frame is the caller's handle.
type piece[F any] struct {
	packet.Fragment
	frame F
	run   uint16 // pieces of one run were appended to each other in order
}

// datagram is a datagram that is not complete.
type datagram[F any] struct {
	key        flow.Tuple
	expires    int64
	pieces     []piece[F] // by offset
	have, len  uint32     // bytes that are there, and that there will be as far as known
	runs       uint16
	ecn        uint8 // a bit for each value seen
	last       bool  // the end is known
	newer, old *datagram[F]
}

// Table is the fragments of one shard. F is the caller's handle of a frame. Make it
// with New.
type Table[F any] struct {
	cfg       Config
	datagrams map[flow.Tuple]*datagram[F]
	oldest    *datagram[F]
	newest    *datagram[F]
	held      int
	look      int64             // when Expire will look again
	from      map[flow.Addr]int // frames held, by source
	drop      func(frame F, r flow.Reason)

	free []*datagram[F] // those that are done with, for others
	done Datagram[F]    // the one that Add has returned last
}

// New makes a table. drop is told of every frame that goes without its datagram
// having been completed, but for the one that was just added.
func New[F any](cfg Config, drop func(F, flow.Reason)) *Table[F] {
	return &Table[F]{cfg: cfg, datagrams: map[flow.Tuple]*datagram[F]{}, from: map[flow.Addr]int{}, drop: drop}
}

// Len returns the number of frames that are held.
func (t *Table[F]) Len() int { return t.held }

// Datagram is a complete datagram: its frames and what they say, by offset.
type Datagram[F any] struct {
	Frames    []F
	Fragments []packet.Fragment
}

// Add takes a fragment, at the time now in milliseconds. p.Kind must be
// packet.Fragmented. If the fragment completes its datagram, that is returned.
// Otherwise r says what became of the frame: with ReasonFragmentHeld the table
// keeps it, with any other reason it is dropped and the caller's again. The datagram is
// valid until the next Add.
func (t *Table[F]) Add(p *packet.Packet, frame F, now int64) (d *Datagram[F], r flow.Reason) {
	q := t.datagrams[p.Key]
	if p.Reason != flow.NoReason { // nothing good comes of the others either
		if q != nil {
			t.remove(q, p.Reason)
		}
		return nil, p.Reason
	}
	if q == nil {
		t.makeRoom(p)
		q = t.begin(p, now)
	} else if len(q.pieces) == maxPieces || t.held >= maxHeld || t.from[p.Key.Src] >= maxPerFrom {
		t.remove(q, flow.ReasonFragmentLimit)
		return nil, flow.ReasonFragmentLimit
	}
	f := &p.Fragment
	if !q.fits(f) {
		if p.Family == flow.IPv4 { // IPv6 drops the fragment alone
			t.remove(q, flow.ReasonFragmentEnd)
		}
		return nil, flow.ReasonFragmentEnd
	}
	switch q.insert(f, frame) {
	case duplicate:
		return nil, flow.ReasonFragmentDuplicate
	case overlap:
		t.remove(q, flow.ReasonFragmentOverlap)
		return nil, flow.ReasonFragmentOverlap
	}
	q.ecn |= 1 << f.ECN
	t.held++
	t.from[q.key.Src]++
	if !q.last || q.have != q.len {
		return nil, flow.ReasonFragmentHeld
	}
	const notECT = 1 << 0 // the value 0
	if q.ecn&notECT != 0 && q.ecn != notECT {
		t.forget(q)
		for i := range q.pieces {
			if q.pieces[i].Offset != f.Offset { // the others
				t.drop(q.pieces[i].frame, flow.ReasonFragmentECN)
			}
		}
		t.recycle(q)
		return nil, flow.ReasonFragmentECN
	}
	t.forget(q)
	q.complete(&t.done)
	t.recycle(q)
	return &t.done, flow.NoReason
}

// maxFree is how many datagrams that are done with are kept for others.
const maxFree = 64

// blank returns an empty datagram.
func (t *Table[F]) blank() *datagram[F] {
	n := len(t.free)
	if n == 0 {
		return &datagram[F]{}
	}
	q := t.free[n-1]
	t.free = t.free[:n-1]
	return q
}

// recycle keeps a datagram that nothing refers to any more for others.
func (t *Table[F]) recycle(q *datagram[F]) {
	if len(t.free) < maxFree {
		clear(q.pieces)
		*q = datagram[F]{pieces: q.pieces[:0]}
		t.free = append(t.free, q)
	}
}

func (t *Table[F]) begin(p *packet.Packet, now int64) *datagram[F] {
	life := t.cfg.TimeoutIPv4
	if p.Family == flow.IPv6 {
		life = t.cfg.TimeoutIPv6
	}
	q := t.blank()
	q.key, q.expires, q.old = p.Key, now+life, t.newest
	if t.newest != nil {
		t.newest.newer = q
	} else {
		t.oldest = q
	}
	t.newest = q
	t.datagrams[q.key] = q
	return q
}

// makeRoom makes room for the first fragment of a datagram to come.
func (t *Table[F]) makeRoom(p *packet.Packet) {
	if t.from[p.Key.Src] >= maxPerFrom {
		t.removeOldestFrom(p.Key.Src)
	}
	if t.held >= maxHeld || len(t.datagrams) >= maxDatagrams {
		t.remove(t.oldest, flow.ReasonFragmentLimit)
	}
}

func (t *Table[F]) removeOldestFrom(src flow.Addr) {
	for q := t.oldest; q != nil; q = q.newer {
		if q.key.Src == src {
			t.remove(q, flow.ReasonFragmentLimit)
			return
		}
	}
}

// expireEvery is how often, in milliseconds, Expire looks.
const expireEvery = 100

// Expire drops what has waited too long at the time now, in milliseconds, a tenth
// of a second late at most.
func (t *Table[F]) Expire(now int64) {
	if t.oldest == nil || now < t.look {
		return
	}
	t.look = now + expireEvery
	for q := t.oldest; q != nil; {
		newer := q.newer
		if q.expires <= now {
			t.remove(q, flow.ReasonFragmentTimeout)
		}
		q = newer
	}
}

// Clear drops everything.
func (t *Table[F]) Clear() {
	for t.oldest != nil {
		t.remove(t.oldest, flow.ReasonFragmentTimeout)
	}
}

// remove drops a datagram.
func (t *Table[F]) remove(q *datagram[F], r flow.Reason) {
	t.forget(q)
	for i := range q.pieces {
		t.drop(q.pieces[i].frame, r)
	}
	t.recycle(q)
}

// forget takes a datagram out of the table.
func (t *Table[F]) forget(q *datagram[F]) {
	delete(t.datagrams, q.key)
	if q.old != nil {
		q.old.newer = q.newer
	} else {
		t.oldest = q.newer
	}
	if q.newer != nil {
		q.newer.old = q.old
	} else {
		t.newest = q.old
	}
	t.held -= len(q.pieces)
	if t.from[q.key.Src] -= len(q.pieces); t.from[q.key.Src] <= 0 {
		delete(t.from, q.key.Src)
	}
}
