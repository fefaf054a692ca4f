package engine

import "sync/atomic"

// spsc is a ring from one goroutine to one other. Producer and consumer keep
// their indices on cache lines of their own.
type spsc[T any] struct {
	buf  []T
	mask uint64
	_    [64]byte
	head atomic.Uint64 // of the consumer
	_    [56]byte
	tail atomic.Uint64 // of the producer
	_    [56]byte
}

// newSPSC makes a ring of n entries, a power of two.
func newSPSC[T any](n int) *spsc[T] { return &spsc[T]{buf: make([]T, n), mask: uint64(n - 1)} }

// push adds v unless the ring is full.
func (r *spsc[T]) push(v T) bool {
	t := r.tail.Load()
	if t-r.head.Load() == uint64(len(r.buf)) {
		return false
	}
	r.buf[t&r.mask] = v
	r.tail.Store(t + 1)
	return true
}

// room returns how many more entries there is room for. Only the producer may rely on it.
func (r *spsc[T]) room() int { return len(r.buf) - int(r.tail.Load()-r.head.Load()) }

// pushAll adds all of vs, or none if there is no room for them.
func (r *spsc[T]) pushAll(vs []T) bool {
	t := r.tail.Load()
	if t-r.head.Load()+uint64(len(vs)) > uint64(len(r.buf)) {
		return false
	}
	for i, v := range vs {
		r.buf[(t+uint64(i))&r.mask] = v
	}
	r.tail.Store(t + uint64(len(vs)))
	return true
}

// pop takes as many entries as there are, at most len(dst).
func (r *spsc[T]) pop(dst []T) int {
	h := r.head.Load()
	n := min(int(r.tail.Load()-h), len(dst))
	for i := range n {
		dst[i] = r.buf[(h+uint64(i))&r.mask]
	}
	if n > 0 {
		r.head.Store(h + uint64(n))
	}
	return n
}

func (r *spsc[T]) empty() bool { return r.head.Load() == r.tail.Load() }
