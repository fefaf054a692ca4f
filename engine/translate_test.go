package engine

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// dialFrom connects from a namespace and from an address and a port.
func dialFrom(t *testing.T, ns *netlab.NS, network, local, addr string) net.Conn {
	t.Helper()
	d := net.Dialer{Timeout: testenv.Patience}
	if network == "tcp" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(local))
	} else {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(local))
	}
	var c net.Conn
	if err := ns.Do(func() (err error) { c, err = d.Dial(network, addr); return err }); err != nil {
		t.Fatalf("from %s to %s: %v", local, addr, err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(testenv.Deadline())
	return c
}

// tellPeers answers each datagram with the address that it came from.
func tellPeers(t *testing.T, ns *netlab.NS, network, addr string) {
	t.Helper()
	var c net.PacketConn
	if err := ns.Do(func() (err error) { c, err = net.ListenPacket(network, addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(from.String()), from)
		}
	}()
}

// ask sends a datagram until it is answered, and returns the answer.
func ask(t *testing.T, c net.Conn) string {
	t.Helper()
	b := make([]byte, 2048)
	n := 0
	testenv.Until(t, fmt.Sprintf("an answer from %v to %v", c.RemoteAddr(), c.LocalAddr()), func() bool {
		if _, err := c.Write([]byte("who am I?")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)) // a busy machine may lose some
		var err error
		n, err = c.Read(b)
		return err == nil
	})
	return string(b[:n])
}

// TestRouterKeepsPorts: with one, two and four shards, ports are kept where the host
// does not have them, those below 1024 among them; DNAT leaves source ports alone; and
// protocols without ports find their way between every pair of addresses (F4, F9, F50).
func TestRouterKeepsPorts(t *testing.T) {
	for _, shards := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(shards), func(t *testing.T) {
			s := newSiteOf(t, shards, masqueradeRules4, "", nil)
			serveTCP(t, s.client, clientIP+":80")
			tellPeers(t, s.server, "udp", serverIP+":53")
			for _, port := range []int{123, 500, 1023, 1024, 20001, 20002, 20003, 20004, 20005, 20006, 32767, 61000} {
				c := dialFrom(t, s.client, "udp", fmt.Sprintf("%s:%d", clientIP, port), serverIP+":53")
				if got, want := ask(t, c), fmt.Sprintf("%s:%d", wanIP, port); got != want {
					t.Errorf("port %d leaves as %s", port, got)
				}
			}
			for port := 30000; port < 30012; port++ {
				local := fmt.Sprintf("%s:%d", serverIP, port)
				c := dialFrom(t, s.server, "tcp", local, wanIP+":8080")
				seen := make([]byte, len(local))
				if _, err := c.Read(seen); err != nil || string(seen) != local {
					t.Errorf("DNAT: the client sees %s as %q (%v)", local, seen, err)
				}
			}
			link, err := s.server.Link("eth0")
			if err != nil {
				t.Fatal(err)
			}
			for n := range 24 {
				addr := fmt.Sprintf("192.0.2.%d", 100+n)
				a, _ := netlink.ParseAddr(addr + "/24")
				if err := s.server.Netlink().AddrAdd(link, a); err != nil {
					t.Fatal(err)
				}
				tellPeers(t, s.server, "ip4:99", addr)
				var c net.Conn
				if err := s.client.Do(func() (err error) { c, err = net.Dial("ip4:99", addr); return err }); err != nil {
					t.Fatal(err)
				}
				if got := ask(t, c); !strings.HasSuffix(got, wanIP) { // behind its IP header
					t.Errorf("protocol 99 to %s comes from %s", addr, got)
				}
				c.Close()
			}
		})
	}
}

// TestRouterForgetsAndKeepsPort: an operator deletes the connections of a live TCP
// connection, whose port was changed, and it goes on (F8).
func TestRouterForgetsAndKeepsPort(t *testing.T) {
	for _, shards := range []int{1, 2} {
		s := newSiteOf(t, shards, masqueradeRules4, "", nil)
		serveTCP(t, s.server, serverIP+":80")
		for port := 40000; port < 40008; port++ { // of the host's own range: they are changed
			c := dialFrom(t, s.client, "tcp", fmt.Sprintf("%s:%d", clientIP, port), serverIP+":80")
			b := make([]byte, 100)
			if _, err := c.Read(b); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				echo(t, c, 1000)
				if _, err := s.e.Flush(context.Background(), flow.Filter{}); err != nil {
					t.Fatal(err)
				}
			}
			echo(t, c, 1000)
		}
	}
}

// TestAddressesOfRules: with two shards, rules are loaded that map to other addresses and
// back. Connections live on, and tuples are claimed of the addresses that rules map to,
// and of those that connections still have.
func TestAddressesOfRules(t *testing.T) {
	s := newSiteOf(t, 2, masqueradeRules4, "", nil)
	_, pool, _ := net.ParseCIDR("192.0.2.48/28")
	if err := s.server.Netlink().RouteAdd(&netlink.Route{Gw: net.ParseIP(wanIP), Dst: pool}); err != nil {
		t.Fatal(err)
	}
	serveTCP(t, s.server, serverIP+":80")
	load := func(rules string) {
		t.Helper()
		if err := s.e.LoadRules(strings.NewReader(rules), "rules", flow.IPv4); err != nil {
			t.Fatal(err)
		}
	}
	concerns := func(addr string) bool {
		return s.e.shared.Directory.Filter().Has(flow.AddrFrom(netip.MustParseAddr(addr)))
	}
	toPool := "*nat\n-A POSTROUTING -o wan -j SNAT --to-source 192.0.2.50-192.0.2.52\nCOMMIT\n"
	var live []net.Conn
	for round := range 3 {
		for _, rules := range []string{masqueradeRules4, toPool} {
			load(rules)
			for range 6 {
				c, seen := dial(t, s.client, serverIP+":80")
				if mapped := host(t, seen).String(); (mapped == wanIP) != (rules == masqueradeRules4) {
					t.Fatalf("round %d: it comes from %s", round, seen)
				}
				live = append(live, c)
			}
			for _, c := range live {
				echo(t, c, 500)
			}
			if !concerns(wanIP) || concerns("192.0.2.51") != (round > 0 || rules == toPool) {
				t.Errorf("round %d: the directory is concerned with %s: %v, with the pool: %v", round, wanIP, concerns(wanIP), concerns("192.0.2.51"))
			}
		}
	}
	if n := s.e.shared.Directory.Stats().Claims; n < len(live) {
		t.Errorf("%d claims for %d connections", n, len(live))
	}
	for _, c := range live {
		c.Close()
	}
	load(masqueradeRules4)
	for {
		if _, err := s.e.Flush(context.Background(), flow.Filter{}); err != nil {
			t.Fatal(err)
		}
		if n, _ := s.e.Count(context.Background()); n == 0 {
			break
		}
	}
	if n := s.e.shared.Directory.Stats().Claims; n != 0 {
		t.Errorf("%d claims are left", n)
	}
	load("*nat\nCOMMIT\n")
	if concerns(wanIP) || concerns("192.0.2.51") {
		t.Error("the directory is concerned with addresses that nothing is mapped to")
	}
}

// TestCreateTranslated: with two shards a connection that is translated can be made of
// any tuples, also of addresses that no rule maps to, and is found by both.
func TestCreateTranslated(t *testing.T) {
	s := newSiteOf(t, 2, masqueradeRules4, "", nil)
	ctx := context.Background()
	for port := range uint16(16) {
		orig := flow.Tuple{Src: flow.AddrFrom(netip.MustParseAddr(clientIP)), Dst: flow.AddrFrom(netip.MustParseAddr(serverIP)),
			L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, 5000+port, 53)}
		reply, _ := orig.Invert()
		reply.Dst = flow.AddrFrom(netip.MustParseAddr("203.0.113.7"))
		reply.L4 = flow.MakeL4(flow.IPv4, flow.UDP, 0, 53, 6000+port)
		if err := s.e.Create(ctx, flow.Record{Orig: orig, Reply: reply, Status: flow.SrcNAT, Timeout: 100}); err != nil {
			t.Fatalf("port %d: %v", port, err)
		}
		for _, tuple := range []flow.Tuple{orig, reply} {
			r, ok, err := s.e.Get(ctx, tuple)
			if err != nil || !ok || r.Reply != reply || r.Status&flow.SrcNAT == 0 {
				t.Errorf("%v is found as %+v (%v, %v)", tuple, r, ok, err)
			}
		}
		if err := s.e.Create(ctx, flow.Record{Orig: orig, Reply: reply, Status: flow.SrcNAT, Timeout: 100}); err == nil {
			t.Error("it is made twice")
		}
	}
}
