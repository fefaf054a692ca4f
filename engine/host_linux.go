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
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/rx"
)

// freePorts returns the ports of the host's own addresses that translation may use:
// those that are configured, or all from 1024 on but for what the host picks from by
// itself (ip_local_port_range); and in any case none that somebody listens on.
func (r *router) freePorts() (*nat.PortSet, error) {
	s := &nat.PortSet{}
	ranges := r.e.cfg.NATPorts
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
	for _, g := range ranges {
		s.Add(g.Lo, g.Hi)
	}
	for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
		tcp, err := r.nl.SocketDiagTCP(f)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("listing sockets: %w", err)
		}
		for _, k := range tcp {
			if k.State == netlink.TCP_LISTEN {
				s.Remove(flow.TCP, k.ID.SourcePort)
			}
		}
		udp, err := r.nl.SocketDiagUDP(f)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("listing sockets: %w", err)
		}
		for _, k := range udp {
			s.Remove(flow.UDP, k.ID.SourcePort)
		}
	}
	return s, nil
}

// hostState is what the XDP programs are told of the host.
type hostState struct {
	free    *nat.PortSet // of the host's own addresses: ports that translation may use
	wanted  *nat.PortSet // those that rules translate although they are the host's
	wantAll bool
	told    []told // by port
}

// told is what a program knows. One that takes its place knows nothing of it.
type told struct {
	program *rx.Program
	host    *rx.Host
}

// interest takes what of the host's own traffic rules may translate.
func (r *router) interest(ports *nat.PortSet, all bool) error {
	r.mu.Lock()
	before, beforeAll := r.host.wanted, r.host.wantAll
	r.host.wanted, r.host.wantAll = ports, all
	r.mu.Unlock()
	err := r.tell()
	if err != nil {
		r.mu.Lock()
		r.host.wanted, r.host.wantAll = before, beforeAll
		r.mu.Unlock()
	}
	return err
}

// tell tells the XDP programs what is the host's.
func (r *router) tell() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.mirror.Table()
	h := rx.Host{Portless: true, All: r.host.wantAll}
	for a, kind := range t.LocalAddrs {
		if kind == route.Local || kind == route.Broadcast || kind == route.Anycast {
			h.Addrs = append(h.Addrs, a)
		}
	}
	slices.SortFunc(h.Addrs, netip.Addr.Compare)
	for i := range h.Ports {
		words := *r.host.free.Words(i)
		for k, w := range r.host.wanted.Words(i) {
			words[k] |= w
		}
		h.Ports[i] = &words
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
	file *os.File
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
		err = errors.Join(d.set("accept_local", "1"), nl.LinkSetUp(link))
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

func (d *tun) set(key, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", d.name, key), []byte(value), 0o644)
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

// inject gives a datagram to the host.
func (r *router) inject(d []byte) bool {
	_, err := r.tun.file.Write(d)
	return err == nil
}
