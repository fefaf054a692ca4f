package table

import (
	"errors"
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

var secret = flow.Secret{0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93, 0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3}

// conn makes the n-th of a family of distinct connections.
func conn(n int, expires flow.Millis) *flow.Conn {
	t := flow.Tuple{
		Src: flow.Addr{Lo: 0xffff<<32 | 10<<24 | uint64(n>>16)}, Dst: flow.Addr{Lo: 0xffff<<32 | 11<<24},
		L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, uint16(n), 53),
	}
	key, flipped := t.Canonical()
	c := &flow.Conn{Key: key, Expires: expires}
	if flipped {
		c.Flip = 1
	}
	return c
}

func newTable(t testing.TB, n int, now int64, removed func(uint32, *flow.Conn, Cause)) *Table {
	t.Helper()
	tab, err := New(n, &secret, now, removed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tab.Close() })
	return tab
}

// model is the table as a map and a slice.
type model struct {
	conns map[flow.Tuple]modelConn
	order []flow.Tuple // creation order of those that may be evicted
}

type modelConn struct {
	expires int64
	assured bool
}

func (m *model) remove(k flow.Tuple) {
	delete(m.conns, k)
	for i, o := range m.order {
		if o == k {
			m.order = append(m.order[:i:i], m.order[i+1:]...)
			return
		}
	}
}

// TestTableAgainstModel drives the table and a map with the same commands.
func TestTableAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.SampledFrom([]int{1, 2, 5, 12, 13, 40}).Draw(rt, "max")
		now := rapid.SampledFrom([]int64{0, 5, 1<<32 - 1000, 1<<38 + 17}).Draw(rt, "start")
		m := model{conns: map[flow.Tuple]modelConn{}}
		tab := newTable(t, size, now, nil)
		for range rapid.IntRange(1, 150).Draw(rt, "steps") {
			n := rapid.IntRange(0, 2*size).Draw(rt, "conn")
			c := conn(n, 0)
			h := c.Key.Hash(&secret)
			timeout := rapid.Int64Range(1, 1<<rapid.IntRange(1, 29).Draw(rt, "mag")).Draw(rt, "timeout")
			want, known := m.conns[c.Key]
			if known && want.expires <= now {
				known = false
			}
			switch rapid.SampledFrom([]string{"packet", "packet", "packet", "assure", "delete", "wait", "reap"}).Draw(rt, "op") {
			case "packet":
				i, ok := tab.Find(&c.Key, false, h, flow.Millis(now))
				if ok != known {
					rt.Fatalf("Find = %v, want %v", ok, known)
				}
				if ok {
					tab.Refresh(i, flow.Millis(now+timeout), flow.Millis(now))
					m.conns[c.Key] = modelConn{now + timeout, want.assured}
					break
				}
				m.remove(c.Key) // Find has reaped it if it was there
				c.Expires = flow.Millis(now + timeout)
				_, err := tab.Insert(c, nil, h, flow.Millis(now))
				if len(m.conns) == size {
					if len(m.order) == 0 {
						if !errors.Is(err, ErrFull) {
							rt.Fatalf("Insert into a table full of ASSURED connections = %v", err)
						}
						break
					}
					m.remove(m.order[0])
				}
				if err != nil {
					rt.Fatalf("Insert: %v", err)
				}
				m.conns[c.Key] = modelConn{now + timeout, false}
				m.order = append(m.order, c.Key)
			case "assure":
				if i, ok := tab.Find(&c.Key, false, h, flow.Millis(now)); ok {
					tab.Conn(i).Status |= flow.Assured
					tab.Protect(i)
					m.remove(c.Key)
					m.conns[c.Key] = modelConn{want.expires, true}
				} else {
					m.remove(c.Key)
				}
			case "delete":
				if i, ok := tab.Find(&c.Key, false, h, flow.Millis(now)); ok {
					tab.Remove(i, Deleted)
				}
				m.remove(c.Key)
			case "wait":
				now += timeout / 2
			case "reap":
				now += 100
				for !tab.Advance(now, 3) {
				}
				for k, c := range m.conns {
					if c.expires <= now>>tickShift<<tickShift {
						m.remove(k)
					}
				}
				// What expired within the current tick may be reaped or not.
				for k, c := range m.conns {
					h := k.Hash(&secret)
					if c.expires <= now {
						if _, ok := tab.Find(&k, false, h, flow.Millis(now)); ok {
							rt.Fatal("Find returned an expired connection")
						}
						m.remove(k)
					}
				}
			}
			if tab.Len() != len(m.conns) {
				rt.Fatalf("Len() = %d, want %d", tab.Len(), len(m.conns))
			}
			checkIndex(rt, tab)
		}
	})
}

// checkIndex verifies the invariants of the index: every connection is found on
// its probe sequence, and passed counts what it says.
func checkIndex(t interface{ Fatalf(string, ...any) }, tab *Table) {
	passed := make([]uint16, len(tab.buckets))
	slots := 0
	for at := range tab.buckets {
		b := &tab.buckets[at]
		for s, tag := range b.tags {
			if tag == 0 {
				continue
			}
			slots++
			h := tab.conns[b.conns[s]].Key.Hash(&secret)
			if tagOf(h) != tag {
				t.Fatalf("bucket %d slot %d: tag %d of a connection with tag %d", at, s, tag, tagOf(h))
			}
			for p := tab.probes(h); p.at != at; p.next() {
				passed[p.at]++
			}
		}
	}
	for at := range tab.buckets {
		if tab.buckets[at].passed != passed[at] {
			t.Fatalf("bucket %d: passed by %d, says %d", at, passed[at], tab.buckets[at].passed)
		}
	}
	if slots != tab.count || tab.wheel.Len() != tab.count {
		t.Fatalf("%d slots and %d timers for %d connections", slots, tab.wheel.Len(), tab.count)
	}
}

// TestFillPastMaximum fills a table whose older half is ASSURED with twice its
// size: no ASSURED connection may go, and the victims go oldest first.
func TestFillPastMaximum(t *testing.T) {
	const size = 10_000
	var evicted []flow.Tuple
	tab := newTable(t, size, 0, func(_ uint32, c *flow.Conn, why Cause) {
		if why != Evicted {
			t.Fatalf("removed for %d", why)
		}
		if c.Status&flow.Assured != 0 {
			t.Fatal("an ASSURED connection was evicted")
		}
		evicted = append(evicted, c.Key)
	})
	for n := range 3 * size {
		c := conn(n, 1000_000)
		i, err := tab.Insert(c, nil, c.Key.Hash(&secret), 0)
		if err != nil {
			t.Fatal(err)
		}
		if n < size/2 {
			tab.Conn(i).Status |= flow.Assured
			tab.Protect(i)
		}
	}
	if tab.Len() != size || len(evicted) != 2*size {
		t.Fatalf("%d connections, %d evicted", tab.Len(), len(evicted))
	}
	for n, k := range evicted {
		if want := conn(size/2+n, 0).Key; k != want {
			t.Fatalf("victim %d is %v, want %v", n, k, want)
		}
	}
	checkIndex(t, tab)
}

// TestPacketsCarry: what a connection's packets have no room for goes to its Extra.
func TestPacketsCarry(t *testing.T) {
	tab := newTable(t, 4, 0, nil)
	c := conn(1, 1000)
	i, _ := tab.Insert(c, nil, c.Key.Hash(&secret), 0)
	tab.Count(i, flow.Reply, 100)
	tab.carry(i, flow.Reply, flow.CarryPackets)
	tab.Count(i, flow.Reply, 100)
	if got := tab.Conn(i).Counters(flow.Reply, tab.Extra(i)).Packets; got != 1<<40+2 {
		t.Fatalf("%d packets, want %d", got, 1<<40+2)
	}
}

// TestCountersCarry takes connections past 4 GiB, in the queue and out of it.
func TestCountersCarry(t *testing.T) {
	for _, assured := range []bool{false, true} {
		tab := newTable(t, 4, 0, nil)
		var want uint64
		var all []uint32
		for n := range 3 {
			c := conn(n, 1000)
			if assured {
				c.Status |= flow.Assured
			}
			i, _ := tab.Insert(c, nil, c.Key.Hash(&secret), 0)
			all = append(all, i)
		}
		i := all[1]
		for range 9 {
			tab.Count(i, flow.Reply, 1<<30)
			want += 1 << 30
			if got := tab.Conn(i).Counters(flow.Reply, tab.Extra(i)).Bytes; got != want {
				t.Fatalf("assured=%v: %d bytes, want %d", assured, got, want)
			}
		}
		if p := tab.Conn(i).Counters(flow.Reply, tab.Extra(i)).Packets; p != 9 {
			t.Fatalf("%d packets, want 9", p)
		}
		if q := tab.Conn(i).Queued(); q {
			t.Fatal("a connection of 9 GiB is still up for eviction")
		}
		for _, j := range []uint32{all[0], all[2]} {
			if tab.Conn(j).Queued() == assured {
				t.Fatal("its neighbours lost their place")
			}
		}
	}
}

// TestWalkSeesEachOnce walks in small steps while connections come and go.
func TestWalkSeesEachOnce(t *testing.T) {
	const stay, churn = 500, 300
	tab := newTable(t, stay+churn, 0, nil)
	for n := range stay + churn {
		c := conn(n, 1000_000)
		if _, err := tab.Insert(c, nil, c.Key.Hash(&secret), 0); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[flow.Tuple]int{}
	cursor, step := uint32(0), 0
	for {
		cursor = tab.Walk(cursor, 7, 0, func(_ uint32, c *flow.Conn) bool { seen[c.Key]++; return false })
		if cursor == 0 {
			break
		}
		k := conn(stay+step%churn, 0)
		h := k.Key.Hash(&secret)
		if i, ok := tab.Find(&k.Key, false, h, 0); ok {
			tab.Remove(i, Deleted)
		} else {
			k.Expires = 1000
			if _, err := tab.Insert(k, nil, h, 0); err != nil {
				t.Fatal(err)
			}
		}
		step++
	}
	for n := range stay {
		if got := seen[conn(n, 0).Key]; got != 1 {
			t.Errorf("connection %d seen %d times", n, got)
		}
	}
}

func TestBytesPerConnection(t *testing.T) {
	const n = 1_000_000
	tab := newTable(t, n, 0, nil)
	if per := float64(tab.Bytes()) / n; per > 144 {
		t.Errorf("%.1f bytes a connection, at most 144 allowed", per)
	}
}

// TestLocateAgrees compares the assembly with Go, on buckets whose few tags make
// several matches common.
func TestLocateAgrees(t *testing.T) {
	several := 0
	rapid.Check(t, func(t *rapid.T) {
		buckets := make([]bucket, rapid.IntRange(1, 7).Draw(t, "buckets"))
		conns := make([]flow.Conn, 1)
		for i := range buckets {
			for s := range buckets[i].tags {
				buckets[i].tags[s] = rapid.ByteRange(0, 9).Draw(t, "tag")
				buckets[i].conns[s] = rapid.Uint32Range(0, 1<<31).Draw(t, "conn") // only prefetched
			}
			buckets[i].passed = rapid.Uint16().Draw(t, "passed")
		}
		hash := make([]uint64, rapid.IntRange(1, MaxBatch).Draw(t, "hashes"))
		both := make([]uint8, len(hash))
		for i := range hash {
			hash[i] = rapid.Uint64().Draw(t, "hash")&^0xff | uint64(rapid.ByteRange(0, 9).Draw(t, "hash's tag"))
			both[i] = rapid.ByteRange(0, 1).Draw(t, "both")
		}
		got, want := make([]uint32, len(hash)), make([]uint32, len(hash))
		odd, wantOdd := locate(hash, both, got, buckets, conns), locateSlow(hash, want, buckets)
		if odd != wantOdd || !slices.Equal(got, want) {
			t.Fatalf("odd %b, want %b; likely %v, want %v", odd, wantOdd, got, want)
		}
		several += bits.OnesCount64(odd)
	})
	if several == 0 {
		t.Error("no hash matched several tags, or none")
	}
}

// TestTwoKeysAgainstModel drives a table whose connections mostly have two keys,
// and a map by key and orientation, with the same commands.
func TestTwoKeysAgainstModel(t *testing.T) {
	type name struct {
		key     flow.Tuple
		flipped bool
	}
	rapid.Check(t, func(rt *rapid.T) {
		const size = 12
		tab := newTable(t, size, 0, nil)
		model := map[name]int{} // numbers of connections
		names := map[int][]name{}
		draw := func(what string) name {
			n := rapid.IntRange(0, 9).Draw(rt, what)
			return name{conn(n, 0).Key, rapid.Bool().Draw(rt, what+" flipped")}
		}
		forget := func(id int) {
			for _, n := range names[id] {
				delete(model, n)
			}
			delete(names, id)
		}
		for id := range rapid.IntRange(1, 80).Draw(rt, "steps") {
			a, b := draw("original"), draw("reply")
			i, found := tab.Find(&a.key, a.flipped, a.key.Hash(&secret), 0)
			was, known := model[a]
			if found != known {
				rt.Fatalf("Find %v = %v, want %v", a, found, known)
			}
			if known {
				want := flow.Original
				if names[was][0] != a {
					want = flow.Reply
				}
				if d := tab.Direction(i, &a.key, a.flipped); d != want {
					rt.Fatalf("direction %v, want %v", d, want)
				}
				if rapid.Bool().Draw(rt, "delete") {
					tab.Remove(i, Deleted)
					forget(was)
				}
				continue
			}
			if len(names) == size || a == b {
				continue
			}
			c := conn(0, 1000)
			c.Key, c.Flip = a.key, 0
			if a.flipped {
				c.Flip = 1
			}
			x := &flow.Extra{Reply: b.key, Mark: flow.Mark(id)}
			if b.flipped {
				x.ReplyFlip = 1
			}
			c.SetTwoKeyed()
			_, taken := model[b]
			i, err := tab.Insert(c, x, a.key.Hash(&secret), 0)
			if taken != errors.Is(err, ErrClash) || !taken && err != nil {
				rt.Fatalf("Insert: %v, taken %v", err, taken)
			}
			if err == nil {
				model[a], model[b], names[id] = id, id, []name{a, b}
				if got := tab.Extra(i).Mark; got != flow.Mark(id) {
					rt.Fatalf("the Extra of %d is that of %d", id, got)
				}
			}
			if tab.Len() != len(names) {
				rt.Fatalf("%d connections, want %d", tab.Len(), len(names))
			}
		}
		for n, id := range model {
			i, ok := tab.Find(&n.key, n.flipped, n.key.Hash(&secret), 0)
			if !ok || tab.Extra(i).Mark != flow.Mark(id) {
				rt.Fatalf("%v is lost", n)
			}
		}
	})
}
