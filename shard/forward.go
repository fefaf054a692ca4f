package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/table"
)

// Forwarding is what a shard needs to do more than track: rules, and routes. It is
// not changed once a shard has it; a new one takes its place.
type Forwarding struct {
	Rules  *policy.Program
	Routes *route.Table // nil: a bridge, whose interfaces 0 and 1 are each other's way out
	// Timeouts are the timeout policies by name, for CT --timeout.
	Timeouts map[string]uint16
	// ErrorRate is the least time in milliseconds between ICMP errors to one host,
	// of which six may come at once (icmp_ratelimit); 0: there is no limit.
	ErrorRate int
}

// Own is a datagram that the shard itself sends: an ICMP error, a RST, or a piece of
// one that was too long.
type Own struct {
	Datagram []byte
	Hop      route.Hop // valid iff there are routes
	Out      int       // interface
	Link     [12]byte  // Ethernet addresses of the packet that it answers, destination first
}

// path is what is known of one direction of a connection; eight bytes for both, since
// every packet reads one.
type path struct {
	code uint16 // in codes; 0: not known
	hop  uint16 // in hops, plus hopBase; what is before that is stale
}

// forwarding is the part of a Shard that forwards.
type forwarding struct {
	*Forwarding
	paths  []([2]path)
	counts []policy.Count
	view   policy.View
	rand   *nat.Rand
	env    env

	translates bool    // there is a table nat
	rawBusy    [2]bool // there is something to be asked in table raw, by family (IPv4 first)
	codes      []*policy.Code
	codeIndex  map[string]uint16
	hops       []route.Hop
	hopIndex   map[route.Hop]uint16
	hopBase    uint16                    // 0 is never one
	passing    [table.MaxBatch]route.Hop // ways that are not remembered, by place in the batch
	hopsEver   int                       // numbers that were given since paths were cleared of them
	special    policy.Special

	own     []Own
	sources sources
	limits  errorLimits

	// Of the packet under way:
	at        position
	entry     uint32 // valid iff at is existing
	slot      int    // of the batch
	exhausted bool   // no reply tuple was free for the fresh connection
	zone      Zone   // of the fresh connection
	rawLate   bool   // rules of table raw are still to be asked
	rawRan    bool   // they were: what they said is in the view
	nextHop   route.Hop
	haveHop   bool
	before    addresses // as it came
	between   addresses // as it is forwarded: the destination translated
}

type addresses struct {
	src, dst     flow.Addr
	sport, dport uint16
}

// position is where the connection of a packet is.
type position uint8

const (
	nowhere  position = iota // it belongs to none
	existing                 // in the table
	fresh                    // in Shard.fresh, and to be put into the table
	ended                    // in Shard.fresh, and no longer in the table
)

// maxCodes bounds how many different Codes a shard remembers; beyond, packets walk
// the rules.
const maxCodes = 1<<16 - 1

// SetForwarding gives the shard new rules and routes, for the packets from now on;
// live connections are judged by them. What the old rules have counted is lost: take
// Counts before.
func (s *Shard) SetForwarding(f *Forwarding) {
	w := &s.forward
	w.translates = f != nil && f.Rules != nil && (f.Rules.NAT(flow.IPv4) || f.Rules.NAT(flow.IPv6))
	for i, family := range [...]flow.Family{flow.IPv4, flow.IPv6} {
		w.rawBusy[i] = f != nil && f.Rules != nil && f.Rules.Busy(policy.RawPrerouting, family)
	}
	rules := w.Forwarding == nil || f == nil || f.Rules != w.Rules
	w.Forwarding = f
	w.renumberHops()
	if !rules {
		return
	}
	clear(w.paths)
	w.codes, w.codeIndex = []*policy.Code{nil}, map[string]uint16{} // 0 is none
	w.counts = nil
	if f != nil && f.Rules != nil {
		w.counts = make([]policy.Count, f.Rules.NumCounters())
	}
}

// renumberHops forgets all ways: from now on they have numbers that no path has.
func (w *forwarding) renumberHops() {
	w.hopBase += uint16(len(w.hops))
	w.hopsEver += len(w.hops) + maxHops
	if w.hopBase == 0 || w.hopsEver >= 1<<16 { // the numbers come round
		for i := range w.paths {
			w.paths[i][0].hop, w.paths[i][1].hop = 0, 0
		}
		w.hopBase, w.hopsEver = 1, 0
	}
	w.hops, w.hopIndex = nil, map[route.Hop]uint16{}
}

// Rules returns the rules in force, nil if there are none.
func (s *Shard) Rules() *policy.Program {
	if s.forward.Forwarding == nil {
		return nil
	}
	return s.forward.Rules
}

// Masqueraded returns the interface by which a masqueraded connection leaves, and the
// address that it has there; ok is false if it is not masqueraded.
func (s *Shard) Masqueraded(entry uint32) (out int, addr flow.Addr, ok bool) {
	x := s.table.Extra(entry)
	if x == nil || x.Masqueraded == 0 {
		return 0, addr, false
	}
	return int(x.Masqueraded) - 1, s.table.Conn(entry).Tuple(flow.Reply, x).Dst, true
}

// Counts returns what the rules have counted since SetForwarding, by counter. Valid
// until the next packet.
func (s *Shard) Counts() []policy.Count {
	for _, c := range s.forward.codes[min(1, len(s.forward.codes)):] {
		c.Settle(s.forward.counts)
	}
	return s.forward.counts
}

// TakeOwn returns what the shard wants to send, and forgets it. Valid until the next
// packet.
func (s *Shard) TakeOwn() []Own {
	own := s.forward.own
	s.forward.own = s.forward.own[:0]
	return own
}

// pass judges a packet and lets it through the rules and on its way. It is packet n
// of the batch, and writes all of v.
func (s *Shard) pass(p *packet.Packet, n int, v *Verdict) {
	w := &s.forward
	if p.Kind != packet.Data || w.rawBusy[p.Family>>3&1] {
		s.passOdd(p, n, v)
		return
	}
	s.track(p, n, v)
	if w.at == existing && s.fast(p, v) {
		return
	}
	w.rawLate, w.rawRan = false, false
	s.passSlow(p, n, v)
}

// passOdd is pass for packets that are not plain data, and where table raw comes first.
func (s *Shard) passOdd(p *packet.Packet, n int, v *Verdict) {
	w := &s.forward
	w.at, w.rawLate, w.rawRan = nowhere, false, false
	if p.Kind == packet.Malformed || p.Kind == packet.Fragmented {
		s.judge(p, v)
		return
	}
	notrack := false
	if w.rawBusy[p.Family>>3&1] {
		if w.rawLate = s.knownPlain(p, n); !w.rawLate {
			s.look(p, flow.Invalid)
			if s.raw(p, n) == policy.Drop {
				*v = Verdict{Action: Drop, State: flow.Invalid, Reason: flow.ReasonRule}
				return
			}
			notrack, w.rawRan = w.view.NoTrack, true
		}
	}
	switch {
	case notrack:
		*v = Verdict{Action: Accept, State: flow.Untracked}
	case p.Kind == packet.Data:
		s.track(p, n, v)
		if w.at == existing && s.fast(p, v) {
			return
		}
	default:
		s.judge(p, v)
	}
	s.passSlow(p, n, v)
}

// passSlow takes a packet that was tracked through rules and routing.
func (s *Shard) passSlow(p *packet.Packet, n int, v *Verdict) {
	w := &s.forward
	if v.Action != Accept {
		return
	}
	w.slot, w.haveHop, w.exhausted = n, false, false
	s.slow(p, v)
	s.tellLogs(p)
}

// tellLogs tells of the packet what rules log.
func (s *Shard) tellLogs(p *packet.Packet) {
	view := &s.forward.view
	if len(view.Logs) == 0 {
		return
	}
	if s.cfg.Log != nil {
		for _, l := range view.Logs {
			s.cfg.Log(l, p, p.In, view.Out)
		}
	}
	view.Logs = view.Logs[:0]
}

// knownPlain reports whether the rules for a packet are known to be nothing but
// counters, those of table raw included: then they need not be asked before the
// connection is known.
func (s *Shard) knownPlain(p *packet.Packet, n int) bool {
	if p.Kind != packet.Data || p.Zone.Dirs != 0 {
		return false
	}
	i, ok := s.table.Lookup(&s.batch, n, &p.Key, p.Flipped, s.time())
	if !ok {
		return false
	}
	c := s.code(&s.forward.paths[i][s.table.Direction(i, &p.Key, p.Flipped)], p.In)
	return c != nil && c.Plain
}

// code returns the code of a path for packets from an interface, nil if there is
// none, or no more.
func (s *Shard) code(pa *path, in int) *policy.Code {
	w := &s.forward
	if c := w.codes[pa.code]; c != nil && c.In == in {
		return c
	}
	return nil
}

// fast forwards a packet of a known connection, if all is known that it takes. It reports whether it did.
func (s *Shard) fast(p *packet.Packet, v *Verdict) bool {
	w := &s.forward
	pa := &w.paths[w.entry][v.Dir]
	code := s.code(pa, p.In)
	if code == nil || !code.Plain {
		return false
	}
	var hop *route.Hop
	if w.Routes != nil {
		k := pa.hop - w.hopBase // wraps for those that are stale
		if uint(k) >= uint(len(w.hops)) {
			return false
		}
		hop = &w.hops[k]
		if hop.Out != code.Out || p.Hops() <= 1 || p.Len > uint32(hop.MTU) {
			return false
		}
	}
	code.Count(p.Len)
	if code.Verdict == policy.Drop {
		v.Action, v.Reason = Drop, flow.ReasonRule
		return true
	}
	c := s.table.Conn(w.entry)
	if c.Status&(flow.SrcNAT|flow.DstNAT) != 0 {
		s.rewrite(p, c, s.table.Extra(w.entry), v.Dir)
	}
	v.Out = code.Out
	if hop != nil {
		p.SetHops(p.Hops() - 1)
		v.Hop = hop
	}
	return true
}

// rewrite translates a packet of a connection, both ends.
func (s *Shard) rewrite(p *packet.Packet, c *flow.Conn, x *flow.Extra, d flow.Direction) {
	t := nat.Target(c, x, d)
	for _, source := range [...]bool{false, true} {
		if nat.Applies(c.Status, d, source) {
			nat.Packet(p, &t, source)
		}
	}
}

// look prepares the view of a packet that nothing is known of but its state.
func (s *Shard) look(p *packet.Packet, state flow.State) {
	w := &s.forward
	view := &w.view
	a := addressesOf(p)
	w.before = a
	view.P, view.In, view.Out = p, p.In, -1
	view.Src, view.Dst, view.SrcPort, view.DstPort = a.src, a.dst, a.sport, a.dport
	view.State, view.Tracked, view.Conn, view.Extra = state, false, nil, nil
	view.Mark, view.ConnMark, view.Now = 0, 0, s.now
	view.Random, view.Env, view.Counts = w.rand, &w.env, w.counts
	view.Reject, view.NAT, view.NoTrack, view.Zone = nil, nil, false, nil
	view.Helper, view.Timeout, view.Counted = 0, "", false
	w.env.s, w.env.hop = s, nil
}

// addressesOf reads what a packet's headers say now.
func addressesOf(p *packet.Packet) (a addresses) {
	a.src, a.dst = p.Addrs()
	if b := p.Frame[min(int(p.L4), len(p.Frame)):]; p.L4 != 0 && len(b) >= 4 {
		switch p.Proto {
		case flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP, flow.DCCP:
			a.sport, a.dport = uint16(b[0])<<8|uint16(b[1]), uint16(b[2])<<8|uint16(b[3])
		}
	}
	return a
}

// raw asks the rules of table raw, and does what they say of tracking.
func (s *Shard) raw(p *packet.Packet, n int) policy.Verdict {
	w := &s.forward
	verdict := w.Rules.Run(policy.RawPrerouting, &w.view)
	if z := w.view.Zone; z != nil && *z != (flow.ZoneID{}) && p.Kind != packet.Untracked {
		p.SetZone(*z)
		s.Hash(p)
		s.batch.Hash[n] = p.Hash
	}
	return verdict
}

// uncount tells rules that count connections that entry i is none any more.
func (s *Shard) uncount(i uint32, c *flow.Conn) {
	x := s.table.Extra(i)
	if x == nil || !x.Counted || s.forward.Forwarding == nil {
		return
	}
	s.forward.Rules.Gone(c.Tuple(flow.Original, x))
}
