package engine

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

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

// pass sends frames into side i and counts those that come out of the other.
func (w *wire) pass(t *testing.T, i, n int, frame func(k int) []byte) (out int) {
	t.Helper()
	seen := map[uint16]bool{}
	take := func(wait time.Duration) {
		for {
			f, err := w.raw[1-i].Recv(wait)
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				return
			}
			if len(f) >= 34 && f[12] == 8 && f[13] == 0 {
				seen[binary.BigEndian.Uint16(f[18:])] = true
			}
		}
	}
	for k := range n {
		if err := w.raw[i].Send(frame(k)); err != nil {
			t.Fatal(err)
		}
		if k%32 == 31 {
			take(0)
			time.Sleep(200 * time.Microsecond)
		}
	}
	for deadline := time.Now().Add(2 * time.Second); len(seen) < n && time.Now().Before(deadline); {
		take(20 * time.Millisecond)
	}
	return len(seen)
}

// TestBridge passes datagrams both ways, through one shard and through two, in
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
		answered := false
		for deadline := time.Now().Add(2 * time.Second); !answered && time.Now().Before(deadline); {
			f, err := w.raw[0].Recv(50 * time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			answered = len(f) >= 22 && f[12] == 8 && f[13] == 6 && f[21] == 2
		}
		if !answered {
			t.Error("the host behind the tap does not answer ARP")
		}
		got := 0
		for deadline := time.Now().Add(2 * time.Second); got != n && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			got = w.count(t)
		}
		if got != n {
			t.Errorf("%d connections, want %d", got, n)
		}
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
		if !w.try(t, 100) {
			t.Error("the bridge does not pass frames that fit")
		}
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

// TestNoGarbage: a worker allocates nothing for the frames that it forwards.
func TestNoGarbage(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		w := newWire(t, d, 1, nil)
		if !w.try(t, 100) {
			t.Fatal("the bridge does not pass")
		}
		frame := udpFrame(1, 100, false)
		const frames = 20_000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for k := range frames {
			if err := w.raw[0].Send(frame); err != nil {
				t.Fatal(err)
			}
			if k%32 == 31 { // other tests want the CPUs, too
				time.Sleep(200 * time.Microsecond)
			}
		}
		runtime.ReadMemStats(&after)
		s, err := w.e.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if total := s.Total(); total.Packets < frames/2 {
			t.Errorf("only %d of %d frames were tracked", total.Packets, frames)
		}
		// The supervisor looks at the interfaces now and then.
		if n := after.Mallocs - before.Mallocs; n > frames/10 {
			t.Errorf("%d allocations for %d frames", n, frames)
		}
	})
}
