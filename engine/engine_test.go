package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/rx"
)

// wire is an engine in bridge mode between two hosts without a stack: frames go
// in and out of both by hand.
type wire struct {
	box  *netlab.NS
	raw  [2]*netlab.Raw
	host [2]*netlab.NS
	e    *Engine

	tried int // IP ID of the next datagrams that passes sends
}

var (
	macA = packet.MAC{2, 0, 0, 0, 0, 1}
	macB = packet.MAC{2, 0, 0, 0, 0, 2}
	ipA  = netip.MustParseAddr("10.9.0.1")
	ipB  = netip.MustParseAddr("10.9.0.2")
)

// eachDriver runs a test with every driver.
func eachDriver(t *testing.T, test func(*testing.T, rx.Driver)) {
	for _, d := range []rx.Driver{rx.DriverXSK, rx.DriverAsavie} {
		t.Run(string(d), func(t *testing.T) { test(t, d) })
	}
}

func newWire(t *testing.T, d rx.Driver, queues int, change func(*Config)) *wire {
	t.Helper()
	testenv.Root(t)
	w := &wire{}
	ns := func(name string) *netlab.NS {
		n, err := netlab.NewNS(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		return n
	}
	w.box = ns("box")
	cfg := DefaultConfig()
	cfg.Mode, cfg.Driver = Bridge, d
	cfg.Settings.Max = 10000
	for i, name := range []string{"left", "right"} {
		w.host[i] = ns(name)
		w.join(t, i, queues)
		cfg.Ports = append(cfg.Ports, PortConfig{Interface: name})
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if err2 := w.box.Do(func() error {
		w.e, err = Open(cfg, slog.New(slog.DiscardHandler))
		return nil
	}); err2 != nil {
		t.Fatal(err2)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.e.Start()
	t.Cleanup(func() {
		if err := w.e.Stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

var portNames = []string{"left", "right"}

// join makes the cable of side i.
func (w *wire) join(t *testing.T, i, queues int) {
	t.Helper()
	if err := w.host[i].Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	if err := w.box.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	err := netlab.Join(
		netlab.Port{NS: w.box, Name: portNames[i], Queues: queues},
		netlab.Port{NS: w.host[i], Name: "eth0", Queues: queues},
	)
	if err != nil {
		t.Fatal(err)
	}
	if w.raw[i] != nil {
		w.raw[i].Close()
	}
	if w.raw[i], err = w.host[i].OpenRaw("eth0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.raw[i].Close)
}

func udpFrame(id uint16, sport uint16, fromB bool) []byte {
	if fromB {
		return packet.AppendEthernet(nil, macA, macB,
			packet.AppendUDP(nil, packet.IP{Src: ipB, Dst: ipA, ID: id}, 53, sport, []byte("answer")))
	}
	return packet.AppendEthernet(nil, macB, macA,
		packet.AppendUDP(nil, packet.IP{Src: ipA, Dst: ipB, ID: id}, sport, 53, []byte("query")))
}

// pass sends frames into side i and counts those that come out of the other. The next
// ones are sent when those before have come: no queue between has to hold more.
func (w *wire) pass(t *testing.T, i, n int, frame func(k int) []byte) (out int) {
	t.Helper()
	return w.passWithin(t, testenv.Patience, i, n, frame)
}

// passWithin is pass for frames that may be lost: it waits so long for each lot of them,
// and sends no more when one was lost.
func (w *wire) passWithin(t *testing.T, patience time.Duration, i, n int, frame func(k int) []byte) (out int) {
	t.Helper()
	const lot = 32
	seen := map[uint16]bool{}
	for sent := 0; sent < n && len(seen) == sent; {
		for range min(lot, n-sent) {
			if err := w.raw[i].Send(frame(sent)); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		for deadline := time.Now().Add(patience); len(seen) < sent && time.Now().Before(deadline); {
			f, err := w.raw[1-i].Recv(time.Until(deadline))
			if err != nil {
				t.Fatal(err)
			}
			if len(f) >= 34 && f[12] == 8 && f[13] == 0 {
				seen[binary.BigEndian.Uint16(f[18:])] = true
			}
		}
	}
	return len(seen)
}

// TestBridge passes datagrams in both directions, through one shard and through two, in
// both XDP modes, and finds their connections in the table.
func TestBridge(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		for _, queues := range []int{1, 2} {
			for _, mode := range []rx.XDPMode{rx.ModeDriver, rx.ModeGeneric} {
				t.Run(string(mode)+"/"+string(rune('0'+queues)), func(t *testing.T) {
					w := newWire(t, d, queues, func(c *Config) { c.XDP = mode })
					const flows = 300
					if got := w.pass(t, 0, flows, func(k int) []byte { return udpFrame(uint16(k), uint16(1000+k), false) }); got != flows {
						t.Errorf("%d of %d datagrams came through", got, flows)
					}
					if got := w.pass(t, 1, flows, func(k int) []byte { return udpFrame(uint16(k), uint16(1000+k), true) }); got != flows {
						t.Errorf("%d of %d answers came through", got, flows)
					}
					ctx := context.Background()
					n := 0
					err := w.e.List(ctx, flow.Filter{}, func(r *flow.Record) error {
						n++
						if r.Status&flow.SeenReply == 0 || r.Orig.Src.Netip(flow.IPv4) != ipA {
							t.Errorf("record %+v", r)
						}
						return nil
					})
					if err != nil || n != flows {
						t.Errorf("%d connections, want %d; %v", n, flows, err)
					}
					s, err := w.e.Stats(ctx)
					if err != nil {
						t.Fatal(err)
					}
					sum := s.Total()
					if sum.Packets != 2*flows || sum.Dropped != 0 {
						t.Errorf("%d packets, %d dropped", sum.Packets, sum.Dropped)
					}
					t.Logf("%+v", s.Workers[0].Loop)
					if n, err := w.e.Flush(ctx, flow.Filter{}); err != nil || n != flows {
						t.Errorf("flushed %d, %v", n, err)
					}
				})
			}
		}
	})
}

// TestTap taps one interface: IP traffic is tracked and ends there, the rest
// reaches the host's own stack.
func TestTap(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		w := newWire(t, d, 1, func(c *Config) {
			c.Mode = Tap
			c.Ports = c.Ports[:1]
		})
		if err := w.box.Do(func() error { return addAddress("left", "10.9.0.2/24") }); err != nil {
			t.Fatal(err)
		}
		const n = 10
		for k := range n {
			if err := w.raw[0].Send(udpFrame(uint16(k), uint16(1000+k), false)); err != nil {
				t.Fatal(err)
			}
		}
		arp := packet.AppendEthernet(nil, packet.MAC{255, 255, 255, 255, 255, 255}, macA, nil)
		arp = append(arp[:12], 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
		arp = append(append(append(append(arp, macA[:]...), 10, 9, 0, 1), make([]byte, 6)...), 10, 9, 0, 2)
		if err := w.raw[0].Send(arp); err != nil {
			t.Fatal(err)
		}
		testenv.Until(t, "the host behind the tap answers ARP", func() bool {
			f, err := w.raw[0].Recv(50 * time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			return len(f) >= 22 && f[12] == 8 && f[13] == 6 && f[21] == 2
		})
		testenv.Until(t, "ten connections", func() bool { return w.count(t) == n })
	})
}

// TestFrameTooLarge sends a frame that fits the wire but no chunk: it is dropped
// and counted under its own reason, and others still pass.
func TestFrameTooLarge(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		w := newWire(t, d, 1, func(c *Config) { c.FrameSize = rx.MinChunk })
		for _, ns := range append(w.host[:], w.box) {
			for _, name := range []string{"eth0", "left", "right"} {
				if link, err := ns.Link(name); err == nil {
					if err := ns.Netlink().LinkSetMTU(link, 3000); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		large := packet.AppendEthernet(nil, macB, macA, packet.AppendUDP(nil, packet.IP{Src: ipA, Dst: ipB}, 1, 2, make([]byte, 2000)))
		if err := w.raw[0].Send(large); err != nil {
			t.Fatal(err)
		}
		w.passes(t)
		s, err := w.e.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		sum := s.Total()
		if n := sum.Reasons[flow.ReasonFrameTooLarge]; n != 1 {
			t.Errorf("%d frames were too large, want 1", n)
		}
	})
}

func addAddress(ifname, cidr string) error {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(link, addr)
}

// packetSocket returns a socket for all that comes to eth0 of a namespace. What is read of
// it makes no garbage, and fails if nothing comes.
func packetSocket(t *testing.T, ns *netlab.NS) (fd int) {
	t.Helper()
	link, err := ns.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	if err := ns.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	patience := unix.NsecToTimeval(int64(testenv.Patience))
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestNoGarbage: a worker allocates nothing for the frames that it forwards.
func TestNoGarbage(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		w := newWire(t, d, 1, nil)
		w.passes(t)
		frame := udpFrame(1, 100, false)
		const frames, lot = 20_000, 64
		out, in := packetSocket(t, w.host[1]), make([]byte, 1<<12)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for k := range frames {
			if err := w.raw[0].Send(frame); err != nil {
				t.Fatal(err)
			}
			if k%lot < lot-1 {
				continue
			}
			for n := 0; n < lot; n++ { // all that was sent came out again
				if _, err := unix.Read(out, in); err != nil {
					t.Fatalf("%d of %d frames came through: %v", k+1-lot+n, frames, err)
				}
			}
		}
		runtime.ReadMemStats(&after)
		// The supervisor looks at the interfaces now and then.
		if n := after.Mallocs - before.Mallocs; n > frames/10 {
			t.Errorf("%d allocations for %d frames", n, frames)
		}
	})
}
