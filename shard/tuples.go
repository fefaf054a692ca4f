package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
)

// tuples is the part of a Shard that sees to it that no two connections have a tuple in
// common, be they of one shard or of two: the table is the judge of the tuples that only
// this shard can have, and nat.Directory that of the others.
type tuples struct {
	nat.Allocator                // which chooses among them
	dir           *nat.Directory // nil: every tuple is this shard's
	number        int            // of the shard

	query   nat.Query // of the mapping that is being chosen
	binding binding   // its Space
	// pending is the reply tuple that was claimed for the connection that begins, and
	// is given back unless that comes into the table.
	pending claim
}

// claim is a tuple as the directory has it.
type claim struct {
	key     flow.Tuple
	flipped bool
	held    bool
}

// binding is the nat.Space of the connection that begins with a packet.
type binding struct {
	s     *Shard
	t     *transit
	claim bool // what is taken is kept: it is the reply tuple
	full  bool // the directory had no room
}

// bind chooses what becomes of tuple now, the one that packets in the original
// direction have so far, when an end of it is mapped into r (get_unique_tuple). reason
// is not NoReason if there is no reply tuple that is free.
//
// The reply tuple is claimed when the source is mapped, the last thing that changes it,
// so that no other shard can choose it before the connection is in the table.
func (s *Shard) bind(t *transit, m manip, now flow.Tuple, r *nat.Range) (mapped flow.Tuple, reason flow.Reason) {
	u := &s.tuples
	u.binding = binding{s: s, t: t, claim: m.source()}
	u.query = nat.Query{Tuple: now, Range: r, Source: m.source(), Zone: t.p.Zone.Zone, Space: &u.binding}
	mapped, ok := u.Choose(&u.query)
	switch {
	case ok:
		return mapped, flow.NoReason
	case u.binding.full:
		return mapped, flow.ReasonNATFull
	}
	return mapped, flow.ReasonNATExhausted
}

// Take implements nat.Space (nf_nat_used_tuple).
func (b *binding) Take(reply *flow.Tuple, hard bool) bool {
	s, u := b.s, &b.s.tuples
	want := *reply
	want.L4 = want.L4.WithZone(b.t.p.Zone.In(flow.Reply))
	key, flipped := want.Canonical()
	hash := key.Hash(&s.cfg.Secret)
	if b.has(&key, flipped, hash, hard) || s.reserved(&want, b.t.un.master()) {
		return false
	}
	switch {
	case u.dir == nil:
		return true
	case !u.dir.Concerns(&key):
		return Home(hash, s.cfg.Shards) == s.cfg.Number // else its packets would not come here
	case !b.claim:
		_, taken := u.dir.Taken(&key, flipped, u.number)
		return !taken
	}
	switch u.dir.Claim(&key, flipped, u.number) {
	case nat.Claimed:
		u.pending = claim{key, flipped, true}
		return true
	case nat.Full:
		b.full = true
	}
	return false
}

// has reports whether a connection in the table has a tuple, and keeps it. hard asks to
// make room where that is allowed.
func (b *binding) has(key *flow.Tuple, flipped bool, hash uint64, hard bool) bool {
	i, found := b.s.table.Find(key, flipped, hash, b.s.time())
	if found && hard && b.s.mayReplace(i, b.t.p) {
		b.s.Remove(i)
		return false
	}
	return found
}

// mayReplace reports whether an entry is about to end anyway and has to make room
// for the SYN p (nf_nat_used_tuple_harder).
func (s *Shard) mayReplace(i uint32, p *packet.Packet) bool {
	c := s.table.Conn(i)
	if p.Proto != flow.TCP || p.TCP.Flags&(packet.SYN|packet.ACK|packet.RST|packet.FIN) != packet.SYN {
		return false
	}
	if c.Status&flow.SrcNAT == 0 || c.Status&flow.FixedTimeout != 0 || flow.TCPState(c.State) < flow.TCPTimeWait {
		return false
	}
	return int32(p.TCP.Seq-c.TCP.Seen[flow.Original].End) > 0
}

// isOwn reports whether an address is the host's own.
func (s *Shard) isOwn(a flow.Addr, f flow.Family) bool {
	routes := s.forward.Routes
	return routes != nil && routes.KindOf(a, f, -1) == route.Local
}

// forgo gives the pending tuple back.
func (s *Shard) forgo() {
	if p := &s.tuples.pending; p.held {
		p.held = false
		s.release(&p.key, p.flipped)
	}
}

// release gives a tuple back to the directory, and says so then: not before, or who
// looks for it in between takes it for taken.
func (s *Shard) release(key *flow.Tuple, flipped bool) {
	u := &s.tuples
	if u.dir.Release(key, flipped, u.number) && u.Crowded() {
		t := key.Oriented(!flipped)
		u.Freed(&t)
	}
}

// keysOf returns the keys of the original and of the reply tuple of a connection, and
// their orientations.
func keysOf(c *flow.Conn, x *flow.Extra) (keys [2]*flow.Tuple, flipped [2]bool) {
	flip := c.Flipped()
	if c.TwoKeyed() {
		return [2]*flow.Tuple{&c.Key, &x.Reply}, [2]bool{flip, x.ReplyFlip == 1}
	}
	return [2]*flow.Tuple{&c.Key, &c.Key}, [2]bool{flip, !flip}
}

// claimAll claims the tuples of a connection that the directory is concerned with, but
// for the pending one, which becomes the connection's. If it cannot have all it has
// none, the pending one included.
func (s *Shard) claimAll(c *flow.Conn, x *flow.Extra) flow.Reason {
	u := &s.tuples
	if u.dir == nil {
		return flow.NoReason
	}
	keys, flipped := keysOf(c, x)
	for _, d := range directions {
		p := &u.pending
		if p.held && flipped[d] == p.flipped && keys[d].Equal(&p.key) {
			p.held = false
			c.SetClaimed(d, true)
			continue
		}
		if !u.dir.Concerns(keys[d]) {
			continue
		}
		switch u.dir.Claim(keys[d], flipped[d], u.number) {
		case nat.Claimed:
			c.SetClaimed(d, true)
		case nat.Taken:
			s.unclaim(c, x)
			return flow.ReasonClash
		default:
			s.unclaim(c, x)
			return flow.ReasonNATFull
		}
	}
	return flow.NoReason
}

var directions = [...]flow.Direction{flow.Original, flow.Reply}

// unclaim gives back the tuples of a connection that are claimed.
func (s *Shard) unclaim(c *flow.Conn, x *flow.Extra) {
	keys, flipped := keysOf(c, x)
	for _, d := range directions {
		if c.Claimed(d) {
			c.SetClaimed(d, false)
			s.release(keys[d], flipped[d])
		}
	}
}

// mapped tells translation of a connection whose source is mapped.
func (s *Shard) mapped(c *flow.Conn, x *flow.Extra) {
	if s.tuples.Shared == nil {
		return
	}
	orig, reply := c.Tuple(flow.Original, x), c.Tuple(flow.Reply, x)
	s.tuples.Add(&orig, &reply)
}

// gone tells translation of the end of a connection.
func (s *Shard) gone(c *flow.Conn, x *flow.Extra) {
	u := &s.tuples
	if u.Shared == nil {
		return
	}
	s.unclaim(c, x)
	if c.Status&flow.SrcNAT != 0 {
		orig, reply := c.Tuple(flow.Original, x), c.Tuple(flow.Reply, x)
		u.Remove(&orig, &reply)
	}
	if u.Crowded() {
		for _, d := range directions {
			t := c.Tuple(d, x)
			u.Freed(&t)
		}
	}
}

// OwnerOf returns the shard that owns the connection of a packet, which is hashed. Of a
// fragment it is the one that holds the datagram's fragments.
func (s *Shard) OwnerOf(p *packet.Packet) int {
	if s.tuples.dir == nil || p.Kind == packet.Fragmented {
		return Home(p.Hash, s.cfg.Shards)
	}
	return Owner(s.tuples.dir, &p.Key, p.Flipped, p.Hash, s.cfg.Shards)
}

// Cover claims the tuples that the directory is concerned with of at most n connections
// from the cursor on, 0 at first, and returns the cursor for the next call, 0 at the
// end. It is for connections that began before the directory was concerned with their
// addresses. beyond is how many of them have claimed tuples without an address in keep,
// and refused how many there was no room for.
func (s *Shard) Cover(cursor uint32, n int, keep *nat.AddrSet) (next uint32, beyond, refused int) {
	d := s.tuples.dir
	if d == nil {
		return 0, 0, 0
	}
	next = s.table.Walk(cursor, n, s.time(), func(i uint32, c *flow.Conn) bool {
		keys, flipped := keysOf(c, s.table.Extra(i))
		for _, k := range directions {
			if !c.Claimed(k) {
				if !d.Concerns(keys[k]) {
					continue
				}
				if d.Claim(keys[k], flipped[k], s.tuples.number) != nat.Claimed {
					refused++
					continue
				}
				c.SetClaimed(k, true)
			}
			if !keep.Touches(keys[k]) {
				beyond++
			}
		}
		return false
	})
	return next, beyond, refused
}
