package mirror

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/route"
)

// Port is an interface that frames go by. Its number among the ports is its number in
// the Tables.
type Port struct {
	// Name is what it is called when it is looked for: at first, and after it was
	// deleted. In between it is known by its index, so that it can be renamed.
	Name  string
	Index int // 0: it does not exist
}

// Config is the configuration of a Mirror.
type Config struct {
	Ports []Port
	Log   *slog.Logger
	// InNamespace runs a function on a thread in the network namespace that is
	// mirrored.
	InNamespace func(func() error) error
	// MaxInterfaces bounds the interfaces, VLANs included; 0: there is no limit.
	MaxInterfaces int
	// MaxNeighbours bounds the neighbours of a family; 0: as the kernel bounds them
	// (gc_thresh3).
	MaxNeighbours int
	// RouteBuffer and NeighbourBuffer are the sizes of the sockets' receive buffers
	// in bytes; 0 for the default.
	RouteBuffer, NeighbourBuffer int
}

// The default sizes of receive buffers.
const (
	defaultRouteBuffer     = 16 << 20
	defaultNeighbourBuffer = 2 << 20
)

// Part is a part of the state that is read anew as a whole.
type Part int

// The parts.
const (
	Links      Part = iota // links, addresses, rules, parameters
	Routes                 // all routing tables
	Neighbours             // of all our interfaces
	numParts
)

// String names the part.
func (p Part) String() string { return [...]string{"links", "routes", "neighbours"}[p] }

// Stats counts what happened to a Mirror.
type Stats struct {
	// Resyncs counts full dumps of routes and of neighbours that brought the mirror
	// up to date again.
	RouteResyncs, NeighbourResyncs uint64
	// Overruns counts how often the kernel had to drop messages to us.
	Overruns uint64
	// Interrupted counts dumps that had to be repeated.
	Interrupted uint64
	// Restarts counts subscriptions that ended and were made again.
	Restarts uint64
	// Refused counts neighbours that were not taken, for there were too many.
	Refused uint64
	// Interfaces, Routes and Neighbours are how many there are.
	Interfaces, Routes, Neighbours int
}

// Mirror follows the kernel. Its methods may be called from any goroutine.
type Mirror struct {
	cfg     Config
	log     *slog.Logger
	subs    [2]*subscription // routes and what is not neighbours; neighbours
	dumper  *dumper
	probe   *socket
	table   atomic.Pointer[route.Table]
	changed chan struct{}
	asks    chan ask // of workers
	checks  chan ask // of neighbours that are known
	used    chan []uint32
	stop    chan struct{}
	once    sync.Once
	running sync.WaitGroup

	overruns, interrupted, restarts, refused atomic.Uint64
	resyncs                                  [numParts]atomic.Uint64

	state // Run's
}

type ask struct {
	index int
	addr  netip.Addr
	asked *atomic.Bool // nil in checks: nobody waits
}

var (
	routeGroups = []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_NEXTHOP,
	}
	neighbourGroups = []int{unix.RTNLGRP_NEIGH}
)

// Open subscribes to the kernel's changes and reads its state. An error says what is
// not to be had; then nothing is left open.
func Open(cfg Config) (*Mirror, error) {
	m := &Mirror{
		cfg: cfg, log: cfg.Log, changed: make(chan struct{}, 1), asks: make(chan ask, 512), checks: make(chan ask, 512), used: make(chan []uint32, 16), stop: make(chan struct{}),
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	size := func(n, or int) int {
		if n == 0 {
			return or
		}
		return n
	}
	m.subs[0] = &subscription{groups: routeGroups, size: size(cfg.RouteBuffer, defaultRouteBuffer), batch: make(chan batch, 16)}
	m.subs[1] = &subscription{groups: neighbourGroups, size: size(cfg.NeighbourBuffer, defaultNeighbourBuffer), batch: make(chan batch, 16)}
	err := cfg.InNamespace(func() (err error) {
		for _, s := range m.subs {
			if err := m.subscribe(s); err != nil {
				return err
			}
		}
		if m.dumper, err = openDumper(); err != nil {
			return err
		}
		m.probe, err = openSocket(unix.NETLINK_ROUTE)
		return err
	})
	if err == nil {
		err = m.readAll()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("following the kernel's routes: %w", err), m.Close())
	}
	return m, nil
}

// subscribe opens a subscription and starts to read it. It runs in the namespace.
func (m *Mirror) subscribe(s *subscription) error {
	sock, err := openSocket(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	if err := sock.join(s.size, s.groups); err != nil {
		return errors.Join(err, sock.close())
	}
	s.sock = sock
	m.running.Go(func() { s.read(sock, m.stop) })
	return nil
}

// Close ends the mirror and frees what it has. Run returns.
func (m *Mirror) Close() (err error) {
	m.once.Do(func() {
		close(m.stop)
		for _, s := range m.subs {
			if s.sock != nil {
				err = errors.Join(err, s.sock.close())
			}
		}
		if m.dumper != nil {
			err = errors.Join(err, m.dumper.close())
		}
		if m.probe != nil {
			err = errors.Join(err, m.probe.close())
		}
		m.running.Wait()
	})
	return err
}

// Table returns the state that was published last. It never changes.
func (m *Mirror) Table() *route.Table { return m.table.Load() }

// Changed has a value when there is a Table that is newer than the last one that was
// taken.
func (m *Mirror) Changed() <-chan struct{} { return m.changed }

// Stats returns the counters.
func (m *Mirror) Stats() Stats {
	t := m.Table()
	return Stats{
		RouteResyncs: m.resyncs[Routes].Load(), NeighbourResyncs: m.resyncs[Neighbours].Load(),
		Overruns: m.overruns.Load(), Interrupted: m.interrupted.Load(), Restarts: m.restarts.Load(), Refused: m.refused.Load(),
		Interfaces: len(t.Interfaces), Routes: t.NumRoutes(), Neighbours: t.NumNeighbours(),
	}
}

// Resolve asks the kernel for a neighbour on an interface of a Table, as a packet that
// goes there would, and sets asked once the kernel looks for it: not while its own table of
// neighbours is full (gc_thresh3). It never blocks; what finds no room (512 are kept) is not
// asked for, and may be asked for again: then it returns false. A channel is enough: a worker
// asks once for each next hop that frames wait for, and a full channel is seen without its
// lock.
func (m *Mirror) Resolve(out int, addr netip.Addr, asked *atomic.Bool) bool {
	t := m.Table()
	if out < 0 || out >= len(t.Interfaces) || t.Interfaces[out].Index == 0 {
		return false
	}
	return offer(m.asks, ask{t.Interfaces[out].Index, addr, asked})
}

// offer puts a question into a queue; ok is false if it is full.
func offer(c chan ask, a ask) (ok bool) {
	select {
	case c <- a:
		return true
	default:
		return false
	}
}

// Used says by their IDs which neighbours packets were sent to since it was called
// last. The kernel is asked to confirm those that it is not sure of any more, as it
// does itself for its own packets (neigh_event_send). It never blocks, and keeps ids. A
// worker calls it once a second.
func (m *Mirror) Used(ids []uint32) {
	select {
	case m.used <- ids:
	default:
	}
}

// prober sends what is asked of the kernel: it may have to wait for the lock that all
// changes of routes take. Neighbours in use are confirmed in turn with what is asked for anew:
// a scan, which asks for ever more, does not hold that up.
func (m *Mirror) prober() {
	for {
		select {
		case <-m.stop:
			return
		case a := <-m.checks:
			_ = m.probeFor(a)
		case a := <-m.asks:
			if !errors.Is(m.probeFor(a), unix.ENOBUFS) { // frames do not wait for ever
				a.asked.Store(true)
			}
		}
	}
}

// probeFor asks the kernel for a neighbour. The error is ENOBUFS if its table is full of
// others that it looks for (neigh_alloc).
func (m *Mirror) probeFor(a ask) error {
	if err := m.probe.send(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE, neighbourRequest(a)); err != nil {
		return err
	}
	return m.probe.refusal()
}

// neighbourRequest asks for the resolution of a neighbour (struct ndmsg, NTF_USE).
func neighbourRequest(a ask) []byte {
	b := make([]byte, unix.SizeofNdMsg)
	b[0] = unix.AF_INET
	if a.addr.Is6() {
		b[0] = unix.AF_INET6
	}
	putU32(b[4:], uint32(a.index))
	b[10] = unix.NTF_USE
	return appendAttribute(b, unix.NDA_DST, a.addr.AsSlice())
}

// Run follows the kernel until Close, or until stop is closed.
func (m *Mirror) Run(stop <-chan struct{}) {
	m.running.Go(m.prober)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	wake := time.NewTimer(time.Hour)
	defer wake.Stop()
	for {
		select {
		case <-stop:
			return
		case <-m.stop:
			return
		case b := <-m.subs[0].batch:
			m.take(b)
		case b := <-m.subs[1].batch:
			m.take(b)
		case o := <-m.dumps:
			m.adopt(o)
		case ids := <-m.used:
			m.confirm(ids)
		case <-tick.C:
			m.poll()
		case <-wake.C:
		}
		wake.Reset(m.settle(time.Now()))
	}
}
