package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/rx"
	"github.com/xdpct/xdpct/shard"
)

// mirror follows the kernel's links, addresses, routes, rules and neighbours.
type mirror struct {
	e          *Engine
	nl         *netlink.Handle
	interfaces []route.Interface // by number
	places     []portVLAN        // of them
	numbers    map[int]int       // number by the kernel's index
	table      *route.Table
	told       []*rx.Host   // by port
	natPorts   *nat.PortSet // that translation may use of the host's own addresses
	wanted     *nat.PortSet // that rules translate although they are the host's
	wantAll    bool
	asks       chan nextHop
	tun        *os.File
}

// newMirror reads the state of the kernel. It runs in the engine's namespace.
func newMirror(e *Engine) (*mirror, error) {
	nl, err := netlink.NewHandleAt(e.ns, unix.NETLINK_ROUTE, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	m := &mirror{e: e, nl: nl, asks: make(chan nextHop, 256), told: make([]*rx.Host, len(e.ports)), wanted: &nat.PortSet{}}
	if err := m.findInterfaces(); err != nil {
		return nil, err
	}
	if m.tun, err = openTUN(nl); err != nil {
		return nil, err
	}
	return m, m.reload()
}

func (m *mirror) close() error {
	m.nl.Close()
	if m.tun != nil {
		return m.tun.Close()
	}
	return nil
}

// findInterfaces numbers the ports, and then the VLAN interfaces on top of them.
func (m *mirror) findInterfaces() error {
	m.interfaces, m.places, m.numbers = nil, nil, map[int]int{}
	add := func(l netlink.Link, at portVLAN) {
		m.numbers[l.Attrs().Index] = len(m.interfaces)
		m.interfaces = append(m.interfaces, route.Interface{Name: l.Attrs().Name, Index: l.Attrs().Index, VLAN: at.vlan})
		m.places = append(m.places, at)
	}
	links, err := m.nl.LinkList()
	if err != nil {
		return fmt.Errorf("listing interfaces: %w", err)
	}
	for i, p := range m.e.ports {
		for _, l := range links {
			if l.Attrs().Index == p.ifi.Index {
				add(l, portVLAN{port: i})
			}
		}
	}
	for i, p := range m.e.ports {
		for _, l := range links {
			if v, ok := l.(*netlink.Vlan); ok && v.ParentIndex == p.ifi.Index {
				add(l, portVLAN{port: i, vlan: uint16(v.VlanId)})
			}
		}
	}
	return nil
}

// reload reads everything anew.
func (m *mirror) reload() error {
	links, err := m.nl.LinkList()
	if err != nil {
		return fmt.Errorf("listing interfaces: %w", err)
	}
	interfaces := slices.Clone(m.interfaces)
	clear(m.numbers)
	for _, l := range links {
		// By name: one that was deleted comes back under another index.
		n := slices.IndexFunc(interfaces, func(i route.Interface) bool { return i.Name == l.Attrs().Name })
		if n < 0 {
			continue
		}
		m.numbers[l.Attrs().Index] = n
		i := &interfaces[n]
		i.Index = l.Attrs().Index
		m.interfaces[n].Index = i.Index
		i.MTU, i.Up = l.Attrs().MTU, l.Attrs().Flags&net.FlagUp != 0 && l.Attrs().OperState != netlink.OperDown
		copy(i.MAC[:], l.Attrs().HardwareAddr)
		i.ReversePath = m.reversePath(i.Name)
		i.Addrs = nil
		addrs, err := m.nl.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("listing addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			if p, ok := prefixOf(a.IPNet); ok {
				i.Addrs = append(i.Addrs, p)
			}
		}
	}
	t := route.New(interfaces)
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := m.nl.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("listing routes: %w", err)
		}
		for i := range routes {
			if r, ok := m.routeOf(&routes[i], f); ok {
				t.Add(r)
			}
		}
	}
	if err := m.readRules(t); err != nil {
		return err
	}
	for n, i := range interfaces {
		neighbours, err := m.nl.NeighList(i.Index, 0)
		if err != nil {
			return fmt.Errorf("listing neighbours of %s: %w", i.Name, err)
		}
		for k := range neighbours {
			m.learn(t, n, &neighbours[k])
		}
	}
	if m.natPorts, err = m.freePorts(); err != nil {
		return err
	}
	t.Ports = m.natPorts
	m.table = t
	return m.tell()
}

// reversePath is the rp_filter in force: the larger of the interface's and of that
// for all.
func (m *mirror) reversePath(name string) int {
	n := 0
	for _, dir := range []string{"all", name} {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", dir, "rp_filter"))
		if v, e := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && e == nil {
			n = max(n, v)
		}
	}
	return n
}

func prefixOf(n *net.IPNet) (p netip.Prefix, ok bool) {
	if n == nil {
		return p, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	if !ok {
		return p, false
	}
	return netip.PrefixFrom(a.Unmap(), ones), true
}

// routeOf converts a route of the kernel.
func (m *mirror) routeOf(k *netlink.Route, family int) (*route.Route, bool) {
	r := &route.Route{Table: k.Table, Kind: route.Kind(k.Type), Priority: k.Priority, MTU: k.MTU}
	if p, ok := prefixOf(k.Dst); ok {
		r.Dst = p
	} else if family == netlink.FAMILY_V4 {
		r.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	} else {
		r.Dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if k.Tos != 0 || k.Flags&unix.RTM_F_CLONED != 0 {
		return nil, false
	}
	if a, ok := netip.AddrFromSlice(k.Src); ok {
		r.Src = a.Unmap()
	}
	hop := func(index int, gw net.IP, via netlink.Destination, weight int) route.NextHop {
		h := route.NextHop{Out: -1, Weight: weight}
		if n, ours := m.numbers[index]; ours {
			h.Out = n
		}
		if a, ok := netip.AddrFromSlice(gw); ok && !a.IsUnspecified() {
			h.Gateway = a.Unmap()
		} else if v, ok := via.(*netlink.Via); ok && v != nil {
			if a, ok := netip.AddrFromSlice(v.Addr); ok {
				h.Gateway = a.Unmap()
			}
		}
		return h
	}
	if len(k.MultiPath) == 0 {
		r.Hops = []route.NextHop{hop(k.LinkIndex, k.Gw, k.Via, 1)}
	}
	for _, p := range k.MultiPath {
		r.Hops = append(r.Hops, hop(p.LinkIndex, p.Gw, p.Via, p.Hops+1))
	}
	return r, true
}

func (m *mirror) readRules(t *route.Table) error {
	var all []route.Rule
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := m.nl.RuleList(f)
		if err != nil {
			return fmt.Errorf("listing routing rules: %w", err)
		}
		for _, k := range rules {
			r := route.Rule{
				Family: flow.Family(f), Priority: max(k.Priority, 0), Table: k.Table, Kind: route.Unicast, In: -1,
				Mark: k.Mark, Invert: k.Invert, SuppressLen: k.SuppressPrefixlen,
			}
			if k.Type > 1 {
				r.Kind = route.Kind(k.Type)
			}
			if k.Mask != nil {
				r.Mask = *k.Mask
			} else if k.Mark != 0 {
				r.Mask = 1<<32 - 1
			}
			r.Src, _ = prefixOf(k.Src)
			r.Dst, _ = prefixOf(k.Dst)
			if k.IifName != "" {
				r.In = -2 // an interface that is not ours: never
				for n, i := range m.interfaces {
					if i.Name == k.IifName {
						r.In = n
					}
				}
			}
			if r.In == -2 || k.OifName != "" {
				continue
			}
			all = append(all, r)
		}
	}
	t.SetRules(all)
	return nil
}

// learn takes what the kernel knows of a neighbour. It reports whether that is new.
func (m *mirror) learn(t *route.Table, n int, k *netlink.Neigh) bool {
	a, ok := netip.AddrFromSlice(k.IP)
	if !ok {
		return false
	}
	const usable = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT | netlink.NUD_NOARP
	var mac [6]byte
	copy(mac[:], k.HardwareAddr)
	return t.SetNeighbour(n, a.Unmap(), mac, k.State&usable != 0 && len(k.HardwareAddr) == 6)
}

// freePorts returns the ports of the host's own addresses that translation may use:
// those that are configured, or all from 1024 on but for what the host picks from by
// itself (ip_local_port_range); and in any case none that somebody listens on.
func (m *mirror) freePorts() (*nat.PortSet, error) {
	s := &nat.PortSet{}
	ranges := m.e.cfg.NATPorts
	if len(ranges) == 0 {
		lo, hi := uint16(32768), uint16(60999)
		if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
			_, _ = fmt.Sscan(string(b), &lo, &hi)
		}
		ranges = PortRanges{}
		if lo > 1024 {
			ranges = append(ranges, PortRange{1024, lo - 1})
		}
		if hi < 65535 {
			ranges = append(ranges, PortRange{max(hi+1, 1024), 65535})
		}
	}
	for _, r := range ranges {
		s.Add(r.Lo, r.Hi)
	}
	for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
		tcp, err := m.nl.SocketDiagTCP(f)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("listing sockets: %w", err)
		}
		for _, k := range tcp {
			if k.State == netlink.TCP_LISTEN {
				s.Remove(flow.TCP, k.ID.SourcePort)
			}
		}
		udp, err := m.nl.SocketDiagUDP(f)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("listing sockets: %w", err)
		}
		for _, k := range udp {
			s.Remove(flow.UDP, k.ID.SourcePort)
		}
	}
	return s, nil
}

// interest takes what of the host's own traffic rules may translate.
func (m *mirror) interest(ports *nat.PortSet, all bool) {
	m.wanted, m.wantAll = ports, all
	_ = m.tell()
}

// tell tells the XDP programs what is the host's.
func (m *mirror) tell() error {
	h := rx.Host{Portless: true, All: m.wantAll}
	for a, kind := range m.table.LocalAddrs {
		if kind == route.Local || kind == route.Broadcast || kind == route.Anycast {
			h.Addrs = append(h.Addrs, a)
		}
	}
	for i := range h.Ports {
		words := *m.natPorts.Words(i)
		for k, w := range m.wanted.Words(i) {
			words[k] |= w
		}
		h.Ports[i] = &words
	}
	for i, p := range m.e.ports {
		mine := h
		mine.MAC = m.table.Interfaces[i].MAC
		if err := m.tellPort(i, p, &mine); err != nil {
			return err
		}
	}
	return nil
}

// tellPort tells the program of a port, if it has one now.
func (m *mirror) tellPort(i int, p *port, h *rx.Host) error {
	p.mu.Lock() // the program must not be closed meanwhile
	defer p.mu.Unlock()
	if p.program == nil {
		m.told[i] = nil
		return nil
	}
	if err := p.program.SetHost(h, m.told[i]); err != nil {
		return err
	}
	m.told[i] = h
	return nil
}

// openTUN makes a device by which datagrams are given to the host. It goes with the
// process.
func openTUN(nl *netlink.Handle) (*os.File, error) {
	t := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "xdpct%d"}, Mode: netlink.TUNTAP_MODE_TUN,
		Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1}
	if err := nl.LinkAdd(t); err != nil {
		return nil, fmt.Errorf("making a TUN device for packets to the host (is /dev/net/tun there?): %w", err)
	}
	name := t.Attrs().Name
	link, err := nl.LinkByName(name)
	if err == nil {
		// What comes in here came in by another interface: strict filters would not see that.
		for _, s := range []string{"rp_filter=0", "accept_local=1"} {
			k, v, _ := strings.Cut(s, "=")
			err = errors.Join(err, os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", name, k), []byte(v), 0o644))
		}
		err = errors.Join(err, nl.LinkSetUp(link))
	}
	if err != nil {
		_ = t.Fds[0].Close()
		return nil, fmt.Errorf("TUN device %s: %w", name, err)
	}
	return t.Fds[0], nil
}

// inject gives a datagram to the host.
func (m *mirror) inject(d []byte) bool {
	_, err := m.tun.Write(d)
	return err == nil
}

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
