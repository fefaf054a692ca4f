package netlab

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// Kind is what joins a host to the box between the hosts.
type Kind int

// The kinds. The interface of the box has the name of the side, that of the host is eth0
// in every case.
const (
	Veth        Kind = iota // a veth pair
	LinuxBridge             // a veth pair whose end in the box is member of a bridge
	TunLink                 // two tun devices and a tunnel in user space between them
)

// HostsOptions say what Hosts are like.
type HostsOptions struct {
	Left, Right Kind
	// Queues of the interfaces of the box, where their kind has any; 0 for one.
	Queues int
	// Routed puts each host into a net of its own, in which the box has an address and
	// is the default gateway. Otherwise both are in one net, and the box has no
	// addresses.
	Routed bool
	// Bare leaves the right side of the box without an IPv4 address, for a DHCP client
	// to find.
	Bare bool
	// TunOffload lets the stacks behind tun devices leave checksums and segmentation to
	// each other.
	TunOffload bool
}

// Hosts are two hosts with stacks of their own, as they come, and a box between them:
// nothing is known beforehand (no static neighbours), IPv6 is on with all that the
// kernel does by itself (duplicate address detection, router solicitations, MLD), and
// checksums and segmentation are left to the devices.
type Hosts struct {
	Left, Box, Right *NS
	options          HostsOptions
	sides            map[string]*side
	closers          []func() // of the namespaces
}

// Addresses of Hosts.
const (
	LeftIP        = "10.50.0.2"
	LeftGateway   = "10.50.0.1"
	LeftIP6       = "2001:db8:50::2"
	LeftGateway6  = "2001:db8:50::1"
	RightIP       = "192.0.2.2"
	RightGateway  = "192.0.2.1"
	RightIP6      = "2001:db8:60::2"
	RightGateway6 = "2001:db8:60::1"
	PeerIP        = "10.50.0.3"      // of the right host if nothing is routed
	PeerIP6       = "2001:db8:50::3" // the same
)

// NewHosts builds the network.
func NewHosts(o HostsOptions) (h *Hosts, err error) {
	h = &Hosts{options: o, sides: map[string]*side{}}
	defer func() {
		if err != nil {
			h.Close()
			h = nil
		}
	}()
	for _, n := range []struct {
		ns   **NS
		name string
	}{{&h.Left, "left"}, {&h.Box, "box"}, {&h.Right, "right"}} {
		if *n.ns, err = newNS(n.name); err != nil {
			return h, err
		}
		h.closers = append(h.closers, (*n.ns).Close)
	}
	left := &side{ns: h.Left, name: "left", host: []string{LeftIP + "/24", LeftIP6 + "/64"}}
	right := &side{ns: h.Right, name: "right", host: []string{PeerIP + "/24", PeerIP6 + "/64"}}
	if o.Routed {
		left.box = []string{LeftGateway + "/24", LeftGateway6 + "/64"}
		right.host = []string{RightIP + "/24", RightIP6 + "/64"}
		right.box = []string{RightGateway + "/24", RightGateway6 + "/64"}
		if o.Bare {
			right.box = right.box[1:]
		}
	}
	if o.Routed {
		left.gateways = map[string]string{"": LeftGateway, "::/0": LeftGateway6}
		right.gateways = map[string]string{"": RightGateway, "::/0": RightGateway6}
	}
	h.sides[left.name], h.sides[right.name] = left, right
	return h, errors.Join(h.Attach("left", o.Left), h.Attach("right", o.Right))
}

// side is a host and what joins it to the box.
type side struct {
	ns        *NS
	name      string
	host, box []string          // addresses
	gateways  map[string]string // of the host, by destination
	detach    func() error      // nil: it is not joined
}

// Attach joins a side ("left" or "right") to the box by an interface of that name.
func (h *Hosts) Attach(name string, kind Kind) (err error) {
	s := h.sides[name]
	switch kind {
	case TunLink:
		err = h.attachTun(s)
	case LinuxBridge:
		err = h.attachBridge(s)
	default:
		s.detach = func() error { return h.Box.Delete(s.name) }
		err = Join(Port{NS: h.Box, Name: s.name, Queues: h.options.Queues, Addrs: s.box, Offload: true},
			Port{NS: s.ns, Name: "eth0", Queues: h.options.Queues, Addrs: s.host, Offload: true})
	}
	for dst, via := range s.gateways {
		if err == nil {
			err = s.ns.Gateway(dst, via)
		}
	}
	return err
}

// Detach removes the interface of a side.
func (h *Hosts) Detach(name string) error {
	s := h.sides[name]
	if s.detach == nil {
		return nil
	}
	detach := s.detach
	s.detach = nil
	return detach()
}

func (h *Hosts) attachTun(s *side) error {
	a, err := h.Box.OpenTun(s.name, TunOptions{Addrs: s.box, Offload: h.options.TunOffload})
	if err != nil {
		return err
	}
	b, err := s.ns.OpenTun("eth0", TunOptions{Addrs: s.host, Offload: h.options.TunOffload})
	if err != nil {
		return errors.Join(err, a.Close())
	}
	wait := Tunnel(a, b)
	s.detach = func() error {
		err := errors.Join(a.Close(), b.Close())
		wait()
		return err
	}
	return nil
}

func (h *Hosts) attachBridge(s *side) error {
	if err := h.Box.AddBridge(s.name); err != nil {
		return err
	}
	member := s.name + "-1"
	s.detach = func() error { return errors.Join(h.Box.Delete(member), h.Box.Delete(s.name)) }
	if err := Join(Port{NS: h.Box, Name: member, Offload: true}, Port{NS: s.ns, Name: "eth0", Addrs: s.host, Offload: true}); err != nil {
		return err
	}
	if err := h.Box.Enslave(member, s.name); err != nil {
		return err
	}
	return h.Box.Configure(s.name, 0, s.box...)
}

// Delete removes a link of the namespace.
func (ns *NS) Delete(name string) error {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return ns.nl.LinkDel(link)
}

// Close removes it all.
func (h *Hosts) Close() {
	for name := range h.sides {
		_ = h.Detach(name) // with the namespace it goes in any case
	}
	for i := len(h.closers) - 1; i >= 0; i-- {
		h.closers[i]()
	}
	h.closers = nil
}

// AddBridge makes a Linux bridge, which is down and has no members.
func (ns *NS) AddBridge(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := ns.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	return nil
}

// Enslave makes a link of the namespace a member of a bridge there.
func (ns *NS) Enslave(member, bridge string) error {
	m, err := ns.nl.LinkByName(member)
	if err != nil {
		return fmt.Errorf("%s: %w", member, err)
	}
	b, err := ns.nl.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("%s: %w", bridge, err)
	}
	return ns.nl.LinkSetMasterByIndex(m, b.Attrs().Index)
}

// Gateway adds a route to dst, a prefix in CIDR notation or empty for the IPv4 default.
func (ns *NS) Gateway(dst, via string) error {
	r := &netlink.Route{Gw: net.ParseIP(via)}
	if dst != "" {
		var err error
		if _, r.Dst, err = net.ParseCIDR(dst); err != nil {
			return err
		}
	}
	if err := ns.nl.RouteAdd(r); err != nil {
		return fmt.Errorf("%s: route to %q via %s: %w", ns.Name, dst, via, err)
	}
	return nil
}
