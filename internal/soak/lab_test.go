package soak

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/perf/netlab"
)

// Addresses that do not change. The router's own on the WAN comes by DHCP, those of h1 to
// h3 for IPv6 by router advertisements.
const (
	lanIP, lanIP6 = "10.50.0.1", "2001:db8:50::1"
	labIP, labIP6 = "10.51.0.1", "2001:db8:51::1"
	vpnIP, vpnIP6 = "10.52.0.1", "2001:db8:52::1"
	h3IP          = "10.50.0.13"
	h4IP, h4IP6   = "10.51.0.2", "2001:db8:51::2"
	h5IP, h5IP6   = "10.52.0.2", "2001:db8:52::2"
	wanIP6        = "2001:db8:60::2"
	ispIP, ispIP6 = "192.0.2.1", "2001:db8:60::1"
	farIP, farIP6 = "198.51.100.2", "2001:db8:70::2"

	leftIP, leftIP6   = "10.61.0.1", "2001:db8:61::1"
	rightIP, rightIP6 = "10.61.0.2", "2001:db8:61::2"

	vpnMTU, farMTU = 1400, 1300
)

// lab is the network.
type lab struct {
	h1, h2, h3, h4, h5, guest *netlab.NS
	router, isp, far          *netlab.NS
	left, bridge, right       *netlab.NS
	all                       []*netlab.NS
	dir                       string
	leases                    *process // the DHCP server
}

// must ends the test if there is an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newLab(t *testing.T) *lab {
	l := &lab{dir: t.TempDir()}
	for _, n := range []struct {
		ns   **netlab.NS
		name string
	}{
		{&l.h1, "h1"}, {&l.h2, "h2"}, {&l.h3, "h3"}, {&l.h4, "h4"}, {&l.h5, "h5"}, {&l.guest, "guest"},
		{&l.router, "router"}, {&l.isp, "isp"}, {&l.far, "far"},
		{&l.left, "left"}, {&l.bridge, "bridge"}, {&l.right, "right"},
	} {
		ns, err := netlab.NewHost(n.name)
		must(t, err)
		t.Cleanup(ns.Close)
		*n.ns = ns
		l.all = append(l.all, ns)
	}
	l.wire(t)
	for _, ns := range l.all {
		must(t, hurry(ns))
	}
	l.gateways(t)
	l.serveAddresses(t)
	return l
}

// hurry makes neighbours doubtful after a second, so that they are probed all the time, and
// forgets path MTUs soon.
func hurry(ns *netlab.NS) error {
	return ns.Do(func() (err error) {
		for name, value := range map[string]string{
			"ipv*/neigh/*/base_reachable_time_ms": "1000", "ipv*/neigh/*/gc_stale_time": "2", "ipv*/neigh/*/delay_first_probe_time": "1",
			"ipv*/route/mtu_expires": "10",
		} {
			files, _ := filepath.Glob("/proc/sys/net/" + name)
			for _, f := range files {
				err = errors.Join(err, os.WriteFile(f, []byte(value), 0o644))
			}
			if len(files) == 0 {
				err = errors.Join(err, fmt.Errorf("no sysctl is named %s", name))
			}
		}
		return err
	})
}

// wire makes the links. Checksums and segmentation are left to them.
func (l *lab) wire(t *testing.T) {
	join := func(a, b netlab.Port) {
		a.Offload, b.Offload = true, true
		must(t, netlab.Join(a, b))
	}
	for _, k := range []string{"ipv4/conf/all", "ipv4/conf/default", "ipv6/conf/all", "ipv6/conf/default"} {
		must(t, l.router.Sysctl("net/"+k+"/accept_redirects", "0")) // as the README has it
	}
	must(t, l.router.AddBridge("lan"))
	for i, h := range []*netlab.NS{l.h1, l.h2, l.h3} {
		member := fmt.Sprint("lan", i+1)
		join(netlab.Port{NS: l.router, Name: member}, netlab.Port{NS: h, Name: "eth0", Addrs: []string{fmt.Sprintf("10.50.0.1%d/24", i+1)}})
		must(t, l.router.Enslave(member, "lan"))
	}
	must(t, l.router.Configure("lan", 0, lanIP+"/24", lanIP6+"/64"))
	join(netlab.Port{NS: l.router, Name: "lab", Queues: 2, Addrs: []string{labIP + "/24", labIP6 + "/64"}},
		netlab.Port{NS: l.h4, Name: "eth0", Queues: 2, Addrs: []string{h4IP + "/24", h4IP6 + "/64"}})
	here, err := l.router.OpenTun("vpn", netlab.TunOptions{Addrs: []string{vpnIP + "/24", vpnIP6 + "/64"}, MTU: vpnMTU})
	must(t, err)
	there, err := l.h5.OpenTun("tun0", netlab.TunOptions{Addrs: []string{h5IP + "/24", h5IP6 + "/64"}, MTU: vpnMTU})
	must(t, err)
	wait := netlab.Tunnel(here, there)
	t.Cleanup(func() { _ = here.Close(); _ = there.Close(); wait() })
	join(netlab.Port{NS: l.router, Name: "wan", Queues: 2, Addrs: []string{wanIP6 + "/64"}},
		netlab.Port{NS: l.isp, Name: "eth0", Queues: 2, Addrs: []string{ispIP + "/24", ispIP6 + "/64"}})
	join(netlab.Port{NS: l.isp, Name: "eth1", Addrs: []string{"198.51.100.1/24", "2001:db8:70::1/64"}},
		netlab.Port{NS: l.far, Name: "eth0", Addrs: []string{farIP + "/24", farIP6 + "/64"}})
	must(t, l.isp.Configure("eth1", farMTU))
	must(t, l.far.Configure("eth0", farMTU))
	must(t, l.joinSpare())
	join(netlab.Port{NS: l.bridge, Name: "a", Queues: 2}, netlab.Port{NS: l.left, Name: "eth0", Queues: 2, Addrs: []string{leftIP + "/24", leftIP6 + "/64"}})
	join(netlab.Port{NS: l.bridge, Name: "b", Queues: 2}, netlab.Port{NS: l.right, Name: "eth0", Queues: 2, Addrs: []string{rightIP + "/24", rightIP6 + "/64"}})
}

// joinSpare makes the port that comes and goes.
func (l *lab) joinSpare() error {
	return netlab.Join(netlab.Port{NS: l.router, Name: "spare", Addrs: []string{"10.59.0.1/24"}, Offload: true},
		netlab.Port{NS: l.guest, Name: "eth0", Addrs: []string{"10.59.0.2/24"}, Offload: true})
}

func (l *lab) gateways(t *testing.T) {
	for _, h := range []*netlab.NS{l.h1, l.h2, l.h3} {
		must(t, h.Gateway("", lanIP))
	}
	for _, g := range []struct {
		ns       *netlab.NS
		dst, via string
	}{
		{l.h4, "", labIP}, {l.h4, "::/0", labIP6}, {l.h5, "", vpnIP}, {l.h5, "::/0", vpnIP6},
		{l.far, "", "198.51.100.1"}, {l.far, "::/0", "2001:db8:70::1"},
		{l.isp, "2001:db8:50::/64", wanIP6}, {l.isp, "2001:db8:51::/64", wanIP6}, {l.isp, "2001:db8:52::/64", wanIP6},
		{l.router, "::/0", ispIP6},
	} {
		must(t, g.ns.Gateway(g.dst, g.via))
	}
	for _, k := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		must(t, l.isp.Sysctl(k, "1"))
	}
	// The router's kernel forwards nothing; this makes its neighbour advertisements those
	// of a router.
	for _, port := range []string{"lan", "lab"} {
		must(t, l.router.Sysctl("net/ipv6/conf/"+port+"/forwarding", "1"))
	}
}

// process is a program in a namespace.
type process struct {
	*exec.Cmd
	log  string        // file with what it printed
	done chan struct{} // closed when it has ended
}

// spawn starts a program, which ends with the test at the latest.
func (l *lab) spawn(t *testing.T, ns *netlab.NS, log, name string, args ...string) *process {
	t.Helper()
	p := &process{exec.Command(name, args...), filepath.Join(l.dir, log), make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	p.Stdout, p.Stderr = out, out
	// Not bound to the life of the thread that starts it: that ends at once.
	must(t, ns.Do(p.Start))
	_ = out.Close()
	go func() {
		_ = p.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop(unix.SIGKILL, time.Minute)
		if b, err := os.ReadFile(p.log); err == nil && t.Failed() {
			text, _, _ := strings.Cut(string(b), stacks)
			t.Logf("%s:\n%s", log, tail(text, 4000))
		}
	})
	return p
}

// stop ends the process, and reports whether it has ended in time.
func (p *process) stop(sig os.Signal, patience time.Duration) bool {
	_ = p.Process.Signal(sig)
	select {
	case <-p.done:
		return true
	case <-time.After(patience):
		return false
	}
}

// stacks is what the Go runtime prints before the stacks of all goroutines.
const stacks = "SIGQUIT: quit"

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// offerLeases starts the DHCP server of the WAN, with addresses from one range; the
// server before forgets all. Clients renew every five seconds.
func (l *lab) offerLeases(t *testing.T, from, to string) {
	if l.leases != nil && !l.leases.stop(unix.SIGTERM, 10*time.Second) {
		t.Error("the DHCP server does not end")
	}
	l.leases = l.spawn(t, l.isp, "dhcp-server", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=eth0",
		"--bind-interfaces", "--dhcp-authoritative", "--dhcp-range="+from+","+to+",2m", "--dhcp-option=58,5", "--dhcp-option=59,60", "--no-ping",
		"--dhcp-leasefile="+filepath.Join(l.dir, "leases-"+from), "--pid-file="+filepath.Join(l.dir, "dnsmasq-isp.pid"))
}

// dhclientScript does what the scripts of distributions do with a lease.
const dhclientScript = `#!/bin/sh
echo "$reason ${new_ip_address:-$old_ip_address}"
case "$reason" in
BOUND|RENEW|REBIND|REBOOT)
	[ -z "$old_ip_address" ] || [ "$old_ip_address" = "$new_ip_address" ] || ip -4 addr del "$old_ip_address/24" dev "$interface"
	ip -4 addr replace "$new_ip_address/24" dev "$interface" valid_lft "$new_dhcp_lease_time" preferred_lft "$new_dhcp_lease_time"
	for r in $new_routers; do ip -4 route replace default via "$r" dev "$interface"; done ;;
EXPIRE|FAIL|RELEASE|STOP)
	[ -z "$old_ip_address" ] || ip -4 addr del "$old_ip_address/24" dev "$interface" ;;
esac
exit 0
`

// serveAddresses starts what gives out addresses: the DHCP server and its client on the
// WAN, and router advertisements on the LAN.
func (l *lab) serveAddresses(t *testing.T) {
	l.offerLeases(t, "192.0.2.50", "192.0.2.60")
	script, conf := filepath.Join(l.dir, "script"), filepath.Join(l.dir, "dhclient.conf")
	must(t, os.WriteFile(script, []byte(dhclientScript), 0o700))
	must(t, os.WriteFile(conf, []byte("timeout 20; retry 1; initial-interval 1; backoff-cutoff 1;\n"), 0o600))
	l.spawn(t, l.router, "dhclient", "dhclient", "-d", "-4", "-cf", conf, "-sf", script,
		"-lf", filepath.Join(l.dir, "dhclient.leases"), "-pf", filepath.Join(l.dir, "dhclient.pid"), "wan")
	l.spawn(t, l.router, "advertisements", "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=lan",
		"--bind-interfaces", "--enable-ra", "--dhcp-range=2001:db8:50::,ra-only,64,10m", "--ra-param=lan,4,60",
		"--dhcp-leasefile="+filepath.Join(l.dir, "leases-lan"), "--pid-file="+filepath.Join(l.dir, "dnsmasq-lan.pid"))
}

// addr returns an address of a link that is not link-local and may be used, or none.
func addr(ns *netlab.NS, link string, family int) (a netip.Addr) {
	l, err := ns.Link(link)
	if err != nil {
		return a
	}
	list, err := ns.Netlink().AddrList(l, family)
	if err != nil {
		return a
	}
	for _, e := range list {
		if e.IP.IsLinkLocalUnicast() || e.Flags&unix.IFA_F_TENTATIVE != 0 {
			continue
		}
		a, _ = netip.AddrFromSlice(e.IP)
		return a.Unmap()
	}
	return a
}

// wanAddr is the router's IPv4 address on the WAN, if it has one.
func (l *lab) wanAddr() netip.Addr { return addr(l.router, "wan", netlink.FAMILY_V4) }

// h3Addr6 is the IPv6 address that h3 has found.
func (l *lab) h3Addr6() netip.Addr { return addr(l.h3, "eth0", netlink.FAMILY_V6) }

// configured6 reports whether a host has learned an address and a router.
func configured6(ns *netlab.NS) bool {
	if !addr(ns, "eth0", netlink.FAMILY_V6).IsValid() {
		return false
	}
	routes, err := ns.Netlink().RouteList(nil, netlink.FAMILY_V6)
	for _, r := range routes {
		if err == nil && (r.Dst == nil || r.Dst.IP.IsUnspecified()) && r.Gw != nil {
			return true
		}
	}
	return false
}

// await waits until something is so.
func await(t testing.TB, patience time.Duration, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// counters are what a namespace counts of its losses.
type counters struct {
	dropped     int // by its devices
	udpOverflow int // no room at a socket
	tcpResent   int
	tcpInVain   int // resent although it had arrived (DSACK, RFC 2883)
}

// counted reads the counters of a namespace.
func counted(ns *netlab.NS) (c counters, err error) {
	dev, err := ns.ReadFile("/proc/net/dev")
	if err != nil {
		return c, err
	}
	for line := range strings.SplitSeq(string(dev), "\n") {
		var n [16]int
		if _, rest, ok := strings.Cut(line, ":"); ok {
			for i, f := range strings.Fields(rest) {
				_, _ = fmt.Sscan(f, &n[i])
			}
		}
		c.dropped += n[3] + n[11]
	}
	snmp, err := ns.ReadFile("/proc/net/snmp")
	if err != nil {
		return c, err
	}
	c.udpOverflow, c.tcpResent = snmpValue(string(snmp), "Udp", "RcvbufErrors"), snmpValue(string(snmp), "Tcp", "RetransSegs")
	netstat, err := ns.ReadFile("/proc/net/netstat")
	if err != nil {
		return c, err
	}
	c.tcpInVain = snmpValue(string(netstat), "TcpExt", "TCPDSACKRecvSegs")
	snmp6, err := ns.ReadFile("/proc/net/snmp6")
	for line := range strings.SplitSeq(string(snmp6), "\n") {
		var n int
		if f := strings.Fields(line); len(f) == 2 && f[0] == "Udp6RcvbufErrors" {
			_, _ = fmt.Sscan(f[1], &n)
			c.udpOverflow += n
		}
	}
	return c, err
}

// snmpValue returns a counter of /proc/net/snmp, which has a line of names and one of
// numbers for each protocol.
func snmpValue(text, proto, name string) (n int) {
	var names []string
	for line := range strings.SplitSeq(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != proto+":" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		for i := range names {
			if names[i] == name && i < len(f) {
				_, _ = fmt.Sscan(f[i], &n)
			}
		}
	}
	return n
}

// hostport joins an address and a port.
func hostport(a string, port int) string { return net.JoinHostPort(a, fmt.Sprint(port)) }
