package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/route"
)

// agrees waits until the router's workers know what the kernel knows. The mirror knows it
// first, and gives it to them by another goroutine.
func (s *site) agrees(t *testing.T) {
	t.Helper()
	testenv.Agrees(t, "a change", func(limit int) ([]string, error) {
		diff, err := s.e.router.mirror.Compare(limit)
		if err != nil || len(diff) > 0 {
			return diff, err
		}
		return s.inForce().Diff(s.e.router.mirror.Table(), limit), nil
	})
}

// inForce returns the routes that all workers have.
func (s *site) inForce() *route.Table {
	b := &s.e.book
	b.applying.Lock()
	defer b.applying.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.routes
}

// knowsSocket waits until the router knows that the host has a socket that is bound to a
// port: it looks for that from time to time.
func (s *site) knowsSocket(t *testing.T, proto flow.Proto, port uint16) {
	t.Helper()
	testenv.Until(t, fmt.Sprintf("port %d is known to be bound", port), func() bool {
		s.e.book.applying.Lock()
		s.e.book.mu.Lock()
		mappings := s.e.book.ports // of the workers
		s.e.book.mu.Unlock()
		s.e.book.applying.Unlock()
		r := s.e.router
		r.mu.Lock()
		defer r.mu.Unlock()
		current := func(x told) bool { // what an XDP program was told
			return x.host != nil && *x.host.Ports[0] == *r.host.seen().Words(0) && *x.host.Ports[1] == *r.host.seen().Words(1)
		}
		return r.host.ports.bound.Has(proto, port) && mappings == r.host.mappings && !slices.ContainsFunc(r.host.told, func(x told) bool { return !current(x) })
	})
}

// stuck is a client that takes nothing until it is let go.
type stuck struct {
	began sync.Once
	begin chan struct{}
	let   chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	s.began.Do(func() { close(s.begin) })
	<-s.let
	return len(b), nil
}

// TestSlowReaderHoldsNothingUp: while somebody reads the rules and takes his time, rules
// are loaded and routes followed, and the engine stops (F22).
func TestSlowReaderHoldsNothingUp(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	slow := &stuck{begin: make(chan struct{}), let: make(chan struct{})}
	read := make(chan error, 1)
	go func() { read <- s.e.WriteRules(context.Background(), slow, flow.IPv4, true) }()
	<-slow.begin
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.e.LoadRules(strings.NewReader("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"), "new", flow.IPv4); err != nil {
			t.Error(err)
		}
		var b bytes.Buffer
		if err := s.e.WriteRules(context.Background(), &b, flow.IPv4, false); err != nil || !strings.Contains(b.String(), "FORWARD ACCEPT") {
			t.Errorf("%v: %s", err, &b)
		}
		_, dst, _ := net.ParseCIDR("20.0.0.0/8")
		if err := s.router.Netlink().RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(serverIP)}); err != nil {
			t.Error(err)
		}
		s.agrees(t)
		if err := s.e.Stop(); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-done:
	case <-time.After(testenv.Patience):
		t.Error("everything waits for the slow reader")
	}
	close(slow.let)
	<-read
}

// TestConcurrentLoads loads rules of both families at the same time, again and again:
// neither undoes the other (F23).
func TestConcurrentLoads(t *testing.T) {
	s := newSite(t, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", nil)
	for i := range 200 {
		var load sync.WaitGroup
		start := make(chan struct{})
		for k := range 8 {
			f := []flow.Family{flow.IPv4, flow.IPv6}[k%2]
			load.Go(func() {
				text := fmt.Sprintf("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp --dport %d -j DROP\nCOMMIT\n", 1000+i)
				text = strings.Replace(text, "COMMIT", strings.Repeat("-A FORWARD -p udp -j ACCEPT\n", k*20)+"COMMIT", 1)
				<-start
				if err := s.e.LoadRules(strings.NewReader(text), "new", f); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		load.Wait()
		for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
			var b bytes.Buffer
			if err := s.e.WriteRules(context.Background(), &b, f, false); err != nil || !strings.Contains(b.String(), fmt.Sprint("--dport ", 1000+i)) {
				t.Fatalf("round %d: %v: what was loaded for %v is gone:\n%s", i, err, f, &b)
			}
		}
	}
}

// TestCancelledRequests: what a request writes to is the caller's again when it comes
// back, also without an answer. The race detector sees if not (F30).
func TestCancelledRequests(t *testing.T) {
	s := newSite(t, "*filter\nCOMMIT\n", "", nil)
	for i := range 300 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*time.Microsecond)
		n, err := s.e.Count(ctx)
		n++
		_, ok, err2 := s.e.Get(ctx, flow.Tuple{})
		cancel()
		if err == nil && n != 1 || ok || err != nil && !errors.Is(err, context.DeadlineExceeded) || err2 != nil && !errors.Is(err2, context.DeadlineExceeded) {
			t.Fatal(n, err, ok, err2)
		}
	}
}

// rejoinLAN deletes the router's port to the client and makes it anew at once.
func (s *site) rejoinLAN(t *testing.T) {
	t.Helper()
	link, err := s.router.Link("lan")
	if err == nil {
		err = s.router.Netlink().LinkDel(link)
	}
	if err == nil {
		err = netlab.Join(
			netlab.Port{NS: s.router, Name: "lan", Addrs: []string{lanIP + "/24", lan6 + "/64"}, Offload: true},
			netlab.Port{NS: s.client, Name: "eth0", Addrs: []string{clientIP + "/24", client6 + "/64"}, Offload: true})
	}
	if err == nil {
		err = s.client.Netlink().RouteAdd(&netlink.Route{Gw: net.ParseIP(lanIP)})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// connect makes a TCP connection and closes it.
func connect(ns *netlab.NS, addr string, patience time.Duration) error {
	return ns.Do(func() error {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// connects reports whether a TCP connection comes about.
func connects(ns *netlab.NS, addr string, patience time.Duration) bool {
	return connect(ns, addr, patience) == nil
}

// TestPortRecreatedAtOnce deletes and recreates a port without a pause: traffic goes on,
// and what is the host's enters by the port as before, so that the host's own rules see
// it (F24).
func TestPortRecreatedAtOnce(t *testing.T) {
	testenv.Program(t, "iptables")
	s := newSite(t, masqueradeRules4, "", nil)
	serveTCP(t, s.server, serverIP+":80")
	serveTCP(t, s.router, lanIP+":22")
	if !connects(s.client, lanIP+":22", testenv.Patience) {
		t.Fatal("the router's own service cannot be reached")
	}
	if err := s.router.Do(func() error {
		return exec.Command("iptables", "-w", "-A", "INPUT", "-i", "lan", "-p", "tcp", "--dport", "22", "-j", "REJECT", "--reject-with", "tcp-reset").Run()
	}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.rejoinLAN(t)
		testenv.Until(t, "traffic passes the new port", func() bool { return connects(s.client, serverIP+":80", time.Second) })
		if err := s.e.Reload(); err != nil {
			t.Fatal(err)
		}
		if err := connect(s.client, lanIP+":22", testenv.Patience); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("the host's rule for the port was bypassed: %v", err)
		}
	}
	s.agrees(t)
}

// TestLostPortHoldsNothingUp: while the queues of a port that is gone are taken from a
// worker that is slow to answer, the XDP programs are told of the host, and the engine says
// which ports it has.
func TestLostPortHoldsNothingUp(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	w := s.e.workers[0]
	busy, let := make(chan struct{}), make(chan struct{})
	asked := make(chan error, 1)
	go func() {
		asked <- s.e.ask(context.Background(), w, func(*worker) bool { close(busy); <-let; return true })
	}()
	<-busy
	link, err := s.router.Link("lan")
	if err == nil {
		err = s.router.Netlink().LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	// One is that of the routes without the interface, the other one that for the queues.
	testenv.Until(t, "two requests wait for the worker", func() bool { return len(w.requests) >= 2 })
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.e.router.tell(); err != nil {
			t.Error(err)
		}
		if got := s.e.ports[0].name(); got != "lan" {
			t.Errorf("port %q", got)
		}
	}()
	select {
	case <-done:
	case <-time.After(testenv.Patience):
		t.Error("the programs cannot be told of the host while a port is taken out of use")
	}
	close(let)
	<-done
	if err := <-asked; err != nil {
		t.Error(err)
	}
	if _, err := s.e.Stats(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestInjectTakesNoWait: the descriptor by which the host gets datagrams does not block, and
// what the host does not take is said.
func TestInjectTakesNoWait(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	r := s.e.router
	if flags, err := unix.FcntlInt(uintptr(r.tun.fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
	d := packet.AppendUDP(nil, packet.IP{Src: ipA, Dst: ipB}, 1, 2, []byte("query"))
	if !r.inject(d) {
		t.Error("the host does not take a datagram")
	}
	if r.inject([]byte{0}) { // of no IP version
		t.Error("the host takes what is no datagram")
	}
	if err := s.router.SetUp(r.tun.name, false); err != nil {
		t.Fatal(err)
	}
	if r.inject(d) {
		t.Error("a device that is down takes a datagram")
	}
}

// TestPortRenamed: a port is one under its new name, by which rules know it (F29).
func TestPortRenamed(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	serveTCP(t, s.server, serverIP+":80")
	rename := func(from, to string) {
		link, err := s.router.Link(from)
		if err == nil {
			err = errors.Join(s.router.SetUp(from, false), s.router.Netlink().LinkSetName(link, to), s.router.SetUp(to, true))
		}
		if err != nil {
			t.Fatal(err)
		}
		s.agrees(t)
	}
	rename("wan", "uplink")
	text := strings.ReplaceAll(masqueradeRules4, "-o wan", "-o uplink")
	if err := s.e.LoadRules(strings.NewReader(text), "new", flow.IPv4); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "traffic passes", func() bool { return connects(s.client, serverIP+":80", time.Second) })
	_, seen := dial(t, s.client, serverIP+":80")
	if a := host(t, seen); a.String() != wanIP {
		t.Errorf("the server sees %v: the rule for the new name does not apply", a)
	}
	if n := strings.Count(s.log.String(), "has a new name"); n != 1 {
		t.Errorf("said %d times:\n%s", n, s.log)
	}
}

// TestReversePathFilter: what is delivered to the host's own sockets in the ports of
// translation passes the host's rp_filter, as it is set at the start and later (F27).
func TestReversePathFilter(t *testing.T) {
	// A rule for others asks for the port, so all that is sent there passes xdpct.
	rules := strings.Replace(masqueradeRules4, "-A PREROUTING", "-A PREROUTING -s 203.0.113.9/32 -d 192.0.2.1/32 -p udp -m udp --dport 20000 -j DNAT --to-destination 10.50.0.2:80\n-A PREROUTING", 1)
	s := newSite(t, rules, "", nil)
	for _, value := range []string{"1", "0", "2", "1"} {
		if err := s.router.Sysctl("net/ipv4/conf/all/rp_filter", value); err != nil {
			t.Fatal(err)
		}
		addr := wanIP + ":20000"
		var c net.PacketConn
		if err := s.router.Do(func() (err error) { c, err = net.ListenPacket("udp", addr); return err }); err != nil {
			t.Fatal(err)
		}
		var u net.Conn
		if err := s.server.Do(func() (err error) { u, err = net.Dial("udp", addr); return err }); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 10)
		testenv.Until(t, "a datagram comes with rp_filter "+value, func() bool {
			_, _ = u.Write([]byte("x"))
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, _, err := c.ReadFrom(b)
			return err == nil
		})
		c.Close()
		u.Close()
	}
	_, seen := s.viaTUN(t)
	if !seen {
		t.Error("none of it came by the TUN device: this tests nothing")
	}
}

// viaTUN returns how many packets the device has delivered.
func (s *site) viaTUN(t *testing.T) (n uint64, any bool) {
	t.Helper()
	link, err := s.router.Link(s.e.router.tun.name)
	if err != nil {
		t.Fatal(err)
	}
	n = link.Attrs().Statistics.RxPackets
	return n, n > 0
}

// TestForwardingKernelIsNamed: a kernel that forwards beside the router is warned of.
func TestForwardingKernelIsNamed(t *testing.T) {
	testenv.Root(t)
	ns, err := netlab.NewNS("router")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	_ = ns.Sysctl("net/ipv4/ip_forward", "1")
	log := &logText{}
	e := &Engine{log: newTextLog(log)}
	if err := ns.Do(func() error { (&router{e: e}).warn(); return nil }); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "ip_forward") {
		t.Error(log)
	}
}

// TestStopsUnderFlood: the engine stops while the kernel changes neighbours and routes as
// fast as it can, rules are loaded, and clients are stuck, which all goes on until it has.
func TestStopsUnderFlood(t *testing.T) {
	testenv.Program(t, "ip")
	s := newSite(t, masqueradeRules4, "", nil)
	stop := make(chan struct{})
	var busy sync.WaitGroup
	defer busy.Wait()
	defer close(stop)
	busy.Go(func() {
		_ = s.router.Do(func() error {
			ip := exec.Command("ip", "-force", "-batch", "-")
			in, err := ip.StdinPipe()
			if err != nil {
				return err
			}
			if err := ip.Start(); err != nil {
				return err
			}
			for i := 0; ; i++ {
				select {
				case <-stop:
					in.Close()
					return ip.Wait()
				default:
				}
				fmt.Fprintf(in, "neigh replace 10.50.0.%d lladdr 02:00:00:00:%02x:%02x dev lan\nroute replace 20.%d.%d.0/24 via %s\n",
					10+i%200, i>>8&255, i&255, i>>8&255, i&255, serverIP)
			}
		})
	})
	slow := &stuck{begin: make(chan struct{}), let: stop}
	busy.Go(func() { _ = s.e.WriteRules(context.Background(), slow, flow.IPv4, true) })
	<-slow.begin
	busy.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = s.e.Reload()
			}
		}
	})
	testenv.Until(t, "the flood is under way", func() bool { return s.e.router.mirror.Stats().Routes > 200 })
	if _, err := s.e.Count(context.Background()); err != nil {
		t.Error(err)
	}
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- s.e.Stop() }()
	select {
	case err := <-ended:
		t.Logf("it took %v: %v", time.Since(began), err)
		if err != nil {
			t.Error(err)
		}
	case <-time.After(testenv.Patience):
		t.Error("it does not stop")
	}
}

func newTextLog(w *logText) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// command runs a program in a namespace.
func command(ns *netlab.NS, name, args string) error {
	return ns.Do(func() error {
		if out, err := exec.Command(name, strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", name, args, err, out)
		}
		return nil
	})
}

// TestNeighbourChangesAddress: a host that has another Ethernet address and says nothing
// of it is found again, while traffic goes on (neigh_event_send).
func TestNeighbourChangesAddress(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	if err := s.router.Sysctl("net/ipv4/neigh/wan/delay_first_probe_time", "1"); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"arp_notify", "arp_announce"} {
		_ = s.server.Sysctl("net/ipv4/conf/eth0/"+k, "0")
	}
	addr := serverIP + ":7"
	serveUDP(t, s.server, addr)
	var u net.Conn
	if err := s.client.Do(func() (err error) { u, err = net.Dial("udp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	answers := func() bool {
		_, _ = u.Write([]byte("x"))
		_ = u.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := u.Read(make([]byte, 8))
		return err == nil
	}
	testenv.Until(t, "traffic passes", answers)
	// The address changes while the link stays up: no ARP, no neighbour lost. What the
	// server itself sends would tell, so it is kept from sending first.
	ip(t, s.server, "neigh replace "+wanIP+" lladdr "+s.mac(t, "wan")+" dev eth0 nud permanent")
	old, _ := s.e.router.mirror.Table().Neighbour(1, netip.MustParseAddr(serverIP))
	ip(t, s.server, "link set eth0 address 02:aa:bb:cc:dd:ee")
	ip(t, s.router, "neigh change "+serverIP+" lladdr "+net.HardwareAddr(old.MAC[:]).String()+" dev wan nud stale")
	testenv.Until(t, "it is known by its new address", func() bool {
		answers() // or not: it may be an answer that was late
		n, _ := s.e.router.mirror.Table().Neighbour(1, netip.MustParseAddr(serverIP))
		return n.MAC == [6]byte{2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee}
	})
	testenv.Until(t, "traffic passes again", answers)
}

// mac returns the Ethernet address of an interface of the router.
func (s *site) mac(t *testing.T, name string) string {
	t.Helper()
	link, err := s.router.Link(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().HardwareAddr.String()
}
