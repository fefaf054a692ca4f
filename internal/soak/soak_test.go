package soak

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

var (
	duration    = flag.Duration("duration", 8*time.Second, "how long there is traffic")
	raceProgram = flag.Bool("race-program", false, "build the program with the race detector")
)

// TestSoak is the package's.
func TestSoak(t *testing.T) {
	testenv.Root(t)
	if testing.Short() {
		t.Skip("skipped with -short: half a minute of traffic; the suite runs it without")
	}
	for _, p := range []string{"dhclient", "dnsmasq", "ip"} {
		testenv.Program(t, p)
	}
	bin := build(t)
	s := &soak{lab: newLab(t), changing: make(chan struct{})}
	s.sending, s.stop = context.WithCancel(t.Context())
	defer s.stop()
	s.router = s.launch(t, bin, "router", "router", s.lab.router, []string{"wan", "lan", "lab", "vpn", "spare"}, routerRules)
	s.bridge = s.launch(t, bin, "bridge", "bridge", s.lab.bridge, []string{"a", "b"}, bridgeRules)
	await(t, 40*time.Second, "an address by DHCP, and one by router advertisement at each host of the LAN", func() bool {
		return s.wanAddr().IsValid() && configured6(s.h1) && configured6(s.h2) && configured6(s.h3)
	})
	s.serve(t)
	s.traffic()
	s.disturb()
	series := s.run(t)
	s.senders.Wait()
	s.report(t, series)
}

// serve starts the servers.
func (s *soak) serve(t *testing.T) {
	for _, ns := range []*netlab.NS{s.isp, s.far, s.h3, s.h4, s.h5, s.lab.router, s.right} {
		serveHTTP(t, ns)
		listen(t, ns, transferPort, serveTransfer)
		echoUDP(t, ns, echoPort)
		echoUDP(t, ns, queryPort)
	}
}

func always(target string) func() string { return func() string { return target } }

// wan returns the router's address on the WAN, as it is when it is asked for, with a port.
func (s *soak) wan(port int) func() string {
	return func() string {
		a := s.wanAddr()
		for ; !a.IsValid(); a = s.wanAddr() {
			time.Sleep(20 * time.Millisecond)
		}
		return hostport(a.String(), port)
	}
}

// traffic begins all that is sent.
func (s *soak) traffic() {
	const (
		million = 1_000_000
		often   = 200 * time.Millisecond
		polite  = 50 * time.Millisecond
	)
	h3 := s.h3Addr6().String()
	for _, f := range []struct {
		name              string
		isp, far, h4, h5  string
		self, left, right string
		mapped            bool
	}{
		{"v4", ispIP, farIP, h4IP, h5IP, lanIP, leftIP, rightIP, true},
		{"v6", ispIP6, farIP6, h4IP6, h5IP6, lanIP6, leftIP6, rightIP6, false},
	} {
		to := func(host string, port int) func() string { return always(hostport(host, port)) }
		s.transfers(f.name+" upload h1-isp", f.mapped, s.h1, to(f.isp, transferPort), upload, 4*million, 3*million)
		s.transfers(f.name+" download isp-h2", f.mapped, s.h2, to(f.isp, transferPort), download, 4*million, 3*million)
		s.transfers(f.name+" upload h2-h4", false, s.h2, to(f.h4, transferPort), upload, 2*million, 2*million)
		s.transfers(f.name+" download h5-h1", false, s.h1, to(f.h5, transferPort), download, million, million)
		s.transfers(f.name+" download far-h4, path MTU", f.mapped, s.h4, to(f.far, transferPort), download, million, million)
		s.transfers(f.name+" upload h5-far, path MTU", f.mapped, s.h5, to(f.far, transferPort), upload, million, million)
		s.transfers(f.name+" upload left-right", false, s.left, to(f.right, transferPort), upload, 4*million, 3*million)
		s.transfers(f.name+" download right-left", false, s.left, to(f.right, transferPort), download, 4*million, 3*million)

		s.browse(f.name+" HTTP h1-isp", f.mapped, s.h1, to(f.isp, httpPort), often)
		s.browse(f.name+" HTTP h5-far", f.mapped, s.h5, to(f.far, httpPort), often)
		s.browse(f.name+" HTTP h2-h4", false, s.h2, to(f.h4, httpPort), often)
		s.browse(f.name+" HTTP h2-router", false, s.h2, to(f.self, httpPort), often)
		s.browse(f.name+" HTTP router-isp", f.mapped, s.lab.router, to(f.isp, httpPort), often)
		s.browse(f.name+" HTTP left-right", false, s.left, to(f.right, httpPort), often)

		s.questions(f.name+" UDP h1-isp", f.mapped, s.h1, to(f.isp, echoPort), polite, 20, 100, 1000)
		s.questions(f.name+" UDP h2-h5", false, s.h2, to(f.h5, echoPort), polite, 20, 100, 1000)
		s.questions(f.name+" UDP h4-far, fragments", f.mapped, s.h4, to(f.far, echoPort), often, 4000, 2000, 1200)
		s.questions(f.name+" UDP h2-isp, fragments", f.mapped, s.h2, to(f.isp, echoPort), often, 4000, 1500, 9000)
		s.questions(f.name+" UDP h1-router, fragments", false, s.h1, to(f.self, echoPort), often, 4000, 100)
		s.questions(f.name+" UDP router-isp", f.mapped, s.lab.router, to(f.isp, echoPort), often, 100, 4000)
		s.questions(f.name+" UDP left-right, fragments", false, s.left, to(f.right, echoPort), polite, 20, 1000, 4000)
		s.questions(f.name+" UDP h1-isp, every 20 s", f.mapped, s.h1, to(f.isp, echoPort), 20*time.Second, 20)
		s.queries(f.name+" queries h2-isp", f.mapped, s.h2, to(f.isp, queryPort), often)
		s.queries(f.name+" queries h5-h4", false, s.h5, to(f.h4, queryPort), often)
		s.queries(f.name+" queries left-right", false, s.left, to(f.right, queryPort), often)

		s.pings(f.name+" ping h1-isp", f.mapped, s.h1, f.isp, often, 56)
		s.pings(f.name+" ping h5-h2's router", false, s.h5, f.self, often, 56)
		s.pings(f.name+" ping h4-isp, fragments", f.mapped, s.h4, f.isp, often, 3000)
		s.pings(f.name+" ping left-right", false, s.left, f.right, often, 56)

		s.idle(f.name+" idle h1-isp", f.mapped, s.h1, to(f.isp, transferPort), time.Minute)
		s.idle(f.name+" idle h5-h4", false, s.h5, to(f.h4, transferPort), time.Minute)
		s.idle(f.name+" idle left-right", false, s.left, to(f.right, transferPort), time.Minute)

		s.doomed(f.name+" dropped by a rule h1-isp", s.h1, hostport(f.isp, droppedPort), often)
		s.doomed(f.name+" dropped by a rule left-right", s.left, hostport(f.right, droppedPort), often)
		s.refused(f.name+" rejected by a rule h2-isp", s.h2, hostport(f.isp, refusedPort))
		s.refused(f.name+" rejected by a rule left-right", s.left, hostport(f.right, refusedPort))
	}
	s.transfers("v4 download h3-isp, port forward", true, s.isp, s.wan(8200), download, 2*million, 2*million)
	s.browse("v4 HTTP far-h3, port forward", true, s.far, s.wan(8080), often)
	s.questions("v4 UDP isp-h3, port forward", true, s.isp, s.wan(8500), polite, 20, 1000, 4000)
	s.idle("v4 idle isp-h3, port forward", true, s.isp, s.wan(8200), time.Minute)
	s.transfers("v6 download h3-isp", false, s.isp, always(hostport(h3, transferPort)), download, 2*million, 2*million)
	s.browse("v6 HTTP far-h3", false, s.far, always(hostport(h3, httpPort)), often)
	s.questions("v6 UDP isp-h3", false, s.isp, always(hostport(h3, echoPort)), polite, 20, 1000, 4000)

	s.errorReported("v4 time exceeded h4-isp", s.h4, hostport(ispIP, echoPort), unix.IP_TTL, 1, 100, unix.EHOSTUNREACH)
	s.errorReported("v6 time exceeded h4-isp", s.h4, hostport(ispIP6, echoPort), unix.IPV6_UNICAST_HOPS, 1, 100, unix.EHOSTUNREACH)
	s.errorReported("v4 too big h4-h5", s.h4, hostport(h5IP, echoPort), unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO, vpnMTU-27, unix.EMSGSIZE)
	s.errorReported("v6 too big h4-h5", s.h4, hostport(h5IP6, echoPort), unix.IPV6_DONTFRAG, 1, vpnMTU-47, unix.EMSGSIZE)
}

// run lets traffic flow for as long as it is to, and returns what the processes took
// meanwhile. In the middle the router's address changes.
func (s *soak) run(t *testing.T) (series map[string][]usage) {
	series = map[string][]usage{}
	half, end := time.After(*duration/2), time.After(*duration)
	tick := time.NewTicker(max(*duration/120, time.Second/4))
	defer tick.Stop()
	for {
		select {
		case <-half:
			s.readdress(t, "192.0.2.70", "192.0.2.80")
		case <-end:
			s.stop()
			return series
		case <-tick.C:
		}
		for _, x := range []*tracker{s.router, s.bridge} {
			u, err := x.usage()
			must(t, err)
			series[x.name] = append(series[x.name], u)
			must(t, x.watch())
		}
	}
}

// watch notes when packets go by a reason that is none of this run's.
func (x *tracker) watch() error {
	st, err := x.stats()
	for r, n := range st.Reasons {
		if n > x.noted[r] && !slices.Contains(x.reasons(), r) {
			x.notes = append(x.notes, note{r, n - x.noted[r], time.Now()})
		}
	}
	x.noted = st.Reasons
	return err
}

// report accounts for everything, prints it, and says what is wrong.
func (s *soak) report(t *testing.T, series map[string][]usage) {
	var table strings.Builder
	fmt.Fprintf(&table, "%-34s %8s %8s %8s %8s %9s\n", "", "tried", "done", "address", "LOST", "MB")
	starved := 0
	for _, x := range []*tracker{s.router, s.bridge} {
		n, err := x.starved()
		must(t, err)
		starved += n
	}
	slices.SortFunc(s.loads, func(a, b *load) int { return strings.Compare(a.name, b.name) })
	lost := 0
	for _, l := range s.loads {
		l.excuse(s.changes)
		fmt.Fprintln(&table, l)
		if l.done+l.excused+len(l.failures) < l.tried || l.done+l.excused == 0 {
			t.Errorf("%s: not all are accounted for: %v", l.name, l)
		}
		for i, f := range l.failures {
			if lost++; f.datagram && starved > 0 {
				starved--
				continue
			}
			if i < 5 {
				t.Errorf("%s: %s, %v: %s", l.name, f.from.Format("15:04:05.000"), f.to.Sub(f.from).Round(time.Millisecond), f.what)
			}
		}
	}
	fmt.Fprintf(&table, "\n%-34s %8s %8s %8s %8s\n", "namespace", "dropped", "overflow", "resent", "in vain")
	for _, ns := range s.all {
		c, err := counted(ns)
		must(t, err)
		fmt.Fprintf(&table, "%-34s %8d %8d %8d %8d\n", ns.Name, c.dropped, c.udpOverflow, c.tcpResent, c.tcpInVain)
	}
	for _, x := range []*tracker{s.router, s.bridge} {
		s.account(t, &table, x, series[x.name])
	}
	t.Logf("%v of traffic, %d lost\n%s", *duration, lost, &table)
}

// account compares what a tracker has counted with what was sent, and looks at what it
// took and what it logged.
func (s *soak) account(t *testing.T, table *strings.Builder, x *tracker, series []usage) {
	st, err := x.stats()
	must(t, err)
	fmt.Fprintf(table, "\n%s:", x.name)
	for _, r := range slices.Sorted(maps.Keys(st.Reasons)) {
		if n := st.Reasons[r]; n > 0 {
			fmt.Fprintf(table, " %s=%d", r, n)
		}
	}
	fmt.Fprintln(table)
	must(t, x.watch())
	for _, n := range x.notes {
		text := fmt.Sprintf("%s: %s %s +%d", x.name, n.at.Format("15:04:05.0"), n.reason, n.n)
		if x == s.router && slices.Contains(readdressing, n.reason) && s.whileReaddressed(n.at) {
			fmt.Fprintf(table, "%s while the address changed\n", text)
			continue
		}
		t.Errorf("%s, which nothing here brings about", text)
	}
	starved, err := x.starved()
	must(t, err)
	// Hosts still say a word now and then, between one reading and the next.
	var tally ruleTally
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: %d dropped, %d rejected, counted %d and %d", x.name, st.Reasons["rule"], st.Reasons["rejected"], tally.dropped, tally.rejected)
		}
	})
	testenv.Until(t, x.name+": as many dropped by rules as they have counted", func() bool {
		st, err = x.stats()
		must(t, err)
		tally = s.tally(t, x, starved)
		return st.Reasons["rule"] == tally.dropped && st.Reasons["rejected"] == tally.rejected
	})
	for _, line := range tally.lines {
		fmt.Fprintln(table, line)
	}
	for _, c := range st.Shards {
		if c.Fragments > 0 {
			t.Errorf("%s: %d fragments are still held", x.name, c.Fragments)
		}
	}
	x.settled(t, table, series)
}

// ruleTally is what the rules of a tracker have counted.
type ruleTally struct {
	dropped, rejected uint64
	lines             []string // of each rule that drops, and has
}

// tally reads what the rules of a tracker have counted, and compares it with what was sent
// for one of them to drop. So many packets were lost for want of a CPU.
func (s *soak) tally(t *testing.T, x *tracker, starved int) (sum ruleTally) {
	for family := range x.rules {
		all, err := x.counts(family)
		must(t, err)
		doomed := uint64(0)
		for _, r := range all {
			if r.Policy == "DROP" || strings.Contains(r.Text, "-j DROP") {
				sum.dropped += r.Packets
				if r.Packets > 0 {
					sum.lines = append(sum.lines, fmt.Sprintf("%s: %d packets: %s %s%s", x.name, r.Packets, r.Chain, r.Policy, r.Text))
				}
			}
			if strings.Contains(r.Text, "-j REJECT") {
				sum.rejected += r.Packets
			}
			if strings.Contains(r.Text, fmt.Sprint("--dport ", droppedPort, " ")) {
				doomed += r.Packets
			}
		}
		if want := s.sentToRule(x, family); doomed > want || doomed+uint64(starved) < want {
			t.Errorf("%s: %d packets were sent for a rule to drop, it has counted %d", x.name, want, doomed)
		}
	}
	return sum
}

// sentToRule returns how many datagrams were sent that a rule is to drop.
func (s *soak) sentToRule(x *tracker, family int) (n uint64) {
	name := []string{"v4", "v6"}[family] + " dropped by a rule " + map[*tracker]string{s.router: "h1-isp", s.bridge: "left-right"}[x]
	for _, l := range s.loads {
		if l.name == name {
			n += uint64(l.done)
		}
	}
	return n
}

// starvation are the reasons of a machine that is too busy for this traffic. Datagrams that
// are lost then are accounted for.
var starvation = []string{"rx_ring_full", "fill_ring_empty", "rx_dropped", "tx_ring_full", "tx_dropped", "handover_full", "host_busy", "no_chunk", "fragment_timeout"}

// starved returns how many packets were dropped for want of a CPU.
func (x *tracker) starved() (n int, err error) {
	st, err := x.stats()
	for _, r := range starvation {
		n += int(st.Reasons[r])
	}
	return n, err
}

// reasons are those that this traffic brings about.
func (x *tracker) reasons() []string {
	common := append([]string{
		"rule", "rejected", "fragment_held",
		// Of TCP, which resends what comes late, and ends connections that are gone by RST.
		"tcp_no_connection", "tcp_rst", "tcp_seq_below", "tcp_ack_below", "tcp_ignored_state", "tcp_state",
	}, starvation...)
	if x.name == "bridge" {
		return common
	}
	return append(common,
		"ttl_exceeded", "too_big",
		// Of the port that comes and goes.
		"no_port", "tx_down",
	)
}

// readdressing are the reasons that packets go by while the router has no IPv4 address on
// the WAN: without one nothing is masqueraded, the next hop does not resolve, and what comes
// for the address before is nobody's.
var readdressing = []string{"no_route", "masquerade", "no_neighbour", "icmp_no_request", "icmp_error_unknown", "other_host"}

// whileReaddressed reports whether a packet that was counted at a time may have come while
// the address changed, and waited for its next hop.
func (s *soak) whileReaddressed(at time.Time) bool {
	const resolving = 4 * time.Second // three probes, a second apart, and the interval of watch
	for _, c := range s.changes {
		if at.After(c.from) && at.Before(c.to.Add(max(*duration/120, resolving)+resolving)) {
			return true
		}
	}
	return false
}

// settled says whether a process takes more and more, logs what it should not, and ends
// as it should.
func (x *tracker) settled(t *testing.T, table *strings.Builder, series []usage) {
	quarter := len(series) / 4
	mid := func(part []usage, of func(usage) int) int {
		var all []int
		for _, u := range part {
			all = append(all, of(u))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	for _, k := range []struct {
		name  string
		of    func(usage) int
		slack int
	}{
		{"RSS in KiB", func(u usage) int { return u.rss }, 8 << 10},
		{"open files", func(u usage) int { return u.files }, 4},
		{"threads", func(u usage) int { return u.threads }, 4},
	} {
		early, late := mid(series[quarter:2*quarter+1], k.of), mid(series[3*quarter:], k.of)
		fmt.Fprintf(table, "%s: %s %d in the second quarter, %d in the last\n", x.name, k.name, early, late)
		if *duration >= 5*time.Minute && late > early+early/20+k.slack {
			t.Errorf("%s: %s grow from %d to %d", x.name, k.name, early, late)
		}
	}
	bad, err := x.unexpected(expectedLog)
	must(t, err)
	for _, line := range bad {
		t.Errorf("%s has logged: %s", x.name, line)
	}
	n, of, err := x.goroutines()
	must(t, err)
	fmt.Fprintf(table, "%s: %d goroutines: %v\n", x.name, n, of)
	if n > 40 {
		t.Errorf("%s: %d goroutines: %v", x.name, n, of)
	}
}

// expectedLog is what may be in the log besides INFO.
var expectedLog = []string{
	refused, "NOSUCHSTATE",
	// What is so on these interfaces.
	"XDP runs in generic mode", "fewer receive queues than shards", "come in by another device",
	// Of the port that comes and goes.
	`msg="interface is gone" interface=spare`,
}
