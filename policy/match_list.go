package policy

import (
	"math"
	"slices"
	"sync"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy/syntax"
)

// masked returns the first bits of an address.
func masked(a, mask flow.Addr) flow.Addr { return flow.Addr{Hi: a.Hi & mask.Hi, Lo: a.Lo & mask.Lo} }

// hashKey is what of a packet has a bucket of its own.
type hashKey struct {
	src, dst     flow.Addr
	sport, dport uint16
}

type hashBucket struct {
	bucket
	seen int64
}

// hashMax is how many buckets there may be, if the rule does not say (the kernel
// has eight for each slot of a table that it sizes by memory).
const hashMax = 1 << 16

// hashTable is the buckets of a hashlimit rule.
type hashTable struct {
	mu      sync.Mutex
	buckets map[hashKey]*hashBucket
	swept   int64
}

// hashLimit compiles xt_hashlimit.
func (c *compiler) hashLimit(m *syntax.HashLimit) []condition {
	src, dst := syntax.PrefixMask(int(m.SrcMask.N), c.family), syntax.PrefixMask(int(m.DstMask.N), c.family)
	t := stateOf(c, m, func() *hashTable { return &hashTable{buckets: map[hashKey]*hashBucket{}} })
	return []condition{remember(func(v *View) bool {
		var k hashKey
		if m.Mode.SrcIP {
			k.src = masked(v.Src, src)
		}
		if m.Mode.DstIP {
			k.dst = masked(v.Dst, dst)
		}
		if m.Mode.SrcPort {
			k.sport = v.SrcPort
		}
		if m.Mode.DstPort {
			k.dport = v.DstPort
		}
		return t.holds(m, k, v)
	})}
}

func (t *hashTable) holds(m *syntax.HashLimit, k hashKey, v *View) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	expire := int64(m.Expire.N)
	if !m.Expire.Set {
		expire = 10_000
	}
	if v.Now-t.swept >= 1000 {
		t.swept = v.Now
		for k, b := range t.buckets {
			if v.Now-b.seen >= expire {
				delete(t.buckets, k)
			}
		}
	}
	b := t.buckets[k]
	if b == nil {
		most := m.Max.N
		if most == 0 {
			most = hashMax
		}
		if uint64(len(t.buckets)) >= most {
			return m.Above.Set // beyond what can be counted is above the limit
		}
		b = &hashBucket{}
		b.empty.Store(math.MinInt64 / 2)
		t.buckets[k] = b
	}
	b.seen = v.Now
	cost, now := m.Rate().Cost, units(v)
	full := cost * m.Burst.N
	if rate := m.Rate().Bytes; rate > 0 { // time in which so many bytes pass, in nanoseconds
		cost, now, full = uint64(v.P.Len)*1e9/rate, v.Now*1e6, m.Burst.N*1e9/rate
	}
	return b.take(now, cost, full) != m.Above.Set
}

// connCount counts connections by address.
type connCount struct {
	mu    sync.Mutex
	conns map[flow.Addr]map[flow.Tuple]bool
	of    map[flow.Tuple][]flow.Addr // a connection counts for each address that it was asked about
}

// add counts a connection and returns how many its address has.
func (c *connCount) add(a flow.Addr, t flow.Tuple) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns[a] == nil {
		c.conns[a] = map[flow.Tuple]bool{}
	}
	if !c.conns[a][t] {
		c.conns[a][t] = true
		c.of[t] = append(c.of[t], a)
	}
	return len(c.conns[a])
}

// gone takes a connection off.
func (c *connCount) gone(t flow.Tuple) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.of[t] {
		if delete(c.conns[a], t); len(c.conns[a]) == 0 {
			delete(c.conns, a)
		}
	}
	delete(c.of, t)
}

// connLimit compiles xt_connlimit.
func (c *compiler) connLimit(m *syntax.ConnLimit) []condition {
	counted := stateOf(c, m, func() *connCount {
		return &connCount{conns: map[flow.Addr]map[flow.Tuple]bool{}, of: map[flow.Tuple][]flow.Addr{}}
	})
	c.p.connCounts = append(c.p.connCounts, counted)
	mask := syntax.PrefixMask(int(m.Mask.N), c.family)
	return []condition{remember(func(v *View) bool {
		if !v.Tracked {
			return false
		}
		a := v.Src
		if m.DAddr.Set {
			a = v.Dst
		}
		n := counted.add(masked(a, mask), v.tuple(flow.Original))
		v.Counted = true
		if m.Upto.Set {
			return uint64(n) <= m.Upto.N
		}
		return uint64(n) > m.Above.N
	})}
}

// recentList is the addresses of one name, last seen last.
type recentList struct {
	mu      sync.Mutex
	entries map[flow.Addr]*recentEntry
	order   []flow.Addr
	stamps  int // kept for each address
}

type recentEntry struct {
	stamps []int64 // milliseconds, a ring
	next   int
	ttl    uint8
}

const (
	recentAddrs  = 100 // ip_list_tot
	recentStamps = 20  // ip_pkt_list_tot
)

// recent compiles xt_recent.
func (c *compiler) recent(m *syntax.Recent) []condition {
	l := c.p.recents[m.List.S]
	if l == nil {
		l = &recentList{entries: map[flow.Addr]*recentEntry{}}
		c.p.recents[m.List.S] = l
	}
	l.stamps = max(l.stamps, recentStamps, int(m.HitCount.N))
	return []condition{remember(func(v *View) bool { return l.holds(m, v) })}
}

func (l *recentList) holds(m *syntax.Recent, v *View) bool {
	a := v.Src
	if m.RDest.Set {
		a = v.Dst
	}
	a = masked(a, m.Mask.Mask)
	ttl := uint8(hops(v))
	if v.Out >= 0 {
		ttl++ // as it was when it came in
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	invert := m.Not()
	e := l.entries[a]
	if e != nil && m.RTTL.Set && e.ttl != ttl {
		e = nil
	}
	if e == nil {
		if !m.DoSet.Set {
			return invert
		}
		l.add(a, v.Now, ttl)
		return !invert
	}
	found := false
	switch {
	case m.DoSet.Set:
		found = true
	case m.Remove.Set:
		l.drop(a)
		return !invert
	default:
		found = e.hits(m, v.Now)
		if m.Reap.Set {
			l.reap(v.Now - int64(m.Seconds.N)*1000)
		}
	}
	if m.DoSet.Set || m.Update.Set && found != invert {
		l.touch(a, e, v.Now, ttl)
	}
	return found != invert
}

// hits reports whether an address was seen often enough, recently enough.
func (e *recentEntry) hits(m *syntax.Recent, now int64) bool {
	n := uint64(0)
	for _, s := range e.stamps {
		if m.Seconds.Set && m.Seconds.N > 0 && now-int64(m.Seconds.N)*1000 > s {
			continue
		}
		if n++; m.HitCount.N == 0 || n >= m.HitCount.N {
			return true
		}
	}
	return false
}

func (l *recentList) add(a flow.Addr, now int64, ttl uint8) {
	if len(l.entries) >= recentAddrs {
		l.drop(l.order[0])
	}
	l.entries[a] = &recentEntry{stamps: []int64{now}, next: 1, ttl: ttl}
	l.order = append(l.order, a)
}

func (l *recentList) drop(a flow.Addr) {
	delete(l.entries, a)
	l.order = slices.DeleteFunc(l.order, func(b flow.Addr) bool { return a == b })
}

func (l *recentList) touch(a flow.Addr, e *recentEntry, now int64, ttl uint8) {
	e.ttl = ttl
	e.next %= l.stamps
	if e.next == len(e.stamps) {
		e.stamps = append(e.stamps, now)
	} else {
		e.stamps[e.next] = now
	}
	e.next++
	l.order = append(slices.DeleteFunc(l.order, func(b flow.Addr) bool { return a == b }), a)
}

// reap drops the oldest address if it was last seen before a moment.
func (l *recentList) reap(before int64) {
	if len(l.order) == 0 {
		return
	}
	oldest := l.order[0]
	if e := l.entries[oldest]; slices.Max(e.stamps) < before {
		l.drop(oldest)
	}
}
