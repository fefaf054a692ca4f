package mirror

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/route"
)

// soak makes tests as large as `make soak-routes` has them.
var soak = flag.Bool("soak", false, "a million routes, a hundred cycles")

// lab is a router's namespace, whose kernel is changed by ip(8), and a mirror of it.
type lab struct {
	t      *testing.T
	router *netlab.NS
	hosts  [2]*netlab.NS
	m      *Mirror
	log    *logBuffer
}

// logBuffer holds what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newLab makes a router with the ports p0 and p1, 10.1.N.1/24 and 2001:db8:N::1/64, to
// which hosts .2 are joined.
func newLab(t *testing.T, change func(*Config)) *lab {
	t.Helper()
	testenv.Root(t)
	testenv.Program(t, "ip")
	l := &lab{t: t, log: &logBuffer{}}
	for i, ns := range []**netlab.NS{&l.router, &l.hosts[0], &l.hosts[1]} {
		var err error
		if *ns, err = netlab.NewNS(fmt.Sprintf("ns%d", i)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*ns).Close)
	}
	for i := range l.hosts {
		l.joinHost(i)
	}
	cfg := Config{
		Ports: []Port{{Name: "p0"}, {Name: "p1"}}, InNamespace: l.router.Do,
		Log: slog.New(slog.NewTextHandler(l.log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if l.m, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		l.m.Run(stop)
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		if err := l.m.Close(); err != nil {
			t.Error(err)
		}
		if testing.Verbose() {
			t.Log(l.log)
		}
	})
	return l
}

func (l *lab) joinHost(i int) {
	l.t.Helper()
	if err := netlab.Join(
		netlab.Port{NS: l.router, Name: fmt.Sprintf("p%d", i), Addrs: []string{fmt.Sprintf("10.1.%d.1/24", i), fmt.Sprintf("2001:db8:%d::1/64", i)}, Offload: true},
		netlab.Port{NS: l.hosts[i], Name: "eth0", Addrs: []string{fmt.Sprintf("10.1.%d.2/24", i), fmt.Sprintf("2001:db8:%d::2/64", i)}, Offload: true},
	); err != nil {
		l.t.Fatal(err)
	}
}

// ip runs a command line of ip(8) in the router's namespace.
func (l *lab) ip(line string) error {
	return l.router.Do(func() error {
		out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
		return nil
	})
}

func (l *lab) must(lines ...string) {
	l.t.Helper()
	for _, line := range lines {
		if err := l.ip(line); err != nil {
			l.t.Fatal(err)
		}
	}
}

// batch runs lines by ip -batch, and goes on after those that fail.
func (l *lab) batch(lines []string) {
	l.t.Helper()
	name := filepath.Join(l.t.TempDir(), "batch")
	if err := os.WriteFile(name, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		l.t.Fatal(err)
	}
	_ = l.router.Do(func() error { return exec.Command("ip", "-force", "-batch", name).Run() })
}

// agrees waits until the mirror is like the kernel.
func (l *lab) agrees(after string) {
	l.t.Helper()
	testenv.Agrees(l.t, after, l.m.Compare)
}

// TestRandomChanges changes the kernel's routes, rules, addresses, links and
// neighbours at random; the mirror, which hears of each change by itself, must come to
// what the kernel says of the whole.
func TestRandomChanges(t *testing.T) {
	l := newLab(t, nil)
	rounds, seed := 25, uint64(1)
	if *soak {
		rounds, seed = 1000, uint64(time.Now().UnixNano())
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for range rounds {
		var lines []string
		for range 1 + r.IntN(12) {
			lines = append(lines, randomChange(r))
		}
		l.batch(lines)
		l.agrees(fmt.Sprintf("seed %d: %s", seed, strings.Join(lines, "\n")))
	}
	if s := l.m.Stats(); s.Overruns > 0 {
		t.Errorf("%+v: this was to be without losses", s)
	}
}

func randomChange(r *rand.Rand) string {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	p := r.IntN(2)
	verb := pick("add", "add", "append", "replace", "prepend", "del", "del", "change")
	metric := pick("", "", " metric 5", " metric 7")
	table := pick("", "", "", " table 77")
	switch r.IntN(12) {
	default: // IPv4 routes
		dst := fmt.Sprintf("20.%d.0.0/%d", r.IntN(2), 16)
		tos := pick("", "", "", " tos 0x10", " tos 0x8")
		kind := pick("", "", "", "", "blackhole ", "unreachable ", "prohibit ", "throw ")
		if kind != "" {
			return fmt.Sprintf("route %s %s%s%s%s%s", verb, kind, dst, tos, metric, table)
		}
		via := pick(
			fmt.Sprintf("via 10.1.%d.%d", p, 2+r.IntN(2)), fmt.Sprintf("dev p%d", p),
			fmt.Sprintf("via inet6 2001:db8:%d::2 dev p%d", p, p),
			fmt.Sprintf("nexthop via 10.1.0.%d weight %d nexthop via 10.1.1.2", 2+r.IntN(2), 1+r.IntN(3)))
		return fmt.Sprintf("route %s %s%s %s%s%s%s", verb, dst, tos, via, metric, table, pick("", "", " mtu 1400", " proto bgp", " scope link", " advmss 1300"))
	case 6, 7, 8: // IPv6
		dst := fmt.Sprintf("2001:db8:%d00::/40", 1+r.IntN(2))
		kind := pick("", "", "", "", "blackhole ", "unreachable ", "prohibit ")
		if kind != "" {
			return fmt.Sprintf("-6 route %s %s%s%s%s", verb, kind, dst, metric, table)
		}
		via := pick(
			fmt.Sprintf("via 2001:db8:%d::%d", p, 2+r.IntN(3)), fmt.Sprintf("via 2001:db8:%d::%d", p, 2+r.IntN(3)), fmt.Sprintf("dev p%d", p),
			fmt.Sprintf("nexthop via 2001:db8:0::%d nexthop via 2001:db8:1::2", 2+r.IntN(2)))
		from := pick("", "", "", " from 2001:db8:5::/48")
		return fmt.Sprintf("-6 route %s %s%s %s%s%s", verb, dst, from, via, metric, table)
	case 9:
		return fmt.Sprintf("%srule %s pref %d%s table %s", pick("", "-6 "), pick("add", "del"), 100+r.IntN(3),
			pick(" iif p0", " oif p1", " fwmark 3/7", " tos 0x10", " not iif other", " ipproto tcp dport 80"), pick("77", "main suppress_prefixlength 0"))
	case 10:
		return pick(
			fmt.Sprintf("addr %s 10.9.%d.1/24 dev p%d", pick("add", "del"), p, p), fmt.Sprintf("addr %s 10.9.%d.2/24 dev p%d", pick("add", "del"), p, p),
			fmt.Sprintf("-6 addr %s 2001:db8:9::%d/64 dev p%d nodad", pick("add", "del"), 1+r.IntN(2), p))
	case 11:
		return pick(
			fmt.Sprintf("link set p%d down", p), fmt.Sprintf("link set p%d up", p), fmt.Sprintf("link set p%d mtu %d", p, 1400+r.IntN(3)),
			fmt.Sprintf("neigh %s 10.1.%d.%d lladdr 02:00:00:00:00:0%d dev p%d", pick("replace", "del"), p, 5+r.IntN(2), r.IntN(10), p),
			fmt.Sprintf("neigh %s 2001:db8:%d::%d lladdr 02:00:00:00:00:0%d dev p%d", pick("replace", "del"), p, 5+r.IntN(2), r.IntN(10), p))
	}
}

// routeLines are so many routes of an ip batch.
func routeLines(verb string, n int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf("route %s %d.%d.%d.%d/32 via 10.1.%d.2", verb, 30+i>>24, i>>16&255, i>>8&255, i&255, i&1)
	}
	return lines
}

// TestOverrun loses messages, for there is no room for them, and must come to what the
// kernel has all the same (F20).
func TestOverrun(t *testing.T) {
	n := 20_000
	if *soak {
		n = 1_000_000
	}
	l := newLab(t, func(c *Config) { c.RouteBuffer, c.NeighbourBuffer = 1<<12, 1<<12 })
	began := time.Now()
	l.batch(routeLines("add", n))
	l.agrees("adding")
	if got := l.m.Table().NumRoutes(); got < n {
		t.Errorf("%d routes", got)
	}
	l.batch(routeLines("del", n))
	l.agrees("removing")
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf("neigh replace 10.1.0.%d lladdr 02:00:00:%02x:%02x:%02x dev p0", 10+i%200, i>>16&255, i>>8&255, i&255))
	}
	l.batch(lines[:min(n, 200_000)])
	l.agrees("neighbours")
	s := l.m.Stats()
	t.Logf("%+v", s)
	if s.Overruns == 0 || s.RouteResyncs == 0 {
		t.Errorf("nothing was lost: %+v", s)
	}
	if n, most := strings.Count(l.log.String(), "routes were read anew"), 1+int(time.Since(began)/sayEvery); n < 1 || n > most {
		t.Errorf("said %d times, at most %d are allowed", n, most)
	}
}

// kernelSays is where the kernel sends a packet of its own.
func (l *lab) kernelSays(dst netip.Addr) string {
	got, err := l.router.Netlink().RouteGet(dst.AsSlice())
	if err != nil || len(got) == 0 {
		return "none"
	}
	gw, _ := netip.AddrFromSlice(got[0].Gw)
	return fmt.Sprint(got[0].LinkIndex, gw.Unmap())
}

func (l *lab) mirrorSays(dst netip.Addr) string {
	t := l.m.Table()
	f := flow.IPv4
	if dst.Is6() {
		f = flow.IPv6
	}
	h := t.Lookup(route.Key{Family: f, Dst: flow.AddrFrom(dst), In: -1})
	if h.Kind != route.Unicast || h.Out < 0 {
		return "none"
	}
	if h.Next == dst {
		h.Next = netip.Addr{}
	}
	return fmt.Sprint(t.Interfaces[h.Out].Index, h.Next)
}

// TestMillion adds routes by ip -batch, all at once, while neighbours change; then a
// thousand random destinations are where the kernel has them, and the mirror is at rest.
// It has answered all the while. (In the suite, 30,000; how long it took is logged.)
func TestMillion(t *testing.T) {
	n := 30_000
	if *soak {
		n = 1_000_000
	}
	l := newLab(t, nil)
	stop, answered := make(chan struct{}), make(chan time.Duration)
	var answers atomic.Int64
	go func() { // somebody who asks all the while
		var worst time.Duration
		for {
			select {
			case <-stop:
				answered <- worst
				return
			case <-time.After(time.Millisecond):
			}
			began := time.Now()
			l.mirrorSays(netip.AddrFrom4([4]byte{30, 0, 0, 1}))
			l.m.Stats()
			worst = max(worst, time.Since(began))
			answers.Add(1)
		}
	}()
	lines := routeLines("add", n)
	for i := range lines {
		if i%10 == 0 {
			lines[i] += fmt.Sprintf("\nneigh replace 10.1.0.%d lladdr 02:00:00:%02x:%02x:%02x dev p0", 10+i%200, i>>16&255, i>>8&255, i&255)
		}
	}
	testenv.Until(t, "it is asked", func() bool { return answers.Load() > 0 })
	before := answers.Load()
	l.batch(lines)
	if answers.Load() == before {
		t.Error("it has answered nothing while routes came")
	}
	began := time.Now()
	r := rand.New(rand.NewPCG(1, 2))
	var wrong string
	testenv.Until(t, "a thousand destinations are where the kernel has them", func() bool {
		for range 1000 {
			i := r.IntN(n + n/10)
			dst := netip.AddrFrom4([4]byte{byte(30 + i>>24), byte(i >> 16), byte(i >> 8), byte(i)})
			if a, b := l.kernelSays(dst), l.mirrorSays(dst); a != b {
				wrong = fmt.Sprintf("%v: kernel %s, mirror %s", dst, a, b)
				return false
			}
		}
		return true
	})
	took := time.Since(began)
	l.agrees("the batch")
	close(stop)
	worst := <-answered
	var at, after unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &at)
	const rest = 2 * time.Second
	time.Sleep(rest)
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - at.Utime.Nano() - at.Stime.Nano())
	t.Logf("%d routes: like the kernel %v after the last; an answer took %v at most; at rest %v of CPU in %v; %+v; wrong before: %s", n, took, worst, cpu, rest, l.m.Stats(), wrong)
	if cpu > rest/5 {
		t.Errorf("at rest it used %v of CPU in %v", cpu, rest)
	}
}

// TestRecreated deletes and recreates a port again and again, without a pause (F24).
func TestRecreated(t *testing.T) {
	cycles := 20
	if *soak {
		cycles = 100
	}
	l := newLab(t, nil)
	for range cycles {
		l.must("link del p0")
		l.joinHost(0)
	}
	l.agrees("recreating")
	nl := l.router.Netlink()
	link, err := nl.LinkByName("p0")
	if err != nil {
		t.Fatal(err)
	}
	if i := l.m.Table().Interfaces[0]; i.Index != link.Attrs().Index || !i.Up {
		t.Errorf("%+v for %d", i, link.Attrs().Index)
	}
}

// TestKindOfRoute: a route whose kind changes is one of the new kind, and gone when it is
// removed (F25).
func TestKindOfRoute(t *testing.T) {
	l := newLab(t, nil)
	dst := netip.MustParseAddr("20.0.0.1")
	for _, step := range []struct{ line, want string }{
		{"route add 20.0.0.0/8 via 10.1.0.2", "unicast"}, {"route replace blackhole 20.0.0.0/8", "blackhole"}, {"route replace 20.0.0.0/8 via 10.1.1.2", "unicast"},
		{"route replace unreachable 20.0.0.0/8", "unreachable"}, {"route del unreachable 20.0.0.0/8", "none"},
	} {
		l.must(step.line)
		kinds := map[route.Kind]string{route.None: "none", route.Unicast: "unicast", route.Blackhole: "blackhole", route.Unreachable: "unreachable"}
		testenv.Until(t, step.line, func() bool {
			return kinds[l.m.Table().Lookup(route.Key{Family: flow.IPv4, Dst: flow.AddrFrom(dst), In: -1}).Kind] == step.want
		})
	}
	l.agrees("the last")
}

// TestNextHopObjects: routes follow the next hop objects that they use (ip nexthop).
func TestNextHopObjects(t *testing.T) {
	l := newLab(t, nil)
	for _, line := range []string{
		"nexthop add id 1 via 10.1.0.2 dev p0", "nexthop add id 2 via 10.1.1.2 dev p1", "nexthop add id 10 group 1/2",
		"route add 20.0.0.0/8 nhid 1", "route add 21.0.0.0/8 nhid 10", "nexthop replace id 1 via 10.1.0.9 dev p0",
		"nexthop replace id 10 group 2", "nexthop del id 10", "nexthop del id 1",
	} {
		l.must(line)
		l.agrees(line)
	}
	if n := l.m.Table().NumRoutes(); n != 18 {
		t.Errorf("%d routes are left", n)
	}
}

// TestRenamed: a port stays one when it is renamed, and is known by its new name; if it
// is deleted it is looked for under its old one (F29).
func TestRenamed(t *testing.T) {
	l := newLab(t, nil)
	index := l.m.Table().Interfaces[0].Index
	l.must("link set p0 down", "link set p0 name uplink", "link set uplink up")
	l.agrees("renaming")
	if i := l.m.Table().Interfaces[0]; i.Name != "uplink" || i.Index != index || !i.Up {
		t.Errorf("%+v", i)
	}
	if n := strings.Count(l.log.String(), "has a new name"); n != 1 {
		t.Errorf("said %d times", n)
	}
	l.must("link del uplink")
	l.joinHost(0)
	l.agrees("recreating")
	if i := l.m.Table().Interfaces[0]; i.Name != "p0" || i.Index == index || i.Index == 0 {
		t.Errorf("%+v", i)
	}
}

// TestNeighbourBound: there are never more neighbours than there may be, and all that
// there is room for (gc_thresh3).
func TestNeighbourBound(t *testing.T) {
	l := newLab(t, func(c *Config) { c.MaxNeighbours = 16 })
	var add, del []string
	for i := range 40 {
		add = append(add, fmt.Sprintf("neigh add 10.1.0.%d lladdr 02:00:00:00:00:01 dev p0", 10+i))
		del = append(del, fmt.Sprintf("neigh del 10.1.0.%d dev p0", 10+i))
	}
	l.batch(add)
	testenv.Until(t, "neighbours are refused", func() bool { s := l.m.Stats(); return s.Neighbours == 16 && s.Refused >= 24 })
	l.batch(del[:30])
	testenv.Until(t, "those that are left are known", func() bool { return l.m.Stats().Neighbours == 10 })
}

// TestStaleIsConfirmed: a neighbour whose address may have changed is asked for
// again once packets go there.
func TestStaleIsConfirmed(t *testing.T) {
	l := newLab(t, nil)
	a := netip.MustParseAddr("10.1.0.2")
	l.m.Resolve(0, a, new(atomic.Bool))
	testenv.Until(t, "the neighbour is known", func() bool { _, ok := l.m.Table().Neighbour(0, a); return ok })
	before, _ := l.m.Table().Neighbour(0, a)
	// The host has another address now, and says nothing of it.
	if err := l.hosts[0].Do(func() error {
		return exec.Command("sh", "-c", "ip link set eth0 down; ip link set eth0 address 02:aa:bb:cc:dd:ee; ip link set eth0 up").Run()
	}); err != nil {
		t.Fatal(err)
	}
	l.must("neigh change 10.1.0.2 lladdr " + mac(before.MAC) + " dev p0 nud stale")
	if err := l.router.Sysctl("net/ipv4/neigh/p0/delay_first_probe_time", "1"); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "the new address is found", func() bool {
		n, ok := l.m.Table().Neighbour(0, a)
		if ok && n.MAC == [6]byte{2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee} {
			return true
		}
		if ok {
			l.m.Used([]uint32{n.ID})
		} else {
			l.m.Resolve(0, a, new(atomic.Bool))
		}
		return false
	})
}

func mac(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// TestRestart: a subscription that ends is made again, and what was missed is found.
func TestRestart(t *testing.T) {
	l := newLab(t, nil)
	for i, s := range l.m.subs {
		before := l.m.Stats().Restarts
		_ = s.sock.close()
		l.must(fmt.Sprintf("route add 20.0.%d.0/24 via 10.1.0.2", i))
		testenv.Until(t, "it is made again", func() bool { return l.m.Stats().Restarts > before })
		l.agrees("a restart")
		l.must(fmt.Sprintf("route add 21.0.%d.0/24 via 10.1.0.2", i))
		l.agrees("a change after that")
	}
}

// TestSolicitationFlood sends neighbour solicitations from the wire, each with another
// link-layer address: the mirror is like the kernel two seconds later, no larger than
// the kernel's table may be, and still follows (F20). (In the suite, 50,000.)
func TestSolicitationFlood(t *testing.T) {
	n := 50_000
	if *soak {
		n = 2_000_000
	}
	l := newLab(t, nil)
	target, err := l.hosts[0].Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	port, err := l.router.Netlink().LinkByName("p0")
	if err != nil {
		t.Fatal(err)
	}
	to := netip.MustParseAddr("2001:db8::1")
	began := time.Now()
	if err := l.hosts[0].Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		at := &unix.SockaddrLinklayer{Ifindex: target.Attrs().Index, Protocol: 0xdd86}
		for i := range n {
			// Not to be lost before the kernel has heard of half a table.
			src := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i / 400 % 2), 15: byte(2 + i%200)})
			mac := []byte{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
			body := append(append(to.AsSlice(), 1, 1), mac...)
			frame := append(append(append([]byte{}, port.Attrs().HardwareAddr...), mac...), 0x86, 0xdd)
			frame = packet.AppendICMP(frame, packet.IP{Src: src, Dst: to, TTL: 255}, 135, 0, 0, body)
			if err := unix.Sendto(fd, frame, 0, at); err != nil && err != unix.ENOBUFS {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	l.agrees("the flood")
	s := l.m.Stats()
	if s.Neighbours < 100 || s.Neighbours > 1100 {
		t.Errorf("%d neighbours", s.Neighbours)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("%d solicitations in %v: %+v, %d KiB of memory", n, took, s, m.HeapAlloc>>10)
	if m.HeapAlloc > 64<<20 {
		t.Errorf("%d KiB of memory", m.HeapAlloc>>10)
	}
	l.must("route add 20.0.0.0/8 via 10.1.0.2", "neigh replace 10.1.1.9 lladdr 02:00:00:00:00:09 dev p1")
	l.agrees("a change after the flood")
}

// BenchmarkResolve is what it costs a worker to ask for a neighbour, from all CPUs at once,
// while nobody takes what is asked: a scan of a net is that.
func BenchmarkResolve(b *testing.B) {
	m := &Mirror{asks: make(chan ask, 512)}
	m.table.Store(route.New([]route.Interface{{Name: "p0", Index: 2, Up: true}}))
	addr, asked := netip.MustParseAddr("10.1.0.2"), new(atomic.Bool)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			m.Resolve(0, addr, asked)
		}
	})
}
