package engine

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/shard"
)

// assembly is where a worker puts datagrams together that came in fragments.
type assembly struct {
	frame    []byte // of the datagram
	pieces   []packet.Piece
	pkt      [1]packet.Packet
	verdict  [1]shard.Verdict
	arriving [][]handed // fragments of a whole datagram that others are handing over, by sender
}

// reassemble takes the fragment p, which came as h and is this worker's to hold.
// When that completes a datagram, it is judged, here or by its owner.
func (w *worker) reassemble(p *packet.Packet, h handed) {
	d, reason := w.frags.Add(p, h, w.now)
	switch {
	case reason == flow.ReasonFragmentHeld:
		return
	case reason != flow.NoReason:
		w.drop(reason, h.desc.Addr)
		return
	}
	whole := w.assemble(d.Frames)
	if whole.Kind == packet.Data || whole.Kind == packet.Error {
		if owner := shard.Owner(whole.Hash, len(w.peers)); owner != w.id {
			w.handOverAll(d.Frames, w.peers[owner])
			return
		}
	}
	w.judgeWhole(d.Frames)
}

// assemble puts a datagram together, parses it and returns the result, which is
// valid until the next call.
func (w *worker) assemble(frames []handed) *packet.Packet {
	a := &w.assembly
	a.pieces = a.pieces[:0]
	p := &a.pkt[0]
	port := w.ports[frames[0].port]
	for _, h := range frames {
		frame := w.umem.Frame(h.desc)
		port.parse(p, frame, packet.Checks{})
		a.pieces = append(a.pieces, packet.Piece{Fragment: p.Fragment, Frame: frame})
	}
	l3, vlan := int(a.pieces[0].L3), p.VLAN
	a.frame, _ = packet.Assemble(a.frame[:0], a.pieces)
	p.ParseWhole(a.frame, len(a.frame), l3, packet.Checks{Transport: port.checks.Transport})
	p.VLAN = vlan
	if port.zones != nil {
		p.SetZone(port.zones.of(p))
	}
	w.shard.Hash(p)
	return p
}

// judgeWhole judges the datagram that assemble has put together last, and sends its
// fragments where the verdict says.
func (w *worker) judgeWhole(frames []handed) {
	a := &w.assembly
	p := &a.pkt[0]
	if w.forwards {
		if !w.arrange(p, frames[0]) {
			for _, h := range frames {
				w.drop(flow.ReasonElsewhere, h.desc.Addr)
			}
			return
		}
		for i := range a.pieces {
			p.Largest = max(p.Largest, uint32(len(a.pieces[i].Frame))-uint32(a.pieces[i].L3))
		}
	}
	w.shard.Process(a.pkt[:], a.verdict[:])
	if w.forwards && a.verdict[0].Action == shard.Accept {
		p.Scatter(a.pieces)
	}
	for i, h := range frames {
		if w.mode == Router {
			w.route(h.desc, a.pieces[i].L3, &a.verdict[0])
		} else {
			w.forward(h, a.verdict[0].Action)
		}
	}
	if w.forwards {
		w.sendOwn()
	}
	for _, p := range w.ports {
		w.transmit(p)
	}
}

// handOverAll gives the frames of a whole datagram to the owner of its connection.
func (w *worker) handOverAll(frames []handed, to *worker) {
	for i := range frames {
		frames[i].left = uint8(len(frames) - i)
	}
	if !to.inbox[w.id].pushAll(frames) {
		for _, h := range frames {
			w.drop(flow.ReasonHandoverFull, h.desc.Addr)
		}
		return
	}
	w.loop.HandedOver += uint64(len(frames))
	to.rouse()
}

// arrive takes a frame of a whole datagram that a peer hands over, one after the
// other, and judges the datagram with the last.
func (w *worker) arrive(from int, h handed) {
	a := &w.assembly
	a.arriving[from] = append(a.arriving[from], h)
	if h.left > 1 {
		return
	}
	frames := a.arriving[from]
	a.arriving[from] = frames[:0]
	for i := range frames {
		frames[i].left = 0
	}
	w.assemble(frames)
	w.judgeWhole(frames)
}
