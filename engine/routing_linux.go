package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/mirror"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/shard"
)

// router is what mode router has besides rules: the mirror of the kernel's routing
// state, and what it shares with the host.
type router struct {
	e      *Engine
	mirror *mirror.Mirror
	nl     *netlink.Handle
	tun    *tun
	opened chan struct{} // a port has a new XDP program

	mu   sync.Mutex // guards host; what it tells the XDP programs is told under it
	host hostState
}

// openRouter reads the kernel's state. It refuses if that cannot be followed.
func (e *Engine) openRouter() (r *router, err error) {
	r = &router{e: e, opened: make(chan struct{}, 1)}
	r.host = hostState{interest: interestOf(Rules{}), told: make([]told, len(e.ports))}
	cfg := mirror.Config{Log: e.log, InNamespace: e.inNamespace, MaxInterfaces: policy.MaxInterfaces}
	for _, p := range e.ports {
		cfg.Ports = append(cfg.Ports, mirror.Port{Name: p.ifi.Name, Index: p.ifi.Index})
	}
	if r.mirror, err = mirror.Open(cfg); err != nil {
		return r, err
	}
	err = e.inNamespace(func() (err error) {
		if r.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("opening netlink: %w", err)
		}
		if r.host.ports, err = r.hostPorts(); err != nil {
			return err
		}
		r.host.mappings = nat.NewHostPorts(&r.host.ports.free, &r.host.ports.bound)
		r.warn()
		if r.tun, err = openTUN(r.nl); err != nil {
			return err
		}
		e.log.Warn("fragments and protocols without ports that are for the host come in by another device: rules of the host that match the interface of a port do not see them",
			"device", r.tun.name, "remedy", "in INPUT, match -i "+r.tun.name+" as well")
		return nil
	})
	return r, err
}

func (r *router) close() (err error) {
	if r.mirror != nil {
		err = r.mirror.Close()
	}
	if r.nl != nil {
		r.nl.Close()
	}
	if r.tun != nil {
		err = errors.Join(err, r.tun.file.Close())
	}
	return err
}

// warn says what of the host's settings does not go with a router. It runs in the
// namespace.
func (r *router) warn() {
	for _, k := range []struct{ name, remedy string }{
		{"net.ipv4.ip_forward", "sysctl -w net.ipv4.ip_forward=0"},
		// For one interface it forwards nothing, and keeps the host's neighbour
		// advertisements those of a router (RFC 4861 section 7.2.5).
		{"net.ipv6.conf.all.forwarding", "sysctl -w net.ipv6.conf.all.forwarding=0, and then net.ipv6.conf.IFACE.forwarding=1 for each interface with IPv6 hosts"},
	} {
		if switchedOn(k.name) {
			r.e.log.Warn("the kernel forwards packets, too: what does not pass xdpct passes no rules of its", "sysctl", k.name, "remedy", k.remedy)
		}
	}
	for _, p := range r.e.ports {
		for _, remedy := range redirectsHeeded(p.ifi.Name, switchedOn) {
			r.e.log.Warn("the host heeds ICMP redirects: whoever is on the link of a port may say where what the host sends goes", "port", p.ifi.Name, "remedy", remedy)
		}
	}
}

// switchedOn reports whether a sysctl is there and not 0. A dot in the name of an interface
// is a slash in that of the sysctl, as sysctl(8) has it.
func switchedOn(name string) bool {
	b, err := os.ReadFile("/proc/sys/" + strings.Map(func(c rune) rune {
		switch c {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return c
	}, name))
	return err == nil && len(b) > 0 && b[0] != '0'
}

// redirectsHeeded returns what to do so that the host heeds no ICMP redirects that come by an
// interface, nothing if it heeds none. A host that does not forward by an interface heeds
// them if either sysctl says so, one that does if both do (IN_DEV_RX_REDIRECTS); with IPv6
// only what forwards nothing heeds any (rt6_do_redirect).
func redirectsHeeded(ifname string, on func(sysctl string) bool) (remedies []string) {
	name := strings.ReplaceAll(ifname, ".", "/")
	v4, v6 := "net.ipv4.conf."+name+".", "net.ipv6.conf."+name+"."
	const all = "net.ipv4.conf.all.accept_redirects"
	one := v4 + "accept_redirects"
	if a, o := on(all), on(one); a && o || (a || o) && !on(v4+"forwarding") {
		remedies = append(remedies, "sysctl -w "+all+"=0 "+one+"=0")
	}
	if one := v6 + "accept_redirects"; on(one) && !on(v6+"forwarding") {
		remedies = append(remedies, "sysctl -w "+one+"=0")
	}
	return remedies
}

// names returns the names of the interfaces of a Table.
func names(t *route.Table) (names []string) {
	for _, i := range t.Interfaces {
		names = append(names, i.Name)
	}
	return names
}

// portOpened says that a port has a new XDP program, which knows nothing of the host.
// It never blocks.
func (r *router) portOpened() {
	select {
	case r.opened <- struct{}{}:
	default:
	}
}

// follow gives the workers and the XDP programs what the mirror and the host have,
// until the engine stops.
func (r *router) follow() {
	e := r.e
	look := time.NewTimer(time.Second)
	defer look.Stop()
	for {
		var err error
		select {
		case <-e.stopping:
			return
		case <-r.mirror.Changed():
			err = r.adopt()
		case <-r.opened:
			err = r.tell()
		case <-look.C:
			began := time.Now()
			err = r.poll()
			look.Reset(pollPause(time.Since(began)))
		}
		if err != nil && !errors.Is(err, errStopped) {
			e.say("following the kernel's routes", err)
		}
	}
}

// pollPause is how long the ports of the host's sockets are not looked at after that took so
// long: a second, and longer on a host with so many sockets that it would take more than a
// twentieth of a CPU.
func pollPause(took time.Duration) time.Duration { return max(time.Second, 19*took) }

// adopt puts the newest Table into force. If interfaces have new names the rules are
// compiled for them.
func (r *router) adopt() error {
	e := r.e
	t := r.mirror.Table()
	old, err := e.setRoutes(t)
	if err != nil {
		return err
	}
	if old == nil || !slices.Equal(names(old), names(t)) {
		e.helpers.Go(e.recompileForNames)
	}
	return errors.Join(r.tell(), r.forget(old, t))
}

// poll looks at what nobody tells of: ports that the host's programs use.
func (r *router) poll() error {
	var ports *hostPorts
	err := r.e.inNamespace(func() (err error) {
		r.tun.admit()
		ports, err = r.hostPorts()
		return err
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	if *ports == *r.host.ports {
		r.mu.Unlock()
		return nil
	}
	mappings := nat.NewHostPorts(&ports.free, &ports.bound)
	r.host.ports, r.host.mappings = ports, mappings
	r.mu.Unlock()
	if err := r.e.setPorts(mappings); err != nil {
		return err
	}
	return r.tell()
}

// forget removes connections that are masqueraded with an address that is gone, or
// leave by an interface that is down (nf_nat_masquerade's notifiers).
func (r *router) forget(old, now *route.Table) error {
	if old == nil {
		return nil
	}
	had := map[netip.Addr]bool{}
	for a := range old.LocalAddrs {
		had[a] = true
	}
	for a := range now.LocalAddrs {
		delete(had, a)
	}
	down := map[int]bool{}
	for n := range min(len(old.Interfaces), len(now.Interfaces)) {
		if a, b := &old.Interfaces[n], &now.Interfaces[n]; a.Up && (!b.Up || a.Index != b.Index) {
			down[n] = true
		}
	}
	if len(had) == 0 && len(down) == 0 {
		return nil
	}
	return r.e.walk(context.Background(), func(s *shard.Shard, entry uint32, c *flow.Conn) bool {
		out, addr, ok := s.Masqueraded(entry)
		return ok && (down[out] || had[addr.Netip(c.Key.L4.Family())])
	}, func() error { return nil })
}
