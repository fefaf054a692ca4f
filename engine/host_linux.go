package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
func (m *mirror) interest(ports *nat.PortSet, all bool) error {
	before, beforeAll := m.wanted, m.wantAll
	m.wanted, m.wantAll = ports, all
	if err := m.tell(); err != nil {
		m.wanted, m.wantAll = before, beforeAll
		return err
	}
	return nil
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
