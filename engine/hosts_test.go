package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// newHosts makes hosts as they come and an engine between them.
func newHosts(t *testing.T, o netlab.HostsOptions, rules4, rules6 string, change func(*Config)) (*netlab.Hosts, *Engine) {
	t.Helper()
	testenv.Root(t)
	h, err := netlab.NewHosts(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h, startBetween(t, h, o.Routed, rules4, rules6, change)
}

// startBetween starts an engine in the box between hosts: a router if routed, else a
// bridge.
func startBetween(t *testing.T, h *netlab.Hosts, routed bool, rules4, rules6 string, change func(*Config)) *Engine {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		if text == "" {
			return ""
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg := DefaultConfig()
	cfg.Mode, cfg.Ports = Bridge, []PortConfig{{Interface: "left"}, {Interface: "right"}}
	if routed {
		cfg.Mode = Router
	}
	cfg.Settings.Max = 10000
	cfg.Rules = RuleFiles{write("rules.v4", rules4), write("rules.v6", rules6)}
	if change != nil {
		change(&cfg)
	}
	log := slog.DiscardHandler
	if testing.Verbose() {
		log = slog.NewTextHandler(os.Stderr, nil)
	}
	var e *Engine
	var err error
	if err2 := h.Box.Do(func() error {
		e, err = Open(cfg, slog.New(log))
		return nil
	}); errors.Join(err, err2) != nil {
		t.Fatal(errors.Join(err, err2))
	}
	e.Start()
	t.Cleanup(func() {
		if t.Failed() {
			logStats(t, e)
		}
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// logStats logs the counters that are not zero.
func logStats(t *testing.T, e *Engine) {
	s, err := e.Stats(context.Background())
	if err != nil {
		t.Log(err)
		return
	}
	sum := s.Total()
	t.Logf("%d packets, %d dropped", sum.Packets, sum.Dropped)
	for r, n := range sum.Reasons {
		if n > 0 {
			t.Logf("%v: %d", r, n)
		}
	}
	for _, p := range s.Ports {
		t.Logf("%+v", p)
	}
}

const portRules4 = `*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -s 10.50.0.0/24 -o right -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i left -j ACCEPT
COMMIT
`

const portRules6 = `*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i left -j ACCEPT
COMMIT
`
