package policy

import (
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy/syntax"
)

// add adds to the count of a key, as connlimit does.
func add(s *store, key, n uint64) {
	var buf [2]uint64
	for {
		p := s.find([]uint64{key}, buf[:])
		if !p.found {
			buf = [2]uint64{key, 0}
		}
		buf[1] += n
		if buf[1] == 0 {
			if !p.found || s.drop(p) {
				return
			}
			continue
		}
		if ok, full := s.put(p, buf[:]); ok || full {
			return
		}
	}
}

// TestStoreExact: many goroutines count by keys, add and remove them, and nothing is
// lost and nothing is there twice. Run with -race.
func TestStoreExact(t *testing.T) {
	const users, rounds, keys = 8, 20000, 50
	s := newStore(100, 1, 2, [2]uint64{1, 2})
	var wg sync.WaitGroup
	var want [keys]uint64
	var mu sync.Mutex
	for u := range users {
		wg.Go(func() {
			var mine [keys]uint64
			r := rand.New(rand.NewPCG(1, uint64(u)))
			for range rounds {
				k := r.Uint64N(keys)
				if mine[k] > 0 && r.IntN(2) == 0 {
					mine[k]--
					add(s, k, ^uint64(0))
				} else {
					mine[k]++
					add(s, k, 1)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for k, n := range mine {
				want[k] += n
			}
		})
	}
	wg.Wait()
	var buf [2]uint64
	seen, used := map[uint64]bool{}, int64(0)
	for p := (spot{}); s.scan(&p, buf[:]); used++ {
		if seen[buf[0]] {
			t.Errorf("key %d is there twice", buf[0])
		}
		seen[buf[0]] = true
		if buf[1] != want[buf[0]] {
			t.Errorf("key %d: %d, want %d", buf[0], buf[1], want[buf[0]])
		}
		want[buf[0]] = 0
	}
	for k, n := range want {
		if n != 0 {
			t.Errorf("key %d is lost, which has %d", k, n)
		}
	}
	if got := s.used.Load(); got != used {
		t.Errorf("%d rows are said to be used of %d", got, used)
	}
	free := 0
	for _, ok := s.take(); ok; _, ok = s.take() {
		free++
	}
	if free != maxUsers {
		t.Errorf("%d records are free of %d", free, maxUsers)
	}
}

// TestStoreFull: a store takes as many rows as it is for, and no more.
func TestStoreFull(t *testing.T) {
	s := newStore(100, 1, 2, [2]uint64{1, 2})
	for k := range uint64(100) {
		if ok, full := s.put(s.find([]uint64{k}, make([]uint64, 2)), []uint64{k, k}); !ok || full {
			t.Fatalf("row %d: %v, full %v", k, ok, full)
		}
	}
	if ok, full := s.put(s.find([]uint64{100}, make([]uint64, 2)), []uint64{100, 0}); ok || !full {
		t.Error("one more was taken")
	}
	var buf [2]uint64
	for k := range uint64(100) {
		if p := s.find([]uint64{k}, buf[:]); !p.found || buf[1] != k {
			t.Errorf("row %d: %v %v", k, p.found, buf)
		} else if !s.drop(p) {
			t.Errorf("row %d is not dropped", k)
		}
	}
	if n := s.used.Load(); n != 0 {
		t.Errorf("%d rows left", n)
	}
}

func BenchmarkStore(b *testing.B) {
	s := newStore(hashMax, 1, 4, [2]uint64{1, 2})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var buf [4]uint64
		for k := uint64(0); pb.Next(); k++ {
			key := []uint64{k % 30000}
			p := s.find(key, buf[:])
			buf[0] = key[0]
			buf[1]++
			s.put(p, buf[:])
		}
	})
}

// TestSeeds: what a program remembers is hashed by the key that it is compiled with and
// nothing else, and each store by a seed of its own.
func TestSeeds(t *testing.T) {
	const rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m recent --name a --set\n-A FORWARD -m recent --name b --set\n-A FORWARD -m recent --name c --set\n" +
		"-A FORWARD -m hashlimit --hashlimit-name h --hashlimit-upto 5/sec --hashlimit-mode srcip\n-A FORWARD -m connlimit --connlimit-above 3\nCOMMIT\n"
	seeds := func(key nat.Key) (all map[[2]uint64]string) {
		t.Helper()
		r, err := syntax.Parse(strings.NewReader(rules), "rules", flow.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Compile(r, nil, nil, key, nil)
		if err != nil {
			t.Fatal(err)
		}
		all = map[[2]uint64]string{}
		for name, l := range p.recents {
			all[l.entries.seed] = name
		}
		for name, h := range p.hashes {
			all[h.entries.seed] = name.name
		}
		for _, s := range p.states {
			if c, ok := s.(*connCount); ok {
				all[c.entries.seed] = "connlimit"
			}
		}
		return all
	}
	one := seeds(nat.Key{1, 2})
	if len(one) != 5 {
		t.Errorf("five stores have %d seeds: %v", len(one), one)
	}
	for range 5 { // the lists of recent are found by a map
		if again := seeds(nat.Key{1, 2}); !maps.Equal(one, again) {
			t.Fatalf("the same key gives other seeds: %v, %v", one, again)
		}
	}
	for _, key := range []nat.Key{{1, 3}, {2, 2}, {}} {
		for s := range seeds(key) {
			if name, ok := one[s]; ok {
				t.Errorf("with key %v the seed of %s is the same", key, name)
			}
		}
	}
}
