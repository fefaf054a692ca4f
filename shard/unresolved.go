package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// Unreachable answers a packet that has passed everything, and whose next hop did not
// say its link-layer address in time (arp_error_report, ndisc_error_report): the host is
// unreachable. p is the packet as it would have left, p.In the interface by which it
// came. What is to be sent TakeOwn returns. It must not be called while packets are
// judged.
func (s *Shard) Unreachable(p *packet.Packet) {
	if p.Kind == packet.Malformed || p.Kind == packet.Fragmented { // no first fragment names its connection any more
		return
	}
	t, v := &s.forward.forwarded, &Verdict{State: flow.Invalid}
	t.reset(s, p, 0, v)
	if reply, ok := p.Tuple().Invert(); ok && p.Kind == packet.Data {
		if i, found := s.Find(reply); found {
			key, flipped := reply.Canonical()
			t.ref, t.tracked = connRef{at: inTable, entry: i}, true
			v.State, v.Dir = flow.Established, s.table.Direction(i, &key, flipped).Other()
			t.attach()
		}
	}
	s.sendError(t, errHostUnreachable)
}
