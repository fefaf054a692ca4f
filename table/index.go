package table

import (
	"encoding/binary"
	"math/bits"
)

const (
	bucketSlots = 12
	// maxProbes bounds the search for a connection or a free slot. It also
	// bounds bucket.passed: those who passed a bucket sit in the next
	// maxProbes-1 ones, so they are at most 15*12 = 180.
	maxProbes = 16
	// fill is the share of slots in use when the table is full, in percent.
	fill = 80
)

// bucket is one cache line of the index. A tag of 0 marks a free slot.
type bucket struct {
	tags   [bucketSlots]uint8
	passed uint8 // connections that found this bucket full and went on
	_      [3]uint8
	conns  [bucketSlots]uint32
}

func numBuckets(maxConns int) int {
	return max(1, (maxConns*100+bucketSlots*fill-1)/(bucketSlots*fill))
}

// home returns the bucket where the search for hash begins.
func home(hash uint64, n int) int {
	hi, _ := bits.Mul64(hash, uint64(n))
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

// match returns the slots of b with the given tag as a bit set.
func (b *bucket) match(tag uint8) slotSet {
	want := uint64(tag) * eachOne
	a := zeroBytes(binary.LittleEndian.Uint64(b.tags[:8]) ^ want)
	c := zeroBytes(uint64(binary.LittleEndian.Uint32(b.tags[8:])) ^ want&0xffffffff | 0xffffffff<<32)
	return slotSet{a, c}
}

// slotSet is a set of slots: the top bit of byte i stands for slot i, of a for
// the first eight and of c for the last four.
type slotSet struct{ a, c uint64 }

func (s slotSet) empty() bool { return s.a|s.c == 0 }

// pop removes and returns the lowest slot. Valid iff s is not empty.
func (s *slotSet) pop() int {
	if s.a != 0 {
		i := bits.TrailingZeros64(s.a) >> 3
		s.a &= s.a - 1
		return i
	}
	i := bits.TrailingZeros64(s.c) >> 3
	s.c &= s.c - 1
	return 8 + i
}

// place puts connection i into a free slot for hash and returns the number of
// buckets looked at, or 0 if none within the bound has room.
func (t *Table) place(hash uint64, i uint32) (probes int) {
	at := home(hash, len(t.buckets))
	for probes = 1; probes <= t.probeLimit; probes++ {
		b := &t.buckets[at]
		if free := b.match(0); !free.empty() {
			s := free.pop()
			b.tags[s], b.conns[s] = tagOf(hash), i
			for p := home(hash, len(t.buckets)); p != at; p = t.after(p) {
				t.buckets[p].passed++
			}
			return probes
		}
		at = t.after(at)
	}
	return 0
}

// displace takes connection i, which place put there for hash, out of the index.
func (t *Table) displace(hash uint64, i uint32) {
	tag := tagOf(hash)
	for at := home(hash, len(t.buckets)); ; at = t.after(at) {
		b := &t.buckets[at]
		for m := b.match(tag); !m.empty(); {
			if s := m.pop(); b.conns[s] == i {
				b.tags[s] = 0
				for p := home(hash, len(t.buckets)); p != at; p = t.after(p) {
					t.buckets[p].passed--
				}
				return
			}
		}
	}
}

func (t *Table) after(bucket int) int {
	if bucket++; bucket < len(t.buckets) {
		return bucket
	}
	return 0
}
