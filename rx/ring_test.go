package rx

import (
	"testing"

	"pgregory.net/rapid"
)

// fakeRing is a ring in ordinary memory whose indices begin at start, which may be close
// to where they wrap.
func fakeRing[T any](n int, start uint32, produces bool) ring[T] {
	r := ring[T]{
		producer: new(uint32), consumer: new(uint32), flags: new(uint32),
		entries: make([]T, n), mask: uint32(n - 1), head: start, limit: start,
	}
	*r.producer, *r.consumer = start, start
	if produces {
		r.limit = start + uint32(n)
	}
	return r
}

// The other side of a ring, as the kernel has it: it looks at the shared indices alone.

// kernelTakes takes at most n entries that a producer has put.
func kernelTakes[T any](r *ring[T], n int) (out []T) {
	for ; n > 0 && *r.consumer != *r.producer; n-- {
		out = append(out, r.entries[*r.consumer&r.mask])
		*r.consumer++
	}
	return out
}

// kernelRoom returns how many entries the kernel may put.
func kernelRoom[T any](r *ring[T]) int { return len(r.entries) - int(*r.producer-*r.consumer) }

// kernelPuts puts an entry; there must be room.
func kernelPuts[T any](r *ring[T], v T) {
	r.entries[*r.producer&r.mask] = v
	*r.producer++
}

// start draws where the indices of a ring begin: often so that they wrap soon.
func start(t *rapid.T) uint32 {
	if rapid.Bool().Draw(t, "wraps") {
		return ^uint32(0) - rapid.Uint32Range(0, 20).Draw(t, "before the wrap")
	}
	return rapid.Uint32().Draw(t, "start")
}

// TestProducerRing holds the producing side to a queue of bounded length, whatever the
// kernel takes in between.
func TestProducerRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 8
		r := fakeRing[uint64](n, start(t), true)
		var model []uint64
		next := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				want := rapid.IntRange(0, n+2).Draw(t, "want")
				room := r.room(want)
				if most := min(want, n-len(model)); room != most {
					t.Fatalf("room for %d of %d, not %d", room, want, most)
				}
				var es []uint64
				for range rapid.IntRange(0, room).Draw(t, "put") {
					es = append(es, next)
					next++
				}
				r.put(es)
				model = append(model, es...)
			},
			"kernel": func(t *rapid.T) {
				for _, got := range kernelTakes(&r, rapid.IntRange(0, n).Draw(t, "take")) {
					if got != model[0] {
						t.Fatalf("the kernel got %d, not %d", got, model[0])
					}
					model = model[1:]
				}
			},
			"": func(t *rapid.T) {
				if r.pending() != len(model) {
					t.Fatalf("%d pending, not %d", r.pending(), len(model))
				}
				i := 0
				r.untaken(func(v uint64) {
					if v != model[i] {
						t.Fatalf("untaken %d is %d, not %d", i, v, model[i])
					}
					i++
				})
				if i != len(model) {
					t.Fatalf("%d untaken, not %d", i, len(model))
				}
			},
		})
	})
}

// TestConsumerRing is TestProducerRing for the consuming side.
func TestConsumerRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 8
		r := fakeRing[uint64](n, start(t), false)
		var model []uint64
		next := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"kernel": func(t *rapid.T) {
				for range rapid.IntRange(0, kernelRoom(&r)).Draw(t, "put") {
					kernelPuts(&r, next)
					model = append(model, next)
					next++
				}
			},
			"take": func(t *rapid.T) {
				want := rapid.IntRange(0, n+2).Draw(t, "want")
				have := r.filled(want)
				// What the kernel has put since we looked last may be seen later, but
				// something has to be seen if there is anything.
				if have > min(want, len(model)) || have == 0 && want > 0 && len(model) > 0 {
					t.Fatalf("%d of %d filled, there are %d", have, want, len(model))
				}
				es := make([]uint64, have)
				r.take(es)
				for _, got := range es {
					if got != model[0] {
						t.Fatalf("took %d, not %d", got, model[0])
					}
					model = model[1:]
				}
				if kernelRoom(&r) != n-len(model) {
					t.Fatalf("the kernel sees room for %d, not %d", kernelRoom(&r), n-len(model))
				}
			},
		})
	})
}
