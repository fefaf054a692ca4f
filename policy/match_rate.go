package policy

import (
	"math"
	"sync/atomic"

	"github.com/xdpct/xdpct/policy/syntax"
)

// bucket is a token bucket: the moment, in units of time, at which it would be
// empty had it always been filled. All shards use it.
type bucket struct{ empty atomic.Int64 }

// take takes cost out of a bucket of which burst costs fit in, if they are there.
func (b *bucket) take(now int64, cost, full uint64) bool {
	for {
		old := b.empty.Load()
		z := max(old, now-int64(full))
		if now-z < int64(cost) {
			return false
		}
		if b.empty.CompareAndSwap(old, z+int64(cost)) {
			return true
		}
	}
}

// units is the time of a view in units of syntax.RateScale a second.
func units(v *View) int64 { return v.Now * (syntax.RateScale / 1000) }

// limit compiles xt_limit.
func (c *compiler) limit(m *syntax.Limit) []condition {
	b := stateOf(c, m, func() *bucket {
		b := &bucket{}
		b.empty.Store(math.MinInt64 / 2) // full
		return b
	})
	cost, full := m.Rate.Cost, m.Rate.Cost*m.Burst.N
	return []condition{remember(func(v *View) bool { return b.take(units(v), cost, full) })}
}

// statistic compiles xt_statistic.
func (c *compiler) statistic(m *syntax.Statistic) []condition {
	if m.Mode.S == "random" {
		return []condition{remember(func(v *View) bool {
			return (v.Random.Uint32()&(1<<31-1) < m.Probability.N) != m.Probability.Not
		})}
	}
	every, not := m.Every.N, m.Every.Not
	count := stateOf(c, m, func() *atomic.Uint64 {
		n := &atomic.Uint64{}
		n.Store(every - 1 - m.Packet.N)
		return n
	})
	return []condition{remember(func(*View) bool {
		for {
			old := count.Load()
			next := old + 1
			if old == every-1 {
				next = 0
			}
			if count.CompareAndSwap(old, next) {
				return (next == 0) != not
			}
		}
	})}
}
