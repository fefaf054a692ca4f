package nat

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

// oriented is a tuple as a Directory is asked for it.
func oriented(t flow.Tuple) (key flow.Tuple, flipped bool) { return t.Canonical() }

// TestDirectoryModel compares a Directory with a map.
func TestDirectoryModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := NewDirectory(rapid.IntRange(1, 200).Draw(t, "room"), Key{1, 2})
		type claim struct{ shard, times int }
		held, total := map[flow.Tuple]claim{}, 0 // by tuple, zone and all
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			x := tuple(flow.TCP, "10.1.0.1", "10.2.0.1", rapid.Uint16Range(1, 6).Draw(t, "sport"), 80)
			if rapid.Bool().Draw(t, "inverse") {
				x, _ = x.Invert()
			}
			x.L4 = x.L4.WithZone(flow.Zone(rapid.IntRange(0, 2).Draw(t, "zone")))
			shard := rapid.SampledFrom([]int{0, 1, 255}).Draw(t, "shard")
			key, flipped := oriented(x)
			was := held[x]
			taken := was.times > 0 && was.shard != shard
			if owner, ok := d.Owner(&key, flipped); ok != (was.times > 0) || ok && owner != was.shard {
				t.Fatalf("%v belongs to %d (%v), not %+v", x, owner, ok, was)
			}
			if _, ok := d.Taken(&key, flipped, shard); ok != taken {
				t.Fatalf("%v taken for %d: %v, not %v", x, shard, ok, taken)
			}
			if rapid.Bool().Draw(t, "claim") {
				switch got := d.Claim(&key, flipped, shard); {
				case got == Full && was.times == 0:
				case (got == Claimed) == taken:
					t.Fatalf("claiming %v for %d: %v, taken is %v", x, shard, got, taken)
				case got == Claimed:
					held[x] = claim{shard, was.times + 1}
					total++
				}
				continue
			}
			if got := d.Release(&key, flipped, shard); got != (was.times > 0 && !taken) {
				t.Fatalf("releasing %v of %d: %v", x, shard, got)
			} else if got {
				total--
				if was.times--; was.times == 0 {
					delete(held, x)
				} else {
					held[x] = was
				}
			}
		}
		if s := d.Stats(); s.Claims != total {
			t.Fatalf("%d claims are counted, not %d", s.Claims, total)
		}
	})
}

// TestDirectoryZones: every zone may have a tuple and its inverse, each on another shard, in
// a directory that is as full as it is made for, whatever its key; and what one releases the
// others keep.
func TestDirectoryZones(t *testing.T) {
	for seed := range uint64(8) {
		directoryZones(t, Key{seed, 2})
	}
}

func directoryZones(t *testing.T, key Key) {
	t.Helper()
	const zones = 4000
	d := NewDirectory(zones, key)
	x := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", 1, 53)
	inverse, _ := x.Invert()
	at := func(n int) (key flow.Tuple, flipped bool) { // of zone n/2
		y := x
		if n%2 == 1 {
			y = inverse
		}
		y.L4 = y.L4.WithZone(flow.Zone(n / 2))
		return oriented(y)
	}
	for n := range 2 * zones {
		if key, flipped := at(n); d.Claim(&key, flipped, n%7) != Claimed {
			t.Fatalf("zone %d cannot have it: %+v", n/2, d.Stats())
		}
	}
	for n := 0; n < 2*zones; n += 3 {
		if key, flipped := at(n); !d.Release(&key, flipped, n%7) {
			t.Fatalf("zone %d has lost it", n/2)
		}
	}
	for n := range 2 * zones {
		key, flipped := at(n)
		if owner, ok := d.Owner(&key, flipped); ok != (n%3 != 0) || ok && owner != n%7 {
			t.Fatalf("that of zone %d is %d's (%v)", n/2, owner, ok)
		}
	}
}

// TestDirectoryManyTimes: a shard may claim a tuple again, and keeps it until it has
// released it as often; with more than can be counted it keeps it.
func TestDirectoryManyTimes(t *testing.T) {
	for _, times := range []int{2, 254, 300} {
		d := NewDirectory(1, Key{1, 2})
		key, flipped := oriented(tuple(flow.UDP, "10.1.0.1", "10.2.0.1", 1, 53))
		for i := range times {
			if got := d.Claim(&key, flipped, 3); got != Claimed {
				t.Fatalf("claim %d: %v", i, got)
			}
		}
		for i := range times {
			if got := d.Claim(&key, flipped, 4); got != Taken {
				t.Fatalf("after %d of %d releases another shard gets %v", i, times, got)
			}
			if !d.Release(&key, flipped, 3) {
				t.Fatalf("release %d of %d fails", i, times)
			}
		}
		want := Claimed
		if times > 254 {
			want = Taken
		}
		if got := d.Claim(&key, flipped, 4); got != want {
			t.Errorf("after %d claims and releases another shard gets %v", times, got)
		}
	}
}

// TestDirectoryStress has eight shards claim and release the same tuples at once: each
// has one owner at a time, a claim is found while it is held, and nothing is left over.
func TestDirectoryStress(t *testing.T) {
	const shards, tuples, rounds = 8, 64, 4000
	d := NewDirectory(tuples, Key{5, 6})
	var owner [2 * tuples]atomic.Int32 // by tuple and orientation: the shard, plus one
	var claimed atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, shards)
	for shard := range shards {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(shard), 9))
			mine := map[int]bool{}
			at := func(n int) (flow.Tuple, bool) {
				x := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", uint16(1+n/2), 53)
				if n%2 == 1 {
					x, _ = x.Invert()
				}
				return oriented(x)
			}
			release := func(n int) error {
				key, flipped := at(n)
				if !owner[n].CompareAndSwap(int32(shard+1), 0) {
					return fmt.Errorf("tuple %d of shard %d became that of %d", n, shard, owner[n].Load()-1)
				}
				if !d.Release(&key, flipped, shard) {
					return fmt.Errorf("tuple %d of shard %d was lost", n, shard)
				}
				delete(mine, n)
				return nil
			}
			for range rounds {
				n := r.IntN(2 * tuples)
				key, flipped := at(n)
				if mine[n] {
					if by, ok := d.Owner(&key, flipped); !ok || by != shard {
						errs <- fmt.Errorf("tuple %d of shard %d is found at %d (%v)", n, shard, by, ok)
						return
					}
					if err := release(n); err != nil {
						errs <- err
						return
					}
					continue
				}
				switch d.Claim(&key, flipped, shard) {
				case Claimed:
					if !owner[n].CompareAndSwap(0, int32(shard+1)) {
						errs <- fmt.Errorf("shards %d and %d have tuple %d", shard, owner[n].Load()-1, n)
						return
					}
					mine[n] = true
					claimed.Add(1)
				case Full:
					errs <- fmt.Errorf("no room for tuple %d", n)
					return
				}
			}
			for n := range mine {
				if err := release(n); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if claimed.Load() < rounds {
		t.Errorf("%d claims succeeded of %d attempts: too few to say anything", claimed.Load(), shards*rounds)
	}
	isEmpty(t, d)
}

// isEmpty fails the test if a claim is left.
func isEmpty(t *testing.T, d *Directory) {
	t.Helper()
	for b := range d.buckets {
		for i := range d.buckets[b] {
			if w := d.buckets[b][i].Load(); w != 0 {
				t.Errorf("bucket %d, slot %d: %#x is left", b, i, w)
			}
		}
	}
	if s := d.Stats(); s.Claims != 0 {
		t.Errorf("%d claims are left", s.Claims)
	}
}

// TestDirectoryContest has eight shards claim one tuple at the same moment, again and
// again: exactly one gets it.
func TestDirectoryContest(t *testing.T) {
	const shards = 8
	d := NewDirectory(1, Key{7, 8})
	key, flipped := oriented(tuple(flow.UDP, "10.1.0.1", "10.2.0.1", 1, 53))
	lost := 0
	for round := range 3000 {
		var won atomic.Int32
		var winner atomic.Int32
		var ready, done sync.WaitGroup
		ready.Add(shards)
		for shard := range shards {
			done.Go(func() {
				ready.Done()
				ready.Wait()
				if d.Claim(&key, flipped, shard) == Claimed {
					won.Add(1)
					winner.Store(int32(shard))
				}
			})
		}
		done.Wait()
		switch won.Load() {
		case 1:
			if !d.Release(&key, flipped, int(winner.Load())) {
				t.Fatalf("round %d: the winner's claim is not there", round)
			}
		case 0:
			lost++ // nobody: allowed only if it leaves nothing behind
		default:
			t.Fatalf("round %d: %d shards have the tuple", round, won.Load())
		}
		if _, ok := d.Taken(&key, flipped, 9); ok {
			t.Fatalf("round %d: a claim is left", round)
		}
	}
	if lost > 0 {
		t.Errorf("in %d rounds nobody got the tuple", lost)
	}
}

// TestDirectoryFull: with as many claims as it is made for a Directory has room for
// all.
func TestDirectoryFull(t *testing.T) {
	const connections = 100_000
	d := NewDirectory(connections, Key{9, 10})
	for i := range connections {
		x := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", uint16(i), 53)
		x.Src.Lo += uint64(i) >> 16
		key, _ := oriented(x)
		for _, flipped := range []bool{false, true} { // a connection that is not translated
			if got := d.Claim(&key, flipped, 1); got != Claimed {
				t.Fatalf("claim %d: %v", i, got)
			}
		}
	}
	s := d.Stats()
	t.Logf("%d claims in %d words", s.Claims, s.Room)
	if s.Claims != 2*connections || s.Full != 0 {
		t.Errorf("%+v", s)
	}
}

// TestAddrSetModel compares an AddrSet with a list of ranges.
func TestAddrSetModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) flow.Addr {
			if rapid.Bool().Draw(t, "ipv6") {
				return flow.Addr{Hi: 0x20010db8_00000000 + rapid.Uint64Range(0, 5000).Draw(t, name), Lo: rapid.Uint64Range(0, 3).Draw(t, "low")}
			}
			return flow.AddrFromUint32(0x0a000000 + rapid.Uint32Range(0, 5000).Draw(t, name)*100)
		}
		list := func() (ranges []AddrRange) {
			for range rapid.IntRange(0, 6).Draw(t, "ranges") {
				a, b := draw("lo"), draw("hi")
				if rapid.Bool().Draw(t, "single") {
					b = a
				}
				if b.Less(a) {
					a, b = b, a
				}
				ranges = append(ranges, AddrRange{a, b})
			}
			return ranges
		}
		has := func(ranges []AddrRange, a flow.Addr) bool {
			for _, r := range ranges {
				if !a.Less(r.Lo) && !r.Hi.Less(a) {
					return true
				}
			}
			return false
		}
		x, y := list(), list()
		s, o := NewAddrSet(x, false), NewAddrSet(y, false)
		u := s.Union(o)
		probes := []flow.Addr{}
		for _, r := range append(append([]AddrRange{}, x...), y...) {
			probes = append(probes, r.Lo, r.Hi, flow.Addr{Hi: r.Hi.Hi, Lo: r.Hi.Lo + 1}, flow.Addr{Hi: r.Lo.Hi, Lo: r.Lo.Lo - 1})
		}
		for range 20 {
			probes = append(probes, draw("probe"))
		}
		for _, a := range probes {
			if s.Has(a) != has(x, a) || u.Has(a) != (has(x, a) || has(y, a)) {
				t.Fatalf("%v in %v: %v; in the union with %v: %v", a, x, s.Has(a), y, u.Has(a))
			}
		}
		if !u.Covers(s) || !u.Covers(o) || !s.Covers(nil) {
			t.Fatalf("the union of %v and %v does not cover both", x, y)
		}
		if s.Covers(o) {
			for _, a := range probes {
				if o.Has(a) && !s.Has(a) {
					t.Fatalf("%v covers %v, but for %v", x, y, a)
				}
			}
		} else if len(y) == 0 {
			t.Fatalf("%v does not cover the empty set", x)
		}
	})
}

func BenchmarkAddrSet(b *testing.B) {
	s := NewAddrSet([]AddrRange{{addr("192.0.2.1"), addr("192.0.2.1")}, {addr("198.51.100.0"), addr("198.51.100.255")}}, false)
	x := tuple(flow.UDP, "10.1.0.1", "10.2.0.1", 1, 53)
	found := 0
	for i := range b.N {
		x.Src.Lo = 0xffff<<32 | uint64(uint32(i)*2654435761)
		if s.Touches(&x) {
			found++
		}
	}
	b.ReportMetric(float64(found)/float64(b.N), "found/op")
}

func BenchmarkDirectoryOwner(b *testing.B) {
	d := NewDirectory(1<<17, Key{1, 2})
	for i := range 1 << 16 {
		key, flipped := oriented(tuple(flow.UDP, "10.1.0.1", "10.2.0.1", uint16(i), 53))
		d.Claim(&key, flipped, 1)
	}
	for i := range b.N {
		key, flipped := oriented(tuple4(i))
		d.Owner(&key, flipped)
	}
}

var tupleBase = tuple(flow.UDP, "10.1.0.1", "10.2.0.1", 0, 53)

func tuple4(i int) flow.Tuple {
	t := tupleBase
	t.L4 |= flow.L4(uint16(i * 40503))
	return t
}
