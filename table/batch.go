package table

import (
	"math/bits"

	"github.com/xdpct/xdpct/flow"
)

// MaxBatch is the most packets of a Batch.
const MaxBatch = 64

// Batch is packets that are about to be looked up. Each needs a bucket of the
// index, then an entry, and both are cache misses once the table is large. So
// what a packet will need is asked for ahead of time, stage by stage, and the
// misses of many packets overlap with each other and with the work on packets
// before them:
//
//	Expect    asks for the bucket
//	Locate    finds the entry in it, and asks for that
//	LocateOn  goes on to the next bucket where the connection was not in its home
//	Lookup    finds the connection, most likely where Locate said
//
// A few packets should lie between one stage and the next. All of this
// changes nothing but time: Lookup finds the same after any of the stages was
// left out, and whatever happened to the table in between.
type Batch struct {
	// Hash holds the hashes, and Both a 1 where a packet will need both lines of
	// its connection (TCP does).
	Hash [MaxBatch]uint64
	Both [MaxBatch]uint8

	likely [MaxBatch]uint32 // valid once located, if not nowhere
	astray uint64           // packets for LocateOn, a bit each
}

// nowhere is the entry of a connection that Locate did not see.
const nowhere = none

// Expect asks for the home bucket of each hash.
func (t *Table) Expect(hash []uint64) {
	if len(hash) > 0 {
		expect(hash, t.buckets)
	}
}

// Locate finds out where packets from to to-1 most likely belong, and asks for
// that.
func (t *Table) Locate(b *Batch, from, to int) {
	if from >= to {
		return
	}
	b.astray &^= 1<<to - 1<<from
	odd := locate(b.Hash[from:to], b.Both[from:to], b.likely[from:to], t.buckets, t.conns)
	for odd <<= from; odd != 0; odd &= odd - 1 {
		i := bits.TrailingZeros64(odd)
		t.locateOdd(b, i)
	}
}

// locateOdd is for packet i, whose home bucket has no slot with its tag, or several.
func (t *Table) locateOdd(b *Batch, i int) {
	home := &t.buckets[t.home(b.Hash[i])]
	m := home.match(tagOf(b.Hash[i]))
	if m.empty() && home.passed != 0 {
		p := t.probes(b.Hash[i])
		p.next()
		expectBucket(&t.buckets[p.at])
		b.astray |= 1 << i
	}
	for !m.empty() {
		expectConn(&t.conns[home.conns[m.pop()]&^second], b.Both[i])
	}
}

// LocateOn looks on for those of packets from to to-1 that Locate did not see.
func (t *Table) LocateOn(b *Batch, from, to int) {
	for rest := b.astray & (1<<to - 1<<from); rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		p := t.probes(b.Hash[i])
		p.next()
		next := &t.buckets[p.at]
		if m := next.match(tagOf(b.Hash[i])); !m.empty() {
			b.likely[i] = next.conns[m.first()]
			expectConn(&t.conns[b.likely[i]&^second], b.Both[i])
		}
	}
}

// Lookup is Find for packet n of b.
func (t *Table) Lookup(b *Batch, n int, key *flow.Tuple, flipped bool, now flow.Millis) (i uint32, ok bool) {
	if i = b.likely[n&(MaxBatch-1)]; uint(i) < uint(len(t.conns)) {
		c := &t.conns[i]
		if c.Key.Equal(key) && c.Lively() && c.Expires.Until(now) > 0 {
			return i, true
		}
	}
	return t.lookupTwoKeyed(b, n, key, flipped, now)
}

// locateSlow is locate of stages_amd64.s, without asking for the entries.
func locateSlow(hash []uint64, likely []uint32, buckets []bucket) (odd uint64) {
	for i, h := range hash {
		home, _ := bits.Mul64(h, uint64(len(buckets)))
		b := &buckets[home]
		m := b.match(tagOf(h))
		if m.empty() || m&(m-1) != 0 {
			odd |= 1 << i
		}
		likely[i] = nowhere
		if !m.empty() {
			likely[i] = b.conns[m.first()]
		}
	}
	return odd
}
