package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
)

// maxCodes bounds how many different Codes a shard remembers. Packets for which another
// one would have to be made walk the rules.
const maxCodes = 1<<16 - 1

// codes are the rules as they are for packets of known connections, each different
// one once.
type codes struct {
	all   []*policy.Code // those of unknownCode and noCode are nil
	index map[string]uint16
}

// Numbers of no code.
const (
	unknownCode = iota // it has not been made yet
	noCode             // it would be too long, or one too many: packets walk the rules, and it is not tried again
)

// add returns the number of a code, by the key that tells it from others: noCode if it
// is none of those that there are, and there is no room for it. What it keeps is a copy.
func (c *codes) add(code *policy.Code, key []byte) uint16 {
	if i, ok := c.index[string(key)]; ok {
		return i
	}
	if len(c.all) >= maxCodes {
		return noCode
	}
	i := uint16(len(c.all))
	c.all = append(c.all, code.Clone())
	c.index[string(key)] = i
	return i
}

// clear forgets all codes.
func (c *codes) clear() {
	c.all, c.index = []*policy.Code{unknownCode: nil, noCode: nil}, map[string]uint16{}
}

// code returns the code of a path for packets from an interface, nil if there is
// none, or no more.
func (s *Shard) code(pa path, in int) *policy.Code {
	if c := s.forward.codes.all[pa.code]; c != nil && c.In == in {
		return c
	}
	return nil
}

// lookAhead looks for the connection of packet n of the batch, before any rule is asked.
// ahead is false if table raw has to be asked first, about what conntrack is to do: unless
// the rules for the packet, those of raw included, are known to be nothing but counters.
func (s *Shard) lookAhead(p *packet.Packet, n int) (i uint32, hit, ahead bool) {
	if p.Kind != packet.Data || p.HasOptions() {
		return 0, false, false
	}
	busy := s.forward.rawBusy[p.Family.Index()]
	if busy && p.Zone.Dirs != 0 {
		return 0, false, false
	}
	i, hit = s.table.Lookup(&s.batch, n, &p.Key, p.Flipped, s.time())
	if !busy {
		return i, hit, true
	}
	if !hit {
		return 0, false, false
	}
	pa, _ := s.path(s.table.Conn(i), i, s.table.Direction(i, &p.Key, p.Flipped))
	c := s.code(pa, p.In)
	return i, true, c != nil && c.Plain
}

// shortcut forwards a packet of the connection in entry, which has been tracked, past
// the pipeline, if all is known that it takes: the rules come to nothing but counting,
// and the next hop is that of the packet before. It reports whether it did.
func (s *Shard) shortcut(p *packet.Packet, v *Verdict, entry uint32) bool {
	f := &s.forward
	c := s.table.Conn(entry)
	pa, numbered := s.path(c, entry, v.Dir)
	code := s.code(pa, p.In)
	if code == nil || !code.Plain {
		return false
	}
	var hop *route.Hop
	if f.Routes != nil {
		if hop = f.hops.of(pa.hop); hop == nil || hop.Out != code.Out || p.Hops() <= 1 || p.Len > uint32(hop.MTU) {
			return false
		}
	}
	translated := c.Status&(flow.SrcNAT|flow.DstNAT) != 0
	if translated && !manipulable(p.Header(), p) {
		return false
	}
	if !numbered && !f.numbers.full() { // it had one before routes changed
		s.numberPaths(entry)
	}
	code.Count(p.Len)
	if code.Verdict == policy.Drop {
		v.refuse(flow.ReasonRule)
		return true
	}
	if translated {
		s.rewrite(p, c, s.table.Extra(entry), v.Dir)
	}
	v.Out = code.Out
	if hop != nil {
		p.SetHops(p.Hops() - 1)
		v.Hop = hop
	}
	return true
}

// specialises reports whether code can be made for packets like that of t, which was
// just judged: that is, whether it came far enough to know how it leaves, and is not
// the one that began its connection. What a helper reads takes the whole way.
func (s *Shard) specialises(t *transit) bool {
	return t.code == nil && !t.view.Traced() && t.ref.at == inTable && t.view.Conn != &t.un.conn && t.p.Kind == packet.Data &&
		t.view.Out >= 0 && s.forward.paths[t.ref.entry][t.v.Dir].code != noCode && s.helpedFlow(t.ref.entry) == nil
}

// specialise makes code of the rules for packets like that of t.
func (s *Shard) specialise(t *transit) {
	f, view := &s.forward, &t.view
	sp := &f.special
	sp.Begin(t.p.In, view.Out)
	t.see(t.came, -1)
	view.Tracked, view.State = false, flow.Invalid
	sp.Hook(f.Rules, policy.RawPrerouting, view)
	view.Tracked, view.State = true, t.v.State
	sp.Hook(f.Rules, policy.ManglePrerouting, view)
	t.see(t.routed, sp.Out())
	for _, h := range [...]policy.Hook{policy.MangleForward, policy.FilterForward, policy.SecurityForward, policy.ManglePostrouting} {
		sp.Hook(f.Rules, h, view)
	}
	number := uint16(noCode)
	if code, key, ok := sp.End(); ok {
		number = f.codes.add(code, key)
	}
	s.pathOf(t.ref.entry, t.v.Dir).code = number
	s.numberPaths(t.ref.entry)
}
