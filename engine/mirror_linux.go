package engine

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/rx"
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
		i.MTU, i.Up = l.Attrs().MTU, l.Attrs().Flags&net.FlagUp != 0 // without a carrier, routes stay
		copy(i.MAC[:], l.Attrs().HardwareAddr)
		i.Neighbour, i.Fixed = rx.FixedNeighbour(l)
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
