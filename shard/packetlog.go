package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy"
)

const (
	// maxLogged is how many packets are logged between two calls of TakeLogged.
	maxLogged = 256
	// snapLen is how much of a datagram is kept: IP header, transport header, and of
	// what an ICMP error quotes the same, all with options.
	snapLen = 256
)

// Logged is a packet that a rule logs, as it is at the hook of the rule: all that
// AppendText needs, of a fixed size.
type Logged struct {
	Rule    *policy.Log
	In, Out int    // interfaces of the hook by their numbers; -1: none
	Mark    uint32 // of the packet
	Family  flow.Family
	Len     uint32 // of the datagram in bytes, by its IP header

	link     [14]byte // Ethernet header without VLAN tags; valid iff hasLink
	hasLink  bool
	n        uint16
	datagram [snapLen]byte // the first n bytes
}

// loggedPackets is what waits for TakeLogged. It has a fixed size: what finds no room
// is counted.
type loggedPackets struct {
	all  []Logged // its capacity is maxLogged, once there is one
	lost uint64
}

// Log implements policy.Env: it takes down the packet as it is now.
func (t *transit) Log(rule *policy.Log) {
	l := &t.s.forward.logged
	if len(l.all) == maxLogged {
		l.lost++
		return
	}
	if l.all == nil {
		l.all = make([]Logged, 0, maxLogged)
	}
	l.all = l.all[:len(l.all)+1]
	e, p := &l.all[len(l.all)-1], t.p
	e.Rule, e.In, e.Out, e.Mark, e.Family, e.Len = rule, t.view.In, t.view.Out, t.view.Mark, p.Family, p.Len
	e.hasLink = t.view.In >= 0 && p.L3 >= 14
	if e.hasLink {
		copy(e.link[:12], p.Frame)
		copy(e.link[12:], p.Frame[p.L3-2:p.L3])
	}
	end := min(int(p.L3)+int(p.Len), len(p.Frame))
	e.n = uint16(copy(e.datagram[:], p.Frame[p.L3:end]))
}

// TakeLogged returns the packets that rules have logged, in their order, and how many
// found no room, and forgets both. Valid until the next packet.
func (s *Shard) TakeLogged() (all []Logged, lost uint64) {
	l := &s.forward.logged
	all, lost = l.all, l.lost
	l.all, l.lost = l.all[:0], 0
	return all, lost
}
