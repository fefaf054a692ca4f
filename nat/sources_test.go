package nat

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

// TestSourcesModel compares Sources with a map: of the mappings that a source has and
// that are in the range, that which a connection was last given counts. (The kernel's
// list is of connections: there a mapping of two has the turn of the older once the
// later has gone.)
func TestSourcesModel(t *testing.T) {
	type conn struct{ orig, reply flow.Tuple }
	rapid.Check(t, func(t *rapid.T) {
		s := NewShared(1, 400, Key{1, 2})
		var list []conn
		type mapping struct {
			orig, reply flow.Tuple
		}
		count, turn := map[mapping]int{}, map[mapping]int{}
		for step := range rapid.IntRange(1, 200).Draw(t, "steps") {
			o := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", rapid.Uint16Range(1, 4).Draw(t, "sport"), 53)
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				m := o
				m.Src = addr(rapid.SampledFrom([]string{ownAddr, foreignAddr}).Draw(t, "addr"))
				setPort(&m, true, rapid.Uint16Range(1, 6).Draw(t, "port"))
				c := conn{orig: o}
				c.reply, _ = m.Invert()
				list = append(list, c)
				count[mapping(c)]++
				turn[mapping(c)] = step
				s.Add(&c.orig, &c.reply)
			case 2:
				if len(list) > 0 {
					i := rapid.IntRange(0, len(list)-1).Draw(t, "which")
					c := list[i]
					list = append(list[:i:i], list[i+1:]...)
					count[mapping(c)]--
					s.Remove(&c.orig, &c.reply)
				}
			}
			r := &Range{}
			if rapid.Bool().Draw(t, "addrs") {
				r = to(rapid.SampledFrom([]string{ownAddr, foreignAddr}).Draw(t, "to"))
			}
			if rapid.Bool().Draw(t, "ports") {
				r.MinPort, r.MaxPort, r.Ports = 2, rapid.Uint16Range(2, 5).Draw(t, "max"), true
			}
			for _, live := range []bool{true, false} {
				want, any, latest := flow.Tuple{}, false, -1
				for m, n := range count {
					if to, _ := m.reply.Invert(); m.orig == o && r.Has(&to) && n > 0 == live && turn[m] > latest {
						want, any, latest = to, true, turn[m]
					}
				}
				got, ok := s.sources.Find(o, r, live)
				if !live && !ok {
					continue // what does not live may be forgotten
				}
				if ok != any || ok && live && got != want {
					t.Fatalf("%v into %+v, live %v: %v (%v), not %v (%v)", o, r, live, got, ok, want, any)
				}
			}
		}
		if n := s.SourceStats().Forgotten; n > 0 {
			t.Fatalf("%d mappings that lived were forgotten", n)
		}
	})
}

// TestSourcesStress has eight shards add and remove mappings of the same sources: one
// that a shard has is always found, and no mapping is found that nobody has made.
func TestSourcesStress(t *testing.T) {
	s := NewShared(8, 1<<12, Key{3, 4})
	errs := make(chan error, 8)
	var wg sync.WaitGroup
	for shard := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(shard), 1))
			for range 4000 {
				o := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", uint16(1+r.IntN(8)), 53)
				m := o
				m.Src.Lo = addr(ownAddr).Lo + uint64(shard%2)
				setPort(&m, true, 100+o.L4.Src()) // one port an address
				reply, _ := m.Invert()
				s.Add(&o, &reply)
				only := &Range{Min: m.Src, Max: m.Src, Addrs: true}
				if got, ok := s.sources.Find(o, only, true); !ok || got != m {
					errs <- fmt.Errorf("shard %d: %v is mapped to %v (%v), not %v", shard, o, got, ok, m)
					return
				}
				s.Remove(&o, &reply)
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	for b := range s.sources.buckets {
		for i := range s.sources.buckets[b].use {
			if u := s.sources.buckets[b].use[i].Load(); u&busy != 0 {
				t.Errorf("bucket %d, place %d: %d connections are left", b, i, u&busy)
			}
		}
	}
}

// TestSourcesForget: with more mappings of one source than there are places, the
// latest are kept.
func TestSourcesForget(t *testing.T) {
	s := NewSources(1000, Key{1, 2})
	o := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", 1, 53)
	for p := range uint16(40) {
		s.Add(&o, addr(ownAddr), 100+p)
	}
	for p := range uint16(40) {
		_, ok := s.Find(o, toPorts(ownAddr, 100+p, 100+p), true)
		if want := p >= 24; ok != want {
			t.Errorf("mapping %d of 40 is found: %v", p, ok)
		}
	}
	if n := s.Stats().Forgotten; n != 24 {
		t.Errorf("%d are counted as forgotten", n)
	}
}

// TestSourcesLaterTurn: a mapping that another shard wrote with a later turn than that
// of who looks for a place is the youngest of all, not the oldest, also where the turns
// wrap.
func TestSourcesLaterTurn(t *testing.T) {
	for _, begin := range []uint32{0, 1<<31 - 10, 1<<32 - 10, 1<<32 - 17} {
		s := NewSources(1, Key{1, 2}) // two buckets: each source may lie in any place
		s.turn.Store(begin)
		source := func(n int) *flow.Tuple {
			x := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", uint16(1000+n), 53)
			return &x
		}
		a := addr("192.0.2.1")
		r := Range{Min: a, Max: a, Addrs: true}
		there := func(n int) bool {
			_, ok := s.Find(*source(n), &r, true)
			return ok
		}
		const late, places = 15, 16
		for n := range late {
			s.Add(source(n), a, uint16(n))
		}
		turn := uint64(s.turn.Add(1)) << 32 // taken, and not used yet
		s.Add(source(late), a, late)
		b, f := s.bucketsOf(source(places))
		if !s.anew(b, f<<16|places, a, turn) {
			t.Fatal("nobody else writes, and there is no place")
		}
		if there(0) || !there(late) || !there(places) {
			t.Errorf("from turn %d: the oldest is there: %v, the latest: %v, the new one: %v", begin, there(0), there(late), there(places))
		}
	}
}
