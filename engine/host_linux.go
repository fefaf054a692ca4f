package engine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/rx"
)

// hostPorts are the ports of the host's own addresses, as far as translation goes.
type hostPorts struct {
	free  nat.PortSet // that it may use where a rule names none
	bound nat.PortSet // that it may not use because sockets have them
}

// hostPorts returns the ports that translation may use: those that are configured, or
// all but those that the host picks from by itself (ip_local_port_range); and in any
// case none that a socket is bound to. A TCP socket that has a peer counts if its port is of
// those.
func (r *router) hostPorts() (*hostPorts, error) {
	h := &hostPorts{}
	s := &h.free
	taken := func(proto flow.Proto, port uint16) {
		s.Remove(proto, port)
		h.bound.AddFor(proto, port, port)
	}
	ranges := r.e.cfg.NATPorts
	if len(ranges) == 0 {
		lo, hi := uint16(32768), uint16(60999)
		if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
			_, _ = fmt.Sscan(string(b), &lo, &hi)
		}
		ranges = PortRanges{}
		if lo > 1 {
			ranges = append(ranges, PortRange{1, lo - 1})
		}
		if hi < 65535 {
			ranges = append(ranges, PortRange{hi + 1, 65535})
		}
	}
	for _, g := range ranges {
		s.Add(g.Lo, g.Hi)
	}
	err := eachSocket(func(k socket) {
		if !k.passing || s.Has(k.proto, k.port) {
			taken(k.proto, k.port)
		}
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// hostState is what the XDP programs are told of the host.
type hostState struct {
	ports    *hostPorts
	mappings *nat.HostPorts // ports, as the shards get them
	interest interest
	told     []told // by port
}

// interest is what of the host's own traffic rules may translate: packets to these ports
// have to be seen although they are addressed to the host.
type interest struct {
	wanted   *nat.PortSet   // that destinations are mapped from
	portless []*syntax.Rule // that map destinations not by ports
	named    *nat.PortSet   // that rules name for sources to be mapped to
	single   *nat.PortSet   // the same, where it is the only one that a rule names
}

func interestOf(r Rules) (i interest) {
	i.wanted, i.portless = policy.LocalPorts(r.all()...)
	i.named, i.single = policy.NATPorts(r.all()...)
	return i
}

// allOf returns the rules because of which all packets to some of the host's addresses have
// to be seen: they go not by ports, and are not for addresses of others only.
func (i *interest) allOf(addrs []netip.Addr) (rules []*syntax.Rule) {
	for _, r := range i.portless {
		if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return policy.ForAddr(r, a) }) {
			rules = append(rules, r)
		}
	}
	return rules
}

// warnOfBypass names the rules that make all packets to the host come by the TUN device,
// past rules of the host that match the interface that they came by.
func (r *router) warnOfBypass() {
	addrs := ownAddrs(r.mirror.Table())
	r.mu.Lock()
	rules := r.host.interest.allOf(addrs)
	r.mu.Unlock()
	for _, rule := range rules {
		r.e.log.Warn("a rule that goes not by ports makes everything addressed to the host come in by another device: rules of the host that match the interface of a port do not see it",
			"family", rule.Base.Dst.Family, "line", rule.Line, "device", r.tun.name, "remedy", "in INPUT, match -i "+r.tun.name+" as well")
	}
}

// seen returns the ports of which packets are to be seen that are addressed to the host.
func (h *hostState) seen() *nat.PortSet {
	s := *h.interest.named
	s.Subtract(&h.ports.bound)
	for _, o := range []*nat.PortSet{&h.ports.free, h.interest.wanted, h.interest.single} {
		s.Union(o)
	}
	return &s
}

// told is what a program knows. One that takes its place knows nothing of it.
type told struct {
	program *rx.Program
	host    *rx.Host
}

// interest takes what of the host's own traffic rules may translate.
func (r *router) interest(i interest) error {
	r.mu.Lock()
	before := r.host.interest
	r.host.interest = i
	r.mu.Unlock()
	err := r.tell()
	if err != nil {
		r.mu.Lock()
		r.host.interest = before
		r.mu.Unlock()
	}
	return err
}

// tell tells the XDP programs what is the host's.
func (r *router) tell() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.mirror.Table()
	h := rx.Host{Portless: true, Addrs: ownAddrs(t)}
	h.All = len(r.host.interest.allOf(h.Addrs)) > 0
	seen := r.host.seen()
	for i := range h.Ports {
		h.Ports[i] = seen.Words(i)
	}
	for i, p := range r.e.ports {
		mine := h
		mine.MAC = t.Interfaces[i].MAC
		if err := r.tellPort(&r.host.told[i], p, &mine); err != nil {
			return err
		}
	}
	return nil
}

// ownAddrs returns the addresses that are the host's, in order.
func ownAddrs(t *route.Table) (addrs []netip.Addr) {
	for a, kind := range t.LocalAddrs {
		if kind == route.Local || kind == route.Broadcast || kind == route.Anycast {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// tellPort tells the program of a port, if it has one now: what is new since it was
// told last, and everything if that was another program.
func (r *router) tellPort(t *told, p *port, h *rx.Host) error {
	p.mu.Lock() // the program must not be closed meanwhile
	defer p.mu.Unlock()
	if p.program == nil {
		*t = told{}
		return nil
	}
	if t.program != p.program {
		*t = told{program: p.program}
	}
	if t.host != nil && sameHost(t.host, h) {
		return nil
	}
	if err := p.program.SetHost(h, t.host); err != nil {
		t.host = nil // nobody knows what it knows: all of it next time
		return err
	}
	t.host = h
	return nil
}

func sameHost(a, b *rx.Host) bool {
	for i := range a.Ports {
		if *a.Ports[i] != *b.Ports[i] {
			return false
		}
	}
	return a.MAC == b.MAC && a.Portless == b.Portless && a.All == b.All && slices.Equal(a.Addrs, b.Addrs)
}

// tun is the device by which datagrams are given to the host.
type tun struct {
	file *os.File // owns fd, and is closed when the workers have ended
	fd   int      // non-blocking
	name string
	last string // rp_filter that was set last
}

// openTUN makes it. It goes with the process.
func openTUN(nl *netlink.Handle) (*tun, error) {
	t := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "xdpct%d"}, Mode: netlink.TUNTAP_MODE_TUN,
		Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1}
	if err := nl.LinkAdd(t); err != nil {
		return nil, fmt.Errorf("making a TUN device for packets to the host (is /dev/net/tun there?): %w", err)
	}
	d := &tun{file: t.Fds[0], name: t.Attrs().Name}
	link, err := nl.LinkByName(d.name)
	if err == nil {
		err = d.descriptor()
	}
	if err == nil {
		err = errors.Join(d.set("accept_local", "1"), d.set("accept_redirects", "0"), d.deafen6(), nl.LinkSetUp(link))
	}
	if err == nil {
		// An interface without an address has no reverse path at all for the loose
		// filter. This one is nobody's (RFC 7600: the IPv4 dummy address), and no
		// source of the host's packets, being of scope host.
		err = nl.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 0, 8), Mask: net.CIDRMask(32, 32)}, Scope: unix.RT_SCOPE_HOST})
	}
	if err != nil {
		_ = d.file.Close()
		return nil, fmt.Errorf("TUN device %s: %w", d.name, err)
	}
	d.admit()
	return d, nil
}

// descriptor sets fd. os.File.Fd would make it a blocking one.
func (d *tun) descriptor() error {
	conn, err := d.file.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(conn.Control(func(fd uintptr) { d.fd = int(fd) }), unix.SetNonblock(d.fd, true))
}

func (d *tun) set(key, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", d.name, key), []byte(value), 0o644)
}

// deafen6 keeps the host from routes and addresses that what comes by the device would give
// it: it has no link with a router on it. A host without IPv6 needs nothing.
func (d *tun) deafen6() (err error) {
	for _, key := range []string{"accept_redirects", "accept_ra"} {
		if e := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", d.name, key), []byte("0"), 0o644); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// admit lets everything in that xdpct delivers: it came in by another interface, whose
// rp_filter xdpct has asked. The one in force is the larger of that of the device and
// that for all: where that is on, a strict one would drop everything, and the device's
// is made loose. It runs in the namespace.
func (d *tun) admit() {
	want := "0"
	if b, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/rp_filter"); err == nil && strings.TrimSpace(string(b)) != "0" {
		want = "2"
	}
	if want != d.last && d.set("rp_filter", want) == nil {
		d.last = want
	}
}

// inject gives a datagram to the host, unless it takes none now. Any worker may call it.
func (r *router) inject(d []byte) bool {
	// os.File.Write takes a lock, by which the workers would wait for each other.
	_, err := unix.Write(r.tun.fd, d)
	return err == nil
}
