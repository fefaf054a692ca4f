package nat

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// noted returns how many ports the crowds of a set have for taken.
func noted(set []crowd) (n int) {
	for i := range set {
		for k := range set[i].bits {
			if set[i].bits[k].Load() != 0 {
				n++
			}
		}
	}
	return n
}

// TestCrowdContest has eight shards begin one crowd at the same moment, and each note a
// port of its own. However many crowds were made, none has a port for taken once all
// are free again.
func TestCrowdContest(t *testing.T) {
	const shards = 8
	c := &crowds{key: Key{1, 2}}
	reply := tuple(flow.UDP, "10.2.0.1", "192.0.2.1", 53, 1)
	id := c.crowdID(&reply)
	twice := 0
	for round := range 500 {
		var ready, done sync.WaitGroup
		ready.Add(shards)
		for shard := range shards {
			done.Go(func() {
				ready.Done()
				ready.Wait()
				if w := c.begin(id); w != nil {
					w.note(id, uint16(64*shard))
				}
			})
		}
		done.Wait()
		set, made := c.set(id), 0
		for i := range set {
			if set[i].id.Load() == id {
				made++
			}
		}
		if made == 0 {
			t.Fatalf("round %d: nobody made a crowd", round)
		}
		if made > 1 {
			twice++
		}
		for shard := range uint16(shards) {
			gone := reply
			gone.L4 = reply.L4&^(0xffff<<16) | flow.L4(64*shard)<<16
			c.gone(&gone)
		}
		if n := noted(set); n != 0 {
			t.Fatalf("round %d: %d crowds, and %d free ports are taken in them", round, made, n)
		}
		for i := range set {
			set[i].id.Store(0)
		}
	}
	t.Logf("in %d of 500 rounds there were more crowds than one", twice)
}

// TestCrowdStress has eight shards take and free the ports of six destinations, whose
// crowds have room for four, as scan and Freed do. At the end no crowd has a port for
// taken that is free.
func TestCrowdStress(t *testing.T) {
	const shards, destinations, ports, rounds = 8, 6, 256, 20000
	c := &crowds{key: Key{3, 4}}
	var replies []flow.Tuple // all of one set
	var set []crowd
	for n := uint64(0); len(replies) < destinations; n++ {
		x := tuple(flow.UDP, "10.2.0.1", "192.0.2.1", 53, 0)
		x.Src.Lo += n
		s := c.set(c.crowdID(&x))
		if set == nil {
			set = s
		}
		if &s[0] == &set[0] {
			replies = append(replies, x)
		}
	}
	var taken [destinations][ports]atomic.Bool
	var stale atomic.Int64
	var wg sync.WaitGroup
	for shard := range shards {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(shard), 7))
			for range rounds {
				d, p := r.IntN(destinations), r.IntN(ports)
				id, held := c.crowdID(&replies[d]), &taken[d][p]
				if held.CompareAndSwap(false, true) { // Claimed
					continue
				}
				if r.IntN(2) == 0 && held.CompareAndSwap(true, false) { // Freed
					x := replies[d]
					x.L4 |= flow.L4(p) << 16
					c.gone(&x)
					continue
				}
				if w := c.begin(id); w != nil { // found taken, by scan
					if w.note(id, uint16(p)); held.CompareAndSwap(false, true) {
						w.free(uint16(p))
					}
				}
			}
		})
	}
	wg.Wait()
	for d := range replies {
		id := c.crowdID(&replies[d])
		for i := range set {
			for p := range ports {
				if set[i].id.Load() == id && set[i].bits[p/64].Load()>>(p%64)&1 != 0 && !taken[d][p].Load() {
					stale.Add(1)
				}
			}
		}
	}
	if n := stale.Load(); n != 0 {
		t.Errorf("%d free ports are taken in a crowd", n)
	}
}
