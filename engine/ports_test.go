package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/icmp"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/rx"
)

// TestLayer3Port routes and masquerades between a veth and a tun device, either way
// round: TCP by real stacks in both families, with the checksums and the segmentation
// that they leave to their devices.
func TestLayer3Port(t *testing.T) {
	for name, o := range map[string]netlab.HostsOptions{
		"right": {Left: netlab.Veth, Right: netlab.TunLink},
		"left":  {Left: netlab.TunLink, Right: netlab.Veth},
		"both":  {Left: netlab.TunLink, Right: netlab.TunLink},
	} {
		t.Run(name, func(t *testing.T) {
			o.Routed = true
			h, _ := newHosts(t, o, portRules4, portRules6, nil)
			serveTCP(t, h.Right, netlab.RightIP+":80")
			serveTCP(t, h.Right, "["+netlab.RightIP6+"]:80")
			c, seen := dial(t, h.Left, netlab.RightIP+":80")
			if a := host(t, seen); a.String() != netlab.RightGateway {
				t.Errorf("the server saw %s, not the router's %s", seen, netlab.RightGateway)
			}
			echo(t, c, 1<<20)
			c, seen = dial(t, h.Left, "["+netlab.RightIP6+"]:80")
			if a := host(t, seen); a.String() != netlab.LeftIP6 {
				t.Errorf("the server saw %s, not %s", seen, netlab.LeftIP6)
			}
			echo(t, c, 1<<20)
		})
	}
}

// TestLinuxBridgePort has a bridge with a veth member for a port: the member's stack
// leaves checksums and segmentation to the device, and the bridge is no veth.
func TestLinuxBridgePort(t *testing.T) {
	for _, routed := range []bool{true, false} {
		for _, checksum := range []string{"1", "0"} {
			name := map[bool]string{true: "router", false: "bridge"}[routed] + "/checksum=" + checksum
			t.Run(name, func(t *testing.T) {
				rules4, rules6 := "", ""
				if routed {
					rules4, rules6 = portRules4, portRules6
				}
				h, _ := newHosts(t, netlab.HostsOptions{Left: netlab.LinuxBridge, Right: netlab.Veth, Routed: routed}, rules4, rules6, func(c *Config) {
					if err := c.Settings.Set("nf_conntrack_checksum", checksum); err != nil {
						t.Fatal(err)
					}
				})
				to, to6 := netlab.RightIP, netlab.RightIP6
				if !routed {
					to, to6 = netlab.PeerIP, netlab.PeerIP6
				}
				for _, addr := range []string{to + ":80", "[" + to6 + "]:80"} {
					serveTCP(t, h.Right, addr)
					c, _ := dial(t, h.Left, addr)
					echo(t, c, 1<<20)
				}
			})
		}
	}
}

// TestLayer3PortLargePackets is TestLayer3Port with a tunnel that carries packets of 64
// KiB with partial checksums, as a virtual machine or a VPN with offloads does.
func TestLayer3PortLargePackets(t *testing.T) {
	h, e := newHosts(t, netlab.HostsOptions{Left: netlab.TunLink, Right: netlab.Veth, Routed: true, TunOffload: true}, portRules4, portRules6, nil)
	for _, addr := range []string{netlab.RightIP + ":80", "[" + netlab.RightIP6 + "]:80"} {
		serveTCP(t, h.Right, addr)
		c, _ := dial(t, h.Left, addr)
		echo(t, c, 4<<20)
	}
	s, err := e.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if s.Ports[0].Program.Large == 0 {
		t.Error("no packet was large: the test tests nothing")
	}
	if p := s.Ports[0]; p.Queue.Received < p.Program.Steered+p.Program.Large {
		t.Errorf("%d frames received, %d and %d steered", p.Queue.Received, p.Program.Steered, p.Program.Large)
	}
	if n := s.Total().Reasons[flow.ReasonFrameTooLarge]; n != 0 {
		t.Errorf("%d frames were too large", n)
	}
}

// TestLayer3PortFragments sends datagrams that are longer than the links take through a
// tun port, translated, both ways.
func TestLayer3PortFragments(t *testing.T) {
	h, _ := newHosts(t, netlab.HostsOptions{Left: netlab.Veth, Right: netlab.TunLink, Routed: true}, portRules4, portRules6, nil)
	for _, addr := range []string{netlab.RightIP, netlab.RightIP6} {
		echoUDP(t, h.Left, h.Right, netip.AddrPortFrom(netip.MustParseAddr(addr), 7), 4000)
	}
}

// TestLayer3PortPathMTU has TCP find the MTU of a tun port by the ICMP errors of the
// router.
func TestLayer3PortPathMTU(t *testing.T) {
	h, e := newHosts(t, netlab.HostsOptions{Left: netlab.Veth, Right: netlab.TunLink, Routed: true}, portRules4, portRules6, nil)
	link, err := h.Box.Link("right")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Box.Netlink().LinkSetMTU(link, 1300); err != nil { // the host's end says 1500 as its MSS
		t.Fatal(err)
	}
	testenv.Until(t, "MTU of 1300 on the port", func() bool {
		e.book.mu.Lock()
		defer e.book.mu.Unlock()
		return e.book.routes.Interfaces[1].MTU == 1300
	})
	for _, addr := range []string{netlab.RightIP, netlab.RightIP6} {
		serveTCP(t, h.Right, net.JoinHostPort(addr, "80"))
		c, _ := dial(t, h.Left, net.JoinHostPort(addr, "80"))
		echo(t, c, 1<<20)
	}
	s, err := e.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if n := s.Total().Reasons[flow.ReasonTooBig]; n == 0 {
		t.Error("nothing was too big: the test tests nothing")
	}
}

// echoUDP sends a datagram of n bytes from a namespace to a server in another and expects
// it back.
func echoUDP(t *testing.T, from, at *netlab.NS, addr netip.AddrPort, n int) {
	t.Helper()
	var server, client net.PacketConn
	if err := at.Do(func() (err error) { server, err = net.ListenPacket("udp", addr.String()); return err }); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := from.Do(func() (err error) { client, err = net.ListenPacket("udp", ":0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(b[:n], from)
		}
	}()
	out, in := bytes.Repeat([]byte("fragment"), n/8), make([]byte, 1<<16)
	testenv.Until(t, "echo of a datagram", func() bool {
		// The first ones meet a path MTU that the sender does not know yet.
		_, _ = client.WriteTo(out, net.UDPAddrFromAddrPort(addr))
		_ = client.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, _, err := client.ReadFrom(in)
		return err == nil && bytes.Equal(in[:n], out)
	})
}

// TestLayer3PortPing pings through a tun port, and the router's own address on it; TTLs
// that run out are answered by the router, whichever kind of port they came by.
func TestLayer3PortPing(t *testing.T) {
	h, _ := newHosts(t, netlab.HostsOptions{Left: netlab.Veth, Right: netlab.TunLink, Routed: true}, "", "", nil)
	for _, v := range []struct {
		network, listen string
		from            *netlab.NS
		to, own, first  string
	}{
		{"ip4:icmp", "0.0.0.0", h.Left, netlab.RightIP, netlab.RightGateway, netlab.LeftGateway},
		{"ip4:icmp", "0.0.0.0", h.Right, netlab.LeftIP, netlab.LeftGateway, netlab.RightGateway},
		{"ip6:ipv6-icmp", "::", h.Left, netlab.RightIP6, netlab.RightGateway6, netlab.LeftGateway6},
		{"ip6:ipv6-icmp", "::", h.Right, netlab.LeftIP6, netlab.LeftGateway6, netlab.RightGateway6},
	} {
		var c *icmp.PacketConn
		if err := v.from.Do(func() (err error) { c, err = icmp.ListenPacket(v.network, v.listen); return err }); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, try := range []struct {
			to   string
			ttl  int
			want string
		}{{v.to, 64, v.to}, {v.own, 64, v.own}, {v.to, 1, v.first}} {
			if got := ping(t, c, &net.IPAddr{IP: net.ParseIP(try.to)}, try.ttl); got != try.want {
				t.Errorf("ping from %s to %s with TTL %d: %s answers, not %s", v.from.Name, try.to, try.ttl, got, try.want)
			}
		}
	}
}

// TestPortWithFewQueues routes with two shards between a port with two receive queues and
// ones with one: the second shard has nothing to receive there, and sends all the same.
func TestPortWithFewQueues(t *testing.T) {
	for name, kind := range map[string]netlab.Kind{"tun": netlab.TunLink, "bridge": netlab.LinuxBridge} {
		t.Run(name, func(t *testing.T) {
			h, e := newHosts(t, netlab.HostsOptions{Left: netlab.Veth, Right: kind, Routed: true, Queues: 2}, "", "", nil)
			if n := len(e.workers); n != 2 {
				t.Fatalf("%d shards, not 2", n)
			}
			serveTCP(t, h.Right, netlab.RightIP+":80")
			for range 16 { // of which some belong to either shard
				c, _ := dial(t, h.Left, netlab.RightIP+":80")
				echo(t, c, 100_000)
			}
			for i, w := range e.workers {
				var n int
				if err := e.ask(context.Background(), w, func(w *worker) bool { n = w.shard.Len(); return true }); err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					t.Errorf("no connection was shard %d's", i)
				}
			}
		})
	}
}

// bridgeRules are those of a filtering bridge: the left side may begin connections.
const bridgeRules = `*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED,UNTRACKED -j ACCEPT
-A FORWARD -i left -j ACCEPT
COMMIT
`

// TestFilteringBridgeOfHosts filters between two hosts as they come. Their first frames
// are ARP requests of 42 bytes, since veth does not pad, and neighbour solicitations; and
// nothing of what their stacks do by themselves hurts.
func TestFilteringBridgeOfHosts(t *testing.T) {
	for _, o := range []struct {
		name string
		netlab.HostsOptions
		xdp rx.XDPMode
	}{
		{"veth", netlab.HostsOptions{}, rx.ModeAuto},
		{"generic", netlab.HostsOptions{}, rx.ModeGeneric},
		{"queues", netlab.HostsOptions{Queues: 2}, rx.ModeAuto},
		{"bridge", netlab.HostsOptions{Left: netlab.LinuxBridge}, rx.ModeAuto},
		{"bridges", netlab.HostsOptions{Left: netlab.LinuxBridge, Right: netlab.LinuxBridge}, rx.ModeAuto},
	} {
		t.Run(o.name, func(t *testing.T) {
			h, e := newHosts(t, o.HostsOptions, bridgeRules, bridgeRules, func(c *Config) { c.XDP = o.xdp })
			for _, addr := range []string{netlab.PeerIP, netlab.PeerIP6} {
				serveTCP(t, h.Right, net.JoinHostPort(addr, "80"))
				c, _ := dial(t, h.Left, net.JoinHostPort(addr, "80"))
				echo(t, c, 1<<20)
				echoUDP(t, h.Left, h.Right, netip.AddrPortFrom(netip.MustParseAddr(addr), 7), 4000)
			}
			serveTCP(t, h.Left, netlab.LeftIP+":80")
			dropsSYN(t, e, h.Right, netlab.LeftIP+":80")
			for _, v := range []struct{ network, listen, to string }{
				{"ip4:icmp", "0.0.0.0", netlab.PeerIP}, {"ip6:ipv6-icmp", "::", netlab.PeerIP6},
			} {
				var c *icmp.PacketConn
				if err := h.Left.Do(func() (err error) { c, err = icmp.ListenPacket(v.network, v.listen); return err }); err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if got := ping(t, c, &net.IPAddr{IP: net.ParseIP(v.to)}, 64); got != v.to {
					t.Errorf("%s answers a ping to %s", got, v.to)
				}
			}
		})
	}
}

// dropsSYN begins two connections, which must not come about: a rule drops their first
// packets.
func dropsSYN(t *testing.T, e *Engine, from *netlab.NS, addr string) {
	t.Helper()
	dropped := func() uint64 {
		s, err := e.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return s.Total().Reasons[flow.ReasonRule]
	}
	before := dropped()
	ctx, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	result := make(chan error, 2)
	for range 2 {
		go func() {
			result <- from.Do(func() error {
				c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
				if err == nil {
					c.Close()
				}
				return err
			})
		}()
	}
	testenv.Until(t, "two SYNs are dropped", func() bool {
		select {
		case err := <-result:
			t.Fatalf("a connection to %s that was to be dropped: %v", addr, err)
		default:
		}
		return dropped() >= before+2
	})
}

// TestRouterOfHosts routes and masquerades between two hosts as they come: TCP, UDP in
// fragments and pings, with one shard and two, in either XDP mode.
func TestRouterOfHosts(t *testing.T) {
	for _, o := range []struct {
		name string
		netlab.HostsOptions
		xdp rx.XDPMode
	}{
		{"veth", netlab.HostsOptions{Routed: true}, rx.ModeAuto},
		{"generic", netlab.HostsOptions{Routed: true}, rx.ModeGeneric},
		{"queues", netlab.HostsOptions{Routed: true, Queues: 2}, rx.ModeAuto},
		{"bridge", netlab.HostsOptions{Routed: true, Left: netlab.LinuxBridge, Right: netlab.TunLink}, rx.ModeAuto},
	} {
		t.Run(o.name, func(t *testing.T) {
			h, _ := newHosts(t, o.HostsOptions, portRules4, portRules6, func(c *Config) { c.XDP = o.xdp })
			for _, addr := range []string{netlab.RightIP, netlab.RightIP6} {
				serveTCP(t, h.Right, net.JoinHostPort(addr, "80"))
				for range 8 {
					c, _ := dial(t, h.Left, net.JoinHostPort(addr, "80"))
					echo(t, c, 1<<18)
				}
				echoUDP(t, h.Left, h.Right, netip.AddrPortFrom(netip.MustParseAddr(addr), 7), 4000)
			}
			for _, v := range []struct{ network, listen, to string }{
				{"ip4:icmp", "0.0.0.0", netlab.RightIP}, {"ip6:ipv6-icmp", "::", netlab.RightIP6},
			} {
				var c *icmp.PacketConn
				if err := h.Left.Do(func() (err error) { c, err = icmp.ListenPacket(v.network, v.listen); return err }); err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if got := ping(t, c, &net.IPAddr{IP: net.ParseIP(v.to)}, 64); got != v.to {
					t.Errorf("%s answers a ping to %s", got, v.to)
				}
			}
		})
	}
}

// TestGenericModeIsSaid: a port whose driver has no XDP is warned about, others are not.
func TestGenericModeIsSaid(t *testing.T) {
	testenv.Root(t)
	h, err := netlab.NewHosts(netlab.HostsOptions{Left: netlab.TunLink})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	var said bytes.Buffer
	cfg := DefaultConfig()
	cfg.Mode, cfg.Ports = Tap, []PortConfig{{Interface: "left"}, {Interface: "right"}}
	var e *Engine
	if err := h.Box.Do(func() (err error) { e, err = Open(cfg, slog.New(slog.NewTextHandler(&said, nil))); return err }); err != nil {
		t.Fatal(err)
	}
	defer e.release()
	warned := func(name string) bool {
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, "level=WARN") && strings.Contains(line, "generic mode") && strings.Contains(line, "interface="+name) {
				return true
			}
		}
		return false
	}
	if !warned("left") || warned("right") {
		t.Errorf("only the tun device runs in generic mode: %s", said.String())
	}
}

// TestFragmentsByTwoPorts sends the fragments of a datagram by different ports, one of which
// has link headers and one not: they are put together, whichever comes first.
func TestFragmentsByTwoPorts(t *testing.T) {
	for _, tunFirst := range []bool{false, true} {
		h, _ := newHosts(t, netlab.HostsOptions{Left: netlab.Veth, Right: netlab.TunLink, Routed: true}, "", "", nil)
		// The left host gets it: by its own port a fragment is sent back to where it came from.
		var server net.PacketConn
		if err := h.Left.Do(func() (err error) { server, err = net.ListenPacket("udp4", netlab.LeftIP+":7"); return err }); err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		link, err := h.Box.Link("left")
		if err != nil {
			t.Fatal(err)
		}
		payload := bytes.Repeat([]byte("two ports "), 100)
		whole := packet.AppendUDP(nil, packet.IP{Src: netip.MustParseAddr("192.0.2.77"), Dst: netip.MustParseAddr(netlab.LeftIP), ID: 99}, 1, 7, payload)
		const cut = 512
		first := fragmentOf(whole, 0, cut, true)
		second := fragmentOf(whole, cut, len(whole)-20-cut, false)
		raw := openRaw(t, h.Left)
		tunnel := openRaw(t, h.Right)
		veth := func(d []byte) error {
			return raw.Send(packet.AppendEthernet(nil, packet.MAC(link.Attrs().HardwareAddr), macA, d))
		}
		tun := tunnel.Send
		if tunFirst {
			veth, tun = tun, veth
		}
		b := make([]byte, 1500)
		testenv.Until(t, "datagram", func() bool {
			if err := errors.Join(veth(first), tun(second)); err != nil {
				t.Fatal(err)
			}
			_ = server.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			n, _, err := server.ReadFrom(b)
			return err == nil && bytes.Equal(b[:n], payload)
		})
	}
}

// fragmentOf cuts a fragment out of an IPv4 datagram without options.
func fragmentOf(d []byte, offset, n int, more bool) []byte {
	f := append(append([]byte{}, d[:20]...), d[20+offset:20+offset+n]...)
	binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
	field := uint16(offset / 8)
	if more {
		field |= 0x2000
	}
	binary.BigEndian.PutUint16(f[6:], field)
	f[10], f[11] = 0, 0
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(f[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(f[10:], ^uint16(sum))
	return f
}

// TestMACMatchWithoutLink: a packet that came without an Ethernet header has no source
// address there, neither this nor any other (mac_mt).
func TestMACMatchWithoutLink(t *testing.T) {
	for _, not := range []string{"", "! "} {
		rules := "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i left -m mac " + not + "--mac-source 45:00:00:54:00:00 -j DROP\nCOMMIT\n"
		h, _ := newHosts(t, netlab.HostsOptions{Left: netlab.TunLink, Right: netlab.Veth, Routed: true}, rules, "", nil)
		echoUDP(t, h.Left, h.Right, netip.MustParseAddrPort(netlab.RightIP+":7"), 80)
	}
}

// TestPortsComeAndGo deletes ports of each kind and makes them anew, as another kind at
// times: traffic resumes, and neither chunks nor files are lost.
func TestPortsComeAndGo(t *testing.T) {
	h, e := newHosts(t, netlab.HostsOptions{Left: netlab.Veth, Right: netlab.LinuxBridge, Routed: true}, "", "", nil)
	free := func() (n int) {
		s, err := e.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range s.Workers {
			n += w.Free
		}
		return n
	}
	files := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(d)
	}
	up := func(want bool) {
		t.Helper()
		testenv.Until(t, "change of the port", func() bool {
			s, err := e.Stats(context.Background())
			return err == nil && s.Ports[1].Up == want
		})
	}
	echoUDP(t, h.Left, h.Right, netip.MustParseAddrPort(netlab.RightIP+":7"), 800)
	chunks, fds := free(), files()
	for i, kind := range []netlab.Kind{netlab.TunLink, netlab.Veth, netlab.LinuxBridge, netlab.TunLink, netlab.LinuxBridge} {
		if err := h.Detach("right"); err != nil {
			t.Fatal(err)
		}
		up(false)
		if err := h.Attach("right", kind); err != nil {
			t.Fatal(err)
		}
		up(true)
		echoUDP(t, h.Left, h.Right, netip.MustParseAddrPort(netlab.RightIP+":7"), 800)
		t.Logf("%d: %d free chunks of %d, %d files of %d", i, free(), chunks, files(), fds)
	}
	testenv.Until(t, "chunk and file back", func() bool { return free() >= chunks && files() <= fds })
}
