package nat

import (
	"math/bits"
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
)

// MaxShards is the most shards that can share a Directory.
const MaxShards = 256

// Directory says which shard has a tuple, for the tuples that translation has to do
// with: those of which an address is in the Filter. All shards of a tracker share it,
// and it is the arbiter between them: a tuple that one shard has claimed no other can
// claim before it is released. Which connection of a shard has it is the shard's to
// know. Nothing in it blocks or allocates.
//
// A claim is a word in one of two buckets, which a keyed hash of the tuple names:
//
//	bits  0-7   the shard
//	bit   8     pending: it may yet be withdrawn
//	bits  9-16  how often the shard has claimed it; 255 is 255 or more, and stays
//	bit   17    the orientation of the tuple against its key
//	bits 18-63  fingerprint: 46 bits of the hash
//
// A word of 0 is free. Two tuples are taken for one another if their fingerprints are
// the same and they have a bucket in common: with b buckets, in 4 of b * 2^46 pairs.
// What follows is that one of them is refused, and another port is chosen for it.
//
// The zone is part of a tuple: two zones may have the rest in common, on one shard or on
// two.
type Directory struct {
	filter  atomic.Pointer[AddrSet]
	secret  flow.Secret
	buckets []claims
	held    [MaxShards]count // claims by shard
	full    atomic.Uint64
}

// claims is a bucket, one cache line.
type claims [8]atomic.Uint64

// count is a counter of one shard, on a cache line of its own.
type count struct {
	n atomic.Int64
	_ [56]byte
}

const (
	ownerMask = 0xff
	pending   = 1 << 8
	oneClaim  = 1 << 9
	countMask = 0xff << 9
	routeMask = ^uint64(1<<17 - 1) // fingerprint and orientation
)

// NewDirectory returns a Directory with room for claims of so many connections, two of
// each: it then is two thirds full. Valid iff connections >= 1.
func NewDirectory(connections int, key Key) *Directory {
	return &Directory{secret: key.secret(domainTuple), buckets: make([]claims, numClaims(connections))}
}

func numClaims(connections int) int { return max((3*connections+7)/8, 2) }

// SetFilter says of which addresses tuples are to be claimed, and looked for. It must
// not lose an address of a tuple that is claimed.
func (d *Directory) SetFilter(s *AddrSet) { d.filter.Store(s) }

// Filter returns what SetFilter has set, nil at first.
func (d *Directory) Filter() *AddrSet { return d.filter.Load() }

// Concerns reports whether a tuple, or the key of one, is to be claimed.
func (d *Directory) Concerns(t *flow.Tuple) bool { return d.filter.Load().Touches(t) }

// Outcome is what comes of a claim.
type Outcome uint8

// The outcomes of a claim.
const (
	Taken   Outcome = iota // another shard has the tuple
	Claimed                // it is the claimant's from now on
	Full                   // there is no room for it
)

// place is where a claim may lie, and what it looks like.
type place struct {
	a, b int // buckets
	word uint64
}

func (d *Directory) place(key *flow.Tuple, flipped bool, owner int) place {
	h := key.Hash(&d.secret)
	if z := key.L4.Zone(); z != 0 { // Hash leaves the zone out of half of its bits
		h = (h ^ h>>32) * 0x9fb21c651e98df25
		h ^= h >> 29
	}
	if flipped { // elsewhere: a connection that is not translated claims both
		h = h*0xd6e8feb86659fd93 ^ h>>32
	}
	n := uint64(len(d.buckets))
	hi, _ := bits.Mul64(h, n)
	lo, _ := bits.Mul64(bits.RotateLeft64(h, 32)*0x9e3779b97f4a7c15, n)
	if lo == hi {
		if lo++; lo == n {
			lo = 0
		}
	}
	w := h<<18 | oneClaim | uint64(owner)
	if flipped {
		w |= 1 << 17
	}
	return place{int(hi), int(lo), w}
}

// clash reports whether two words cannot both be there: they are of one tuple and of two
// shards.
func clash(a, b uint64) bool { return (a^b)&routeMask == 0 && (a^b)&ownerMask != 0 }

// Claim claims the tuple with this key and orientation (flow.Tuple.Canonical) for a
// shard, once more if the shard has it already. Only the shard itself may claim for it,
// one claim at a time.
//
// Claimants of one tuple that come at once cannot see each other before they have
// written their words. So a word is pending at first. A claimant that then sees
// another's word that is settled, or pending in a lower slot, withdraws; one that is
// pending in a higher slot it takes away. Who finds its own word still there at the
// end, and settles it, has the tuple. Of two that both settled, one had settled before
// the other looked, for a word is settled only after its owner has looked: and that
// other would have seen it.
func (d *Directory) Claim(key *flow.Tuple, flipped bool, owner int) Outcome {
	p := d.place(key, flipped, owner)
	w := p.word | pending
	if own := d.own(p); own != nil {
		if v := own.Load(); v&countMask != countMask {
			own.Store(v + oneClaim) // a settled word is its owner's alone to change
		}
		d.held[owner].n.Add(1)
		return Claimed
	}
	var mine *atomic.Uint64
	for mine == nil {
		free, taken := d.room(p)
		if taken {
			return Taken
		}
		if free == nil {
			d.full.Add(1)
			return Full
		}
		if free.CompareAndSwap(0, w) {
			mine = free
		}
	}
	before := true // slots below mine
	for _, b := range p.order() {
		for i := range d.buckets[b] {
			at := &d.buckets[b][i]
			if at == mine {
				before = false
				continue
			}
			for v := at.Load(); v != 0 && clash(v, w); v = at.Load() {
				if v&pending == 0 || before {
					mine.CompareAndSwap(w, 0)
					return Taken
				}
				at.CompareAndSwap(v, 0)
			}
		}
	}
	if !mine.CompareAndSwap(w, p.word) { // somebody took it away
		return Taken
	}
	d.held[owner].n.Add(1)
	return Claimed
}

// order returns the two buckets, the lower first, so that all claimants agree on which
// slots are lower.
func (p place) order() [2]int { return [2]int{min(p.a, p.b), max(p.a, p.b)} }

// own returns where the claim is that the owner has, nil if it has none.
func (d *Directory) own(p place) *atomic.Uint64 {
	for _, b := range p.order() {
		for i := range d.buckets[b] {
			at := &d.buckets[b][i]
			if v := at.Load(); v != 0 && (v^p.word)&(routeMask|ownerMask) == 0 {
				return at
			}
		}
	}
	return nil
}

// room returns a free slot in the emptier bucket, nil if there is none; taken says that
// another shard has a claim, or is about to have one.
func (d *Directory) room(p place) (free *atomic.Uint64, taken bool) {
	most := 0
	for _, b := range p.order() {
		n, first := 0, (*atomic.Uint64)(nil)
		for i := range d.buckets[b] {
			at := &d.buckets[b][i]
			switch v := at.Load(); {
			case v == 0:
				if n++; first == nil {
					first = at
				}
			case clash(v, p.word):
				return nil, true
			}
		}
		if n > most {
			most, free = n, first
		}
	}
	return free, false
}

// Release gives back a tuple that the owner has claimed, once, and reports whether it
// had it. Only the owner itself may release.
func (d *Directory) Release(key *flow.Tuple, flipped bool, owner int) bool {
	own := d.own(d.place(key, flipped, owner))
	if own == nil {
		return false
	}
	switch v := own.Load(); v & countMask {
	case countMask: // nobody knows how many more there are
	case oneClaim:
		own.Store(0)
	default:
		own.Store(v - oneClaim)
	}
	d.held[owner].n.Add(-1)
	return true
}

// Owner returns the shard that has a tuple; ok is false if none has claimed it.
func (d *Directory) Owner(key *flow.Tuple, flipped bool) (owner int, ok bool) {
	p := d.place(key, flipped, 0)
	for _, b := range [2]int{p.a, p.b} {
		for i := range d.buckets[b] {
			if v := d.buckets[b][i].Load(); v != 0 && (v^p.word)&routeMask == 0 && v&pending == 0 {
				return int(v & ownerMask), true
			}
		}
	}
	return 0, false
}

// Taken returns the other shard that keeps a tuple from being claimed for owner; ok is
// false if none does.
func (d *Directory) Taken(key *flow.Tuple, flipped bool, owner int) (by int, ok bool) {
	p := d.place(key, flipped, owner)
	for _, b := range p.order() {
		for i := range d.buckets[b] {
			if v := d.buckets[b][i].Load(); v != 0 && clash(v, p.word) {
				return int(v & ownerMask), true
			}
		}
	}
	return 0, false
}

// DirectoryStats are the counters of a Directory.
type DirectoryStats struct {
	Claims int    // that were made and not released
	Room   int    // words that there are
	Full   uint64 // claims that found no room
}

// Stats returns the counters. Any goroutine may call it.
func (d *Directory) Stats() (s DirectoryStats) {
	for i := range d.held {
		s.Claims += int(d.held[i].n.Load())
	}
	s.Room, s.Full = 8*len(d.buckets), d.full.Load()
	return s
}
