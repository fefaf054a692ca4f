package shard

import (
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/table"
)

// maxHops is how many different next hops a shard remembers.
const maxHops = 8192

// hopCache numbers next hops, so that a path needs two bytes to name one. Numbers go
// on from base when the cache is emptied: a path that has an older one is stale, and
// knows that by itself.
//
// Numbers are given from one half of their range, while paths are cleared, some at a
// time, of those of the other half. So no change of routes has to touch all paths at
// once, unless 24,576 numbers are given before the clearing is through.
type hopCache struct {
	all   []route.Hop          // never moves: verdicts point into it
	index map[route.Hop]uint16 // by what does not change with the neighbour
	base  uint16               // what paths add to the index; 0 is never one

	sweeping bool // paths from swept on may have numbers of the half that base is not in
	swept    int
}

// halfHops is the first number of the second half.
const halfHops = 1 << 15

// sweepBudget is how many paths are cleared before a batch.
const sweepBudget = 512

// number returns the index of a next hop; ok is false if there are too many.
func (c *hopCache) number(h *route.Hop) (i uint16, ok bool) {
	key := *h
	key.Known, key.DstMAC, key.Neighbour = false, [6]byte{}, 0
	if i, ok = c.index[key]; ok {
		return i, true
	}
	if cap(c.all) == 0 {
		c.all = make([]route.Hop, 0, maxHops)
	}
	if i = uint16(len(c.all)); i == maxHops {
		return 0, false
	}
	c.all = append(c.all, *h)
	c.index[key] = i
	return i, true
}

// of returns the next hop that a path names, nil if that is stale.
func (c *hopCache) of(n uint16) *route.Hop {
	if i := n - c.base; int(i) < len(c.all) { // wraps for those that are stale
		return &c.all[i]
	}
	return nil
}

// resolve takes over what neighbours are known by routes that are otherwise the same.
func (c *hopCache) resolve(routes *route.Table) {
	for i := range c.all {
		if h := &c.all[i]; h.Out >= 0 {
			routes.Resolve(h)
		}
	}
}

// renew forgets all next hops: from now on they have numbers that no path has.
func (c *hopCache) renew(paths [][2]path) {
	first, half := max(int(c.base), 1)+len(c.all), int(c.base)/halfHops
	c.all, c.index = nil, map[route.Hop]uint16{}
	if first+maxHops <= (half+1)*halfHops {
		c.base = uint16(first)
		return
	}
	c.sweep(paths, len(paths))
	c.base = uint16(max((half^1)*halfHops, 1))
	c.sweeping, c.swept = true, 0
}

// sweep clears at most n paths of numbers of the half that base is not in.
func (c *hopCache) sweep(paths [][2]path, n int) {
	if !c.sweeping {
		return
	}
	end := min(c.swept+n, len(paths))
	for i := c.swept; i < end; i++ {
		for d := range paths[i] {
			if p := &paths[i][d]; p.hop/halfHops != c.base/halfHops {
				p.hop = 0
			}
		}
	}
	c.swept, c.sweeping = end, end < len(paths)
}

// passingHops are next hops that are not remembered. Verdicts point to them until the
// next call of Process, however many packets that one is for: none is written to twice
// before.
type passingHops struct {
	all  []route.Hop
	used int
}

// begin forgets those of the batch before.
func (p *passingHops) begin() { p.used = 0 }

// keep returns a copy of h. It allocates iff a batch keeps more than each one before.
func (p *passingHops) keep(h *route.Hop) *route.Hop {
	if p.used == len(p.all) { // those that are in use stay where they are
		p.all, p.used = make([]route.Hop, max(2*len(p.all), table.MaxBatch)), 0
	}
	kept := &p.all[p.used]
	p.used++
	*kept = *h
	return kept
}
