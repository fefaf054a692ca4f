package policy

import (
	"math/bits"
	"sync/atomic"
)

// store is a hash table of fixed size for what matches remember by address. All shards
// use one at once, and none waits for another: a change either is made in one step or,
// where another shard was faster, begun again.
//
// The entries are rows of words, the first of which are the key. The rows of a bucket
// lie in a record, in the order in which they were added. A record that belongs to a
// bucket is never written to: who changes a row writes a copy of the record to a free
// one, and puts that in its place by one compare-and-swap of the bucket's head. A head
// counts its changes, so that a reader knows whether the words that it has read were
// those of one moment.
type store struct {
	keyWords, width int // of a row
	rows            int // that a bucket has room for
	limit           int64
	seed            [2]uint64

	used  atomic.Int64    // rows in all buckets
	heads []atomic.Uint64 // change<<32 | record<<8 | number of rows
	words []atomic.Uint64 // the records
	free  atomic.Uint64   // change<<32 | record+1: the first free record; 0 if there is none
	next  []atomic.Uint32 // of a free record: the next one, plus 1
}

const (
	// storeRows is how many rows a bucket has room for. With storeLoad in the mean
	// and a keyed hash, one bucket in ten million has more.
	storeRows = 16
	storeLoad = 3
	// maxUsers is how many shards may change a store at once.
	maxUsers = 256
)

// newStore returns a store for up to limit rows of width words, of which the first
// keyWords are the key. Who knows the seed can choose keys that fill one bucket.
func newStore(limit, keyWords, width int, seed [2]uint64) *store {
	buckets, records, rows := storeDims(limit)
	s := &store{
		keyWords: keyWords, width: width, rows: rows, limit: int64(limit), seed: seed,
		heads: make([]atomic.Uint64, buckets), next: make([]atomic.Uint32, records),
	}
	s.words = make([]atomic.Uint64, records*s.rows*width)
	for i := range s.heads {
		s.heads[i].Store(uint64(i) << 8)
	}
	for i := buckets; i < records; i++ {
		s.give(uint64(i))
	}
	return s
}

// storeDims returns what a store for up to limit rows has: buckets, records, and rows in a
// record.
func storeDims(limit int) (buckets, records, rows int) {
	buckets = 1 << bits.Len(uint((limit-1)/storeLoad))
	return buckets, buckets + maxUsers, min(storeRows, limit)
}

// storeBytes is how many bytes a store for up to limit rows of width words takes.
func storeBytes(limit, width int) int {
	buckets, records, rows := storeDims(limit)
	return 8*buckets + 4*records + 8*records*rows*width
}

// spot is where a row was found, or is to be added: valid as long as nothing in its
// bucket has changed.
type spot struct {
	bucket uint64
	head   uint64
	at     int // which row of the bucket
	found  bool
}

func (p *spot) len() int { return int(p.head & 0xff) }

// bucketOf returns the bucket of a key.
func (s *store) bucketOf(key []uint64) uint64 {
	h := s.seed[0]
	for _, w := range key {
		hi, lo := bits.Mul64(h^w, s.seed[1]|1)
		h = hi ^ lo
	}
	hi, lo := bits.Mul64(h^s.seed[0], 0x9e3779b97f4a7c15)
	return (hi ^ lo) & uint64(len(s.heads)-1)
}

// base is where the words of row i of the record of a head begin.
func (s *store) base(head uint64, i int) int {
	return (int(head>>8&0xffffff)*s.rows + i) * s.width
}

// find looks for the first row with a key, and reads it into r. Where there is none the
// spot is behind the last row.
func (s *store) find(key, r []uint64) spot {
	p := spot{bucket: s.bucketOf(key)}
	for {
		p.head, p.at = s.heads[p.bucket].Load(), 0
		s.look(&p, key, r)
		if s.unchanged(&p) {
			return p
		}
	}
}

// more looks for the next row with the key of one that was found. ok is false if the
// bucket has changed since; then find has to look again.
func (s *store) more(p *spot, key, r []uint64) (ok bool) {
	p.at++
	s.look(p, key, r)
	return s.unchanged(p)
}

func (s *store) look(p *spot, key, r []uint64) {
	p.found = false
	for ; p.at < p.len(); p.at++ {
		if s.has(p.head, p.at, key) {
			s.read(p.head, p.at, r)
			p.found = true
			return
		}
	}
}

func (s *store) has(head uint64, i int, key []uint64) bool {
	at := s.base(head, i)
	for k, w := range key {
		if s.words[at+k].Load() != w {
			return false
		}
	}
	return true
}

func (s *store) read(head uint64, i int, r []uint64) {
	at := s.base(head, i)
	for k := range s.width {
		r[k] = s.words[at+k].Load()
	}
}

// unchanged reports whether what was read of a bucket was there at one moment.
func (s *store) unchanged(p *spot) bool { return s.heads[p.bucket].Load() == p.head }

// put writes a row to its spot: over the one that was found, or as a new one. ok is
// false if the bucket has changed since; then find has to look again. full says that
// there is no room for a new row.
func (s *store) put(p spot, r []uint64) (ok, full bool) {
	n := p.len()
	if !p.found {
		if n == s.rows || !s.reserve() {
			return false, true
		}
		n++
	}
	if s.swap(p, n, -1, r) {
		return true, false
	}
	if !p.found {
		s.used.Add(-1)
	}
	return false, false
}

// reserve takes room for a row.
func (s *store) reserve() bool {
	for {
		n := s.used.Load()
		if n >= s.limit {
			return false
		}
		if s.used.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// drop removes the row that was found. ok is false if its bucket has changed since.
func (s *store) drop(p spot) (ok bool) {
	if ok = s.swap(p, p.len()-1, p.at, nil); ok {
		s.used.Add(-1)
	}
	return ok
}

// swap puts a copy of a bucket's record in its place: with r at its spot, or without
// the row left out.
func (s *store) swap(p spot, n, without int, r []uint64) bool {
	record, ok := s.take()
	if !ok {
		return false // every one is in use: another shard is about to give one back
	}
	head := (p.head>>32+1)<<32 | record<<8 | uint64(n)
	for i := range n {
		to := s.base(head, i)
		if r != nil && i == p.at {
			for k := range s.width {
				s.words[to+k].Store(r[k])
			}
			continue
		}
		from := i
		if without >= 0 && i >= without {
			from++
		}
		at := s.base(p.head, from)
		for k := range s.width {
			s.words[to+k].Store(s.words[at+k].Load())
		}
	}
	if !s.heads[p.bucket].CompareAndSwap(p.head, head) {
		s.give(record)
		return false
	}
	s.give(p.head >> 8 & 0xffffff)
	return true
}

// take takes a free record.
func (s *store) take() (record uint64, ok bool) {
	for {
		top := s.free.Load()
		first := top & 0xffffffff
		if first == 0 {
			return 0, false
		}
		rest := uint64(s.next[first-1].Load())
		if s.free.CompareAndSwap(top, (top>>32+1)<<32|rest) {
			return first - 1, true
		}
	}
}

// give gives a record back.
func (s *store) give(record uint64) {
	for {
		top := s.free.Load()
		s.next[record].Store(uint32(top))
		if s.free.CompareAndSwap(top, (top>>32+1)<<32|(record+1)) {
			return
		}
	}
}

// scan reads the row behind p into r, through all buckets from a zero spot on. Each row
// is of one moment, all of them may not be. ok is false at the end.
func (s *store) scan(p *spot, r []uint64) (ok bool) {
	if p.found {
		p.at++
	} else {
		p.head = s.heads[p.bucket].Load()
	}
	for {
		p.found = p.at < p.len()
		if p.found {
			s.read(p.head, p.at, r)
			if s.unchanged(p) {
				return true
			}
			p.head = s.heads[p.bucket].Load() // the row is at p.at still, or one before, or gone
			continue
		}
		if int(p.bucket)+1 == len(s.heads) {
			return false
		}
		p.bucket++
		p.at, p.head = 0, s.heads[p.bucket].Load()
	}
}

// dropOne removes one row of a bucket whose word at is no more than most. ok is false
// if there is none.
func (s *store) dropOne(bucket uint64, at int, most int64) (ok bool) {
	for {
		p := spot{bucket: bucket, found: true}
		p.head = s.heads[bucket].Load()
		old := false
		for ; p.at < p.len() && !old; p.at++ {
			old = int64(s.words[s.base(p.head, p.at)+at].Load()) <= most
		}
		if !s.unchanged(&p) {
			continue
		}
		if !old {
			return false
		}
		p.at--
		if s.drop(p) {
			return true
		}
	}
}
