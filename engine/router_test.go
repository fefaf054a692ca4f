package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/rx"
)

// site is a router of xdpct between a LAN and a WAN, each with a host that has a real
// stack, and behind the WAN's host, over a link with a small MTU, another.
//
//	client ── lan [router] wan ── server ── far
type site struct {
	client, router, server, far *netlab.NS
	e                           *Engine
	rules                       string // the file of rules for IPv4
	log                         *logText
}

// logText holds what an engine logs.
type logText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// String returns what was logged so far.
func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const (
	clientIP, lanIP  = "10.50.0.2", "10.50.0.1"
	serverIP, wanIP  = "192.0.2.2", "192.0.2.1"
	farIP            = "198.51.100.2"
	client6, lan6    = "2001:db8:50::2", "2001:db8:50::1"
	server6, wan6    = "2001:db8:60::2", "2001:db8:60::1"
	far6             = "2001:db8:70::2"
	masqueradeRules4 = `*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.50.0.2:80
-A POSTROUTING -s 10.50.0.0/24 -o wan -j MASQUERADE
-A POSTROUTING -s 10.50.0.0/24 -d 10.50.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i lan -j ACCEPT
-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT
COMMIT
`
)

func newSite(t *testing.T, rules4, rules6 string, change func(*Config)) *site {
	t.Helper()
	return newSiteOf(t, 1, rules4, rules6, change)
}

// newSiteOf is newSite with so many queues a port, and shards.
func newSiteOf(t *testing.T, queues int, rules4, rules6 string, change func(*Config)) *site {
	t.Helper()
	testenv.Root(t)
	s := &site{}
	for _, n := range []struct {
		ns   **netlab.NS
		name string
	}{{&s.client, "client"}, {&s.router, "router"}, {&s.server, "server"}, {&s.far, "far"}} {
		ns, err := netlab.NewNS(n.name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ns.Close)
		*n.ns = ns
	}
	join := func(a, b netlab.Port) {
		if err := netlab.Join(a, b); err != nil {
			t.Fatal(err)
		}
	}
	join(netlab.Port{NS: s.router, Name: "lan", Queues: queues, Addrs: []string{lanIP + "/24", lan6 + "/64"}, Offload: true},
		netlab.Port{NS: s.client, Name: "eth0", Addrs: []string{clientIP + "/24", client6 + "/64"}, Offload: true})
	join(netlab.Port{NS: s.router, Name: "wan", Queues: queues, Addrs: []string{wanIP + "/24", wan6 + "/64"}, Offload: true},
		netlab.Port{NS: s.server, Name: "eth0", Addrs: []string{serverIP + "/24", server6 + "/64"}, Offload: true})
	join(netlab.Port{NS: s.server, Name: "eth1", Addrs: []string{"198.51.100.1/24", "2001:db8:70::1/64"}, Offload: true},
		netlab.Port{NS: s.far, Name: "eth0", Addrs: []string{farIP + "/24", far6 + "/64"}, Offload: true})
	for _, k := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := s.server.Sysctl(k, "1"); err != nil { // the router's kernel forwards nothing: xdpct does
			t.Fatal(err)
		}
	}
	gateway := func(ns *netlab.NS, dst, via string) {
		r := &netlink.Route{Gw: net.ParseIP(via)}
		if dst != "" {
			_, r.Dst, _ = net.ParseCIDR(dst)
		}
		if err := ns.Netlink().RouteAdd(r); err != nil {
			t.Fatalf("route to %s via %s in %s: %v", dst, via, ns.Name, err)
		}
	}
	gateway(s.client, "", lanIP)
	gateway(s.client, "::/0", lan6)
	gateway(s.router, "198.51.100.0/24", serverIP)
	gateway(s.router, "2001:db8:70::/64", server6)
	gateway(s.server, "2001:db8:50::/64", wan6)
	gateway(s.far, "", "198.51.100.1")
	gateway(s.far, "::/0", "2001:db8:70::1")

	dir := t.TempDir()
	cfg := DefaultConfig()
	cfg.Mode, cfg.Ports = Router, []PortConfig{{Interface: "lan"}, {Interface: "wan"}}
	cfg.Settings.Max = 10000
	write := func(name, text string) string {
		if text == "" {
			return ""
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg.Rules = RuleFiles{write("rules.v4", rules4), write("rules.v6", rules6)}
	s.rules = cfg.Rules.IPv4
	if change != nil {
		change(&cfg)
	}
	s.log = &logText{}
	var out io.Writer = s.log
	if testing.Verbose() {
		out = io.MultiWriter(s.log, os.Stderr)
	}
	log := slog.NewTextHandler(out, nil)
	var err error
	if err2 := s.router.Do(func() error {
		s.e, err = Open(cfg, slog.New(log))
		return nil
	}); errors.Join(err, err2) != nil {
		t.Fatal(errors.Join(err, err2))
	}
	s.e.Start()
	t.Cleanup(func() {
		if err := s.e.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// serveTCP listens in a namespace and echoes, for each connection, the address that it
// came from and then all that it gets.
func serveTCP(t *testing.T, ns *netlab.NS, addr string) {
	t.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%s\n", c.RemoteAddr())
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// dial connects from a namespace and returns the connection and the address that the
// server says that it came from.
func dial(t *testing.T, ns *netlab.NS, addr string) (c net.Conn, seen string) {
	t.Helper()
	if err := ns.Do(func() (err error) { c, err = net.DialTimeout("tcp", addr, testenv.Patience); return err }); err != nil {
		t.Fatalf("from %s to %s: %v", ns.Name, addr, err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(testenv.Deadline())
	var b [1]byte
	for b[0] != '\n' {
		if _, err := io.ReadFull(c, b[:]); err != nil {
			t.Fatalf("from %s to %s: %v", ns.Name, addr, err)
		}
		seen += string(b[:])
	}
	return c, strings.TrimSpace(seen)
}

// echo sends n bytes and expects them back.
func echo(t *testing.T, c net.Conn, n int) {
	t.Helper()
	out := bytes.Repeat([]byte("xdpct routes. "), n/14+1)[:n]
	go func() { _, _ = c.Write(out) }()
	in := make([]byte, n)
	if _, err := io.ReadFull(c, in); err != nil {
		t.Fatalf("echo of %d bytes: %v", n, err)
	}
	if !bytes.Equal(in, out) {
		t.Fatal("the echo is not what was sent")
	}
}

func host(t *testing.T, hostPort string) netip.Addr {
	t.Helper()
	a, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		t.Fatal(err)
	}
	return a.Addr()
}

// TestRouterMasquerades downloads through the router, over IPv4 translated and over
// IPv6 as it is, with real stacks and all of their offloads.
func TestRouterMasquerades(t *testing.T) {
	eachDriver(t, testMasquerade)
}

func testMasquerade(t *testing.T, d rx.Driver) {
	s := newSite(t, masqueradeRules4, "", func(c *Config) { c.Driver = d })
	serveTCP(t, s.server, serverIP+":80")
	serveTCP(t, s.server, "["+server6+"]:80")
	c, seen := dial(t, s.client, serverIP+":80")
	if a := host(t, seen); a.String() != wanIP {
		t.Errorf("the server saw %s, not the router's %s", seen, wanIP)
	}
	echo(t, c, 4<<20)
	c6, seen := dial(t, s.client, "["+server6+"]:80")
	if a := host(t, seen); a.String() != client6 {
		t.Errorf("the server saw %s, not %s", seen, client6)
	}
	echo(t, c6, 4<<20)

	var flows []string
	if err := s.e.List(context.Background(), flow.Filter{}, func(r *flow.Record) error {
		flows = append(flows, fmt.Sprint(r.Orig, r.Reply, r.Status))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(flows) != 2 {
		t.Errorf("%d connections, not 2: %v", len(flows), flows)
	}
}

// TestRouterForwardsPorts reaches a server in the LAN by the router's own address,
// from outside and from the LAN itself (hairpin).
func TestRouterForwardsPorts(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	serveTCP(t, s.client, clientIP+":80")
	c, seen := dial(t, s.server, wanIP+":8080")
	if a := host(t, seen); a.String() != serverIP {
		t.Errorf("the server saw %s, not %s", seen, serverIP)
	}
	echo(t, c, 1<<20)
	c, seen = dial(t, s.client, wanIP+":8080")
	if a := host(t, seen); a.String() != lanIP {
		t.Errorf("by hairpin the server saw %s, not the router's %s", seen, lanIP)
	}
	echo(t, c, 1<<20)
}

// TestRouterHostStaysReachable talks to the router itself, from both sides, and lets
// it talk: on ports that translation could use, and on others.
func TestRouterHostStaysReachable(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	for _, addr := range []string{wanIP + ":22", wanIP + ":1405", "[" + lan6 + "]:22"} {
		serveTCP(t, s.router, addr)
	}
	s.knowsSocket(t, flow.TCP, 22)
	s.knowsSocket(t, flow.TCP, 1405)
	serveTCP(t, s.server, serverIP+":80")
	for _, try := range []struct {
		ns   *netlab.NS
		addr string
	}{{s.server, wanIP + ":22"}, {s.server, wanIP + ":1405"}, {s.client, wanIP + ":22"}, {s.client, "[" + lan6 + "]:22"}, {s.router, serverIP + ":80"}} {
		c, _ := dial(t, try.ns, try.addr)
		echo(t, c, 100_000)
	}
}

// TestRouterWinsItsPorts is the kernel's test_port_shadow (CVE-2021-3773): a client
// that sends from the port of a service of the router does not capture what others
// send to that service.
func TestRouterWinsItsPorts(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	listen := func(ns *netlab.NS, addr string) net.PacketConn {
		var c net.PacketConn
		if err := ns.Do(func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(testenv.Deadline())
		return c
	}
	router := listen(s.router, wanIP+":1405")
	attacker := listen(s.client, clientIP+":1405")
	outside := listen(s.server, serverIP+":41404")
	s.knowsSocket(t, flow.UDP, 1405)
	b := make([]byte, 100)
	var from net.Addr
	testenv.Until(t, "a datagram comes to the outside", func() bool { // a busy machine may lose one
		if _, err := attacker.WriteTo([]byte("shadow"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(serverIP+":41404"))); err != nil {
			t.Fatal(err)
		}
		_ = outside.SetDeadline(time.Now().Add(time.Second))
		_, from, _ = outside.ReadFrom(b)
		return from != nil
	})
	_ = outside.SetDeadline(testenv.Deadline())
	if from.String() == wanIP+":1405" {
		t.Error("the client was mapped to the port that the router listens on")
	}
	if _, err := outside.WriteTo([]byte("for the router"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(wanIP+":1405"))); err != nil {
		t.Fatal(err)
	}
	n, _, err := router.ReadFrom(b)
	if err != nil || string(b[:n]) != "for the router" {
		t.Fatalf("the router got %q, %v: ROUTER was to win", b[:n], err)
	}
}

// TestRouterPing pings and traces the path, by both families, through translation.
func TestRouterPing(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	for _, v := range []struct {
		name, network, listen, to, first string
		hops                             int
	}{
		{"IPv4", "ip4:icmp", "0.0.0.0", farIP, lanIP, 3},
		{"IPv6", "ip6:ipv6-icmp", "::", far6, lan6, 3},
	} {
		t.Run(v.name, func(t *testing.T) {
			var c *icmp.PacketConn
			if err := s.client.Do(func() (err error) { c, err = icmp.ListenPacket(v.network, v.listen); return err }); err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			to := &net.IPAddr{IP: net.ParseIP(v.to)}
			var path []string
			for ttl := 1; ttl <= v.hops; ttl++ {
				path = append(path, ping(t, c, to, ttl))
			}
			if path[0] != v.first || path[len(path)-1] != v.to {
				t.Errorf("the path is %v", path)
			}
		})
	}
}

// ping sends an echo request with a TTL and returns who answers.
func ping(t *testing.T, c *icmp.PacketConn, to *net.IPAddr, ttl int) string {
	t.Helper()
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 4242, Seq: ttl, Data: []byte("ping")}}
	if p := c.IPv4PacketConn(); p != nil && to.IP.To4() != nil {
		_ = p.SetTTL(ttl)
	} else {
		m.Type = ipv6.ICMPTypeEchoRequest
		_ = c.IPv6PacketConn().SetHopLimit(ttl)
	}
	b, _ := m.Marshal(nil)
	for deadline := testenv.Deadline(); time.Now().Before(deadline); {
		if _, err := c.WriteTo(b, to); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		in := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(in)
			if err != nil {
				break
			}
			if n > 0 && (in[0] == 0 || in[0] == 11 || in[0] == 129 || in[0] == 3 && to.IP.To4() == nil) {
				return from.String()
			}
		}
	}
	t.Fatalf("nobody answers a ping to %v with TTL %d", to, ttl)
	return ""
}

// TestRouterPathMTU downloads over a link beyond the router that takes 1280 bytes: the
// router brings the ICMP errors of the one there to the client, translated.
func TestRouterPathMTU(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	for _, end := range []struct {
		ns   *netlab.NS
		name string
	}{{s.server, "eth1"}, {s.far, "eth0"}} {
		link, err := end.ns.Link(end.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := end.ns.Netlink().LinkSetMTU(link, 1280); err != nil {
			t.Fatal(err)
		}
	}
	for _, addr := range []string{farIP + ":80", "[" + far6 + "]:80"} {
		serveTCP(t, s.far, addr)
		c, _ := dial(t, s.client, addr)
		echo(t, c, 1<<20)
	}
}

// TestReloadDuringTransfer reads the rules again and again while a download goes on:
// it survives what allows it, and ends with what forbids it. A broken file changes
// nothing.
func TestReloadDuringTransfer(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	serveTCP(t, s.server, serverIP+":80")
	c, _ := dial(t, s.client, serverIP+":80")
	stop := make(chan struct{})
	var reloads sync.WaitGroup
	reloads.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond): // the rate
			}
			text := masqueradeRules4
			if i%3 == 1 {
				text = strings.Replace(text, "-i lan -j", "-i lan -m nonsense -j", 1)
			}
			if err := os.WriteFile(s.rules, []byte(text), 0o600); err != nil {
				t.Error(err)
			}
			if err := s.e.Reload(); (err != nil) != (i%3 == 1) {
				t.Errorf("reload %d: %v", i, err)
			} else if err != nil && !strings.Contains(err.Error(), `:9:22: "nonsense"`) && !strings.Contains(err.Error(), `"nonsense"`) {
				t.Errorf("the error does not name the token: %v", err)
			}
		}
	})
	for range 8 {
		echo(t, c, 1<<20)
	}
	close(stop)
	reloads.Wait()
	if err := os.WriteFile(s.rules, []byte("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.e.Reload(); err != nil {
		t.Fatal(err)
	}
	dropped := func() uint64 {
		st, err := s.e.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return st.Total().Reasons[flow.ReasonRule]
	}
	before := dropped()
	if _, err := c.Write([]byte("still there?")); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "the segment is dropped, and sent again", func() bool { return dropped() >= before+2 })
	if n := testenv.Pending(t, c.(*net.TCPConn)); n > 0 {
		t.Errorf("%d bytes came through rules that drop everything", n)
	}
}
