package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/rx"
)

// TestRulesBesideConfiguration: files of rules are looked for where the configuration
// is, not where the program was started (F47).
func TestRulesBesideConfiguration(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "xdpct.yaml")
	text := "mode: router\nports:\n  - interface: eth0\nrules:\n  ipv4: rules.v4\n  ipv6: /etc/rules.v6\n"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(name)
	if err != nil {
		t.Fatal(err)
	}
	if want := (RuleFiles{filepath.Join(dir, "rules.v4"), "/etc/rules.v6"}); c.Rules != want {
		t.Errorf("%+v, want %+v", c.Rules, want)
	}
}

// openIn opens an engine on the interface p of a namespace and closes it again. It
// returns what was logged.
func openIn(t *testing.T, ns *netlab.NS, change func(*Config)) (logged string, err error) {
	t.Helper()
	log := &logText{}
	cfg := DefaultConfig()
	cfg.Mode, cfg.Ports = Tap, []PortConfig{{Interface: "p"}}
	cfg.Settings.Max = 1000
	change(&cfg)
	doErr := ns.Do(func() error {
		var e *Engine
		if e, err = Open(cfg, newTextLog(log)); err == nil {
			e.Start()
			err = e.Stop()
		}
		return nil
	})
	if doErr != nil {
		t.Fatal(doErr)
	}
	return log.String(), err
}

// TestStartWarns: what an operator would rather know is a warning (F29, F47).
func TestStartWarns(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "ip")
	ns, err := netlab.NewNS("ns")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	for _, c := range []struct {
		name, make string
		change     func(*Config)
		want       string // "": nothing
	}{
		{"tap of a host's interface", "link add p type veth peer name q;addr add 10.0.0.1/24 dev p;link set p up", func(*Config) {}, "cannot be reached"},
		{"tap", "link add p type veth peer name q;link set p up", func(*Config) {}, ""},
		{"a driver without XDP", "link add p type bridge;link set p up", func(*Config) {}, "generic mode"},
		{"more shards than CPUs", "link add p type veth peer name q;link set p up", func(c *Config) { c.Shards = len(allowedCPUs()) + 1 }, "more shards than CPUs"},
		{"generic mode that is asked for", "link add p type bridge;link set p up", func(c *Config) { c.XDP = rx.ModeGeneric }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for line := range strings.SplitSeq(c.make, ";") {
				ip(t, ns, line)
			}
			defer ip(t, ns, "link del p")
			log, err := openIn(t, ns, c.change)
			if err != nil {
				t.Fatal(err)
			}
			var warned []string
			for line := range strings.Lines(log) {
				if strings.Contains(line, "level=WARN") && !strings.Contains(line, "longer than the MTU") {
					warned = append(warned, line)
				}
			}
			if c.want == "" && len(warned) > 0 || c.want != "" && !strings.Contains(strings.Join(warned, ""), c.want) {
				t.Errorf("warned of %q, want %q", warned, c.want)
			}
		})
	}
}

// TestDriverMTU: an MTU that the driver does not take with XDP is named as what is wrong.
func TestDriverMTU(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "ip")
	ns, err := netlab.NewNS("ns")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	ip(t, ns, "link add p mtu 9000 type veth peer name q mtu 9000")
	ip(t, ns, "link set p up")
	if _, err := openIn(t, ns, func(c *Config) { c.XDP = rx.ModeDriver }); err == nil || !strings.Contains(err.Error(), "the MTU is more than the driver takes with XDP") {
		t.Errorf("%v", err)
	}
}

// TestBadRulesOpenNothing: rules that are wrong are found before any port is opened, so
// that no frame is taken from the host (F47).
func TestBadRulesOpenNothing(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "ip")
	ns, err := netlab.NewNS("ns")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	ip(t, ns, "link add p type veth peer name q")
	ip(t, ns, "link set p up")
	for name, text := range map[string]string{"parse": "*filter\n-A FORWARD -j NONSENSE\nCOMMIT\n", "compile": "*nat\n:X - [0:0]\n-A PREROUTING -j X\n-A X -j SNAT --to-source 10.0.0.1\nCOMMIT\n"} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		log, err := openIn(t, ns, func(c *Config) { c.Mode, c.Rules.IPv4 = Router, file })
		if err == nil || strings.Contains(log, "port open") {
			t.Errorf("%s: %v, and it logged %s", name, err, log)
		}
	}
}

// TestLoopbackIsNoPort: a router cannot route by loopback; a tap can look at it.
func TestLoopbackIsNoPort(t *testing.T) {
	testenv.Root(t)
	ns, err := netlab.NewNS("ns")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if _, err := openIn(t, ns, func(c *Config) { c.Mode, c.Ports = Router, []PortConfig{{Interface: "lo"}} }); err == nil || !strings.Contains(err.Error(), "is loopback") {
		t.Errorf("%v", err)
	}
}

// TestWaitsAloud: who waits for another program to let go of an interface says so, and
// what it waited for.
func TestWaitsAloud(t *testing.T) {
	log := &logText{}
	e := &Engine{log: newTextLog(log)}
	w := e.waiting("p")
	if !w.again(unix.EBUSY) || log.String() != "" {
		t.Errorf("at first: %q", log.String())
	}
	w.since = w.since.Add(-mentionAfter)
	for range 2 { // said once
		if !w.again(unix.EBUSY) || strings.Count(log.String(), "perhaps another xdpct") != 1 {
			t.Errorf("after a while: %q", log.String())
		}
	}
	w.since = w.since.Add(-bindPatience)
	if w.again(unix.EBUSY) || !strings.Contains(w.explain(unix.EBUSY).Error(), "perhaps another xdpct") || !isBusy(w.explain(unix.EBUSY)) {
		t.Errorf("at the end: %v", w.explain(unix.EBUSY))
	}
	if w.again(unix.EINVAL) || w.again(nil) || w.explain(nil) != nil {
		t.Error("waits for what waiting does not help")
	}
}
