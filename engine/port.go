package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/rx"
)

// port is an interface with its XDP program. Its queues belong to the workers.
//
// Once the engine runs only supervise writes it, and Stop takes the program out. mu is held
// for as long as a field takes to be read or written, or a program to be told or asked
// something, and never over what waits for a worker or for the interface.
type port struct {
	configured string // the name in the configuration, under which it is looked for

	mu      sync.Mutex   // guards ifi, program and queues
	ifi     rx.Interface // its Name is that of now, or the last one
	program *rx.Program  // nil while the interface is gone
	// segments are of the last program. The first worker reads them, so they outlive it.
	segments *rx.Segments
	queues   []rx.Queue      // none is nil while there is a program
	trouble  string          // the last error, so that it is said once
	busy     time.Time       // since when its queues, or the place of its program, are another's
	past     rx.ProgramStats // of programs that are gone
}

// txBudget is how many frames one system call may send in copy mode.
const txBudget = 128

// openPorts opens all ports. The workers must not run yet.
func (e *Engine) openPorts() error {
	for i, p := range e.ports {
		err := e.openPort(p)
		if err == nil {
			continue
		}
		if i > 0 && !e.cfg.ForceCopy && e.ports[0].queues[0].ZeroCopy() {
			// Queues that share a UMEM share the mode of the first one.
			e.log.Warn("zero copy is not to be had on every port, so frames are copied", "interface", p.ifi.Name, "error", err)
			e.cfg.ForceCopy = true
			return errors.Join(e.closePorts(), e.openPorts())
		}
		return fmt.Errorf("interface %s: %w", p.ifi.Name, err)
	}
	return nil
}

// suits reports why an interface cannot be a port for so many shards.
func (e *Engine) suits(ifi *rx.Interface, shards int) error {
	if ifi.Queues > shards {
		return fmt.Errorf("interface %s has %d receive queues for %d shards, and a queue without a shard would lose its frames (ethtool -L %s combined %d)",
			ifi.Name, ifi.Queues, shards, ifi.Name, shards)
	}
	if e.cfg.Mode == Router && isLoopback(ifi.Name) {
		return fmt.Errorf("interface %s is loopback, which nothing is routed by: it cannot be a port of a router", ifi.Name)
	}
	if ifi.NoLink && e.cfg.Mode == Bridge {
		return fmt.Errorf("interface %s has no link header (tun, WireGuard, PPP), so it cannot be bridged: use mode router", ifi.Name)
	}
	return nil
}

// isLoopback reports whether an interface is loopback (IFF_LOOPBACK). One that is not there
// is not.
func isLoopback(name string) bool {
	ifi, err := net.InterfaceByName(name)
	return err == nil && ifi.Flags&net.FlagLoopback != 0
}

// closePorts undoes openPorts, also if that got only part of the way.
func (e *Engine) closePorts() (err error) {
	for at, p := range e.ports {
		err = errors.Join(err, p.detach())
		for i, q := range p.queues {
			w := e.workers[i]
			w.ports[at].queue, w.ports[at].segments = nil, nil
			_, e := q.Abandon(w.pool.Put)
			err = errors.Join(err, e)
		}
		p.queues = nil
		err = errors.Join(err, p.dropSegments())
	}
	return err
}

// openPort opens the queues of p and attaches its program. The workers must not
// run yet.
func (e *Engine) openPort(p *port) error {
	for i, w := range e.workers {
		free := w.pool.Peek(rx.RingSize)
		q, took, err := e.openQueueSoon(&p.ifi, i, free)
		if err != nil {
			return err
		}
		w.pool.Take(took)
		p.queues = append(p.queues, q)
	}
	prog, err := e.attachSoon(p.ifi, p.queues)
	if err != nil {
		return err
	}
	p.program = prog
	at := e.portNumber(p)
	for i, w := range e.workers {
		w.ports[at].open(&p.ifi, p.queues[i])
	}
	p.segments, _ = prog.Segments()
	e.workers[0].ports[at].segments = p.segments
	return nil
}

func (e *Engine) portNumber(p *port) int {
	for i, q := range e.ports {
		if p == q {
			return i
		}
	}
	panic("engine: a port of another engine")
}

// bindPatience is how long a queue, or the place for an XDP program, that was in use a
// moment ago is waited for: the kernel lets go of a closed socket or link, and of those
// of a process that was killed, in its own time.
const bindPatience = 5 * time.Second

// openQueueSoon is openQueue, but waits for another socket to go.
func (e *Engine) openQueueSoon(ifi *rx.Interface, queue int, free []uint64) (rx.Queue, int, error) {
	w := e.waiting(ifi.Name)
	for {
		q, took, err := e.openQueue(ifi, queue, free)
		if !w.again(err) {
			return q, took, w.explain(err)
		}
	}
}

// wait is for something of an interface that is another's.
type wait struct {
	e         *Engine
	name      string // of the interface
	since     time.Time
	mentioned bool
}

func (e *Engine) waiting(name string) *wait { return &wait{e: e, name: name, since: time.Now()} }

// mentionAfter is how long a wait goes on before it is logged: a socket that was just closed
// is gone sooner.
const mentionAfter = 500 * time.Millisecond

// again waits a moment and reports whether to try again after err. A wait that is more than
// a moment is logged, once.
func (w *wait) again(err error) bool {
	passed := time.Since(w.since)
	if !isBusy(err) || passed > bindPatience || w.e.ending() {
		return false
	}
	if !w.mentioned && passed > mentionAfter {
		w.mentioned = true
		w.e.log.Warn("the interface is held by another program (perhaps another xdpct); waiting for it to go",
			"interface", w.name, "at_most", bindPatience, "error", err)
	}
	time.Sleep(10 * time.Millisecond)
	return true
}

// explain says of an error that something is another's who that might be.
func (w *wait) explain(err error) error {
	if !isBusy(err) {
		return err
	}
	return fmt.Errorf("held by another program (perhaps another xdpct), still after %v: %w", bindPatience, err)
}

// isBusy reports whether a queue, or the place for an XDP program, is another's.
func isBusy(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) }

// openQueue opens a queue on the shared UMEM. For a shard that none of the interface's
// receive queues is for it is one that only transmits.
func (e *Engine) openQueue(ifi *rx.Interface, queue int, free []uint64) (rx.Queue, int, error) {
	if queue >= ifi.Queues {
		q, err := rx.OpenSender(e.umem, ifi, queue)
		return q, 0, err
	}
	o := rx.QueueOptions{Driver: e.cfg.Driver, ForceCopy: e.cfg.ForceCopy, TXBudget: txBudget, NoLink: ifi.NoLink}
	return rx.OpenQueue(e.umem, ifi.Index, queue, e.anyQueue(), free, o)
}

// anyQueue returns a queue that is bound to a receive queue, to share the UMEM with.
func (e *Engine) anyQueue() rx.Queue {
	for _, p := range e.ports {
		for _, q := range p.queues {
			if q != nil && !q.Gone() && rx.Receives(q) {
				return q
			}
		}
	}
	return nil
}

// attachSoon is attach, but waits for another program to go.
func (e *Engine) attachSoon(ifi rx.Interface, queues []rx.Queue) (*rx.Program, error) {
	w := e.waiting(ifi.Name)
	for {
		prog, err := e.attach(ifi, queues)
		if !w.again(err) {
			return prog, w.explain(err)
		}
	}
}

// ending reports whether the engine is about to stop: nothing is waited for any more.
func (e *Engine) ending() bool {
	select {
	case <-e.stopping:
		return true
	default:
		return false
	}
}

// attach puts the program on an interface, with its queues.
func (e *Engine) attach(ifi rx.Interface, queues []rx.Queue) (*rx.Program, error) {
	steer := rx.SteerTraffic
	switch e.cfg.Mode {
	case Bridge:
		steer = rx.SteerAll
	case Router:
		steer = rx.SteerRouted
	}
	prog, err := rx.LoadProgram(&ifi, queues[:min(ifi.Queues, len(queues))], rx.ProgramOptions{
		Steer: steer, MaxFrame: e.umem.MaxFrame(), Mode: e.cfg.XDP, Promiscuous: e.cfg.Mode != Router,
	})
	if err != nil {
		return nil, err
	}
	if err := prog.NotDriver(); err != nil {
		e.log.Warn("XDP runs in generic mode, which is slower", "interface", ifi.Name, "error", err)
	}
	if _, err := prog.Segments(); err != nil {
		e.log.Warn("frames that are longer than the MTU, as offloads make them, are dropped (frame_too_large), and on a device that lies on others VLAN tags are lost",
			"interface", ifi.Name, "error", err)
	}
	if err := prog.Unglued(); err != nil {
		e.log.Warn("packets that offloads glued together are cut only where they are longer than the MTU of now: shorter ones may be too big for other links, and those that a lower MTU makes long are not cut before a restart",
			"interface", ifi.Name, "mtu", ifi.MTU, "remedy", "turn tso, gso and gro off on the senders (ethtool -K)", "error", err)
	}
	e.log.Info("port open", "interface", ifi.Name, "queues", min(ifi.Queues, len(queues)), "shards", len(queues), "xdp", prog.Mode(),
		"zero_copy", queues[0].ZeroCopy())
	return prog, nil
}

// Generic reports whether a port is in generic XDP mode.
func (e *Engine) Generic() bool {
	for _, p := range e.ports {
		p.mu.Lock()
		generic := p.program != nil && p.program.Mode() == rx.ModeGeneric
		p.mu.Unlock()
		if generic {
			return true
		}
	}
	return false
}

func (p *port) detach() error {
	p.mu.Lock()
	prog := p.program
	p.program = nil
	p.mu.Unlock()
	if prog == nil {
		return nil
	}
	return prog.Close()
}

// keepStats keeps the counters of a program that is about to go.
func (p *port) keepStats() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.program == nil {
		return
	}
	if s, err := p.program.Stats(); err == nil {
		p.past.Add(s)
	}
}

// attached reports whether the port has a program.
func (p *port) attached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.program != nil
}

// name returns the name of the interface.
func (p *port) name() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ifi.Name
}

func (p *port) setQueues(queues []rx.Queue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queues = queues
}

// dropSegments closes what no worker reads any more.
func (p *port) dropSegments() error {
	if p.segments == nil {
		return nil
	}
	s := p.segments
	p.segments = nil
	return s.Close()
}

func (p *port) close() error {
	err := errors.Join(p.detach(), p.dropSegments())
	for _, q := range p.queues {
		if q != nil {
			err = errors.Join(err, q.Close())
		}
	}
	p.queues = nil
	return err
}

// supervise follows the interfaces: it takes the queues of one that goes away
// from the workers, and opens it again when it comes back under its name.
func (e *Engine) supervise() {
	const interval = 250 * time.Millisecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-e.stopping:
			return
		case <-tick.C:
		}
		for _, p := range e.ports {
			e.report(p, e.inNamespace(func() error { return e.checkPort(p) }))
		}
	}
}

// report logs what is wrong with a port, once.
func (e *Engine) report(p *port, err error) {
	text := ""
	if err != nil && !errors.Is(err, errStopped) {
		text = err.Error()
	}
	if text != "" && text != p.trouble {
		e.log.Warn("port", "interface", p.ifi.Name, "error", err)
	}
	p.trouble = text
}

// inNamespace runs f on a thread in the engine's network namespace.
func (e *Engine) inNamespace(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread dies
		if err := enter(e.ns); err != nil {
			done <- fmt.Errorf("entering the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// enter brings the thread into a network namespace. A thread that is there already needs
// no privilege for it (CAP_SYS_ADMIN).
func enter(ns netns.NsHandle) error {
	if here, err := netns.Get(); err == nil {
		defer here.Close()
		if here.Equal(ns) {
			return nil
		}
	}
	return netns.Set(ns)
}

// checkPort takes a port out of use whose interface is gone, and into use again when it is
// back. If its queues, or the place of its program, are still another's it waits for nothing,
// since there are other ports, and is called again. Only supervise calls it.
func (e *Engine) checkPort(p *port) error {
	if e.ending() {
		return nil
	}
	if p.attached() {
		link, err := netlink.LinkByIndex(p.ifi.Index)
		var notFound netlink.LinkNotFoundError
		switch {
		case err == nil:
			e.rename(p, link.Attrs().Name)
			return e.setMTU(p, link.Attrs().MTU)
		case !errors.As(err, &notFound):
			return err
		}
		e.log.Warn("interface is gone", "interface", p.ifi.Name)
		return e.losePort(p)
	}
	if e.ending() { // that is why there is no program
		return nil
	}
	ifi, err := rx.LookupInterface(p.configured)
	if err != nil {
		return nil // not back yet
	}
	if err := e.suits(&ifi, len(e.workers)); err != nil {
		return fmt.Errorf("it is back, but: %w", err)
	}
	return p.patient(e.reopenPort(p, ifi), time.Now())
}

// patient returns err, but not that something is busy until it has been for a while.
func (p *port) patient(err error, now time.Time) error {
	if !isBusy(err) {
		p.busy = time.Time{}
		return err
	}
	if p.busy.IsZero() {
		p.busy = now
	}
	if now.Sub(p.busy) < bindPatience {
		return nil
	}
	return err
}

// rename notes the name that the interface of a port has now. The rules of a bridge are
// compiled for it; those of a router are when the mirror has it (router.adopt), which
// also says so.
func (e *Engine) rename(p *port, name string) {
	before := p.name()
	if name == before {
		return
	}
	p.mu.Lock()
	p.ifi.Name = name
	p.mu.Unlock()
	switch {
	case e.router != nil:
	case e.cfg.forwards():
		e.log.Warn("a port has a new name: rules know it by that from now on", "port", p.configured, "before", before, "name", name)
		e.helpers.Go(e.recompileForNames)
	default:
		e.log.Info("a port has a new name", "port", p.configured, "before", before, "name", name)
	}
}

// setMTU tells the workers the MTU of an interface, if it has changed: a bridge drops what is
// longer. A router's is that of its routes.
func (e *Engine) setMTU(p *port, mtu int) error {
	if p.ifi.MTU == mtu {
		return nil
	}
	at := e.portNumber(p)
	for _, w := range e.workers {
		if err := e.ask(context.Background(), w, func(w *worker) bool { w.ports[at].mtu = mtu; return true }); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.ifi.MTU = mtu
	p.mu.Unlock()
	return nil
}

// losePort takes the queues of a vanished interface away from the workers.
func (e *Engine) losePort(p *port) error {
	at := e.portNumber(p)
	p.keepStats()
	_ = p.detach() // its interface is gone already
	for _, w := range e.workers {
		err := e.ask(context.Background(), w, func(w *worker) bool {
			w.drops[flow.ReasonNoPort] += uint64(w.ports[at].lose(w.release))
			return true
		})
		if err != nil { // the workers have ended: what they abandoned is closed
			var left []rx.Queue
			for _, w := range e.workers {
				if q := w.ports[at].queue; q != nil {
					left = append(left, q)
				}
			}
			p.setQueues(left)
			return err
		}
	}
	p.setQueues(nil)
	return p.dropSegments()
}

// install makes prog the program of the port, which from now on is closed with it. It does
// not if the engine is about to stop: the port has been detached, or is about to be.
func (e *Engine) install(p *port, ifi rx.Interface, prog *rx.Program) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.ending() {
		return false
	}
	p.ifi, p.program = ifi, prog
	p.segments, _ = prog.Segments()
	return true
}

// reopenPort opens an interface that has come back and gives its queues to the
// running workers.
func (e *Engine) reopenPort(p *port, ifi rx.Interface) error {
	at := e.portNumber(p)
	ctx := context.Background()
	before := p.name()
	var queues []rx.Queue
	closeAll := func() {
		for i, q := range queues {
			var chunks []uint64
			_, _ = q.Abandon(func(a uint64) { chunks = append(chunks, a) })
			_ = e.ask(ctx, e.workers[i], func(w *worker) bool {
				for _, a := range chunks {
					w.release(a)
				}
				return true
			})
		}
		p.setQueues(nil)
	}
	for i, w := range e.workers {
		var free []uint64
		if err := e.ask(ctx, w, func(w *worker) bool {
			free = append(free, w.pool.Peek(rx.RingSize)...)
			w.pool.Take(len(free))
			return true
		}); err != nil {
			closeAll()
			return err
		}
		q, took, err := e.openQueue(&ifi, i, free)
		giveBack := free[took:]
		if err != nil {
			giveBack = free
		}
		_ = e.ask(ctx, w, func(w *worker) bool {
			for _, a := range giveBack {
				w.pool.Put(a)
			}
			return true
		})
		if err != nil {
			closeAll()
			return err
		}
		queues = append(queues, q)
		p.setQueues(queues)
	}
	prog, err := e.attach(ifi, queues)
	if err != nil {
		closeAll()
		return err
	}
	if !e.install(p, ifi, prog) {
		err := prog.Close()
		if s, _ := prog.Segments(); s != nil {
			err = errors.Join(err, s.Close())
		}
		closeAll()
		return err
	}
	for i, w := range e.workers {
		if err := e.ask(ctx, w, func(w *worker) bool {
			w.ports[at].open(&ifi, queues[i])
			if i == 0 {
				w.ports[at].segments = p.segments
			}
			return true
		}); err != nil {
			return err
		}
	}
	switch {
	case e.router != nil:
		e.router.portOpened()
	case e.cfg.forwards() && ifi.Name != before:
		e.helpers.Go(e.recompileForNames)
	}
	e.log.Info("interface is back", "interface", ifi.Name)
	return nil
}
