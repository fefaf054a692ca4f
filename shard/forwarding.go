package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/icmplimit"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
)

// Forwarding is what a shard needs to do more than track: rules, and routes. It is
// not changed once a shard has it; a new one takes its place.
type Forwarding struct {
	Rules *policy.Program
	// Ports says which ports of the host's own addresses connections may be mapped to;
	// nil: all.
	Ports  *nat.HostPorts
	Routes *route.Table // nil: a bridge, which sends out by interface 1 what came by 0, and by 0 what came by 1
	// Timeouts are the timeout policies by name, for CT --timeout.
	Timeouts map[string]uint16
	// Errors limits the ICMP errors of all shards; nil: there is no limit.
	Errors *icmplimit.Limits
}

// Own is a datagram that the shard itself sends: an ICMP error, a RST, or a piece of
// one that was too long.
type Own struct {
	Datagram []byte
	Hop      route.Hop // valid iff there are routes
	Out      int       // interface
	// Link is the link header of the packet that it answers, with at most two VLAN tags;
	// LinkLen is its length in bytes.
	Link    [packet.MaxLink]byte
	LinkLen uint8
}

// forwarding is the part of a Shard that forwards: what outlives a packet.
type forwarding struct {
	*Forwarding
	rand   *nat.Rand
	counts []policy.Count

	translates bool    // there is a table nat
	rawBusy    [2]bool // there is something to be asked in table raw, by family (IPv4 first)

	links []link // by interface, if there are routes

	paths   [][2]path // by entry
	numbers pathNumbers
	codes   codes
	hops    hopCache
	passing passingHops
	special policy.Special
	members policy.Members // which rules count which connections

	own    []Own
	raw    []Raw  // of packets that are to be handed over
	pieces []byte // datagrams in own
	piece  []byte // one of them, while it is made
	// Redirects that were sent, IPv4 and IPv6.
	redirects  redirects
	redirects6 redirectLimits
	logged     loggedPackets

	forwarded transit // of the packet under way
	screened  Verdict // of a fragment that Screen looks at: nobody reads it
	answer    answer  // of the datagram that answers it
}

// answer is a datagram of our own, and its transit.
type answer struct {
	transit
	packet  packet.Packet
	verdict Verdict
}

// SetForwarding gives the shard new rules and routes, for the packets from now on;
// live connections are judged by them. What the old rules have counted is lost: take
// Counts before.
func (s *Shard) SetForwarding(n *Forwarding) {
	f := &s.forward
	f.translates = n != nil && n.Rules != nil && (n.Rules.NAT(flow.IPv4) || n.Rules.NAT(flow.IPv6))
	for i, family := range [...]flow.Family{flow.IPv4, flow.IPv6} {
		f.rawBusy[i] = n != nil && n.Rules != nil && n.Rules.Busy(policy.RawPrerouting, family)
	}
	sameRules := f.Forwarding != nil && n != nil && n.Rules == f.Rules
	if f.Forwarding != nil && n != nil && f.Routes != nil && n.Routes != nil && n.Routes.SameRouting(f.Routes) {
		f.hops.resolve(n.Routes)
	} else {
		f.hops.renew(f.paths)
		f.numbers.renew()
	}
	f.Forwarding = n
	f.links = f.links[:0]
	if n != nil && n.Routes != nil {
		f.links = linksOf(f.links, n.Routes)
		s.tuples.SetHost(n.Ports, s.isOwn)
	}
	if sameRules {
		return
	}
	clear(f.paths)
	f.numbers.renew()
	f.codes.clear()
	f.special, f.forwarded.code, f.answer.code = policy.Special{}, nil, nil // what the old rules remember is not kept for them
	f.counts = nil
	f.members.Follow(s.Rules())
	if n != nil && n.Rules != nil {
		f.counts = make([]policy.Count, n.Rules.NumCounters())
	}
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
	for _, c := range s.forward.codes.all {
		if c != nil {
			c.Settle(s.forward.counts)
		}
	}
	return s.forward.counts
}

// maxAnswer is the length of the longest answer, in bytes: an ICMPv6 error or redirect.
const maxAnswer = 1280

// room returns an empty slice with room for an answer; keep says that it has become one. Those
// that are kept last until TakeOwn.
func (f *forwarding) room() []byte {
	if cap(f.pieces)-len(f.pieces) < maxAnswer {
		f.pieces = make([]byte, 0, max(2*cap(f.pieces), 16*maxAnswer)) // what is in the old one own knows
	}
	return f.pieces[len(f.pieces):]
}

// keep returns what was written into room, which nothing else is written into.
func (f *forwarding) keep(d []byte) []byte {
	f.pieces = f.pieces[:len(f.pieces)+len(d)]
	return d[:len(d):len(d)]
}

// TakeOwn returns what the shard wants to send, and forgets it. Valid until the next
// packet.
func (s *Shard) TakeOwn() []Own {
	own := s.forward.own
	s.forward.own, s.forward.pieces = s.forward.own[:0], s.forward.pieces[:0]
	return own
}
