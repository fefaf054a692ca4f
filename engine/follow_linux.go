package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/shard"
)

// ask asks the kernel for a neighbour, as a packet of its own would. It never blocks.
func (m *mirror) ask(n nextHop) {
	select {
	case m.asks <- n:
	default: // another frame will ask again
	}
}

// follow keeps the mirror up to date until the engine stops.
func (m *mirror) follow() error {
	e := m.e
	done := make(chan struct{})
	defer close(done)
	routes, neighbours := make(chan netlink.RouteUpdate, 1024), make(chan netlink.NeighUpdate, 1024)
	links, addrs := make(chan netlink.LinkUpdate, 256), make(chan netlink.AddrUpdate, 256)
	lost := make(chan struct{}, 1)
	trouble := func(error) {
		select {
		case lost <- struct{}{}:
		default:
		}
	}
	ns := e.ns
	err := errors.Join(
		netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &ns, ErrorCallback: trouble, ReceiveBufferSize: 4 << 20}),
		netlink.NeighSubscribeWithOptions(neighbours, done, netlink.NeighSubscribeOptions{Namespace: &ns, ErrorCallback: trouble, ReceiveBufferSize: 4 << 20}),
		netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &ns, ErrorCallback: trouble}),
		netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &ns, ErrorCallback: trouble}),
	)
	if err != nil {
		return fmt.Errorf("following routes: %w", err)
	}
	go m.askAll(done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	if err := m.update(func() error { return m.reload() }); err != nil { // what changed meanwhile
		return err
	}
	for {
		select {
		case <-e.stopping:
			return nil
		case u, ok := <-neighbours:
			if !ok {
				return errors.New("following neighbours: netlink ended")
			}
			err = m.takeNeighbours(u, neighbours)
		case u, ok := <-routes:
			if !ok {
				return errors.New("following routes: netlink ended")
			}
			err = m.takeRoutes(u, routes)
		case <-links:
			err = m.update(m.reload)
		case <-addrs:
			err = m.update(m.reload)
		case <-lost: // some were lost: read everything again
			err = m.update(m.reload)
		case <-tick.C:
			err = m.update(m.poll)
		}
		if err != nil && !errors.Is(err, errStopped) {
			e.log.Warn("routes", "error", err)
		}
	}
}

// forget removes connections that are masqueraded with an address that is gone, or
// leave by an interface that is down (nf_nat_masquerade's notifiers).
func (m *mirror) forget(old *route.Table) error {
	if old == nil {
		return nil
	}
	had := map[netip.Addr]bool{}
	for a := range old.LocalAddrs {
		had[a] = true
	}
	for a := range m.table.LocalAddrs {
		delete(had, a)
	}
	down := map[int]bool{}
	for n, i := range m.table.Interfaces {
		if !i.Up && old.Interfaces[n].Up {
			down[n] = true
		}
	}
	if len(had) == 0 && len(down) == 0 {
		return nil
	}
	return m.e.walk(context.Background(), func(s *shard.Shard, entry uint32, c *flow.Conn) bool {
		out, addr, ok := s.Masqueraded(entry)
		return ok && (down[out] || had[addr.Netip(c.Key.L4.Family())])
	}, func() error { return nil })
}

// errUnchanged says that there is nothing new for the workers.
var errUnchanged = errors.New("unchanged")

// update changes the mirror and gives the outcome to the workers.
func (m *mirror) update(change func() error) error {
	e := m.e
	e.book.mu.Lock()
	defer e.book.mu.Unlock()
	old := m.table
	err := e.inNamespace(change)
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err != nil {
		return err
	}
	e.book.routes = m.table
	if err := e.apply(); err != nil {
		return err
	}
	return m.forget(old)
}

// poll looks at what netlink does not tell of.
func (m *mirror) poll() error {
	free, err := m.freePorts()
	if err != nil {
		return err
	}
	t := m.table.Clone()
	if err := m.readRules(t); err != nil {
		return err
	}
	if *free == *m.natPorts && t.SameRules(m.table) {
		for i, p := range m.e.ports { // a program may be new
			p.mu.Lock()
			fresh := p.program != nil && m.told[i] == nil
			p.mu.Unlock()
			if fresh {
				return m.reload()
			}
		}
		return errUnchanged
	}
	m.natPorts, t.Ports, m.table = free, free, t
	return m.tell()
}

// takeNeighbours takes an update and all that wait behind it.
func (m *mirror) takeNeighbours(u netlink.NeighUpdate, more <-chan netlink.NeighUpdate) error {
	return m.update(func() error {
		t, changed := m.table.Clone(), false
		for {
			if n, ours := m.numbers[u.LinkIndex]; ours && (u.Family == unix.AF_INET || u.Family == unix.AF_INET6) {
				if u.Type == unix.RTM_DELNEIGH {
					u.State = netlink.NUD_NONE
				}
				changed = m.learn(t, n, &u.Neigh) || changed
			}
			select {
			case u = <-more:
				continue
			default:
			}
			if !changed {
				return errUnchanged
			}
			m.table = t
			return nil
		}
	})
}

// takeRoutes takes an update and all that wait behind it.
func (m *mirror) takeRoutes(u netlink.RouteUpdate, more <-chan netlink.RouteUpdate) error {
	return m.update(func() error {
		t, local := m.table.Clone(), false
		for {
			if r, ok := m.routeOf(&u.Route, u.Family); ok {
				local = local || r.Table == route.TableLocal
				if u.Type == unix.RTM_DELROUTE {
					t.Remove(r)
				} else {
					t.Add(r)
				}
			}
			select {
			case u = <-more:
				continue
			default:
			}
			m.table = t
			if local {
				return m.tell()
			}
			return nil
		}
	})
}

// askAll asks the kernel for neighbours.
func (m *mirror) askAll(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case n := <-m.asks:
			family := netlink.FAMILY_V4
			if n.addr.Is6() {
				family = netlink.FAMILY_V6
			}
			m.e.book.mu.Lock()
			index := m.e.book.routes.Interfaces[n.out].Index
			m.e.book.mu.Unlock()
			const use = 0x01 // NTF_USE: resolve it, as if it were used
			_ = m.nl.NeighSet(&netlink.Neigh{
				LinkIndex: index, Family: family, State: netlink.NUD_NONE, Flags: use, IP: n.addr.AsSlice(),
			}) // no answer is an answer: frames do not wait for ever
		}
	}
}
