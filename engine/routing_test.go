package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/route"
)

// serveUDP echoes datagrams.
func serveUDP(t *testing.T, ns *netlab.NS, addr string) {
	t.Helper()
	var c net.PacketConn
	if err := ns.Do(func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:n], from)
		}
	}()
}

// TestRouterFragments sends datagrams that the hosts cut into fragments, in both directions,
// through translation, over IPv4, and as they are over IPv6.
func TestRouterFragments(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	for _, addr := range []string{serverIP + ":5353", "[" + server6 + "]:5353"} {
		serveUDP(t, s.server, addr)
		var c net.Conn
		if err := s.client.Do(func() (err error) { c, err = net.Dial("udp", addr); return err }); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, n := range []int{10, 1473, 4000, 20000} {
			out := bytes.Repeat([]byte{byte(n)}, n)
			in := make([]byte, 1<<16)
			got := 0
			testenv.Until(t, fmt.Sprintf("a datagram of %d bytes comes back from %s", n, addr), func() bool { // a first one may wait for a neighbour
				if _, err := c.Write(out); err != nil {
					t.Fatal(err)
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				got, _ = c.Read(in)
				return got == n
			})
			if !bytes.Equal(in[:got], out) {
				t.Errorf("%s: of %d bytes %d came back, or others", addr, n, got)
			}
		}
	}
}

// TestRouterTwoShards: with two queues a port, connections of many ports find their way
// through translation, in both directions, whichever shard has them.
func TestRouterTwoShards(t *testing.T) {
	s := newSiteOf(t, 2, masqueradeRules4, "", nil)
	serveTCP(t, s.server, serverIP+":80")
	serveTCP(t, s.server, "["+server6+"]:80")
	serveTCP(t, s.client, clientIP+":80")
	for range 12 {
		for _, try := range []struct {
			ns   *netlab.NS
			addr string
		}{{s.client, serverIP + ":80"}, {s.client, "[" + server6 + "]:80"}, {s.server, wanIP + ":8080"}} {
			c, _ := dial(t, try.ns, try.addr)
			echo(t, c, 20_000)
		}
	}
	stats, err := s.e.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for i, sh := range stats.Workers {
		if sh.Shard.Conns == 0 {
			t.Errorf("shard %d has no connections", i)
		}
	}
}

// TestMasqueradeFollowsAddress: when the address goes that connections are masqueraded
// with they go, too, and new ones take the new one.
func TestMasqueradeFollowsAddress(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	serveTCP(t, s.server, serverIP+":80")
	dial(t, s.client, serverIP+":80")
	if n, _ := s.e.Count(context.Background()); n != 1 {
		t.Fatalf("%d connections", n)
	}
	link, err := s.router.Link("wan")
	if err != nil {
		t.Fatal(err)
	}
	old, _ := netlink.ParseAddr(wanIP + "/24")
	fresh, _ := netlink.ParseAddr("192.0.2.9/24")
	if err := errors.Join(s.router.Netlink().AddrAdd(link, fresh), s.router.Netlink().AddrDel(link, old)); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "the connection is gone", func() bool { n, err := s.e.Count(context.Background()); return n == 0 && err == nil })
	// The first address of an interface takes the second with it, in Linux.
	_ = s.router.Netlink().AddrAdd(link, fresh)
	s.agrees(t)
	_, seen := dial(t, s.client, serverIP+":80")
	if a := host(t, seen); a.String() != "192.0.2.9" {
		t.Errorf("the server sees %v", a)
	}
}

// TestMirrorFollowsRoutes changes the kernel's routes at random and asks both where
// packets go.
func TestMirrorFollowsRoutes(t *testing.T) {
	s := newSite(t, "*filter\nCOMMIT\n", "", nil)
	r := rand.New(rand.NewPCG(1, 2))
	nl := s.router.Netlink()
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	if err := nl.RouteAdd(&netlink.Route{Dst: all, Gw: net.ParseIP(serverIP)}); err != nil {
		t.Fatal(err)
	}
	var there []*netlink.Route
	for range 120 {
		if len(there) > 0 && r.IntN(3) == 0 {
			i := r.IntN(len(there))
			if err := nl.RouteDel(there[i]); err != nil {
				t.Fatal(err)
			}
			there = slices.Delete(there, i, i+1)
			continue
		}
		kr := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(20, byte(r.IntN(4)), byte(r.IntN(4)), 0).To4(), Mask: net.CIDRMask(8+r.IntN(17), 32)}}
		kr.Dst.IP = kr.Dst.IP.Mask(kr.Dst.Mask)
		switch r.IntN(6) {
		case 0:
			kr.Type = unix.RTN_BLACKHOLE
		case 1:
			kr.Type = unix.RTN_PROHIBIT
		case 2:
			kr.Type = unix.RTN_UNREACHABLE
		default:
			kr.Gw = net.ParseIP([]string{clientIP, serverIP}[r.IntN(2)])
		}
		if nl.RouteAdd(kr) == nil { // there may be one
			there = append(there, kr)
		}
	}
	ask := func(dst netip.Addr) string {
		got, err := nl.RouteGet(dst.AsSlice())
		switch {
		case errors.Is(err, unix.EINVAL):
			return fmt.Sprint(route.Blackhole)
		case errors.Is(err, unix.EACCES):
			return fmt.Sprint(route.Prohibit)
		case errors.Is(err, unix.EHOSTUNREACH):
			return fmt.Sprint(route.Unreachable)
		case err != nil:
			return err.Error()
		}
		return fmt.Sprint(route.Unicast, got[0].Gw)
	}
	known := func(dst netip.Addr) string {
		h := s.inForce().Lookup(route.Key{Family: flow.IPv4, Dst: flow.AddrFrom(dst), In: -1})
		if h.Kind != route.Unicast {
			return fmt.Sprint(h.Kind)
		}
		return fmt.Sprint(h.Kind, h.Next)
	}
	var wrong string
	defer func() {
		if wrong != "" {
			t.Log(wrong)
		}
	}()
	testenv.Until(t, "packets go where the kernel sends them", func() bool {
		wrong = ""
		for range 300 {
			dst := netip.AddrFrom4([4]byte{20, byte(r.IntN(5)), byte(r.IntN(5)), byte(r.IntN(256))})
			if k, x := ask(dst), known(dst); k != x {
				wrong = fmt.Sprintf("%v: kernel %s, mirror %s", dst, k, x)
			}
		}
		return wrong == ""
	})
}

// TestRouterAnswers: what has no route is answered as Linux does, or dropped in silence.
func TestRouterAnswers(t *testing.T) {
	s := newSite(t, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p udp --dport 7 -j REJECT --reject-with icmp-admin-prohibited\n-A FORWARD -p tcp --dport 7 -j REJECT --reject-with tcp-reset\nCOMMIT\n", "",
		func(c *Config) { c.ICMP.Rate = 0 }) // so that five at once are answered that have no route, and all others
	nl := s.router.Netlink()
	add := func(dst string, kind int) {
		_, n, _ := net.ParseCIDR(dst)
		if err := nl.RouteAdd(&netlink.Route{Dst: n, Type: kind}); err != nil {
			t.Fatal(err)
		}
	}
	add("20.0.0.0/24", unix.RTN_PROHIBIT)
	add("20.0.1.0/24", unix.RTN_UNREACHABLE)
	add("20.0.2.0/24", unix.RTN_BLACKHOLE)
	s.agrees(t)
	got := listenICMP(t, s.client, false)
	for _, v := range []struct {
		addr string
		code int // of destination unreachable; -1: silence
	}{{"20.0.0.1:9", 13}, {"20.0.1.1:9", 1}, {"21.0.0.1:9", 0}, {"20.0.2.1:9", -1}, {serverIP + ":7", 13}} {
		if code := unreachable(t, s.client, got, v.addr, serverIP+":7"); code != v.code {
			t.Errorf("%s: code %d, want %d", v.addr, code, v.code)
		}
	}
	if err := connect(s.client, serverIP+":7", testenv.Patience); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a connection that is to be reset: %v", err)
	}
}

// unreachable sends a UDP datagram and returns the code of the ICMP error that comes back,
// -1 if none does before that for a datagram which was sent to a marker behind it.
func unreachable(t *testing.T, ns *netlab.NS, got chan answered, addr, marker string) (code int) {
	t.Helper()
	var to [2]net.Conn
	for i, a := range []string{addr, marker} {
		if err := ns.Do(func() (err error) { to[i], err = net.Dial("udp", a); return err }); err != nil {
			t.Fatal(err)
		}
		defer to[i].Close()
	}
	code = -1
	for _, u := range to {
		if _, err := u.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for {
		select {
		case a := <-got:
			switch {
			case a.typ == 3 && a.sport == localPort(to[0]):
				code = int(a.code)
			case a.typ == 3 && a.sport == localPort(to[1]):
				return code
			}
		case <-time.After(testenv.Patience):
			t.Fatalf("there is no answer for %s", marker)
		}
	}
}

func localPort(c net.Conn) uint16 { return uint16(c.LocalAddr().(*net.UDPAddr).Port) }
