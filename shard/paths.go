package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/table"
)

// path is what is known of one direction of a connection: the rules as they are for its
// packets, and their next hop.
type path struct {
	code uint16 // in codes
	hop  uint16 // in hops, plus their base; what is before that is stale
}

// pathNumbers number pairs of paths, each different pair once. Many connections have the
// same, so a connection keeps the number of its pair in the cache line that every packet reads
// (flow.Conn.PathNumber). Only a packet of a connection without a number reads the pair
// itself, which lies beside the table: a cache miss more.
//
// A number stands for the pair as it was when the number was given: whoever changes a
// connection's pair takes its number away. renew makes all numbers stale at once: those
// that are given afterwards come from the rest of the range. Numbers are given from one half
// of the range while they are cleared, a few entries at a time, of those of the other half.
// If a half is used up before that is done, no more are given until a renew finds it done.
type pathNumbers struct {
	all   [][2]path // by number, less base
	index map[[2]path]uint16
	base  int // the first number that is not stale, 1..end
	end   int // of the half that numbers are given from

	sweeping bool // entries from swept on may have numbers of the other half
	swept    uint32
}

const (
	// halfNumbers is where the second half begins.
	halfNumbers = 1 << 15
	// spareNumbers is how many there must be left for renew to stay in its half.
	spareNumbers = halfNumbers / 4
	// numberBudget is how many entries are cleared before a batch.
	numberBudget = 128
)

// of returns the pair of a number, nil if it is stale or 0.
func (c *pathNumbers) of(n uint16) *[2]path {
	if i := n - uint16(c.base); int(i) < len(c.all) { // wraps for those that are stale
		return &c.all[i]
	}
	return nil
}

// full reports whether no more pairs can be numbered.
func (c *pathNumbers) full() bool { return c.base+len(c.all) == c.end }

// number returns the number of a pair, 0 if there is none left for it.
func (c *pathNumbers) number(p [2]path) uint16 {
	if n, ok := c.index[p]; ok {
		return n
	}
	if c.full() {
		return 0
	}
	n := uint16(c.base + len(c.all))
	c.all = append(c.all, p)
	c.index[p] = n
	return n
}

// renew makes all numbers stale.
func (c *pathNumbers) renew() {
	c.base += len(c.all)
	switch {
	case c.end == 0:
		c.base, c.end = 1, halfNumbers
	case c.end-c.base >= spareNumbers || c.sweeping:
	default:
		c.base, c.end = c.end%(2*halfNumbers), c.end%(2*halfNumbers)+halfNumbers
		c.base = max(c.base, 1)
		c.sweeping, c.swept = true, 0
	}
	c.all, c.index = nil, map[[2]path]uint16{}
}

// sweep takes away the numbers of the other half from at most n entries.
func (c *pathNumbers) sweep(t *table.Table, n uint32) {
	if !c.sweeping {
		return
	}
	end := min(c.swept+n, t.Entries())
	for ; c.swept < end; c.swept++ {
		if conn := t.Conn(c.swept); int(conn.PathNumber())/halfNumbers != (c.end-1)/halfNumbers {
			conn.SetPathNumber(0)
		}
	}
	c.sweeping = end < t.Entries()
}

// path returns what is known of direction d of the connection in entry. numbered says
// that the connection has a number for it.
func (s *Shard) path(c *flow.Conn, entry uint32, d flow.Direction) (p path, numbered bool) {
	if both := s.forward.numbers.of(c.PathNumber()); both != nil {
		return both[d], true
	}
	return s.forward.paths[entry][d], false
}

// pathOf returns the path of direction d of the connection in entry, to be changed.
func (s *Shard) pathOf(entry uint32, d flow.Direction) *path {
	s.table.Conn(entry).SetPathNumber(0)
	return &s.forward.paths[entry][d]
}

// numberPaths gives the connection in entry the number of its pair of paths, if there is
// one for it.
func (s *Shard) numberPaths(entry uint32) {
	f := &s.forward
	s.table.Conn(entry).SetPathNumber(f.numbers.number(f.paths[entry]))
}

// forgetPaths forgets what is known of both directions of the connection in entry.
func (s *Shard) forgetPaths(entry uint32) {
	s.table.Conn(entry).SetPathNumber(0)
	s.forward.paths[entry] = [2]path{}
}
