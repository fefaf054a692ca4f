package nat

import (
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
)

// Sources remembers what sources are mapped to, so that the connections of one source
// look alike from outside where they can (nf_nat_bysource; RFC 4787, REQ-1). A source
// is the source address, port (ICMP: identifier), protocol and zone of an original
// tuple. All shards share it; nothing in it blocks or allocates.
//
// A mapping lies in one of two buckets, which a keyed hash of the source names, with a
// fingerprint of 48 bits, and is counted: it lives as long as a connection has it. What
// nobody has any more stays until the room is wanted, so that a source that comes back
// can be given the port that it had. If all sixteen places live, the one that was
// chosen longest ago is forgotten.
//
// The word use guards a place: it is changed with each change of the rest, never to a
// value that it had before (but after 2^32 changes), and whoever writes the rest has
// set it to busy.
type Sources struct {
	key       Key
	turn      atomic.Uint32 // numbers the uses, in the order of the kernel's list
	buckets   []mappings
	forgotten atomic.Uint64
}

// mappings is a bucket, four cache lines, of which who does not find its source reads
// the first.
type mappings struct {
	id     [8]atomic.Uint64 // fingerprint<<16 | port; 0: free
	use    [8]atomic.Uint64 // turn<<32 | connections
	hi, lo [8]atomic.Uint64 // address
}

const busy = 1<<32 - 1 // of use: somebody writes the place

// NewSources returns Sources with room for the mappings of so many connections: it then is
// three quarters full. Valid iff connections >= 1.
func NewSources(connections int, key Key) *Sources {
	return &Sources{key: key, buckets: make([]mappings, numSources(connections))}
}

func numSources(connections int) int { return max((connections+5)/6, 2) }

// bucketsOf returns the two buckets for the source of t, and its fingerprint.
func (s *Sources) bucketsOf(t *flow.Tuple) (b [2]*mappings, fingerprint uint64) {
	h := s.key.sum(domainSource, t.Src.Hi, t.Src.Lo, uint64(t.L4&^(0xffff<<16)))
	n := uint64(len(s.buckets))
	i, j := uint64(uint32(h))*n>>32, (h>>32)*n>>32
	if i == j {
		if j++; j == n {
			j = 0
		}
	}
	h = (h ^ h>>32) * 0xd6e8feb86659fd93 // other bits than those that name the buckets
	return [2]*mappings{&s.buckets[i], &s.buckets[j]}, (h ^ h>>32) & (1<<48 - 1)
}

// Add says that a connection with the original tuple orig has its source mapped to an
// address and a port.
func (s *Sources) Add(orig *flow.Tuple, addr flow.Addr, port uint16) {
	b, f := s.bucketsOf(orig)
	id := f<<16 | uint64(port)
	turn := uint64(s.turn.Add(1)) << 32
	for !s.again(b, id, addr, turn) && !s.anew(b, id, addr, turn) {
	}
}

// again counts a connection for a mapping that there is.
func (s *Sources) again(b [2]*mappings, id uint64, addr flow.Addr, turn uint64) bool {
	for _, m := range b {
		for i := range m.id {
			for {
				u := m.use[i].Load()
				if m.id[i].Load() != id || u&busy >= busy-1 || m.hi[i].Load() != addr.Hi || m.lo[i].Load() != addr.Lo {
					break
				}
				if m.use[i].CompareAndSwap(u, turn|u&busy+1) {
					return true
				}
			}
		}
	}
	return false
}

// anew writes a mapping into a free place, or else into that which has been without a
// connection longest, or else into that which was chosen longest ago. It reports
// whether it did; if not somebody was faster.
func (s *Sources) anew(b [2]*mappings, id uint64, addr flow.Addr, turn uint64) bool {
	var at *mappings
	var k int
	var was, worth uint64
	most := -1
	for _, m := range b {
		free, first := 0, -1
		for i := range m.id {
			u := m.use[i].Load()
			if u == 0 {
				if free++; first < 0 {
					first = i
				}
				continue
			}
			// Those that live are worth more than those that do not, then the later. The
			// difference has a sign: another shard may have taken a later turn, and have
			// written first.
			w := uint64(uint32(u>>32) - uint32(turn>>32) ^ 1<<31)
			if u&busy != 0 {
				w |= 1 << 32
			}
			if most <= 0 && u&busy != busy && (at == nil || w < worth) {
				at, k, was, worth, most = m, i, u, w, 0
			}
		}
		if free > max(most, 0) {
			at, k, was, most = m, first, 0, free
		}
	}
	if at == nil || !at.use[k].CompareAndSwap(was, turn|busy) {
		return false
	}
	if was&busy != 0 {
		s.forgotten.Add(1)
	}
	at.id[k].Store(id)
	at.hi[k].Store(addr.Hi)
	at.lo[k].Store(addr.Lo)
	at.use[k].Store(turn | 1)
	return true
}

// Remove says that a connection for which Add was called has gone.
func (s *Sources) Remove(orig *flow.Tuple, addr flow.Addr, port uint16) {
	b, f := s.bucketsOf(orig)
	id := f<<16 | uint64(port)
	for _, m := range b {
		for i := range m.id {
			for {
				u := m.use[i].Load()
				if m.id[i].Load() != id || u&busy == 0 || u&busy == busy || m.hi[i].Load() != addr.Hi || m.lo[i].Load() != addr.Lo {
					break
				}
				if m.use[i].CompareAndSwap(u, u-1) {
					return
				}
			}
		}
	}
}

// Find returns t with its source mapped into r as the latest connection of that source
// has it (find_appropriate_src). If live is false it is one that no connection has any
// more.
func (s *Sources) Find(t flow.Tuple, r *Range, live bool) (flow.Tuple, bool) {
	b, f := s.bucketsOf(&t)
	out, found, latest := t, false, uint32(0)
	for _, m := range b {
		for i := range m.id {
			if m.id[i].Load()>>16 != f {
				continue
			}
			addr, port, u, ok := m.read(i)
			if !ok || u&busy != 0 != live {
				continue
			}
			turn := uint32(u >> 32)
			c := t
			c.Src, c.L4 = addr, t.L4&^0xffff|flow.L4(port)
			if r.Has(&c) && (!found || int32(turn-latest) > 0) {
				out, found, latest = c, true, turn
			}
		}
	}
	return out, found
}

// read reads a place; ok is false if somebody writes it, or it is free.
func (m *mappings) read(i int) (addr flow.Addr, port uint16, use uint64, ok bool) {
	for range 16 {
		use = m.use[i].Load()
		if use&busy == busy || use == 0 {
			return addr, 0, use, false
		}
		port = uint16(m.id[i].Load())
		addr = flow.Addr{Hi: m.hi[i].Load(), Lo: m.lo[i].Load()}
		if m.use[i].Load() == use {
			return addr, port, use, true
		}
	}
	return addr, 0, use, false
}

// SourceStats are the counters of Sources.
type SourceStats struct {
	Room      int    // mappings that there is room for
	Forgotten uint64 // that lived and were forgotten for others
}

// Stats returns the counters. Any goroutine may call it.
func (s *Sources) Stats() SourceStats {
	return SourceStats{8 * len(s.buckets), s.forgotten.Load()}
}
