package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
)

// Raw is what table raw has said of a packet whose connection is another shard's.
type Raw struct {
	mark    uint32
	zone    flow.ZoneID
	timeout uint16 // policy, 0: none
	helper  flow.HelperID
	traced  bool
	counted policy.Note // the rules that count the connection which the packet may begin
}

// elsewhere returns the shard that has the connection of a packet for which table raw has
// chosen a zone; ok is false if that is this one, or if there is no such connection.
// OwnerOf could not know: frames come to a shard before rules have seen them. Zones are
// asked in the order in which find looks.
func (s *Shard) elsewhere(p *packet.Packet) (owner int, ok bool) {
	d := s.tuples.dir
	if d == nil || p.Key.L4 == 0 || !d.Concerns(&p.Key) {
		return 0, false
	}
	key := p.Key
	for _, dir := range directions {
		key.L4 = p.Key.L4.WithZone(p.Zone.In(dir))
		if owner, ok = d.Owner(&key, p.Flipped); ok {
			return owner, owner != s.cfg.Number
		}
		if !p.Zone.Directional() {
			break
		}
	}
	return 0, false
}

// handOver makes the verdict that another shard is to go on with the packet of t, after
// table raw. What that has said is left for TakeRaw.
func (s *Shard) handOver(t *transit, to int) {
	s.forward.raw = append(s.forward.raw, Raw{
		mark: t.view.Mark, zone: t.p.Zone, timeout: t.timeout, helper: t.view.Helper,
		traced: t.view.Traced(), counted: s.forward.members.Note(t.view.Member),
	})
	t.v.Action, t.v.Out = HandOver, to
}

// TakeRaw returns what table raw has said of the packets with the verdict HandOver, in
// their order, and forgets it. Valid until the next packet.
func (s *Shard) TakeRaw() []Raw {
	r := s.forward.raw
	s.forward.raw = s.forward.raw[:0]
	return r
}

// Resume judges a packet that another shard has handed over, from where that has left off:
// table raw has seen it. The packet is parsed anew. The connection may have gone in between;
// then the packet begins another one, here. Valid iff the shard forwards.
func (s *Shard) Resume(p *packet.Packet, r Raw, v *Verdict) {
	s.stats.Packets++
	s.forward.passing.begin()
	t := &s.forward.forwarded
	*v = Verdict{State: flow.Invalid}
	p.SetZone(r.zone)
	s.Hash(p)
	t.reset(s, p, 0, v)
	t.view.Mark, t.view.Helper, t.timeout = r.mark, r.helper, r.timeout
	t.view.Member = s.forward.members.Recount(&r.counted)
	if r.traced {
		t.view.Trace()
	}
	s.finish(t, s.traverseTracked(t))
	s.count(p, v)
}
