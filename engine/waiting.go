package engine

import (
	"net/netip"
	"sync/atomic"

	"github.com/xdpct/xdpct/rx"
)

// Bounds on frames that wait for a neighbour, of one worker, and how long they do, in
// milliseconds, where the kernel does not say (mcast_solicit, three probes a second apart).
const (
	maxWaiting     = 512  // frames, for which the worker's frame memory has room
	maxWaitingHop  = 101  // frames for one neighbour: the kernel's default of unres_qlen
	maxWaitingHops = 1024 // neighbours: the kernel's default of gc_thresh3
	patience       = 3000
	// askInterval is how often a kernel that has not begun is asked, and askPatience how
	// long, in milliseconds.
	askInterval, askPatience = 1000, 10_000
	// tendInterval is how often it is looked whether neighbours are silent, in milliseconds.
	tendInterval = 10
)

// nextHop is a neighbour.
type nextHop struct {
	out  int
	addr netip.Addr
}

// waitingFrame is a frame whose next hop has not said its Ethernet address yet.
type waitingFrame struct {
	desc rx.Desc
	l3   uint16
	in   int16 // interface by which it came; -1: a datagram of our own
}

// waitingHop is a next hop that is being resolved, and the frames that wait for it. It stays
// when its frames were pushed out, as the kernel's own entry does (NUD_INCOMPLETE): what comes
// for it is no reason to ask again.
type waitingHop struct {
	nextHop
	since  int64        // milliseconds; when the first frame came
	queued bool         // the question is under way to the kernel
	asked  *atomic.Bool // the kernel looks for it
	tried  int64        // when it was asked to last
	began  int64        // when it was last seen not to have been asked yet

	held         int // frames
	first, last  int16
	older, newer *waitingHop // of those that hold as many
}

// silent reports whether the neighbour has not answered for as long as the kernel waits for
// one. That counts from when the kernel begins to ask it: until it hears of it many changes
// of interfaces may pass, which all take one lock (rtnl). What found no room is asked again.
func (h *waitingHop) silent(now, most int64, ask func(*waitingHop)) bool {
	if !h.asked.Load() && now-h.since <= askPatience {
		if h.began = now; now-h.tried >= askInterval {
			ask(h)
		}
		return false
	}
	return now-h.began > most
}

// waitingHops are the next hops of a worker that are being resolved. Whoever scans a net makes
// many of them: a new one always finds a place, and so does its frame. For a frame too many
// the oldest goes of the hop that holds most, so that hosts that do not answer share what
// there is with those that will; for a hop too many, one whose frames are gone. Each costs
// constant time: hops are listed by how many frames they hold, those first that have held as
// many for longest.
type waitingHops struct {
	hops  map[nextHop]*waitingHop
	by    [maxWaitingHop + 1]hopList
	most  int // no hop holds more frames
	held  int // frames
	nodes []waitingNode
	free  int16       // the first node that has no frame
	spare *waitingHop // linked by newer
}

// waitingNode is a place for a frame; next is that of the next frame for the same hop, or the
// next place that is free; -1: there is none.
type waitingNode struct {
	waitingFrame
	next int16
}

// hopList lists hops.
type hopList struct{ first, last *waitingHop }

func newWaitingHops() *waitingHops {
	w := &waitingHops{hops: map[nextHop]*waitingHop{}, nodes: make([]waitingNode, maxWaiting)}
	for i := range w.nodes {
		w.nodes[i].next = int16(i + 1)
	}
	w.nodes[maxWaiting-1].next = -1
	return w
}

// hop returns a next hop, which it makes if it is not waited for yet; now is in milliseconds.
func (w *waitingHops) hop(n nextHop, now int64) (h *waitingHop) {
	if h = w.hops[n]; h != nil {
		return h
	}
	if len(w.hops) >= maxWaitingHops { // more than there are frames: some hold none
		w.remove(w.by[0].first)
	}
	if h = w.spare; h != nil {
		w.spare = h.newer
	} else {
		h = new(waitingHop)
	}
	// Who was asked to look for another hop may still say so: asked is never used again.
	*h = waitingHop{nextHop: n, since: now, began: now, asked: new(atomic.Bool), first: -1, last: -1}
	w.hops[n] = h
	w.list(h)
	return h
}

// add keeps a frame for a hop; if another had to go for that it is returned.
func (w *waitingHops) add(h *waitingHop, f waitingFrame) (gone waitingFrame, full bool) {
	switch {
	case h.held >= maxWaitingHop: // __neigh_event_send
		gone, full = w.take(h)
	case w.held >= maxWaiting:
		gone, full = w.take(w.by[w.most].first)
	}
	i := w.free
	w.free = w.nodes[i].next
	w.nodes[i] = waitingNode{f, -1}
	if h.first < 0 {
		h.first = i
	} else {
		w.nodes[h.last].next = i
	}
	h.last = i
	w.held++
	w.holds(h, h.held+1)
	return gone, full
}

// take takes the oldest frame of a hop.
func (w *waitingHops) take(h *waitingHop) (f waitingFrame, ok bool) {
	i := h.first
	if i < 0 {
		return f, false
	}
	f, h.first = w.nodes[i].waitingFrame, w.nodes[i].next
	w.nodes[i].next, w.free = w.free, i
	w.held--
	w.holds(h, h.held-1)
	return f, true
}

// remove forgets a hop that holds no frames.
func (w *waitingHops) remove(h *waitingHop) {
	w.unlist(h)
	delete(w.hops, h.nextHop)
	h.newer, w.spare = w.spare, h
}

// holds notes how many frames a hop holds.
func (w *waitingHops) holds(h *waitingHop, n int) {
	w.unlist(h)
	h.held = n
	w.list(h)
	w.most = max(w.most, n)
	for w.most > 0 && w.by[w.most].first == nil {
		w.most--
	}
}

func (w *waitingHops) list(h *waitingHop) {
	l := &w.by[h.held]
	if h.older, h.newer = l.last, nil; l.last != nil {
		l.last.newer = h
	} else {
		l.first = h
	}
	l.last = h
}

func (w *waitingHops) unlist(h *waitingHop) {
	l := &w.by[h.held]
	if h.older != nil {
		h.older.newer = h.newer
	} else {
		l.first = h.newer
	}
	if h.newer != nil {
		h.newer.older = h.older
	} else {
		l.last = h.older
	}
}
