package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/internal/testenv"
)

// TestRulesOfRunning loads, saves, shows and compares the rules of a running router by
// the command line, and makes it read its file again by SIGHUP. What is wrong changes
// nothing.
func TestRulesOfRunning(t *testing.T) {
	testenv.Root(t)
	d, err := newRouterNet()
	defer d.close()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("rules.v4", demoRules)
	cfg := engine.DefaultConfig()
	cfg.Mode, cfg.Control = engine.Router, filepath.Join(dir, "control.sock")
	cfg.Ports = []engine.PortConfig{{Interface: "lan"}, {Interface: "wan"}}
	cfg.Rules.IPv4 = file
	xdpct := func(want int, args ...string) string {
		t.Helper()
		var out, errOut strings.Builder
		if args[0] == "rules" && args[1] != "check" {
			args = append(args, "--control", cfg.Control)
		}
		if got := run(args, &out, &errOut); got != want {
			t.Fatalf("%q: exit %d, want %d: %s%s", args, got, want, out.String(), errOut.String())
		}
		return out.String() + errOut.String()
	}
	err = d.serveWhile(context.Background(), cfg, slog.New(slog.DiscardHandler), func(context.Context, *control.Client) error {
		if saved := xdpct(0, "rules", "save"); !strings.Contains(saved, "-A POSTROUTING -s 10.77.1.0/24 -o wan -j MASQUERADE\n") {
			t.Errorf("saved: %s", saved)
		}
		xdpct(0, "rules", "diff", file)
		seen, conn, err := visit(d.left, d.right, "203.0.113.2:80", "203.0.113.2:80")
		if err != nil {
			return err
		}
		defer conn.Close()
		if !strings.HasPrefix(seen, "203.0.113.1:") {
			t.Errorf("the server sees %s", seen)
		}
		if shown := xdpct(0, "rules", "show"); !strings.Contains(shown, "[1:60] -A FORWARD -i lan -o wan -j ACCEPT") {
			t.Errorf("shown: %s", shown)
		}

		// One table is replaced; the other stays, and counters of rules that stay do.
		xdpct(0, "rules", "load", write("filter", "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i lan -o wan -j ACCEPT\n-A FORWARD -i wan -j ACCEPT\nCOMMIT\n"))
		shown := xdpct(0, "rules", "show")
		for _, want := range []string{`\[[1-9]\d*:\d+\] -A FORWARD -i lan -o wan -j ACCEPT`, "-A FORWARD -i wan -j ACCEPT", "-j MASQUERADE"} {
			if !regexp.MustCompile(want).MatchString(shown) {
				t.Errorf("%q is not in %s", want, shown)
			}
		}
		saved := xdpct(0, "rules", "save")
		if diff := xdpct(1, "rules", "diff", file); !strings.Contains(diff, "-"+"-A FORWARD -i wan -j ACCEPT\n") {
			t.Errorf("diff: %s", diff)
		}
		if bad := xdpct(1, "rules", "load", write("bad", "*filter\n-A FORWARD -m nonsense\nCOMMIT\n")); !strings.Contains(bad, `bad:2:15: "nonsense"`) {
			t.Errorf("bad: %s", bad)
		}
		xdpct(1, "rules", "load", write("hook", "*nat\n:own - [0:0]\n-A PREROUTING -j own\n-A own -j SNAT --to-source 1.2.3.4\nCOMMIT\n"))
		if now := xdpct(0, "rules", "save"); now != saved {
			t.Errorf("rules that are wrong have changed something:\n%s\n%s", saved, now)
		}
		if now := xdpct(0, "rules", "show"); strings.Contains(now, "[0:0] -A FORWARD -i lan -o wan") { // the connection may have said more
			t.Errorf("rules that are wrong have changed counters:\n%s", now)
		}

		// SIGHUP: first of a file that is wrong, then of one that is right.
		hup := func(text, want string) {
			write("rules.v4", text)
			if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			testenv.Until(t, want+" is among the rules", func() bool { return strings.Contains(xdpct(0, "rules", "save"), want) })
		}
		hup("*filter\n-A FORWARD -j NOWHERE\nCOMMIT\n", "-A FORWARD -i wan -j ACCEPT")
		hup("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n", "--reject-with tcp-reset")
		if _, c, err := visit(d.left, d.right, "203.0.113.2:81", "203.0.113.2:81"); !errors.Is(err, syscall.ECONNREFUSED) {
			if c != nil {
				c.Close()
			}
			t.Errorf("a connection that is rejected: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
