package policy

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy/syntax"
)

// masked returns the bits of an address that a mask keeps.
func masked(a, mask flow.Addr) flow.Addr { return flow.Addr{Hi: a.Hi & mask.Hi, Lo: a.Lo & mask.Lo} }

const (
	recentAddrs  = 100 // ip_list_tot
	recentStamps = 32  // that are kept if no rule of the list has a hitcount
	recentMost   = 256 // XT_RECENT_MAX_NSTAMPS
	// A row is the address, what follows, and the stamps (milliseconds).
	recentTTL   = 2 // TTL or hop limit when it was seen last
	recentIndex = 3 // where the next stamp is written, as in struct recent_entry
	recentCount = 4 // of stamps that are there
	recentSeen  = 5 // the place in the order of all addresses: the least was seen longest ago
	recentFixed = 6
)

// recentList is the addresses of one name (struct recent_table), of both families.
type recentList struct {
	mask    flow.Addr // of the first rule of that name, for all of them
	stamps  uint64    // kept for each address, a power of two
	clock   atomic.Uint64
	entries *store
}

// stampsFor returns how many stamps a rule wants kept (recent_mt_check).
func stampsFor(m *syntax.Recent) uint64 {
	if m.HitCount.N == 0 {
		return recentStamps
	}
	n := uint64(1)
	for n < m.HitCount.N {
		n *= 2
	}
	return n
}

// recents finds the lists that rules name, and makes those that the program before
// does not have. A list begins anew if a rule wants more stamps than it keeps, as in
// Linux, and goes when no rule names it any more.
func (p *Program) findRecents(before *Program) {
	mask, stamps := map[string]flow.Addr{}, map[string]uint64{}
	for _, r := range p.rulesets {
		for m := range matchesOf(r) {
			if m, ok := m.(*syntax.Recent); ok {
				if _, there := mask[m.List.S]; !there {
					mask[m.List.S] = m.Mask.Mask
				}
				stamps[m.List.S] = max(stamps[m.List.S], stampsFor(m))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(stamps)) { // an order, so that the seeds are those of the key
		n := stamps[name]
		if before != nil && before.recents[name] != nil && before.recents[name].stamps >= n {
			p.recents[name] = before.recents[name]
			continue
		}
		p.recents[name] = &recentList{mask: mask[name], stamps: n, entries: newStore(recentAddrs, 2, recentFixed+int(n), p.seed())}
	}
}

// matchesOf yields the matches of the rules that packets may reach, in the order of
// the file.
func matchesOf(r *syntax.Ruleset) func(yield func(syntax.Match) bool) {
	return func(yield func(syntax.Match) bool) {
		if r == nil {
			return
		}
		for _, t := range r.Tables {
			for _, c := range t.Chains {
				if syntax.Dormant(t.Name, c.Name) {
					continue
				}
				for _, rule := range c.Rules {
					for _, m := range rule.Matches {
						if !yield(m) {
							return
						}
					}
				}
			}
		}
	}
}

// recent compiles xt_recent.
func (c *compiler) recent(m *syntax.Recent) []condition {
	l := c.p.recents[m.List.S]
	r := &recentRule{
		set: m.DoSet.Set, remove: m.Remove.Set, update: m.Update.Set, dest: m.RDest.Set, rttl: m.RTTL.Set,
		reap: m.Reap.Set, not: m.Not(), hits: m.HitCount.N, span: int64(m.Seconds.N) * 1000,
	}
	return []condition{remember(func(v *View) bool { return l.holds(r, v) })}
}

// recentRule is what one rule asks of a list.
type recentRule struct {
	set, remove, update   bool // none of them: --rcheck
	dest, rttl, reap, not bool
	hits                  uint64
	span                  int64 // milliseconds; 0: any time
}

// holds is recent_mt.
func (l *recentList) holds(m *recentRule, v *View) bool {
	a := v.Src
	if m.dest {
		a = v.Dst
	}
	a = masked(a, l.mask)
	key := []uint64{a.Hi, a.Lo}
	ttl := uint64(uint8(hops(v)))
	if v.Out >= 0 && !v.fromSocket() {
		ttl = uint64(uint8(ttl + 1)) // as it was when it came in
	}
	var buf [recentFixed + recentMost]uint64
	r := buf[:l.entries.width]
again:
	for {
		p := l.entries.find(key, r)
		for m.rttl && p.found && r[recentTTL] != ttl && r[recentTTL] != 0 && ttl != 0 {
			if !l.entries.more(&p, key, r) {
				continue again
			}
		}
		switch {
		case !p.found && !m.set:
			return m.not
		case !p.found:
			clear(r)
			r[0], r[1] = a.Hi, a.Lo
			if l.stamp(p, r, ttl, v.Now) {
				return !m.not
			}
		case m.remove:
			if l.entries.drop(p) {
				return !m.not
			}
		case m.set:
			if l.stamp(p, r, ttl, v.Now) {
				return !m.not
			}
		default:
			found := m.often(r, v.Now) != m.not
			if m.update && found && !l.stamp(p, r, ttl, v.Now) {
				continue
			}
			if m.reap {
				l.reap(v.Now - m.span)
			}
			return found
		}
	}
}

// often reports whether an address was seen often enough, recently enough.
func (m *recentRule) often(r []uint64, now int64) bool {
	n := uint64(0)
	for _, s := range r[recentFixed:][:r[recentCount]] {
		if m.span > 0 && now-m.span > int64(s) {
			continue
		}
		if n++; m.hits == 0 || n >= m.hits {
			return true
		}
	}
	return false
}

// stamp notes in a row that its address was seen (recent_entry_init,
// recent_entry_update), and writes it. ok is false if something has changed since it
// was found.
func (l *recentList) stamp(p spot, r []uint64, ttl uint64, now int64) (ok bool) {
	r[recentTTL] = ttl
	r[recentIndex] &= l.stamps - 1
	r[recentFixed+r[recentIndex]] = uint64(now)
	r[recentIndex]++
	r[recentCount] = max(r[recentCount], r[recentIndex])
	r[recentSeen] = l.clock.Add(1)
	ok, full := l.entries.put(p, r)
	if full {
		l.evict()
	}
	return ok
}

// oldest finds the address that was seen longest ago, and when that was.
func (l *recentList) oldest() (oldest spot, last int64) {
	var buf [recentFixed + recentMost]uint64
	r := buf[:l.entries.width]
	least := ^uint64(0)
	for p := (spot{}); l.entries.scan(&p, r); {
		if r[recentSeen] < least && r[recentIndex] > 0 {
			least, oldest, last = r[recentSeen], p, int64(r[recentFixed+r[recentIndex]-1])
		}
	}
	return oldest, last
}

// evict makes room for an address.
func (l *recentList) evict() {
	if p, _ := l.oldest(); p.found {
		l.entries.drop(p)
	}
}

// reap removes the address that was seen longest ago, if that was before a moment
// (recent_entry_reap). An address that was just seen is the last in that order.
func (l *recentList) reap(before int64) {
	if p, last := l.oldest(); p.found && last < before {
		l.entries.drop(p)
	}
}
