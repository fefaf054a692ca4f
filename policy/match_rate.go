package policy

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
)

// rate is packets in a period: "3/minute".
type rate struct {
	given
	// cost is the time that one packet uses up, in units of 0.1 ms (XT_LIMIT_SCALE).
	cost uint64
}

var periods = []struct {
	name    string
	seconds uint64
}{{"day", 86400}, {"hour", 3600}, {"min", 60}, {"sec", 1}}

// rateScale is XT_LIMIT_SCALE: units of time in a second.
const rateScale = 10000

// period returns the length in seconds of a unit that may be cut short.
func period(s string) (uint64, bool) {
	for _, full := range []struct {
		name    string
		seconds uint64
	}{{"second", 1}, {"minute", 60}, {"hour", 3600}, {"day", 86400}} {
		if s != "" && strings.HasPrefix(full.name, strings.ToLower(s)) {
			return full.seconds, true
		}
	}
	return 0, false
}

func (r *rate) read(args []string) error {
	n, unit, has := strings.Cut(args[0], "/")
	seconds, ok := uint64(1), true
	if has {
		seconds, ok = period(unit)
	}
	count, err := strconv.ParseUint(n, 10, 32)
	if !ok || err != nil || count == 0 {
		return errors.New("a rate is expected: 3/second, 10/minute, 1/hour, 1/day")
	}
	if r.cost = rateScale * seconds / count; r.cost == 0 {
		return fmt.Errorf("faster than the %d a second that can be told apart", rateScale)
	}
	return nil
}

// text is print_rate of libxt_limit.
func (r *rate) text() string {
	best := 0
	for i := 1; i < len(periods); i++ {
		unit := periods[i].seconds * rateScale
		if r.cost > unit || unit/r.cost < unit%r.cost {
			break
		}
		best = i
	}
	return fmt.Sprintf("%d/%s", periods[best].seconds*rateScale/r.cost, periods[best].name)
}

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

// units is the time of a view in units of rateScale a second.
func units(v *View) int64 { return v.Now * (rateScale / 1000) }

// limitMatch is xt_limit.
type limitMatch struct {
	rate   rate
	burst  number
	bucket bucket
}

func (m *limitMatch) name() string { return "limit" }

func (m *limitMatch) options() []option {
	return []option{{name: "--limit", value: &m.rate, noNot: true}, {name: "--limit-burst", value: &m.burst, noNot: true}}
}

func (m *limitMatch) check(*Rule, *ruleParser) error {
	if !m.rate.set { // 3/hour, as the match has it by itself
		m.rate = rate{given{set: true}, rateScale * 3600 / 3}
	}
	if !m.burst.set {
		m.burst.n = 5
	}
	if m.burst.n == 5 {
		m.burst.set = false // not printed
	}
	if m.burst.n == 0 {
		return errors.New("a burst of 0 would never match")
	}
	m.bucket.empty.Store(math.MinInt64 / 2) // full
	return nil
}

// remember is a condition that remembers.
type remember func(v *View) bool

func (remember) constant() bool       { return false }
func (remember) remembers()           {}
func (f remember) holds(v *View) bool { return f(v) }

func (m *limitMatch) conditions(*compiler) []condition {
	full := m.rate.cost * m.burst.n
	return []condition{remember(func(v *View) bool { return m.bucket.take(units(v), m.rate.cost, full) })}
}

// statisticMatch is xt_statistic.
type statisticMatch struct {
	mode        word
	probability probability
	every       number
	packet      number
	count       atomic.Uint64
}

// probability is a number from 0 to 1 in 2^31 steps.
type probability struct {
	given
	n uint32
}

func (p *probability) read(args []string) error {
	f, err := strconv.ParseFloat(args[0], 64)
	if err != nil || f < 0 || f > 1 || math.IsNaN(f) {
		return errors.New("must be 0..1")
	}
	p.n = uint32(math.Round(f * (1 << 31)))
	return nil
}

func (p *probability) text() string { return fmt.Sprintf("%.11f", float64(p.n)/(1<<31)) }

func newStatistic(flow.Family) match {
	return &statisticMatch{mode: word{oneOf: []string{"random", "nth"}}}
}

func (m *statisticMatch) name() string { return "statistic" }

func (m *statisticMatch) options() []option {
	return []option{
		{name: "--mode", value: &m.mode, noNot: true}, {name: "--probability", value: &m.probability},
		{name: "--every", value: &m.every}, {name: "--packet", value: &m.packet, noNot: true},
	}
}

func (m *statisticMatch) check(*Rule, *ruleParser) error {
	switch m.mode.s {
	case "random":
		if !m.probability.set || m.every.set || m.packet.set {
			return errors.New("--mode random needs --probability and nothing else")
		}
	case "nth":
		if !m.every.set || m.probability.set || m.every.n == 0 || m.packet.n >= m.every.n {
			return errors.New("--mode nth needs --every N, and --packet below N")
		}
		m.packet.set = true
		m.count.Store(m.every.n - 1 - m.packet.n)
	default:
		return errors.New("needs --mode random or --mode nth")
	}
	return nil
}

func (m *statisticMatch) conditions(*compiler) []condition {
	if m.mode.s == "random" {
		return []condition{remember(func(v *View) bool {
			return (v.Random.Uint32()&(1<<31-1) < m.probability.n) != m.probability.not
		})}
	}
	return []condition{remember(func(*View) bool {
		for {
			old := m.count.Load()
			next := old + 1
			if old == m.every.n-1 {
				next = 0
			}
			if m.count.CompareAndSwap(old, next) {
				return (next == 0) != m.every.not
			}
		}
	})}
}

// connbytesMatch is xt_connbytes.
type connbytesMatch struct {
	amount span
	mode   word
	dir    word
}

func newConnbytes(flow.Family) match {
	return &connbytesMatch{
		amount: span{max: math.MaxUint64, open: true, always: true},
		mode:   word{oneOf: []string{"packets", "bytes", "avgpkt"}}, dir: word{oneOf: []string{"original", "reply", "both"}},
	}
}

func (m *connbytesMatch) name() string { return "connbytes" }

func (m *connbytesMatch) options() []option {
	return []option{
		{name: "--connbytes", value: (*openSpan)(&m.amount)},
		{name: "--connbytes-mode", value: &m.mode, noNot: true}, {name: "--connbytes-dir", value: &m.dir, noNot: true},
	}
}

// openSpan is a span in which a single number means "from there on".
type openSpan span

func (s *openSpan) read(args []string) error {
	a := args[0]
	if !strings.Contains(a, ":") {
		a += ":"
	}
	return (*span)(s).read([]string{a})
}

func (s *openSpan) text() string { return (*span)(s).text() }

func (m *connbytesMatch) check(*Rule, *ruleParser) error {
	if !m.amount.set || !m.mode.set || !m.dir.set {
		return errors.New("needs --connbytes, --connbytes-mode and --connbytes-dir")
	}
	return nil
}

func (m *connbytesMatch) conditions(*compiler) []condition {
	return []condition{varying(func(v *View) bool {
		if !v.Tracked || v.Conn == &template {
			return false
		}
		var n flow.Counters
		for d := range flow.Direction(2) {
			if m.dir.s == "both" || m.dir.s == d.String() {
				c := v.Conn.Counters(d)
				n.Packets += c.Packets
				n.Bytes += c.Bytes
			}
		}
		what := n.Packets
		switch {
		case m.mode.s == "bytes":
			what = n.Bytes
		case m.mode.s == "avgpkt" && n.Packets > 0:
			what = n.Bytes / n.Packets
		}
		return m.amount.has(what)
	})}
}
