package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/packet"
)

// What becomes of a packet that a helper has edited, or whose connection has been edited
// before.

// edit has the packet of t carry what its helper has made of it.
func (s *Shard) edit(t *transit, r *helper.Result) flow.Reason {
	p, h := t.p, &s.help
	data, _ := p.Payload()
	h.out = r.Append(h.out[:0], data)
	if int(p.Len)+len(h.out)-len(data) > packet.MaxDatagram {
		return flow.ReasonTooBig
	}
	if r.Cut > 0 { // what ends the segment comes with the bytes that it ends
		p.TCP.Flags &^= packet.FIN | packet.PSH
		p.SetTransportByte(13, uint8(p.TCP.Flags))
	}
	if h.room == nil {
		h.room = make([]byte, 0, packet.MaxLink+packet.MaxDatagram)
	}
	at := &p.Frame[0]
	p.SetPayload(h.out, h.room)
	t.moved = &p.Frame[0] != at
	return flow.NoReason
}

// adjust writes the numbers of a TCP segment as its receiver is to read them
// (nf_ct_seq_adjust).
func (s *Shard) adjust(f *helped, t *transit, seq uint32) {
	p, d := t.p, t.v.Dir
	flags, was := packet.TCPFlags(p.Frame[p.L4+13]), p.TCP.Seq
	if flags&packet.URG != 0 {
		urgent := was + uint32(p.Frame[p.L4+18])<<8 + uint32(p.Frame[p.L4+19])
		p.SetTransportWord(18, uint16(f.Seq(d, urgent)-seq))
	}
	if seq != was {
		p.SetSeq(seq)
	}
	if flags&packet.ACK != 0 {
		if ack := f.Ack(d, p.TCP.Ack); ack != p.TCP.Ack {
			p.SetAck(ack)
		}
		p.MapSACK(func(left, right uint32) (l, r uint32) { return f.Sack(d, left, right) })
	}
	c := s.table.Conn(t.ref.entry)
	if end := was + 1<<20; c.Status&flow.SeqAdjust == 0 && f.Seq(d, end) != end { // behind all edits
		before := c.Status
		c.Status |= flow.SeqAdjust
		t.v.Status = c.PublicStatus()
		s.changed(t.ref.entry, c, before)
	}
}

// asSent returns a segment in direction d of an adjusted connection as the sender of what it
// acknowledges would read it: so its window is tracked (tcp_in_window, which takes
// nf_ct_seq_offset off).
func (s *Shard) asSent(i uint32, p *packet.Packet, d flow.Direction) *packet.Packet {
	f, h := s.helpedFlow(i), &s.help
	if f == nil || p.Proto != flow.TCP || p.TCP.Flags&packet.ACK == 0 {
		return p
	}
	q := &h.seen
	*q = *p
	h.head = append(h.head[:0], p.Frame[:min(int(p.L4)+int(p.TCP.HeaderLen), len(p.Frame))]...)
	q.Frame = h.head
	q.TCP.Ack = f.Ack(d, p.TCP.Ack)
	q.MapSACK(func(left, right uint32) (l, r uint32) { return f.Sack(d, left, right) })
	return q
}

// adjustQuote undoes, in the packet that an ICMP error quotes, what was done to its sequence
// number: its sender takes the error for a forged one otherwise (RFC 5927, 4.1).
func (s *Shard) adjustQuote(f *helped, t *transit) {
	q := t.p.Quote()
	if !f.Adjusted() || q.Proto != flow.TCP || q.L4+8 > len(q.Frame) {
		return
	}
	if seq := q.Seq(); f.Ack(t.v.Dir, seq) != seq {
		q.SetSeq(f.Ack(t.v.Dir, seq))
		t.p.SumICMP()
	}
}

// sendEdited sends an edited packet by itself if it does not fit where it lay, or, being a
// TCP segment, its path: then in several. Datagrams that are too long are cut like others.
func (s *Shard) sendEdited(t *transit) flow.Reason {
	p, v, f := t.p, t.v, &s.forward
	mtu := packet.MaxDatagram
	own := Own{Out: v.Out}
	if v.Hop != nil {
		mtu, own.Hop = v.Hop.MTU, *v.Hop
	}
	long := int(p.Len) > p.PathMTU(mtu)
	if p.Largest != 0 || !t.moved && !(long && p.Proto == flow.TCP) || long && p.Proto != flow.TCP {
		return flow.NoReason // the caller has its fragments; it fits; or fragment cuts it
	}
	own.LinkLen = uint8(copy(own.Link[:], p.Frame[:p.L3]))
	keep := func(d []byte) {
		at := len(f.pieces)
		f.pieces = append(f.pieces, d...)
		own.Datagram = f.pieces[at:len(f.pieces):len(f.pieces)]
		f.own = append(f.own, own)
	}
	if f.piece == nil {
		f.piece = make([]byte, 0, packet.MaxDatagram)
	}
	if !long {
		keep(p.Frame[p.L3 : int(p.L3)+int(p.Len)])
	} else if !p.Segments(p.PathMTU(mtu), f.piece, keep) {
		return flow.ReasonTooBig
	}
	v.Action = Replaced
	return flow.NoReason
}
