package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/route"
)

// dumper has a socket for each part, so that a long list does not hold up a short one.
// Each is used by one goroutine at a time.
type dumper struct {
	mu      sync.Mutex // guards what follows, not what is done with the sockets
	sockets [numParts]*socket
	closed  bool
}

// openDumper opens the sockets in the network namespace of the calling thread.
func openDumper() (*dumper, error) {
	d := &dumper{}
	for i := range d.sockets {
		s, err := openSocket(unix.NETLINK_ROUTE)
		if err != nil {
			return nil, errors.Join(err, d.close())
		}
		d.sockets[i] = s
	}
	return d, nil
}

// reopen replaces a socket that is in the middle of an answer.
func (d *dumper) reopen(p Part) error {
	s, err := openSocket(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return s.close()
	}
	old := d.sockets[p]
	d.sockets[p] = s
	return old.close()
}

func (d *dumper) close() (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, s := range d.sockets {
		if s != nil {
			err = errors.Join(err, s.close())
		}
	}
	return err
}

// linkState is all that Links has, as it was read.
type linkState struct {
	links      map[int]link
	addrs      map[int][]netip.Prefix
	rules      []route.Rule
	unknown    []uint16 // attributes of rules that are not understood
	resolution map[resolutionKey]resolution
	conf       map[string]conf
}

type resolutionKey struct {
	family uint8
	index  int
}

// readLinks lists links, addresses, rules and the parameters of neighbour resolution.
func (d *dumper) readLinks() (*linkState, error) {
	s := d.sockets[Links]
	l := &linkState{links: map[int]link{}, addrs: map[int][]netip.Prefix{}, resolution: map[resolutionKey]resolution{}}
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	want := appendAttribute(make([]byte, unix.SizeofIfInfomsg), unix.IFLA_EXT_MASK, []byte{skipStats, 0, 0, 0})
	err := s.dump(unix.RTM_GETLINK, want, func(m message) error {
		if k, ok := decodeLink(m); ok {
			l.links[k.index] = k
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("links: %w", err)
	}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		body := make([]byte, unix.SizeofIfAddrmsg)
		body[0] = family
		err := s.dump(unix.RTM_GETADDR, body, func(m message) error {
			if index, p, ok := decodeAddr(m); ok {
				l.addrs[index] = append(l.addrs[index], p)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("addresses: %w", err)
		}
		body = make([]byte, unix.SizeofRtMsg)
		body[0] = family
		err = s.dump(unix.RTM_GETRULE, body, func(m message) error {
			if r, unknown, ok := decodeRule(m); ok {
				l.rules, l.unknown = append(l.rules, r), append(l.unknown, unknown...)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("rules: %w", err)
		}
		body = []byte{family, 0, 0, 0} // struct ndtmsg
		err = s.dump(unix.RTM_GETNEIGHTBL, body, func(m message) error {
			if r, ok := decodeResolution(m); ok {
				l.resolution[resolutionKey{r.family, r.index}] = r
			}
			return nil
		})
		if err != nil && !errors.Is(err, errInterrupted) {
			return nil, fmt.Errorf("neighbour tables: %w", err)
		}
	}
	return l, nil
}

// routeState is all routing tables, as they were read.
type routeState struct {
	table  *route.Table // nothing but routes
	decode routes       // with what they share
}

// awaitChanges waits until what the kernel tells of already has been done. It tells that a
// route of IPv4 is removed before it removes it (fib_table_delete), and in between may
// wait for who reads what it tells (netlink_broadcast yields to one whose room is half
// full): a dump, which takes no lock, would find the route, which nobody tells of again.
// All that time it holds the RTNL lock, as it does to answer this.
func (s *socket) awaitChanges() error {
	const loopback = 1 // its index, in every network namespace
	body := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(body[4:], loopback)
	if err := s.send(unix.RTM_GETLINK, 0, body); err != nil {
		return fmt.Errorf("asking for a link: %w", err)
	}
	for {
		b, err := s.receive(nil, 1)
		if err != nil {
			return fmt.Errorf("reading a link: %w", err)
		}
		for m, err := range messages(b) {
			if err != nil {
				return err
			}
			if m.seq == s.seq { // also if it is an error
				return nil
			}
		}
	}
}

// readRoutes lists the routes of all tables. The error may be errInterrupted: then
// there is a routeState that may have holes.
func (d *dumper) readRoutes() (*routeState, error) {
	r := &routeState{table: route.New(nil)}
	if err := d.sockets[Routes].awaitChanges(); err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	interrupted := false
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		body := make([]byte, unix.SizeofRtMsg)
		body[0] = family
		err := d.sockets[Routes].dump(unix.RTM_GETROUTE, body, func(m message) error {
			if dst, k, ok := r.decode.decode(m); ok {
				r.table.Put(dst, k, route.Last)
			}
			return nil
		})
		if errors.Is(err, errInterrupted) {
			interrupted = true
		} else if err != nil {
			return nil, fmt.Errorf("routes: %w", err)
		}
	}
	if interrupted {
		return r, errInterrupted
	}
	return r, nil
}

// readNeighbours lists the neighbours of both families.
func (d *dumper) readNeighbours() ([]neighbour, error) {
	var all []neighbour
	body := make([]byte, unix.SizeofNdMsg)
	err := d.sockets[Neighbours].dump(unix.RTM_GETNEIGH, body, func(m message) error {
		if n, ok := decodeNeighbour(m); ok {
			all = append(all, n)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errInterrupted) {
		return nil, fmt.Errorf("neighbours: %w", err)
	}
	return all, err
}

// uses reports whether a route leads out of one of the links, or has one of the
// addresses for its source.
func uses(t *route.Table, links map[int]bool, addrs map[netip.Addr]bool) bool {
	seen := map[*route.Route]bool{}
	for _, r := range t.Routes {
		if seen[r] {
			continue
		}
		seen[r] = true
		if addrs[r.Src] || slices.ContainsFunc(r.Hops, func(h route.NextHop) bool { return links[h.Index] }) {
			return true
		}
	}
	return false
}
