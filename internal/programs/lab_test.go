package programs

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

var routers = flag.String("router", "xdpct", "who routes: xdpct, kernel, or both, the kernel first")

const (
	clientIP, clientIP6 = "10.71.0.2", "2001:db8:71::2"
	lanIP, lanIP6       = "10.71.0.1", "2001:db8:71::1"
	wanIP, wanIP6       = "198.51.100.1", "2001:db8:72::1"
	serverIP, serverIP6 = "198.51.100.2", "2001:db8:72::2"
	poorRouter, poorIP  = "203.0.113.1", "203.0.113.2"
)

// must ends the test if there is an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lab is the network.
type lab struct {
	t                      *testing.T
	client, router, server *netlab.NS
	dir                    string
	who                    string // who routes
	bin                    string // xdpct
	relay                  *relay
}

// rules are those of the router. helpers are CT rules; without them nothing is announced.
func rules(family, helpers string) string {
	return "*raw\n:PREROUTING ACCEPT [0:0]\n" + helpers + "COMMIT\n" +
		"*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o wan -j MASQUERADE\n-A POSTROUTING -o poor -j MASQUERADE\nCOMMIT\n" +
		"*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n" +
		"-A FORWARD -p " + family + " -j ACCEPT\n" +
		"-A FORWARD -i lan -p tcp -m multiport --dports 21,1723,6667 -j ACCEPT\n-A FORWARD -i lan -p udp -m multiport --dports 69,5060 -j ACCEPT\nCOMMIT\n"
}

const allHelpers = "-A PREROUTING -i lan -p tcp --dport 21 -j CT --helper ftp\n-A PREROUTING -i lan -p tcp --dport 6667 -j CT --helper irc\n" +
	"-A PREROUTING -i lan -p tcp --dport 1723 -j CT --helper pptp\n" +
	"-A PREROUTING -i lan -p udp --dport 69 -j CT --helper tftp\n-A PREROUTING -i lan -p udp --dport 5060 -j CT --helper sip\n"

// helpers6 are those that are read over IPv6, too.
const helpers6 = "-A PREROUTING -i lan -p tcp --dport 21 -j CT --helper ftp\n-A PREROUTING -i lan -p udp --dport 69 -j CT --helper tftp\n"

func newLab(t *testing.T, who, bin string) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir(), who: who, bin: bin}
	must(t, os.Chmod(l.dir, 0o755)) // servers that give up being root read files there
	var relayed *netlab.NS
	for _, n := range []struct {
		ns   **netlab.NS
		name string
	}{{&l.client, "client"}, {&l.router, "router"}, {&l.server, "server"}, {&relayed, "relay"}} {
		ns, err := netlab.NewNS(n.name)
		must(t, err)
		t.Cleanup(ns.Close)
		*n.ns = ns
	}
	must(t, relayed.Sysctl("net/ipv6/conf/all/disable_ipv6", "1"))
	for _, ns := range []*netlab.NS{l.client, l.router, l.server} { // addresses count from the beginning
		must(t, ns.Sysctl("net/ipv6/conf/default/accept_dad", "0"))
		must(t, ns.Sysctl("net/ipv6/conf/all/accept_dad", "0"))
		must(t, ns.SetUp("lo", true))
	}
	join := func(a, b netlab.Port) { must(t, netlab.Join(a, b)) }
	join(netlab.Port{NS: l.client, Name: "eth0", Addrs: []string{clientIP + "/24", clientIP6 + "/64"}}, netlab.Port{NS: l.router, Name: "lan", Addrs: []string{lanIP + "/24", lanIP6 + "/64"}})
	join(netlab.Port{NS: l.server, Name: "eth0", Addrs: []string{serverIP + "/24", serverIP6 + "/64"}}, netlab.Port{NS: l.router, Name: "wan", Addrs: []string{wanIP + "/24", wanIP6 + "/64"}})
	join(netlab.Port{NS: relayed, Name: "a"}, netlab.Port{NS: l.router, Name: "poor", Addrs: []string{poorRouter + "/24"}})
	join(netlab.Port{NS: relayed, Name: "b"}, netlab.Port{NS: l.server, Name: "poor", Addrs: []string{poorIP + "/24"}})
	must(t, l.client.Gateway("", lanIP))
	must(t, l.client.Gateway("::/0", lanIP6))
	l.relay = newRelay(t, relayed)
	if who == "kernel" {
		l.routeByKernel()
	} else {
		l.routeByXDPCT()
	}
	return l
}

// routeByKernel has the kernel route.
func (l *lab) routeByKernel() {
	for _, s := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		must(l.t, l.router.Sysctl(s, "1"))
	}
	l.load(allHelpers, helpers6)
}

// build makes the program, without its profile, so that packages which tests have compiled
// are not compiled again.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "xdpct")
	if out, err := exec.Command("go", "build", "-pgo=off", "-o", bin, "github.com/xdpct/xdpct/cmd/xdpct").CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	return bin
}

// routeByXDPCT has xdpct route.
func (l *lab) routeByXDPCT() {
	config := "mode: router\nshards: 2\ncontrol: " + l.socket() + "\nrules: {ipv4: rules.v4, ipv6: rules.v6}\nports:\n  - interface: lan\n  - interface: wan\n  - interface: poor\nsettings: {nf_conntrack_max: 20000}\n"
	must(l.t, os.WriteFile(filepath.Join(l.dir, "xdpct.yaml"), []byte(config), 0o600))
	l.writeRules(allHelpers, helpers6)
	p := l.spawn(l.router, l.bin, "run", "-c", filepath.Join(l.dir, "xdpct.yaml"))
	testenv.Until(l.t, "xdpct is up", func() bool {
		select {
		case <-p.done:
			l.t.Fatal("xdpct has ended")
		default:
		}
		return exec.Command(l.bin, "count", "--control", l.socket()).Run() == nil
	})
}

func (l *lab) socket() string { return filepath.Join(l.dir, "control") }

func (l *lab) writeRules(v4, v6 string) {
	must(l.t, os.WriteFile(filepath.Join(l.dir, "rules.v4"), []byte(rules("icmp", v4)), 0o600))
	must(l.t, os.WriteFile(filepath.Join(l.dir, "rules.v6"), []byte(rules("ipv6-icmp", v6)), 0o600))
}

// load gives the router rules with these helpers.
func (l *lab) load(v4, v6 string) {
	l.t.Helper()
	l.writeRules(v4, v6)
	if l.who != "kernel" {
		for family, name := range map[string]string{"--ipv6=false": "rules.v4", "--ipv6": "rules.v6"} {
			if out, err := exec.Command(l.bin, "rules", "load", family, "--control", l.socket(), filepath.Join(l.dir, name)).CombinedOutput(); err != nil {
				l.t.Fatalf("loading rules: %v: %s", err, out)
			}
		}
		return
	}
	for program, name := range map[string]string{"iptables-restore": "rules.v4", "ip6tables-restore": "rules.v6"} {
		must(l.t, l.router.Do(func() error {
			if out, err := exec.Command(program, filepath.Join(l.dir, name)).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", program, err, out)
			}
			return nil
		}))
	}
}

// process is one that runs beside the test.
type process struct {
	*exec.Cmd
	out  *bytes.Buffer
	done chan struct{}
}

// spawn runs a program in a namespace until the test ends.
func (l *lab) spawn(ns *netlab.NS, name string, args ...string) *process {
	l.t.Helper()
	p := &process{exec.Command(name, args...), &bytes.Buffer{}, make(chan struct{})}
	p.Dir, p.Stdout, p.Stderr = l.dir, p.out, p.out
	p.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // what it starts ends with it
	must(l.t, ns.Do(p.Start))
	go func() {
		_ = p.Wait()
		close(p.done)
	}()
	l.t.Cleanup(func() {
		_ = unix.Kill(-p.Process.Pid, unix.SIGKILL)
		<-p.done
		if l.t.Failed() {
			l.t.Logf("%s:\n%.4000s", filepath.Base(name), p.out)
		}
	})
	return p
}

// does runs a program in a namespace to its end, and returns what it has printed.
func (l *lab) does(ns *netlab.NS, patience time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	c.Dir, c.Stdout, c.Stderr = l.dir, &out, &out
	if err := ns.Do(c.Start); err != nil {
		return "", err
	}
	err := c.Wait()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no end after %v", patience)
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, &out)
	}
	return out.String(), err
}

// file makes a file of the given size in a folder of the lab, and returns what is in it.
func (l *lab) file(name string, size int) []byte {
	l.t.Helper()
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(size), byte(len(name))})
	_, _ = r.Read(b)
	path := filepath.Join(l.dir, name)
	must(l.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(l.t, os.WriteFile(path, b, 0o644))
	return b
}

// relay carries frames between two interfaces, and loses and reorders some while it is told
// to.
type relay struct {
	poor       chan int // one frame in this many is lost, and one is held back; 0: none
	lost, late atomic.Int64
}

func newRelay(t *testing.T, ns *netlab.NS) *relay {
	r := &relay{poor: make(chan int)}
	var ends [2]*netlab.Raw
	for i, name := range []string{"a", "b"} {
		var err error
		ends[i], err = ns.OpenRaw(name)
		must(t, err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-stopped })
	go func() {
		defer close(stopped)
		defer ends[0].Close()
		defer ends[1].Close()
		every, dice := 0, rand.New(rand.NewPCG(1, 2))
		var held [2][]byte // in each direction
		for {
			select {
			case <-stop:
				return
			case every = <-r.poor:
			default:
			}
			for from := range ends {
				wait := time.Millisecond
				for {
					f, err := ends[from].Recv(wait)
					if err != nil || f == nil {
						break
					}
					wait = 0
					if every > 0 && dice.IntN(every) == 0 {
						r.lost.Add(1)
						continue
					}
					if every > 0 && held[from] == nil && dice.IntN(every) == 0 {
						held[from] = bytes.Clone(f)
						continue
					}
					_ = ends[from^1].Send(f)
					if h := held[from]; h != nil && dice.IntN(3) == 0 {
						_ = ends[from^1].Send(h)
						held[from] = nil
						r.late.Add(1)
					}
				}
				if h := held[from]; h != nil && every == 0 {
					_ = ends[from^1].Send(h)
					held[from] = nil
				}
			}
		}
	}()
	return r
}
