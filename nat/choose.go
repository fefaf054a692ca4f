package nat

import "github.com/xdpct/xdpct/flow"

// Space is the reply tuples that there are, as one shard sees them.
type Space interface {
	// Take takes a reply tuple and reports whether it could: whether no connection
	// has it, of whatever shard. hard allows to end a connection for it that is about
	// to end anyway (nf_nat_used_tuple_harder).
	Take(reply *flow.Tuple, hard bool) bool
}

// Shared is the part of translation that all shards of a tracker have in common.
type Shared struct {
	key     Key
	sources *Sources
	crowds  crowds
	// Directory is nil where there is one shard: its table knows of every tuple.
	Directory *Directory
}

// NewShared returns what this many shards share, which together have room for this many
// connections. All choices are functions of key. Valid iff 1 <= shards <= MaxShards and
// connections >= 1.
func NewShared(shards, connections int, key Key) *Shared {
	s := &Shared{key: key, sources: NewSources(connections, key), crowds: crowds{key: key}}
	if shards > 1 {
		s.Directory = NewDirectory(connections, key)
	}
	return s
}

// SharedSize returns the bytes of what NewShared makes for so many connections.
func SharedSize(shards, connections int) int {
	const line = 64 // a cache line: claims are one, mappings four
	size := 4 * line * numSources(connections)
	if shards > 1 {
		size += line * numClaims(connections)
	}
	return size
}

// SourceStats returns the counters of the mappings that are remembered.
func (s *Shared) SourceStats() SourceStats { return s.sources.Stats() }

// Add says that there is a connection with these tuples, whose source is mapped.
func (s *Shared) Add(orig, reply *flow.Tuple) {
	s.sources.Add(orig, reply.Dst, crowdPort(reply))
}

// Remove says that a connection for which Add was called has gone.
func (s *Shared) Remove(orig, reply *flow.Tuple) {
	s.sources.Remove(orig, reply.Dst, crowdPort(reply))
}

// Freed says that a tuple that a connection had, or that Take took, can be taken again.
func (s *Shared) Freed(t *flow.Tuple) { s.crowds.gone(t) }

// Crowded reports whether Freed has anything to do.
func (s *Shared) Crowded() bool { return s.crowds.used.Load() }

// Allocator chooses mappings for one shard. It is not safe for concurrent use; what it
// shares with the Allocators of other shards is.
type Allocator struct {
	*Shared
	ports *HostPorts
	own   func(a flow.Addr, f flow.Family) bool
	drawn uint64     // draws so far, the shard in the upper half
	reply flow.Tuple // that take asks for; here so that it is not allocated
}

// NewAllocator returns an Allocator for a shard. Valid iff 0 <= shard < MaxShards.
func (s *Shared) NewAllocator(shard int) *Allocator {
	return &Allocator{Shared: s, drawn: uint64(shard) << 48}
}

// SetHost says which addresses are the host's own, and which of their ports are not the
// host's. Of other addresses all ports are free to use. p may be nil: then they are of
// the host's, too.
func (a *Allocator) SetHost(p *HostPorts, own func(a flow.Addr, f flow.Family) bool) {
	a.ports, a.own = p, own
}

// Query is a mapping that is wanted.
type Query struct {
	// Tuple is what packets in the original direction have so far, in the zone of
	// that direction.
	Tuple  flow.Tuple
	Range  *Range
	Source bool // the source is mapped, else the destination
	// Zone is the zone of the connection, whichever directions it counts for.
	Zone  flow.Zone
	Space Space
}

// hardTries is how many tuples of TCP are tried that are free only if a connection which
// is about to end makes room (nf_nat_used_tuple_harder).
const hardTries = 128

// Choose returns what becomes of the tuple of q (get_unique_tuple), whose inverse
// q.Space has given. ok is false if there is no reply tuple that it would give.
//
// Where the kernel's choice is determined it is the kernel's: the tuple as it is, the
// mapping that the source has, an address by the kernel's hash, the port as it is, in
// this order, as far as they are free. Where the kernel draws a port it is, but for
// --random, the port that the source had before, or else the first free one from a
// place on that the key and the tuple say: so a connection that comes back finds its
// port again.
func (a *Allocator) Choose(q *Query) (out flow.Tuple, ok bool) {
	r, t := q.Range, q.Tuple
	if q.Source && !r.random() {
		if r.Has(&t) {
			if a.usable(&t, r) && a.take(q, &t, false) {
				return t, true
			}
		} else if m, ok := a.sources.Find(t, r, true); ok && a.usable(&m, r) && a.take(q, &m, false) {
			return m, true
		}
	}
	out = t
	chooseAddr(&out, r, q.Source, q.Zone)
	if !r.random() {
		usable := !q.Source || a.usable(&out, r)
		switch {
		case !r.Ports:
			if usable && a.take(q, &out, false) {
				return out, true
			}
		case !r.Offset && r.hasPort(&out, q.Source):
			if usable && a.take(q, &out, false) {
				return out, true
			}
			if r.MinPort == r.MaxPort { // there is no other
				return out, false
			}
		}
	}
	return a.choosePort(out, q)
}

// take asks for the inverse of t.
func (a *Allocator) take(q *Query, t *flow.Tuple, hard bool) (ok bool) {
	a.reply, ok = t.Invert()
	return ok && q.Space.Take(&a.reply, hard)
}

// pools returns the ports of the host's address a: those for mappings without ports of
// their own, and those that no socket has. They are nil if the address is not the
// host's, or the protocol has no ports that the host and translation share.
func (a *Allocator) pools(t *flow.Tuple) (ports, unused *pool) {
	i := portProto(t.L4.Proto())
	if i < 0 || a.ports == nil || !a.own(t.Src, t.L4.Family()) {
		return nil, nil
	}
	return a.ports.free[i], a.ports.unused[i]
}

// usable reports whether the source of t may be used as far as the host is concerned.
func (a *Allocator) usable(t *flow.Tuple, r *Range) bool {
	ports, unused := a.pools(t)
	switch {
	case ports == nil:
		return true
	case !r.Ports:
		return ports.has(t.L4.Src())
	}
	return r.MinPort == r.MaxPort || unused.has(t.L4.Src())
}

// choosePort is nf_nat_l4proto_unique_tuple, but that it tries every port that there is.
func (a *Allocator) choosePort(t flow.Tuple, q *Query) (flow.Tuple, bool) {
	r, p := q.Range, port(&t, q.Source)
	w := window{of: every, lo: r.MinPort, hi: r.MaxPort}
	rest := window{lo: 1} // empty
	switch proto := t.L4.Proto(); {
	case isICMP(proto):
		if !r.Ports {
			w.lo, w.hi = 0, 65535
		}
	case proto == flow.GRE && r.Ports: // the call id of a tunnel, which its master has said
	case portProto(proto) < 0: // nothing to tell connections apart by
		return t, a.take(q, &t, false)
	case r.Ports:
		if _, unused := a.pools(&t); q.Source && unused != nil && r.MinPort != r.MaxPort {
			w.of = unused
		}
	case !q.Source:
		return t, a.take(q, &t, false) // a destination keeps its port
	default:
		if ports, _ := a.pools(&t); ports != nil {
			w.of = ports
		}
		w.lo, w.hi = class(p)
		rest = window{of: w.of, lo: 1, hi: 65535}
	}
	if t, ok := a.search(t, q, w); ok || rest.size() == 0 {
		return t, ok
	}
	return a.search(t, q, rest)
}

// class returns the ports that one may be mapped to: ports that only root may bind stay
// such, and those of the r commands are left alone.
func class(p uint16) (lo, hi uint16) {
	switch {
	case p < 512:
		return 1, 511
	case p < 1024:
		return 600, 1023
	}
	return 1024, 65535
}

// search takes the first free port of a window from where the search begins.
func (a *Allocator) search(t flow.Tuple, q *Query, w window) (flow.Tuple, bool) {
	size := w.size()
	if size == 0 {
		return t, false
	}
	if m, ok := a.before(&t, q); ok && w.has(port(&m, true)) && a.take(q, &m, false) {
		return m, true
	}
	first := w.at(a.start(&t, q, size))
	if a.scan(&t, q, w, size, first) {
		return t, true
	}
	if t.L4.Proto() != flow.TCP { // nothing else is known to end
		return t, false
	}
	at := first
	for range min(size, hardTries) {
		p, _ := w.next(at, nil)
		if setPort(&t, q.Source, p); a.take(q, &t, true) {
			return t, true
		}
		if at = p + 1; p == w.hi {
			at = w.lo
		}
	}
	return t, false
}

// before returns t with the port that its source had when it was last mapped to this
// address, if that is what the rule leaves to choice.
func (a *Allocator) before(t *flow.Tuple, q *Query) (flow.Tuple, bool) {
	if !q.Source || q.Range.random() || q.Range.Offset {
		return *t, false
	}
	r := Range{Min: t.Src, Max: t.Src, Addrs: true}
	return a.sources.Find(q.Tuple, &r, false)
}

// start returns the number of the port that a search begins at, of size that there are.
func (a *Allocator) start(t *flow.Tuple, q *Query, size uint32) uint32 {
	r, now := q.Range, &q.Tuple
	switch {
	case r.Offset:
		return uint32(port(t, q.Source)-r.BasePort) % size
	case r.random():
		a.drawn++
		return uint32(a.key.sum(domainDraw, a.drawn) >> 32 * uint64(size) >> 32)
	case !q.Source && !isICMP(t.L4.Proto()):
		return 0
	}
	return uint32(a.key.sum(domainStart, now.Src.Hi, now.Src.Lo, now.Dst.Hi, now.Dst.Lo, uint64(now.L4), t.Src.Hi, t.Src.Lo) >> 32 * uint64(size) >> 32)
}

// scan takes the first free port of a window from first on and around, and leaves it in
// t.
func (a *Allocator) scan(t *flow.Tuple, q *Query, w window, size uint32, first uint16) bool {
	var (
		id    uint64
		known *crowd
	)
	if a.crowds.used.Load() && q.Source {
		id = a.crowdOf(t)
		known = a.crowds.find(id)
	}
	at := first
	for tries := uint32(0); tries < crowdLimit; tries++ {
		if known == nil && tries == size {
			return false
		}
		p, ok := w.next(at, known)
		if !ok {
			return false
		}
		if setPort(t, q.Source, p); a.take(q, t, false) {
			return true
		}
		if known != nil {
			if known.note(id, p); a.take(q, t, false) {
				known.free(p)
				return true
			}
		} else if tries == crowdFrom && q.Source {
			id = a.crowdOf(t)
			known = a.crowds.begin(id)
		}
		if at = p + 1; p == w.hi {
			at = w.lo
		}
	}
	return false
}

func (a *Allocator) crowdOf(t *flow.Tuple) uint64 {
	reply, _ := t.Invert()
	return a.crowds.crowdID(&reply)
}
