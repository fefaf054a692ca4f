package policy

import (
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy/syntax"
)

// hashMax is how many entries a hashlimit table has room for if the rule does not say:
// that of a kernel with more than a gigabyte of memory (htable_create: eight for each
// of 8192 buckets).
const hashMax = 8 * 8192

// tableName identifies a hashlimit table.
type tableName struct {
	name   string
	family flow.Family
}

// hashTable is the entries of one name (struct xt_hashlimit_htable). Rules of the same
// name share it, and its rate and its key are those of the first.
type hashTable struct {
	rate     rateLimit
	src, dst flow.Addr // masks; zero: not part of the key
	ports    [2]bool   // source and destination port are part of the key
	keyWords int
	expire   int64 // milliseconds
	entries  *store
	sweptTo  atomic.Uint64 // bucket that is looked at next for entries that have expired
}

// The words of a row behind the key.
const (
	hashSeen   = iota // milliseconds
	hashSince         // when credit was added last, or the window began
	hashCredit        // that is left; --hashlimit-rate-match: what was counted in the window
	hashRefill        // whole seconds that may still be used ahead; --hashlimit-rate-match: 1 if the window before was over the rate
	hashState         // the number of these words
)

// maxKey is the words of the longest key: two IPv6 addresses and the ports.
const maxKey = 5

// newHashTable makes the table for the first rule of a name.
func newHashTable(m *syntax.HashLimit, f flow.Family, seed [2]uint64) *hashTable {
	t := &hashTable{rate: rateOf(m), expire: int64(m.Expire.N)}
	if m.Mode.SrcIP {
		t.src = syntax.PrefixMask(int(m.SrcMask.N), f)
	}
	if m.Mode.DstIP {
		t.dst = syntax.PrefixMask(int(m.DstMask.N), f)
	}
	t.ports = [2]bool{m.Mode.SrcPort, m.Mode.DstPort}
	most, keyWords := hashDims(m, f)
	t.keyWords = keyWords
	t.entries = newStore(most, keyWords, keyWords+hashState, seed)
	return t
}

// hashDims returns how many entries the table of a rule has, and how many words their keys.
func hashDims(m *syntax.HashLimit, f flow.Family) (most, keyWords int) {
	size, limit := m.Size.N, m.Max.N
	if size == 0 {
		size = 8192
	}
	if limit == 0 {
		limit = 8 * size
	}
	keyWords = 1
	switch {
	case f == flow.IPv6:
		keyWords = maxKey
	case m.Mode.SrcPort || m.Mode.DstPort:
		keyWords = 2
	}
	return int(min(max(limit, size), 1<<22)), keyWords
}

// hashLimit compiles xt_hashlimit.
func (c *compiler) hashLimit(m *syntax.HashLimit) []condition {
	name := tableName{m.Table.S, c.family}
	t := c.p.hashes[name]
	if t == nil && c.before != nil {
		t = c.before.hashes[name]
	}
	if t == nil {
		t = newHashTable(m, c.family, c.p.seed())
	}
	c.p.hashes[name] = t
	above := m.Above.Set
	return []condition{remember(func(v *View) bool {
		var key [maxKey]uint64
		if !t.key(v, &key) {
			return v.hotdrop()
		}
		within, ok := t.take(key[:t.keyWords], v.Now, uint64(v.P.Len))
		if !ok {
			return v.hotdrop()
		}
		return within != above
	})}
}

// key makes the key of a packet (hashlimit_init_dst). ok is false if its ports are cut
// off.
func (t *hashTable) key(v *View, key *[maxKey]uint64) (ok bool) {
	var ports uint64
	if t.ports != [2]bool{} {
		src, dst, ok := v.portsOrSPI()
		if !ok {
			return false
		}
		if t.ports[0] {
			ports |= uint64(src) << 16
		}
		if t.ports[1] {
			ports |= uint64(dst)
		}
	}
	src, dst := masked(v.Src, t.src), masked(v.Dst, t.dst)
	if v.family() == flow.IPv4 {
		key[0], key[1] = src.Lo<<32|dst.Lo&0xffffffff, ports
	} else {
		*key = [maxKey]uint64{src.Hi, src.Lo, dst.Hi, dst.Lo, ports}
	}
	return true
}

// take lets a packet of a key use up credit. within says that there was enough; ok is
// false if the table is full.
func (t *hashTable) take(key []uint64, now int64, length uint64) (within, ok bool) {
	var buf [maxKey + hashState]uint64
	r := buf[:t.entries.width]
	for {
		p := t.entries.find(key, r)
		state := r[t.keyWords:]
		if !p.found || now-int64(state[hashSeen]) >= t.expire {
			copy(r, key)
			t.rate.begin(state, now)
		}
		state[hashSeen] = uint64(now)
		t.rate.refill(state, now)
		within := t.rate.use(state, length)
		done, full := t.entries.put(p, r)
		switch {
		case done:
			if !p.found {
				t.sweep(now, sweepStep)
			}
			return within, true
		case full && !t.sweep(now, sweepMost):
			return false, false
		}
	}
}

// A table is swept a little with each new entry, so that those that have expired are
// gone before it is full, and further when it is full.
const (
	sweepStep = 2
	sweepMost = 256
)

// sweep removes expired entries from some buckets. It reports whether it removed any.
func (t *hashTable) sweep(now int64, buckets int) (removed bool) {
	n := uint64(len(t.entries.heads))
	for range min(buckets, int(n)) {
		for t.entries.dropOne((t.sweptTo.Add(1)-1)%n, t.keyWords+hashSeen, now-t.expire) {
			removed = true
		}
	}
	return removed
}

// rateLimit is a rate in the units of xt_hashlimit.
type rateLimit struct {
	match    bool // --hashlimit-rate-match
	bytes    bool
	interval int64  // of rate-match, milliseconds
	rate     uint64 // of rate-match: packets or bytes a second
	burst    uint64 // of rate-match: that are let through in an interval; bytes: whole seconds ahead
	cost     uint64 // of a packet, or of 16 bytes
	full     uint64 // the credit of one that has not been seen
	perMS    uint64 // credit that is added in a millisecond
}

const (
	// bytesPerMS is the credit that a second of a rate in bytes is made of, by
	// milliseconds (CREDITS_PER_JIFFY_BYTES).
	bytesPerMS = 1 << 22
	// packetsPerMS is the same of a rate in packets.
	packetsPerMS = syntax.HashScale / 1000
)

func rateOf(m *syntax.HashLimit) rateLimit {
	r := m.Rate()
	l := rateLimit{match: m.RateMatch.Set, bytes: r.InBytes, burst: m.BurstUnits()}
	switch {
	case l.match:
		l.interval = int64(m.RateInterval.N) * 1000
		l.rate = r.PerSecond()
		switch {
		case !l.bytes:
			l.burst += l.rate
		case l.burst == 0:
			l.burst = l.rate
		default:
			l.burst *= l.rate
		}
	case l.bytes:
		l.cost, l.full, l.perMS = r.Cost*(bytesPerMS*1000)>>32, bytesPerMS*1000, bytesPerMS
	default:
		l.cost, l.full, l.perMS = r.Cost, r.Cost*l.burst, packetsPerMS
	}
	return l
}

// begin is rateinfo_init.
func (l *rateLimit) begin(state []uint64, now int64) {
	state[hashSince], state[hashCredit], state[hashRefill] = uint64(now), l.full, 0
	if l.bytes && !l.match {
		state[hashRefill] = l.burst
	}
}

// refill is rateinfo_recalc.
func (l *rateLimit) refill(state []uint64, now int64) {
	past := now - int64(state[hashSince])
	if past <= 0 || l.match && past < l.interval {
		return
	}
	state[hashSince] = uint64(now)
	if !l.match {
		state[hashCredit] = min(state[hashCredit]+uint64(min(past, 1<<31))*l.perMS, l.full)
		return
	}
	over := uint64(0)
	if state[hashCredit]*uint64(l.interval) > uint64(past)*l.rate {
		over = 1
	}
	state[hashCredit], state[hashRefill] = 0, over
}

// use takes what a packet costs, and reports whether it is within the limit.
func (l *rateLimit) use(state []uint64, length uint64) bool {
	switch {
	case l.match:
		if l.bytes {
			state[hashCredit] += length
		} else {
			state[hashCredit]++
		}
		return state[hashRefill] == 0 && state[hashCredit] <= l.burst
	case l.bytes: // hashlimit_byte_cost
		cost := min((length/16+1)*l.cost, l.full)
		if state[hashCredit] < cost && state[hashRefill] > 0 {
			state[hashRefill]--
			state[hashCredit] = l.full
		}
		if state[hashCredit] < cost {
			return false
		}
		state[hashCredit] -= cost
		return true
	}
	if state[hashCredit] < l.cost {
		return false
	}
	state[hashCredit] -= l.cost
	return true
}
