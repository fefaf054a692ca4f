package table

import (
	"encoding/binary"
	"math/bits"
)

const (
	bucketSlots = 12
	// maxProbes bounds the search for a connection or a free slot. At the
	// highest fill about every tenth bucket is full, so that a search of this
	// length fails once in 10^30.
	maxProbes = 32
	// fill is the share of slots in use when the table is full, in percent.
	fill = 72
)

// bucket is one cache line of the index. A tag of 0 marks a free slot.
type bucket struct {
	tags   [bucketSlots]uint8
	passed uint16 // connections that found this bucket full and went on; stuck at its maximum
	_      [2]uint8
	conns  [bucketSlots]uint32
}

const maxPassed = 1<<16 - 1

// numBuckets returns the size of an index for maxConns connections: a prime, so
// that steps of any length lead through all of it.
func numBuckets(maxConns int) int {
	n := max(2, (maxConns*100+bucketSlots*fill-1)/(bucketSlots*fill))
	for !isPrime(n) {
		n++
	}
	return n
}

func isPrime(n int) bool {
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}

// probe is the sequence of buckets in which a connection may be. Its steps differ
// from hash to hash, so that full buckets do not grow into clusters.
type probe struct{ at, step, n int }

// probes returns the sequence for hash; t.home is its first bucket.
func (t *Table) probes(hash uint64) probe {
	n := len(t.buckets)
	return probe{t.home(hash), 1 + int(uint64(uint32(hash))*uint64(n-1)>>32), n}
}

func (p *probe) next() {
	if p.at += p.step; p.at >= p.n {
		p.at -= p.n
	}
}

// home returns the bucket where the search for hash begins.
func (t *Table) home(hash uint64) int {
	hi, _ := bits.Mul64(hash, uint64(len(t.buckets)))
	return int(hi)
}

func tagOf(hash uint64) uint8 {
	if t := uint8(hash); t != 0 {
		return t
	}
	return 1
}

const (
	low7    = 0x7f7f7f7f7f7f7f7f
	eachOne = 0x0101010101010101
)

// zeroBytes sets the top bit of each byte of x that is zero, exactly.
func zeroBytes(x uint64) uint64 { return ^((x&low7 + low7) | x | low7) }

// match returns the slots of b with the given tag.
func (b *bucket) match(tag uint8) slotSet {
	want := uint64(tag) * eachOne
	a := zeroBytes(binary.LittleEndian.Uint64(b.tags[:8]) ^ want)
	c := zeroBytes(uint64(binary.LittleEndian.Uint32(b.tags[8:])) ^ want&0xffffffff | 0xffffffff<<32)
	return slotSet(a>>7*gather>>56 | c>>7*gather>>56<<8)
}

// gather moves the lowest bit of each byte into the top byte, the first byte's
// lowest: each of its bits shifts one byte into place.
const gather = 0x0102040810204080

// slotSet is a set of slots, a bit each.
type slotSet uint16

func (s slotSet) empty() bool { return s == 0 }

// first returns the lowest slot. Valid iff s is not empty.
func (s slotSet) first() int { return bits.TrailingZeros16(uint16(s)) }

// pop removes and returns the lowest slot. Valid iff s is not empty.
func (s *slotSet) pop() int {
	i := s.first()
	*s &= *s - 1
	return i
}

// place puts connection i into a free slot for hash and returns the number of
// buckets looked at, or 0 if none within the bound has room.
func (t *Table) place(hash uint64, i uint32) int {
	p := t.probes(hash)
	for n := 1; n <= t.probeLimit; n++ {
		b := &t.buckets[p.at]
		if free := b.match(0); !free.empty() {
			s := free.pop()
			b.tags[s], b.conns[s] = tagOf(hash), i
			t.pass(hash, n-1, +1)
			return n
		}
		p.next()
	}
	return 0
}

// pass adds d to the counts of the first n buckets of a sequence.
func (t *Table) pass(hash uint64, n int, d int) {
	p := t.probes(hash)
	for range n {
		if b := &t.buckets[p.at]; b.passed != maxPassed {
			b.passed = uint16(int(b.passed) + d)
		}
		p.next()
	}
}

// displace takes connection i, which place put there for hash, out of the index.
func (t *Table) displace(hash uint64, i uint32) {
	tag := tagOf(hash)
	p := t.probes(hash)
	for n := 0; ; n++ {
		b := &t.buckets[p.at]
		for m := b.match(tag); !m.empty(); {
			if s := m.pop(); b.conns[s] == i {
				b.tags[s] = 0
				t.pass(hash, n, -1)
				return
			}
		}
		p.next()
	}
}
