package engine

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/rx"
	"github.com/xdpct/xdpct/shard"
)

// routing is the part of a worker that forwards by routes.
type routing struct {
	interfaces []portVLAN // by number; those that do not exist have no port
	table      *route.Table
	waiting    *waitingHops
	tended     int64 // milliseconds; when it was last looked whether next hops are silent
	// resolve asks for the Ethernet address of a next hop (false: no room for that now),
	// used says which ones frames went to, by their IDs (it keeps ids), and inject gives
	// a datagram to the host. They are safe to call from a worker.
	resolve func(out int, addr netip.Addr, asked *atomic.Bool) bool
	used    func(ids []uint32)
	inject  func(datagram []byte) bool

	inUse []uint64 // the IDs of next hops that frames went to since told, a bit each
	told  int64    // milliseconds
}

// portVLAN is where an interface is.
type portVLAN struct {
	port int
	vlan uint16
}

// useInterval is how often it is told which next hops are in use, in milliseconds.
const useInterval = 1000

// use notes that a frame goes to a next hop.
func (r *routing) use(id uint32) {
	if i := int(id >> 6); i < len(r.inUse) {
		r.inUse[i] |= 1 << (id & 63)
	} else {
		r.inUse = append(r.inUse, make([]uint64, i+1-len(r.inUse))...)
		r.inUse[i] |= 1 << (id & 63)
	}
}

// tellUse tells which next hops frames went to.
func (r *routing) tellUse(now int64) {
	if now-r.told < useInterval {
		return
	}
	r.told = now
	var ids []uint32
	for i, word := range r.inUse {
		for ; word != 0; word &= word - 1 {
			ids = append(ids, uint32(i)<<6|uint32(bits.TrailingZeros64(word)))
		}
		r.inUse[i] = 0
	}
	if len(ids) > 0 {
		r.used(ids)
	}
}

// interfaceOf returns the number of the interface by which a frame came; ok is false
// if it has a VLAN tag that no interface is for.
func (w *worker) interfaceOf(port uint8, vlan uint16) (int, bool) {
	for i, in := range w.routing.interfaces {
		if in.port == int(port) && in.vlan == vlan {
			return i, true
		}
	}
	return 0, false
}

// route sends a frame where its verdict says, with the link header that it needs
// there. l3 is where its IP header is, in the interface by which it came: -1 if its
// sender is not to be told that it cannot be delivered.
func (w *worker) route(d rx.Desc, l3 uint16, in int, v *shard.Verdict) {
	switch v.Action {
	case shard.Accept:
	case shard.Host:
		frame := w.umem.Frame(d)
		if !w.routing.inject(frame[min(int(l3), len(frame)):]) {
			w.drop(flow.ReasonHostBusy, d.Addr)
			return
		}
		w.release(d.Addr)
		return
	default:
		w.release(d.Addr)
		return
	}
	hop := v.Hop
	if hop == nil { // not routed: rules of a router always are
		w.release(d.Addr)
		return
	}
	if !hop.Known {
		w.wait(nextHop{hop.Out, hop.Next}, waitingFrame{d, l3, int16(in)})
		return
	}
	w.routing.use(hop.Neighbour)
	w.emit(d, l3, hop.Out, hop.SrcMAC, hop.DstMAC)
}

// emit writes the link header in front of the IP header and queues the frame.
func (w *worker) emit(d rx.Desc, l3 uint16, out int, src, dst [6]byte) {
	where := w.routing.interfaces[out]
	if where.port < 0 || w.ports[where.port].queue == nil {
		w.drop(flow.ReasonNoPort, d.Addr)
		return
	}
	p := w.ports[where.port]
	head := uint64(14)
	switch {
	case p.noLink:
		head = 0
	case where.vlan != 0:
		head = 18
	}
	d.Addr, d.Len = d.Addr+uint64(l3)-head, d.Len-uint32(l3)+uint32(head)
	f := w.umem.Frame(d)
	if f == nil {
		w.drop(flow.ReasonBadDescriptor, d.Addr)
		return
	}
	if p.noLink {
		d.Len = uint32(packet.DatagramLen(f)) // Ethernet may have padded it
	} else {
		link(f[:head], src, dst, where.vlan, f[head]>>4 == 6)
	}
	p.out = append(p.out, d)
	if len(p.out) == cap(p.out) {
		w.transmit(p)
	}
}

// link writes an Ethernet header, with a VLAN tag if vlan is not 0.
func link(f []byte, src, dst [6]byte, vlan uint16, ipv6 bool) {
	copy(f, dst[:])
	copy(f[6:], src[:])
	typ := packet.EtherIPv4
	if ipv6 {
		typ = packet.EtherIPv6
	}
	if vlan != 0 {
		binary.BigEndian.PutUint16(f[12:], uint16(packet.EtherVLAN))
		binary.BigEndian.PutUint16(f[14:], vlan)
	}
	binary.BigEndian.PutUint16(f[len(f)-2:], uint16(typ))
}

// wait keeps a frame until its next hop is known, which it asks for. If too many wait
// already an older one is dropped.
func (w *worker) wait(n nextHop, f waitingFrame) {
	r := &w.routing
	hop := r.waiting.hop(n, w.now)
	if !hop.queued {
		w.ask(hop)
	}
	if gone, full := r.waiting.add(hop, f); full {
		w.drop(flow.ReasonNoNeighbour, gone.desc.Addr)
	}
}

// ask asks for a next hop. What finds no room is asked for when the next frame comes.
func (w *worker) ask(h *waitingHop) {
	h.tried, h.queued = w.now, w.routing.resolve(h.out, h.addr, h.asked)
}

// tendWaiting is resolved, now and then: nothing becomes known between two tables.
func (w *worker) tendWaiting() {
	if r := &w.routing; r.table != nil && w.now-r.tended >= tendInterval {
		w.resolved()
	}
}

// resolved sends frames whose next hop has become known, and drops those whose next
// hop did not answer for as long as the kernel waits for one: their senders are told
// that the host is unreachable.
func (w *worker) resolved() {
	r := &w.routing
	r.tended = w.now
	r.tellUse(w.now)
	if len(r.waiting.hops) == 0 {
		return
	}
	silent := false
	for _, hop := range r.waiting.hops {
		found, known := r.table.Neighbour(hop.out, hop.addr)
		in := &r.table.Interfaces[hop.out]
		most := in.Patience[flow.FamilyOf(hop.addr).Index()]
		if most == 0 {
			most = patience
		}
		if !known && !hop.silent(w.now, most, w.ask) {
			continue
		}
		for f, ok := r.waiting.take(hop); ok; f, ok = r.waiting.take(hop) {
			if known {
				w.emit(f.desc, f.l3, hop.out, in.MAC, found.MAC)
				continue
			}
			w.unreachable(f)
			silent = true
		}
		r.waiting.remove(hop)
	}
	if silent {
		w.sendOwn()
	}
	for _, p := range w.ports {
		w.transmit(p)
	}
}

// unreachable gives up a frame that waited in vain, and answers it.
func (w *worker) unreachable(f waitingFrame) {
	if frame := w.umem.Frame(f.desc); frame != nil && f.in >= 0 && int(f.l3) < len(frame) {
		p := &w.pkts[0] // no batch is under way
		p.ParseWhole(frame, len(frame), int(f.l3), packet.Checks{})
		p.In, p.Largest = int(f.in), 0
		w.shard.Unreachable(p)
	}
	w.drop(flow.ReasonNoNeighbour, f.desc.Addr)
}

// chunk takes a free chunk for a frame of n bytes of our own. If there is none, or none is
// long enough, the frame is counted as dropped.
func (w *worker) chunk(n int) (d rx.Desc, ok bool) {
	if n > int(w.umem.MaxFrame()) {
		w.drops[flow.ReasonFrameTooLarge]++
		return d, false
	}
	free := w.pool.Peek(1)
	if len(free) == 0 {
		w.drops[flow.ReasonNoChunk]++
		return d, false
	}
	d = rx.Desc{Addr: free[0] + rx.Headroom, Len: uint32(n)}
	w.pool.Take(1)
	return d, true
}

// sendOwn sends what the shard itself has to say.
func (w *worker) sendOwn() {
	for _, o := range w.shard.TakeOwn() {
		const l3 = packet.MaxLink // room for the link header
		d, ok := w.chunk(l3 + len(o.Datagram))
		if !ok {
			continue
		}
		copy(w.umem.Frame(d)[l3:], o.Datagram)
		if w.routing.table == nil { // a bridge: back to where the packet came from
			w.answerBridged(d, &o)
			continue
		}
		v := shard.Verdict{Action: shard.Accept, Hop: &o.Hop}
		w.route(d, l3, -1, &v)
	}
}

// answerBridged sends an answer of a bridge, which has room for the longest link header in
// front: that of the packet that it answers, its addresses exchanged, its VLAN tags as they
// are (nf_reject_bridge does so, too). IP answers IP, so the EtherType is the same.
func (w *worker) answerBridged(d rx.Desc, o *shard.Own) {
	p := w.ports[o.Out]
	if p.queue == nil {
		w.drop(flow.ReasonNoPort, d.Addr)
		return
	}
	spare := uint32(packet.MaxLink) - uint32(o.LinkLen)
	d.Addr, d.Len = d.Addr+uint64(spare), d.Len-spare
	f := w.umem.Frame(d)
	copy(f, o.Link[6:12])
	copy(f[6:], o.Link[:6])
	copy(f[12:], o.Link[12:o.LinkLen])
	p.out = append(p.out, d)
}

// setForwarding gives a worker new rules and routes; it runs on the worker's thread. What
// was counted for the rules before it leaves in t.
func (w *worker) setForwarding(f *shard.Forwarding, t *tally) {
	if w.shard.Rules() != f.Rules {
		w.leave(t)
	}
	w.shard.SetForwarding(f)
	w.forwards = true
	r := &w.routing
	if r.table = f.Routes; r.table == nil {
		return
	}
	r.interfaces = r.interfaces[:0]
	for _, i := range r.table.Interfaces {
		at := portVLAN{port: i.Port, vlan: i.VLAN}
		if i.Index == 0 {
			at.port = -1
		}
		r.interfaces = append(r.interfaces, at)
	}
	w.resolved()
}
