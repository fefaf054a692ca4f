package engine

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/frag"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx"
	"github.com/xdpct/xdpct/shard"
)

// Lengths of the Ethernet header, and of a VLAN tag in it.
const ethernetLen, vlanLen = 14, 4

const (
	// batch is the most frames that are judged at once.
	batch = 64
	// spins is how often a worker looks in vain before it sleeps.
	spins = 64
	// nap is the longest sleep: timers want to be looked at.
	nap = 50 * time.Millisecond
	// handoverRing is the number of frames on their way between two workers.
	handoverRing = 1024
)

// handed is a frame on its way to the worker that owns its connection.
type handed struct {
	desc rx.Desc
	port uint8
	// left is not zero for the fragments of a datagram that is handed over as a
	// whole: how many there are from this one on.
	left   uint8
	handed uint8 // how often it was handed over
	// raw says that table raw has seen the frame, and what that has said is the next in
	// the ring beside.
	raw bool
}

// maxHandovers is how often a frame is handed over. Once is the rule; a tuple that has got
// another owner on the way (nat.Directory) takes another. Who gets it last judges it:
// that breaks nothing, since no two shards can have one tuple.
const maxHandovers = 4

// worker is one shard's thread: it moves frames between its queues, the one of
// its number on each port, and its shard.
type worker struct {
	id     int
	cpu    int // -1: not pinned
	mode   Mode
	shard  *shard.Shard
	umem   *rx.UMEM
	pool   *rx.Pool
	ports  []*workerPort
	peers  []*worker
	inbox  []*spsc[handed]    // by sender
	raw    []*spsc[shard.Raw] // by sender: what table raw has said of some of them
	homing []*spsc[uint64]    // chunks of ours that others give back, by sender
	stray  []uint64           // chunks of others that found no room in their ring

	clock    func() (mono, wall int64) // nanoseconds
	now      int64                     // milliseconds, monotonic
	wall     int64                     // nanoseconds since 1970
	requests chan request
	current  *request
	asleep   atomic.Bool
	starving atomic.Bool // it sleeps and has no free chunk: one that is given back rouses it
	wake     int         // eventfd
	events   *eventRing
	log      *packetLog
	drops    [flow.NumReasons]uint64 // frames that were dropped after their verdict
	loop     LoopStats

	forwards bool // there are rules, or routes
	routing  routing

	frags    *frag.Table[handed]
	expiring bool // fragments are dropped because of their time
	answered bool // some of them were answered
	assembly assembly

	descs    [batch]rx.Desc
	hand     [batch]handed
	pkts     [batch]packet.Packet
	from     [batch]handed
	verdicts [batch]shard.Verdict
	chunks   [batch]uint64
	fds      [2*maxPorts + 1]unix.PollFd
}

// LoopStats are counters of a worker's loop.
type LoopStats struct {
	Polls      uint64 // turns of the loop
	Busy       uint64 // turns that found frames
	Sleeps     uint64
	HandedOver uint64 // frames given to another worker
}

// run is the thread of the worker. It ends when a request says so.
func (w *worker) run() {
	runtime.LockOSThread() // and never unlock: the thread, which is pinned, ends with the goroutine
	if w.cpu >= 0 {
		var set unix.CPUSet
		set.Set(w.cpu)
		_ = unix.SchedSetaffinity(0, &set) // a wish: cgroups may forbid it
	}
	idle := 0
	for {
		mono, wall := w.clock()
		w.now, w.wall = mono/1e6, wall
		reaped := w.shard.Tick(w.now)
		w.expireFragments()
		w.tendWaiting()
		n := w.receive() + w.takeHandovers()
		w.takeLogged()
		w.reclaim()
		w.send()
		w.loop.Polls++
		if n > 0 {
			w.loop.Busy++
		}
		more, stop := w.serve()
		if stop {
			return
		}
		if n > 0 || more || !reaped {
			idle = 0
			continue
		}
		if idle++; idle >= spins {
			w.sleep()
			idle = spins / 2
		}
	}
}

// receive takes a batch from each port.
func (w *worker) receive() (frames int) {
	for i, p := range w.ports {
		if p.queue == nil {
			continue
		}
		n := p.queue.Receive(w.descs[:])
		w.take(i, n)
		frames += n
		if p.segments != nil {
			n = p.segments.Receive(w.umem, w.pool, w.descs[:])
			w.take(i, n)
			frames += n
		}
	}
	return frames
}

// take judges the first n of descs, which came by a port.
func (w *worker) take(port, n int) {
	k := 0
	for _, d := range w.descs[:n] {
		if w.admit(handed{desc: d, port: uint8(port)}, k) {
			k++
		}
	}
	w.judge(k)
}

// takeHandovers takes what other workers have received for this one.
func (w *worker) takeHandovers() (frames int) {
	for from, in := range w.inbox {
		if in == nil || in.empty() {
			continue
		}
		n := in.pop(w.hand[:])
		frames += n
		k := 0
		for _, h := range w.hand[:n] {
			if h.left > 0 {
				w.arrive(from, h)
			} else if h.raw {
				w.judge(k)
				k = 0
				w.resume(from, h)
			} else if w.admit(h, k) {
				k++
			}
		}
		w.judge(k)
	}
	return frames
}

// admit parses a frame into place k of the batch. It returns false if the frame
// went elsewhere: to the worker that owns it, or nowhere.
func (w *worker) admit(h handed, k int) bool {
	p := &w.pkts[k]
	if !w.parse(p, h) {
		return false
	}
	if p.Key.L4 != 0 || p.Kind == packet.Fragmented {
		if z := w.ports[h.port].zones; z != nil {
			p.SetZone(z.of(p))
		}
		w.shard.Hash(p)
		if owner := w.shard.OwnerOf(p); owner != w.id && h.handed < maxHandovers {
			w.handOver(h, w.peers[owner])
			return false
		}
		if p.Kind == packet.Fragmented {
			w.reassemble(p, h)
			return false
		}
	}
	w.from[k] = h
	if k%shard.Group == shard.Group-1 {
		w.shard.Prefetch(w.pkts[k+1-shard.Group : k+1])
	}
	return true
}

// parse parses a frame. It returns false if the frame was dropped.
func (w *worker) parse(p *packet.Packet, h handed) bool {
	frame := w.umem.Frame(h.desc)
	if frame == nil {
		w.drop(flow.ReasonBadDescriptor, h.desc.Addr)
		return false
	}
	if w.mode == Bridge && !packet.FromStation(frame) { // br_handle_frame
		w.drop(flow.ReasonLinkSource, h.desc.Addr)
		return false
	}
	port := w.ports[h.port]
	port.parse(p, frame, port.checks)
	if w.forwards && !w.arrange(p, h) {
		w.drop(flow.ReasonNoVLAN, h.desc.Addr)
		return false
	}
	return true
}

// arrange prepares a packet for rules and routes; it returns false if it came under VLAN
// tags that there is no interface for.
func (w *worker) arrange(p *packet.Packet, h handed) (ok bool) {
	p.In, p.Largest, p.Bridged, ok = int(h.port), 0, w.mode == Bridge, true
	if w.routing.table != nil {
		p.In, ok = w.interfaceOf(h.port, p.VLAN)
		// Of two tags only the outer one has an interface: what is under the inner one is
		// not that interface's.
		ok = ok && p.L3 < packet.MaxLink
	}
	if w.ports[h.port].checks.Partial { // what is rewritten has to be whole
		p.CompleteChecksum()
	}
	p.Trim()
	return ok
}

func (w *worker) handOver(h handed, to *worker) {
	h.handed++
	if !to.inbox[w.id].push(h) {
		w.drop(flow.ReasonHandoverFull, h.desc.Addr)
		return
	}
	w.loop.HandedOver++
	to.rouse()
}

// handOn is handOver after table raw has seen the frame, or the datagram that the frames
// make: to, where its connection is, goes on with it (Shard.Resume), and does not hand it
// over again.
func (w *worker) handOn(r shard.Raw, to *worker, frames ...handed) {
	for i := range frames {
		frames[i].raw = true
	}
	if to.inbox[w.id].room() < len(frames) || !to.raw[w.id].push(r) {
		for _, h := range frames {
			w.drop(flow.ReasonHandoverFull, h.desc.Addr)
		}
		return
	}
	to.inbox[w.id].pushAll(frames)
	w.loop.HandedOver += uint64(len(frames))
	to.rouse()
}

// resume goes on with a frame that another worker has handed over after table raw.
func (w *worker) resume(from int, h handed) {
	r := w.takeRaw(from)
	h.raw = false
	p := &w.pkts[0]
	if !w.parse(p, h) {
		return
	}
	w.from[0] = h
	w.shard.Resume(p, r, &w.verdicts[0])
	w.conclude(1)
}

// takeRaw takes what table raw has said of the frame that was taken last.
func (w *worker) takeRaw(from int) shard.Raw {
	var r [1]shard.Raw
	w.raw[from].pop(r[:])
	return r[0]
}

// judge runs the first n frames of the batch through the shard and sends each
// where its verdict says.
func (w *worker) judge(n int) {
	if n == 0 {
		return
	}
	w.shard.Process(w.pkts[:n], w.verdicts[:n])
	w.conclude(n)
}

// conclude sends the first n frames of the batch, which the shard has judged, where their
// verdicts say.
func (w *worker) conclude(n int) {
	raw := w.shard.TakeRaw()
	for i := range n {
		h := w.from[i]
		action := w.verdicts[i].Action
		if w.forwards {
			h.desc.Len = uint32(len(w.pkts[i].Frame)) // rules may have made it longer
		}
		if action == shard.HandOver {
			w.handOn(raw[0], w.peers[w.verdicts[i].Out], h)
			raw = raw[1:]
			continue
		}
		if w.mode == Router {
			w.route(h.desc, w.pkts[i].L3, w.pkts[i].In, &w.verdicts[i])
			continue
		}
		if w.ports[h.port].checks.Partial && w.mode != Tap && action == shard.Accept {
			w.pkts[i].CompleteChecksum()
		}
		if w.mode == Bridge && action == shard.Accept && !w.ports[1-h.port].takes(&w.pkts[i]) {
			w.shorten(h, &w.pkts[i], &w.verdicts[i])
			continue
		}
		w.forward(h, action)
	}
	if w.forwards {
		w.sendOwn()
	}
	for _, p := range w.ports {
		w.transmit(p)
	}
}

// forward sends a frame where its verdict says.
func (w *worker) forward(h handed, a shard.Action) {
	if w.mode == Tap || a != shard.Accept {
		w.release(h.desc.Addr)
		return
	}
	out := w.ports[1-h.port]
	if out.queue == nil {
		w.drop(flow.ReasonNoPort, h.desc.Addr)
		return
	}
	out.out = append(out.out, h.desc)
}

// transmit queues the frames that go out by p. If the ring is full it tries to
// make room once; what finds none is dropped.
func (w *worker) transmit(p *workerPort) {
	if len(p.out) == 0 {
		return
	}
	n := p.queue.Transmit(p.out)
	if n < len(p.out) {
		p.queue.Kick()
		w.complete(p)
		n += p.queue.Transmit(p.out[n:])
	}
	for _, d := range p.out[n:] {
		w.drop(flow.ReasonTXRingFull, d.Addr)
	}
	p.out = p.out[:0]
}

// send makes the kernel send what was queued.
func (w *worker) send() {
	for _, p := range w.ports {
		if p.queue != nil {
			p.queue.Kick()
		}
	}
}

// reclaim takes chunks back from where they went and fills the fill rings.
func (w *worker) reclaim() {
	for _, back := range w.homing {
		if back == nil || back.empty() {
			continue
		}
		for _, addr := range w.chunks[:back.pop(w.chunks[:])] {
			w.pool.Put(addr)
		}
	}
	if len(w.stray) > 0 {
		again := w.stray
		w.stray = w.stray[:0]
		for _, addr := range again {
			w.release(addr)
		}
	}
	for _, p := range w.ports {
		if p.queue == nil {
			continue
		}
		w.complete(p)
		w.pool.Refill(p.queue, batch)
		p.queue.WakeRX()
	}
}

func (w *worker) complete(p *workerPort) {
	for {
		n := p.queue.Complete(w.chunks[:])
		for _, addr := range w.chunks[:n] {
			w.release(addr)
		}
		if n < len(w.chunks) {
			return
		}
	}
}

// release gives a chunk back to the worker whose it is.
func (w *worker) release(addr uint64) {
	if w.pool.Home(addr) {
		w.pool.Put(addr)
		return
	}
	for _, peer := range w.peers {
		if peer.pool.Home(addr) {
			if !peer.homing[w.id].push(addr) {
				w.stray = append(w.stray, addr)
			} else if peer.starving.Load() {
				peer.starving.Store(false) // once is enough, for however many chunks
				peer.rouse()
			}
			return
		}
	}
}

func (w *worker) drop(r flow.Reason, addr uint64) {
	w.drops[r]++
	w.release(addr)
}

// sleep waits for a frame, another worker or a request, for a nap at most.
func (w *worker) sleep() {
	fds := append(w.fds[:0], unix.PollFd{Fd: int32(w.wake), Events: unix.POLLIN})
	for _, p := range w.ports {
		if p.queue != nil {
			fds = append(fds, unix.PollFd{Fd: int32(p.queue.FD()), Events: unix.POLLIN})
			if p.segments != nil {
				fds = append(fds, unix.PollFd{Fd: int32(p.segments.FD()), Events: unix.POLLIN})
			}
		}
	}
	starving := w.pool.Free() == 0
	w.asleep.Store(true)
	w.starving.Store(starving)
	if w.inboxEmpty() && len(w.requests) == 0 && !(starving && w.chunksCome()) {
		w.loop.Sleeps++
		if n, err := unix.Poll(fds, int(nap/time.Millisecond)); err == nil && n > 0 && pollFailed(fds[1:]) {
			// An interface has gone; until the supervisor has taken its queue
			// away poll returns at once.
			time.Sleep(time.Millisecond)
		}
	}
	w.asleep.Store(false)
	w.starving.Store(false)
	var buf [8]byte
	_, _ = unix.Read(w.wake, buf[:]) // non-blocking; empties the counter
}

func pollFailed(fds []unix.PollFd) bool {
	for _, f := range fds {
		if f.Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 && f.Revents&unix.POLLIN == 0 {
			return true
		}
	}
	return false
}

func (w *worker) inboxEmpty() bool {
	for _, in := range w.inbox {
		if in != nil && !in.empty() {
			return false
		}
	}
	return true
}

// chunksCome reports whether peers have given chunks back.
func (w *worker) chunksCome() bool {
	for _, back := range w.homing {
		if back != nil && !back.empty() {
			return true
		}
	}
	return false
}

// rouse wakes the worker if it sleeps. Any goroutine may call it.
func (w *worker) rouse() {
	if w.asleep.Load() {
		one := [8]byte{1}
		_, _ = unix.Write(w.wake, one[:])
	}
}

func newEventFD() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("making an eventfd: %w", err)
	}
	return fd, nil
}
