package engine

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/frag"
	"github.com/xdpct/xdpct/icmplimit"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx"
	"github.com/xdpct/xdpct/shard"
)

const maxPorts = 16

// Engine runs the shards of one tracker on AF_XDP. Its methods may be called
// from any goroutine.
type Engine struct {
	cfg     Config
	secret  flow.Secret
	shared  *nat.Shared // by the shards of a router
	umem    *rx.UMEM
	ports   []*port
	workers []*worker
	hub     hub
	expect  *expect.Table
	icmp    *icmplimit.Limits

	expectHub expectHub
	book      rulebook
	router    *router                  // nil: no router
	tally     tally                    // of the rules
	names     atomic.Pointer[[]string] // of the interfaces, by number
	said      atomic.Pointer[string]   // the last error that was logged
	started   atomic.Bool
	tidying   atomic.Bool    // memory is to be given back
	leaving   atomic.Bool    // many rules were replaced
	ns        netns.NsHandle // in which the interfaces are
	log       *slog.Logger

	stopping chan struct{}  // closed by Stop
	stopped  chan struct{}  // closed when the workers have ended
	running  sync.WaitGroup // the workers
	helpers  sync.WaitGroup // all other goroutines
	stop     sync.Once
}

// Open makes everything ready to run, in the network namespace of the calling thread:
// first what may be wrong with the configuration and its rules, then what the kernel
// has, and the ports last, so that no frame comes before there are rules for it. If
// anything is amiss nothing is left behind.
func Open(cfg Config, log *slog.Logger) (e *Engine, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, cfg.located(err)
	}
	e = &Engine{
		cfg: cfg, log: log, hub: hub{subs: map[*Subscription]bool{}}, expectHub: expectHub{subs: map[*ExpectSubscription]bool{}}, ns: netns.None(),
		stopping: make(chan struct{}), stopped: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			_ = e.release()
			err = cfg.located(err)
			e = nil
		}
	}()
	rules, err := cfg.Rules.Read()
	if err != nil {
		return e, err
	}
	if e.ns, err = netns.Get(); err != nil {
		return e, fmt.Errorf("finding the network namespace: %w", err)
	}
	if err := secrets(e.secret[:]); err != nil {
		return e, err
	}
	e.icmp = icmplimit.New(e.cfg.ICMP, &e.secret)
	n, err := e.lookupPorts()
	if err != nil {
		return e, err
	}
	if err := e.makeWorkers(n); err != nil {
		return e, err
	}
	if err := e.openForwarding(rules); err != nil {
		return e, err
	}
	if err := e.openPorts(); err != nil {
		return e, err
	}
	if e.router != nil {
		return e, e.router.tell()
	}
	return e, nil
}

// secrets fills words with random bits. Each use has some of its own: that ports can be
// seen from outside is to say nothing about the hash.
func secrets(words []uint64) error {
	b := make([]byte, 8*len(words))
	if _, err := rand.Read(b); err != nil {
		return fmt.Errorf("making a secret: %w", err)
	}
	for i := range words {
		words[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	return nil
}

// owner returns the worker that owns the connection with the tuple t.
func (e *Engine) owner(t flow.Tuple) *worker {
	key, flipped := t.Canonical()
	var dir *nat.Directory
	if e.shared != nil {
		dir = e.shared.Directory
	}
	return e.workers[shard.Owner(dir, &key, flipped, key.Hash(&e.secret), len(e.workers))]
}

// lookupPorts finds the interfaces and returns the number of shards.
func (e *Engine) lookupPorts() (shards int, err error) {
	shards = e.cfg.Shards
	for i, pc := range e.cfg.Ports {
		ifi, err := rx.LookupInterface(pc.Interface)
		if err != nil {
			return 0, badItem("ports", i, "%v", err)
		}
		if shards == 0 {
			shards = ifi.Queues
		}
		if err := e.suits(&ifi, shards); err != nil {
			return 0, err
		}
		if ifi.Queues < shards {
			e.log.Warn("fewer receive queues than shards: not every shard receives from it, and those send by AF_PACKET, which is slower",
				"interface", ifi.Name, "queues", ifi.Queues, "shards", shards)
		}
		if most := e.cfg.FrameSize - rx.Headroom; ifi.FrameLen() > most {
			e.log.Warn("frames that do not fit a chunk will be dropped (frame_too_large)",
				"interface", ifi.Name, "mtu", ifi.MTU, "longest", most)
		}
		if own := hostAddrs(ifi.Name); len(own) > 0 && e.cfg.Mode != Router {
			e.log.Warn("this mode takes all IP packets of the interface, so the host cannot be reached by it any more",
				"mode", e.cfg.Mode, "interface", ifi.Name, "addresses", own)
		}
		e.ports = append(e.ports, &port{configured: pc.Interface, ifi: ifi})
	}
	if cpus := allowedCPUs(); len(cpus) > 0 && shards > len(cpus) {
		e.log.Warn("more shards than CPUs: shards that share one wait for each other, and frames that are handed over between them may be lost (handover_full)",
			"shards", shards, "cpus", len(cpus), "remedy", fmt.Sprintf("shards: %d, and no more receive queues (ethtool -L)", len(cpus)))
	}
	if shards > MaxShards {
		return 0, fmt.Errorf("%d receive queues: at most %d are supported", shards, MaxShards)
	}
	return shards, nil
}

// hostAddrs returns the addresses that others can reach the host at by an interface.
func hostAddrs(name string) (all []net.Addr) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil
	}
	addrs, _ := ifi.Addrs()
	return slices.DeleteFunc(addrs, func(a net.Addr) bool {
		p, ok := a.(*net.IPNet)
		return !ok || p.IP.IsLinkLocalUnicast()
	})
}

const (
	// chunksPerPort is how many chunks a shard has for each port: a fill ring and a
	// transmit ring full.
	chunksPerPort = 2 * rx.RingSize
	// chunksBeside is how many more it has, for fragments and for frames that wait for a
	// neighbour.
	chunksBeside = frag.MaxHeld + maxWaiting
)

func (e *Engine) makeWorkers(n int) error {
	cpus, err := e.cpus(n)
	if err != nil {
		return err
	}
	start := time.Now()
	sc := e.cfg.Settings.shardConfig(n, &e.secret, &e.cfg.Zoning)
	sc.Epoch = start.UnixNano()
	sc.Forwards, sc.Translates = e.cfg.forwards(), e.cfg.Mode == Router
	perShard := chunksPerPort*len(e.ports) + chunksBeside
	if err := e.checkMemory(n, &sc, uint64(n*perShard)*uint64(e.cfg.FrameSize)); err != nil {
		return err
	}
	if e.umem, err = rx.NewUMEM(perShard*n, e.cfg.FrameSize); err != nil {
		return err
	}
	if sc.Translates {
		var key nat.Key
		if err := secrets(key[:]); err != nil {
			return err
		}
		e.shared = nat.NewShared(n, n*sc.MaxConns, key)
		sc.NAT = e.shared
	}
	e.expect = sc.Expect
	e.expect.Observe = e.observeExpect
	clock := func() (mono, wall int64) {
		d := time.Since(start)
		return int64(d), start.UnixNano() + int64(d)
	}
	for i := range n {
		w := &worker{
			id: i, cpu: -1, mode: e.cfg.Mode, umem: e.umem, clock: clock,
			pool: rx.NewPool(e.umem, i*perShard, perShard), requests: make(chan request, 4), wake: -1,
			events: &eventRing{ring: newSPSC[flow.Event](eventRingSize)}, log: newPacketLog(),
		}
		if n <= len(cpus) {
			w.cpu = cpus[i]
		}
		e.workers = append(e.workers, w)
		sc.Observe = w.observe
		sc.Number, sc.Shards = i, n
		var seed [1]uint64
		if err := secrets(seed[:]); err != nil {
			return err
		}
		sc.Seed = seed[0]
		if w.shard, err = shard.New(sc, 0); err != nil {
			return err
		}
		if w.wake, err = newEventFD(); err != nil {
			return err
		}
		for k, p := range e.ports {
			w.ports = append(w.ports, &workerPort{
				zones:  newPortZones(&e.cfg.Ports[k]),
				checks: packet.Checks{Transport: e.cfg.Settings.Checksum, Partial: p.ifi.Partial, Keys: sc.Keys},
				noLink: p.ifi.NoLink,
				out:    make([]rx.Desc, 0, batch),
			})
		}
		for j := range n {
			w.inbox, w.raw, w.homing = append(w.inbox, nil), append(w.raw, nil), append(w.homing, nil)
			if j != i {
				w.inbox[j], w.homing[j] = newSPSC[handed](handoverRing), newSPSC[uint64](4*handoverRing)
				w.raw[j] = newSPSC[shard.Raw](handoverRing)
			}
		}
	}
	for _, w := range e.workers {
		w.peers = e.workers
		w.assembly.arriving = make([][]handed, n)
		w.frags = frag.New(e.cfg.Settings.Fragments, w.dropFragment)
	}
	e.hub.workers = e.workers
	e.book.timeouts = e.cfg.Zoning.numbers()
	return nil
}

// cpus returns the CPUs that n shards run on, if they are pinned: those that are
// configured, or all that the process may use.
func (e *Engine) cpus(n int) ([]int, error) {
	allowed := allowedCPUs()
	if len(e.cfg.CPUs) == 0 {
		return allowed, nil
	}
	for i, c := range e.cfg.CPUs {
		if !slices.Contains(allowed, c) {
			return nil, badItem("cpus", i, "%d is offline, or no CPU that this process may use: those are %v", c, allowed)
		}
	}
	return e.cfg.CPUs, e.cfg.enoughCPUs(n)
}

func allowedCPUs() (cpus []int) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil
	}
	for i := range 8 * len(set) * 8 {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus
}

// Start starts the workers. Frames flow from now on.
func (e *Engine) Start() {
	e.started.Store(true)
	for _, w := range e.workers {
		e.running.Go(w.run)
	}
	e.helpers.Go(e.distribute)
	e.helpers.Go(e.logPackets)
	e.helpers.Go(e.supervise)
	if e.router != nil {
		e.helpers.Go(func() { e.router.mirror.Run(e.stopping) })
		e.helpers.Go(e.router.follow)
	}
}

// Stop ends the workers, detaches the XDP programs and frees everything. The
// programs go first, so that no frame is lost in a socket that nobody reads.
func (e *Engine) Stop() error {
	var err error
	e.stop.Do(func() {
		close(e.stopping)
		for _, p := range e.ports {
			err = errors.Join(err, p.detach())
		}
		for _, w := range e.workers {
			r := newRequest(func(*worker) bool { return true })
			r.stop = true
			w.requests <- r
			w.rouse()
		}
		e.running.Wait()
		close(e.stopped)
		e.helpers.Wait()
		err = errors.Join(err, e.release())
	})
	return err
}

// release frees what Open made.
func (e *Engine) release() (err error) {
	for _, p := range e.ports {
		err = errors.Join(err, p.close())
	}
	for _, w := range e.workers {
		if w.shard != nil {
			err = errors.Join(err, w.shard.Close())
		}
		if w.wake >= 0 {
			err = errors.Join(err, unix.Close(w.wake))
		}
	}
	if e.router != nil {
		err = errors.Join(err, e.router.close())
	}
	if e.umem != nil {
		err = errors.Join(err, e.umem.Close())
		e.umem = nil
	}
	if e.ns.IsOpen() {
		err = errors.Join(err, e.ns.Close())
	}
	return err
}

// Count returns the number of connections.
func (e *Engine) Count(ctx context.Context) (n int, err error) {
	for _, w := range e.workers {
		err = errors.Join(err, e.ask(ctx, w, func(w *worker) bool { n += w.shard.Len(); return true }))
	}
	return n, err
}

// Settings returns the settings in force.
func (e *Engine) Settings() Settings { return e.cfg.Settings }
