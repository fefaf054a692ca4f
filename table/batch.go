package table

// MaxBatch is the most packets of a Batch.
const MaxBatch = 64

// Batch is the hashes of packets that are about to be looked up. Fetching ahead for
// a whole batch before judging it lets the cache misses overlap; it changes
// nothing but time.
type Batch struct {
	// Hash holds the hashes, and Both whether a packet will need both lines of
	// its connection (TCP does).
	Hash [MaxBatch]uint64
	Both [MaxBatch]bool

	lines [2 * MaxBatch]uintptr
}

// PrefetchBuckets reads the home buckets of the first n packets.
func (t *Table) PrefetchBuckets(b *Batch, n int) {
	lines := (*[MaxBatch]uintptr)(b.lines[:MaxBatch])
	for i, h := range b.Hash[:n] {
		lines[i&(MaxBatch-1)] = t.bucketBase + uintptr(t.home(h))*cacheLine
	}
	touch(lines, n)
}

// PrefetchConns reads the entries that the first n packets most likely belong
// to. Their buckets should be under way.
func (t *Table) PrefetchConns(b *Batch, n int) {
	k := 0
	for i, h := range b.Hash[:n] {
		u := &t.buckets[t.home(h)]
		m := u.match(tagOf(h))
		if m.empty() {
			continue
		}
		at := t.connBase + uintptr(u.conns[m.first()])*connSize
		b.lines[k] = at
		k++
		if b.Both[i] {
			b.lines[k] = at + cacheLine
			k++
		}
	}
	touch((*[MaxBatch]uintptr)(b.lines[:MaxBatch]), min(k, MaxBatch))
	if k > MaxBatch {
		touch((*[MaxBatch]uintptr)(b.lines[MaxBatch:]), k-MaxBatch)
	}
}
