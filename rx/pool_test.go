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

// frameMoves is the state of TestChunksAreConserved.
type frameMoves struct {
	u       *UMEM
	pools   []*Pool
	queues  [2]*xsk
	held    []Desc // by the user
	sending [2][]uint64
}

const (
	movesPool = 24 // chunks
	movesRing = 8  // entries
)

// reopen makes queue i anew.
func (m *frameMoves) reopen(t *rapid.T, i int) {
	s := start(t)
	m.queues[i] = &xsk{fd: -1, id: i, umem: m.u,
		rx: fakeRing[Desc](movesRing, s, false), tx: fakeRing[Desc](movesRing, s, true),
		fill: fakeRing[uint64](movesRing, s, true), comp: fakeRing[uint64](movesRing, s, false)}
}

// put gives a chunk back to its pool.
func (m *frameMoves) put(t *rapid.T, addr uint64) {
	for _, p := range m.pools {
		if p.Home(addr) {
			p.Put(addr)
			return
		}
	}
	t.Fatalf("address %d is of no pool", addr)
}

// check fails the test unless each chunk is in exactly one place.
func (m *frameMoves) check(t *rapid.T) {
	o := owners{}
	for i, p := range m.pools {
		for _, addr := range p.free {
			o.add(t, m.u, addr, fmt.Sprintf("free in pool %d", i))
			if !p.Home(addr) || addr%m.u.chunk != 0 {
				t.Fatalf("pool %d has address %d", i, addr)
			}
		}
	}
	for _, d := range m.held {
		o.add(t, m.u, d.Addr, "held")
	}
	for i, q := range m.queues {
		q.fill.untaken(func(a uint64) { o.add(t, m.u, a, fmt.Sprintf("in fill ring %d", i)) })
		q.tx.untaken(func(d Desc) { o.add(t, m.u, d.Addr, fmt.Sprintf("in transmit ring %d", i)) })
		for k := *q.rx.consumer; k != *q.rx.producer; k++ {
			o.add(t, m.u, q.rx.entries[k&q.rx.mask].Addr, fmt.Sprintf("in receive ring %d", i))
		}
		for k := *q.comp.consumer; k != *q.comp.producer; k++ {
			o.add(t, m.u, q.comp.entries[k&q.comp.mask], fmt.Sprintf("in completion ring %d", i))
		}
		for _, addr := range m.sending[i] {
			o.add(t, m.u, addr, fmt.Sprintf("being sent by %d", i))
		}
	}
	if len(o) != m.u.Chunks() {
		t.Fatalf("%d of %d chunks are anywhere: %v", len(o), m.u.Chunks(), maps.Collect(maps.All(o)))
	}
}

// TestChunksAreConserved moves frames through two pools and two queues, whose kernel is
// simulated, and hands them from one pool's core to the other's: after every step each
// chunk is in exactly one place.
func TestChunksAreConserved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := fakeUMEM(2 * movesPool)
		m := &frameMoves{u: u, pools: []*Pool{NewPool(u, 0, movesPool), NewPool(u, movesPool, movesPool)}}
		m.reopen(t, 0)
		m.reopen(t, 1)
		queue := func(t *rapid.T) int { return rapid.IntRange(0, 1).Draw(t, "queue") }
		some := func(t *rapid.T) int { return rapid.IntRange(0, movesRing+1).Draw(t, "some") }
		t.Repeat(map[string]func(*rapid.T){
			"refill": func(t *rapid.T) { i := queue(t); m.pools[i].Refill(m.queues[i], some(t)) },
			"kernel receives": func(t *rapid.T) {
				q := m.queues[queue(t)]
				for range min(some(t), kernelRoom(&q.rx)) {
					for _, addr := range kernelTakes(&q.fill, 1) {
						kernelPuts(&q.rx, Desc{Addr: addr + Headroom, Len: rapid.Uint32Range(1, 1000).Draw(t, "len")})
					}
				}
			},
			"receive": func(t *rapid.T) {
				var ds [movesRing + 1]Desc
				n := m.queues[queue(t)].Receive(ds[:some(t)])
				m.held = append(m.held, ds[:n]...)
			},
			"drop": func(t *rapid.T) {
				n := min(some(t), len(m.held))
				for _, d := range m.held[:n] {
					m.put(t, d.Addr)
				}
				m.held = m.held[n:]
			},
			"transmit": func(t *rapid.T) {
				i := queue(t)
				n := min(some(t), len(m.held))
				took := m.queues[i].Transmit(m.held[:n])
				m.held = m.held[took:]
			},
			"kernel sends": func(t *rapid.T) {
				i := queue(t)
				for _, d := range kernelTakes(&m.queues[i].tx, some(t)) {
					m.sending[i] = append(m.sending[i], d.Addr)
				}
			},
			"kernel has sent": func(t *rapid.T) {
				i := queue(t)
				n := min(some(t), len(m.sending[i]), kernelRoom(&m.queues[i].comp))
				for _, addr := range m.sending[i][:n] {
					kernelPuts(&m.queues[i].comp, addr)
				}
				m.sending[i] = m.sending[i][n:]
			},
			"complete": func(t *rapid.T) {
				var addrs [movesRing + 1]uint64
				for _, addr := range addrs[:m.queues[queue(t)].Complete(addrs[:some(t)])] {
					m.put(t, addr)
				}
			},
			"interface goes": func(t *rapid.T) {
				i := queue(t)
				if len(m.sending[i]) > 0 {
					t.Skip("the driver has frames in hand: those are lost")
				}
				if _, err := m.queues[i].Abandon(func(addr uint64) { m.put(t, addr) }); err != nil {
					t.Fatal(err)
				}
				m.reopen(t, i)
			},
			"": m.check,
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
