package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/packet"
)

// Which connections are read. Who begins one may not be who it says, so a packet that nobody
// has answered takes nobody's place: of TCP there is a Flow from the SYN on that acknowledges
// another, since nothing is read before. The first datagram of UDP is read, but its Flow goes
// if room is needed, the oldest first, until the other side has answered. Then the host that
// has begun the connection is charged with it.

// waiting is the list of the Flows that nobody has answered, the oldest first.
type waiting struct{ first, last *helped }

// add appends a Flow.
func (w *waiting) add(f *helped) {
	if f.before = w.last; w.last == nil {
		w.first = f
	} else {
		w.last.next = f
	}
	w.last = f
}

// remove takes a Flow out, if it is in.
func (w *waiting) remove(f *helped) {
	if f.before == nil && w.first != f {
		return
	}
	if f.before == nil {
		w.first = f.next
	} else {
		f.before.next = f.next
	}
	if f.next == nil {
		w.last = f.before
	} else {
		f.next.before = f.before
	}
	f.next, f.before = nil, nil
}

// attachHelper lets the helper that the connection in an entry has read it, which begins with
// p: at once if that is a datagram, from the answer on if it is a SYN. One that was picked up is
// read by none: how would it be known where a message begins.
func (s *Shard) attachHelper(i uint32, p *packet.Packet) {
	h := &s.help
	x := s.table.Extra(i)
	if h.registry == nil || x == nil {
		return
	}
	switch {
	case x.Helper == 0 || h.registry.Of(x.Helper, p.Proto, p.Family) == nil:
	case p.Proto != flow.TCP:
		if f := s.openFlow(i); f != nil {
			h.waiting.add(f)
		}
	case p.TCP.Flags&(packet.SYN|packet.ACK) != packet.SYN:
		h.picked++
	case p.TCP.SegLen > 1:
		s.neverRead(i)
	}
}

// neverRead takes the helper away from a connection whose first bytes came with a SYN (RFC
// 7413): they have gone on, and what follows them need not be the beginning of a message (H1).
func (s *Shard) neverRead(i uint32) {
	s.table.Extra(i).Helper = 0
	s.table.Conn(i).Status &^= flow.Helper
	s.help.picked++
}

// openFlow opens a Flow for the connection in an entry; nil if there are as many as there may
// be, or no helper for it.
func (s *Shard) openFlow(i uint32) *helped {
	h := &s.help
	c, x := s.table.Conn(i), s.table.Extra(i)
	l := c.Key.L4
	kind := h.registry.Of(x.Helper, l.Proto(), l.Family())
	if kind == nil {
		return nil
	}
	if old := h.waiting.first; old != nil && h.budget.Full() {
		s.unhelp(old.entry)
		h.budget.Stats.Evicted++
	}
	f := h.budget.Open(kind)
	if f == nil {
		return nil
	}
	n := &helped{Flow: f, id: x.Helper, entry: i, conn: helper.Conn{
		Family: l.Family(), Proto: l.Proto(), Expected: c.Status&flow.Expected != 0,
		Tuples: [2]flow.Tuple{c.Tuple(flow.Original, x), c.Tuple(flow.Reply, x)},
	}}
	h.flows[i] = n
	if s.forward.Forwarding != nil {
		s.forgetPaths(i) // by which packets would go past the helper
	}
	return n
}

// answered has the host that has begun the connection of f charged with it. If it has as many
// as it may the connection is not read.
func (s *Shard) answered(f *helped) (ok bool) {
	from := f.conn.Tuples[flow.Original].Src
	if f.conn.Family == flow.IPv6 {
		from.Lo = 0 // a host may have any address of a /64
	}
	if !f.Answered(from) {
		s.unhelp(f.entry)
		return false
	}
	s.help.waiting.remove(f)
	f.answered = true
	return true
}

// reader returns what reads the connection of a packet, nil if nothing does.
func (s *Shard) reader(i uint32, p *packet.Packet, v *Verdict) *helped {
	if s.help.registry == nil {
		return nil
	}
	if p.Kind == packet.Data && p.Proto == flow.TCP && p.TCP.Flags&packet.SYN != 0 && v.Reason == flow.NoReason {
		s.shakeHands(i, p, v)
	}
	f := s.helpedFlow(i)
	if f != nil && !f.answered && v.Dir == flow.Reply && p.Kind == packet.Data && !s.answered(f) {
		return nil
	}
	return f
}

// shakeHands takes a SYN that the tracker has judged. If it acknowledges that of the other side
// the connection is read from here on, and from the number on that it acknowledges: there may
// have been more than one SYN. One that is read already begins anew by the answer to the last
// SYN only.
func (s *Shard) shakeHands(i uint32, p *packet.Packet, v *Verdict) {
	c := s.table.Conn(i)
	if !c.Extended() || s.table.Extra(i).Helper == 0 {
		return
	}
	f, t := s.helpedFlow(i), &c.TCP
	if p.TCP.Flags&packet.ACK == 0 {
		if f == nil && p.TCP.SegLen > 1 {
			s.neverRead(i)
		}
		return
	}
	if flow.TCPState(c.State) != flow.TCPSynRecv {
		return
	}
	switch {
	case f != nil:
		if f.Ack(v.Dir, p.TCP.Ack) != t.Seen[v.Dir.Other()].End {
			return
		}
	case p.TCP.Ack == t.LastEnd && t.LastEnd-t.LastSeq > 1: // it answers a SYN of a live connection
		s.neverRead(i)
		return
	default:
		if f = s.openFlow(i); f == nil || !s.answered(f) {
			return
		}
	}
	f.Answer(v.Dir, p.TCP.Seq+1, p.TCP.Ack)
}
