package engine

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/shard"
)

// assembly is where a worker puts datagrams together that came in fragments.
type assembly struct {
	frame    []byte // of the datagram
	fragment []byte // one that is built anew
	pieces   []packet.Piece
	pkt      [1]packet.Packet
	verdict  [1]shard.Verdict
	arriving [][]handed // fragments of a whole datagram that others are handing over, by sender
}

// reassemble takes the fragment p, which came as h and is this worker's to hold.
// When that completes a datagram, it is judged, here or by its owner.
func (w *worker) reassemble(p *packet.Packet, h handed) {
	if r := w.shard.Screen(p); r != flow.NoReason {
		w.drop(r, h.desc.Addr)
		w.sendOwn()
		for _, p := range w.ports {
			w.transmit(p)
		}
		return
	}
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
		if owner := w.shard.OwnerOf(whole); owner != w.id {
			w.handOverAll(d.Frames, w.peers[owner])
			return
		}
	}
	w.judgeWhole(d.Frames, nil)
}

// expireFragments drops fragments that have waited for too long, and sends what the shard
// has to say of them.
func (w *worker) expireFragments() {
	w.expiring = w.forwards
	w.frags.Expire(w.now)
	w.expiring = false
	if w.answered {
		w.answered = false
		w.sendOwn()
		for _, p := range w.ports {
			w.transmit(p)
		}
	}
}

// dropFragment drops a fragment that was held.
func (w *worker) dropFragment(h handed, r flow.Reason) {
	if w.expiring && r == flow.ReasonFragmentTimeout {
		p := &w.assembly.pkt[0]
		port := w.ports[h.port]
		port.parse(p, w.umem.Frame(h.desc), packet.Checks{})
		var known bool
		if p.In, known = int(h.port), true; w.routing.table != nil {
			p.In, known = w.interfaceOf(h.port, p.VLAN)
		}
		if known {
			p.Trim()
			w.shard.Expired(p)
			w.answered = true
		}
	}
	w.drop(r, h.desc.Addr)
}

// assemble puts a datagram together, parses it and returns the result, which is
// valid until the next call.
func (w *worker) assemble(frames []handed) *packet.Packet {
	a := &w.assembly
	a.pieces = a.pieces[:0]
	p := &a.pkt[0]
	port := w.ports[frames[0].port]
	var vlan uint16 // of the first one, as is the port: interface and zone are of both together
	for i, h := range frames {
		frame := w.umem.Frame(h.desc)
		w.ports[h.port].parse(p, frame, packet.Checks{}) // they may have come by different ports
		if i == 0 {
			vlan = p.VLAN
		}
		if w.forwards {
			p.Trim()
		}
		a.pieces = append(a.pieces, packet.Piece{Fragment: p.Fragment, Frame: p.Frame})
	}
	l3 := int(a.pieces[0].L3)
	a.frame, _ = packet.Assemble(a.frame[:0], a.pieces)
	p.ParseWhole(a.frame, len(a.frame), l3, packet.Checks{Transport: port.checks.Transport, Keys: port.checks.Keys})
	p.VLAN = vlan
	if port.zones != nil {
		p.SetZone(port.zones.of(p))
	}
	w.shard.Hash(p)
	return p
}

// judgeWhole judges the datagram that assemble has put together last, and sends its
// fragments where the verdict says. raw is what table raw has said of it, nil if that has
// not seen it.
func (w *worker) judgeWhole(frames []handed, raw *shard.Raw) {
	a := &w.assembly
	p, v := &a.pkt[0], &a.verdict[0]
	if w.forwards {
		if !w.arrange(p, frames[0]) {
			for _, h := range frames {
				w.drop(flow.ReasonNoVLAN, h.desc.Addr)
			}
			return
		}
		p.Largest, _ = packet.Largest(a.pieces)
	}
	if raw == nil {
		w.shard.Process(a.pkt[:], a.verdict[:])
	} else {
		w.shard.Resume(p, *raw, v)
	}
	if v.Action == shard.HandOver {
		for i := range frames {
			frames[i].left = uint8(len(frames) - i)
		}
		w.handOn(w.shard.TakeRaw()[0], w.peers[v.Out], frames...)
		return
	}
	if largest, _ := packet.Largest(a.pieces); w.mode == Bridge && v.Action == shard.Accept && int(largest) > w.ports[1-frames[0].port].mtu {
		for _, h := range frames {
			w.drop(flow.ReasonTooBig, h.desc.Addr)
		}
		return
	}
	if w.forwards && v.Action == shard.Accept {
		w.divide(p, frames, v)
	} else {
		for i, h := range frames {
			w.dispatch(h, a.pieces[i].L3, v)
		}
	}
	if w.forwards {
		w.sendOwn()
	}
	for _, p := range w.ports {
		w.transmit(p)
	}
}

// dispatch sends a frame where its verdict says. l3 is where its IP header is.
func (w *worker) dispatch(h handed, l3 uint16, v *shard.Verdict) {
	if w.mode == Router {
		w.route(h.desc, l3, -1, v)
	} else {
		w.forward(h, v.Action)
	}
}

// divide sends the datagram p, which came in frames and was accepted, on: in the same
// frames if its fragments fit the path, in others if they are to be cut anew, or whole
// if it takes no fragments (ip_fragment).
func (w *worker) divide(p *packet.Packet, frames []handed, v *shard.Verdict) {
	a := &w.assembly
	mtu := packet.MaxDatagram
	switch {
	case v.Hop != nil:
		mtu = v.Hop.MTU
	case w.mode == Bridge:
		mtu = w.ports[1-frames[0].port].mtu
	}
	divided := p.Divided(mtu)
	if divided && p.Keeps(a.pieces, mtu) && p.InPlace(a.pieces) {
		p.Scatter(a.pieces)
		for i, h := range frames {
			h.desc.Len = uint32(len(a.pieces[i].Frame))
			w.dispatch(h, a.pieces[i].L3, v)
		}
		return
	}
	link := a.pieces[0].Frame[:a.pieces[0].L3]
	if !divided {
		w.sendBuilt(link, p.Frame[p.L3:int(p.L3)+int(p.Len)], frames[0].port, v)
	} else {
		p.Fragments(mtu, a.pieces, a.room(), func(d []byte) { w.sendBuilt(link, d, frames[0].port, v) })
	}
	for _, h := range frames {
		w.release(h.desc.Addr)
	}
}

// shorten sends a frame on that is longer than the other port of a bridge takes: in fragments, if
// it is a datagram of IPv4 that may be cut and there are rules (br_nf_ip_fragment). All else is
// dropped, and nobody told.
func (w *worker) shorten(h handed, p *packet.Packet, v *shard.Verdict) {
	if !w.forwards || p.Family != flow.IPv4 || p.DontFragment() {
		w.drop(flow.ReasonTooBig, h.desc.Addr)
		return
	}
	link := p.Frame[:p.L3]
	if !p.Fragments(w.ports[1-h.port].mtu, nil, w.assembly.room(), func(d []byte) { w.sendBuilt(link, d, h.port, v) }) {
		w.drop(flow.ReasonTooBig, h.desc.Addr)
		return
	}
	w.release(h.desc.Addr)
}

// room returns an empty buffer for fragments that are built.
func (a *assembly) room() []byte {
	if a.fragment == nil {
		a.fragment = make([]byte, 0, packet.MaxDatagram)
	}
	return a.fragment[:0]
}

// sendBuilt sends a datagram, in a chunk of its own, where a verdict says. link is the
// link header of what it was made from, which came by a port.
func (w *worker) sendBuilt(link, datagram []byte, port uint8, v *shard.Verdict) {
	d, ok := w.chunk(len(link) + len(datagram))
	if !ok {
		return
	}
	h := handed{desc: d, port: port}
	f := w.umem.Frame(d)
	copy(f, link)
	copy(f[len(link):], datagram)
	w.dispatch(h, uint16(len(link)), v)
}

// handOverAll gives the frames of a whole datagram to the owner of its connection.
func (w *worker) handOverAll(frames []handed, to *worker) {
	for i := range frames {
		frames[i].left = uint8(len(frames) - i)
		frames[i].handed++
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
	raw := frames[0].raw
	for i := range frames {
		frames[i].left, frames[i].raw = 0, false
	}
	whole := w.assemble(frames)
	if raw {
		r := w.takeRaw(from)
		w.judgeWhole(frames, &r)
		return
	}
	if owner := w.shard.OwnerOf(whole); owner != w.id && frames[0].handed < maxHandovers {
		w.handOverAll(frames, w.peers[owner])
		return
	}
	w.judgeWhole(frames, nil)
}
