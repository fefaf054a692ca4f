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
type hopCache struct {
	all   []route.Hop // never moves: verdicts point into it
	index map[route.Hop]uint16
	base  uint16 // what paths add to the index; 0 is never one
	given int    // numbers that were given since paths were cleared of them
}

// number returns the index of a next hop; ok is false if there are too many.
func (c *hopCache) number(h *route.Hop) (i uint16, ok bool) {
	if i, ok = c.index[*h]; ok {
		return i, true
	}
	if cap(c.all) == 0 {
		c.all = make([]route.Hop, 0, maxHops)
	}
	if i = uint16(len(c.all)); i == maxHops {
		return 0, false
	}
	c.all = append(c.all, *h)
	c.index[*h] = i
	return i, true
}

// of returns the next hop that a path names, nil if that is stale.
func (c *hopCache) of(n uint16) *route.Hop {
	if i := n - c.base; int(i) < len(c.all) { // wraps for those that are stale
		return &c.all[i]
	}
	return nil
}

// renew forgets all next hops: from now on they have numbers that no path has.
func (c *hopCache) renew(paths [][2]path) {
	c.base += uint16(len(c.all))
	c.given += len(c.all) + maxHops
	if c.base == 0 || c.given >= 1<<16 { // the numbers come round
		for i := range paths {
			paths[i][0].hop, paths[i][1].hop = 0, 0
		}
		c.base, c.given = 1, 0
	}
	c.all, c.index = nil, map[route.Hop]uint16{}
}

// passingHops are next hops that are not remembered, by place in the batch: verdicts
// point to them until the next one.
type passingHops [table.MaxBatch]route.Hop

func (p *passingHops) keep(n int, h *route.Hop) *route.Hop {
	p[n] = *h
	return &p[n]
}
