package rx

import (
	"fmt"
	"maps"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// fakeUMEM is frame memory that no kernel knows.
func fakeUMEM(chunks int) *UMEM { return &UMEM{make([]byte, chunks*MinChunk), MinChunk} }

// owners counts where each chunk is.
type owners map[uint64]string

// add says that a chunk is somewhere; it is an error if it is somewhere else, too.
func (o owners) add(t *rapid.T, u *UMEM, addr uint64, where string) {
	chunk := addr / u.chunk
	if before, ok := o[chunk]; ok {
		t.Fatalf("chunk %d is %s, and %s", chunk, before, where)
	}
	o[chunk] = where
}

// TestChunksAreConserved moves frames through two pools and two queues, whose kernel is
// simulated, and hands them from one pool's core to the other's: after every step each
// chunk is in exactly one place.
func TestChunksAreConserved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const perPool, ringSize = 24, 8
		u := fakeUMEM(2 * perPool)
		pools := []*Pool{NewPool(u, 0, perPool), NewPool(u, perPool, perPool)}
		var queues [2]*xsk
		reopen := func(i int) {
			s := start(t)
			queues[i] = &xsk{fd: -1, id: i, umem: u,
				rx: fakeRing[Desc](ringSize, s, false), tx: fakeRing[Desc](ringSize, s, true),
				fill: fakeRing[uint64](ringSize, s, true), comp: fakeRing[uint64](ringSize, s, false)}
		}
		reopen(0)
		reopen(1)
		var held []Desc // by the user
		var sending [2][]uint64
		put := func(addr uint64) {
			for _, p := range pools {
				if p.Home(addr) {
					p.Put(addr)
					return
				}
			}
			t.Fatalf("address %d is of no pool", addr)
		}
		queue := func(t *rapid.T) int { return rapid.IntRange(0, 1).Draw(t, "queue") }
		some := func(t *rapid.T) int { return rapid.IntRange(0, ringSize+1).Draw(t, "some") }
		t.Repeat(map[string]func(*rapid.T){
			"refill": func(t *rapid.T) { i := queue(t); pools[i].Refill(queues[i], some(t)) },
			"kernel receives": func(t *rapid.T) {
				q := queues[queue(t)]
				for range min(some(t), kernelRoom(&q.rx)) {
					for _, addr := range kernelTakes(&q.fill, 1) {
						kernelPuts(&q.rx, Desc{Addr: addr + Headroom, Len: rapid.Uint32Range(1, 1000).Draw(t, "len")})
					}
				}
			},
			"receive": func(t *rapid.T) {
				var ds [ringSize + 1]Desc
				n := queues[queue(t)].Receive(ds[:some(t)])
				held = append(held, ds[:n]...)
			},
			"drop": func(t *rapid.T) {
				n := min(some(t), len(held))
				for _, d := range held[:n] {
					put(d.Addr)
				}
				held = held[n:]
			},
			"transmit": func(t *rapid.T) {
				i := queue(t)
				n := min(some(t), len(held))
				took := queues[i].Transmit(held[:n])
				held = held[took:]
			},
			"kernel sends": func(t *rapid.T) {
				i := queue(t)
				for _, d := range kernelTakes(&queues[i].tx, some(t)) {
					sending[i] = append(sending[i], d.Addr)
				}
			},
			"kernel has sent": func(t *rapid.T) {
				i := queue(t)
				n := min(some(t), len(sending[i]), kernelRoom(&queues[i].comp))
				for _, addr := range sending[i][:n] {
					kernelPuts(&queues[i].comp, addr)
				}
				sending[i] = sending[i][n:]
			},
			"complete": func(t *rapid.T) {
				var addrs [ringSize + 1]uint64
				for _, addr := range addrs[:queues[queue(t)].Complete(addrs[:some(t)])] {
					put(addr)
				}
			},
			"interface goes": func(t *rapid.T) {
				i := queue(t)
				if len(sending[i]) > 0 {
					t.Skip("the driver has frames in hand: those are lost")
				}
				if err := queues[i].Abandon(put); err != nil {
					t.Fatal(err)
				}
				reopen(i)
			},
			"": func(t *rapid.T) {
				o := owners{}
				for i, p := range pools {
					for _, addr := range p.free {
						o.add(t, u, addr, fmt.Sprintf("free in pool %d", i))
						if !p.Home(addr) || addr%u.chunk != 0 {
							t.Fatalf("pool %d has address %d", i, addr)
						}
					}
				}
				for _, d := range held {
					o.add(t, u, d.Addr, "held")
				}
				for i, q := range queues {
					q.fill.untaken(func(a uint64) { o.add(t, u, a, fmt.Sprintf("in fill ring %d", i)) })
					q.tx.untaken(func(d Desc) { o.add(t, u, d.Addr, fmt.Sprintf("in transmit ring %d", i)) })
					for k := *q.rx.consumer; k != *q.rx.producer; k++ {
						o.add(t, u, q.rx.entries[k&q.rx.mask].Addr, fmt.Sprintf("in receive ring %d", i))
					}
					for k := *q.comp.consumer; k != *q.comp.producer; k++ {
						o.add(t, u, q.comp.entries[k&q.comp.mask], fmt.Sprintf("in completion ring %d", i))
					}
					for _, addr := range sending[i] {
						o.add(t, u, addr, fmt.Sprintf("being sent by %d", i))
					}
				}
				if len(o) != u.Chunks() {
					t.Fatalf("%d of %d chunks are anywhere: %v", len(o), u.Chunks(), maps.Collect(maps.All(o)))
				}
			},
		})
	})
}

// TestFrameBounds: whatever descriptor the kernel names, Frame gives bytes of one chunk,
// or none.
func TestFrameBounds(t *testing.T) {
	u := fakeUMEM(4)
	if f := u.Frame(Desc{Addr: math.MaxUint64, Len: 1}); f != nil { // it ends at 0
		t.Errorf("%d bytes behind everything", len(f))
	}
	rapid.Check(t, func(t *rapid.T) {
		d := Desc{Addr: rapid.Uint64Range(0, 5*MinChunk).Draw(t, "addr"), Len: rapid.Uint32Range(0, 2*MinChunk).Draw(t, "len")}
		if rapid.Bool().Draw(t, "far") {
			d.Addr, d.Len = rapid.Uint64().Draw(t, "any addr"), rapid.Uint32().Draw(t, "any len")
		}
		end := d.Addr + uint64(d.Len) // may wrap
		good := d.Len > 0 && end > d.Addr && end <= uint64(len(u.mem)) && d.Addr/MinChunk == (end-1)/MinChunk
		f := u.Frame(d)
		if (f != nil) != good {
			t.Fatalf("%+v: %d bytes, good is %v", d, len(f), good)
		}
		if f != nil && (len(f) != int(d.Len) || &f[0] != &u.mem[d.Addr] || d.Addr+uint64(cap(f)) > (d.Addr/MinChunk+1)*MinChunk) {
			t.Fatalf("%+v: %d bytes, room for %d", d, len(f), cap(f))
		}
	})
}
