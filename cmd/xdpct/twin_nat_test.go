package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/engine"
)

// natSession is about connections that are translated.
const natSession = `
-I -p tcp -s 10.0.0.1 -d 1.1.1.1 --sport 1000 --dport 80 -t 100 --state ESTABLISHED -u SEEN_REPLY,ASSURED -n 203.0.113.1
-I -p udp -s 10.0.0.1 -d 1.1.1.1 --sport 1001 --dport 53 -t 100 -n 203.0.113.1:4000
-I -p udp -s 10.0.0.2 -d 1.1.1.1 --sport 1001 --dport 53 -t 100 -n 203.0.113.1:4000
-A -p udp -s 10.0.0.2 -d 1.1.1.1 --sport 1001 --dport 53 -t 100 -n 203.0.113.1:4000
-I -p udp -s 10.0.0.1 -d 203.0.113.1 --sport 1001 --dport 53 -t 100 -g 10.0.0.53:5353
-I -p udp -s 10.0.0.3 -d 203.0.113.1 --sport 1001 --dport 53 -t 100 -g 10.0.0.53
-I -p udp -s 10.0.0.4 -d 203.0.113.1 --sport 1001 --dport 53 -t 100 -g 10.0.0.53 -n 10.0.0.254:9
-I -p udp -s 10.0.0.1 -d 203.0.113.2 --sport 1001 --dport 53 -t 100 -j 10.0.0.54
-I -p udp -s 10.0.0.7 -d 203.0.113.2 --sport 1001 --dport 53 -t 100 -n
-I -p udp -s 10.0.0.8 -d 203.0.113.2 --sport 1001 --dport 53 -t 100 -n 10.0.0.8
-I -p udp -s 10.0.0.9 -d 203.0.113.2 -r 10.5.0.1 -q 10.0.0.9 --sport 1001 --dport 53 --reply-port-src 54 --reply-port-dst 1001 -t 100
-I -p udp -s 10.0.0.9 -d 203.0.113.3 -r 203.0.113.3 -q 10.6.0.9 --sport 1001 --dport 53 --reply-port-src 53 --reply-port-dst 1009 -t 100
-I -p udp -s 10.0.0.9 -d 203.0.113.4 --sport 1001 --dport 53 -t 100 -u SRC_NAT,SEEN_REPLY
-I -p icmp -s 10.0.0.9 -d 203.0.113.5 --icmp-type 8 --icmp-code 0 --icmp-id 7 -t 100 -n 10.7.0.1
-I -p icmp -s 10.0.0.9 -d 203.0.113.6 --icmp-type 8 --icmp-code 0 --icmp-id 7 -t 100 -n 10.7.0.1:99
-I -p gre -s 10.0.0.9 -d 203.0.113.6 --srckey 5 --dstkey 6 -t 100 -n 10.7.0.1
-I -p 99 -s 10.0.0.9 -d 203.0.113.6 -t 100 -n 10.7.0.1
-I -p tcp -s fd00::1 -d fd00::2 --sport 1 --dport 2 --state ESTABLISHED -t 100 -n fd00::9
-I -p tcp -s fd00::1 -d fd00::3 --sport 1 --dport 2 --state ESTABLISHED -t 100 -n [fd00::9]:77
-I -p udp -s 10.0.0.1 -d 1.1.1.9 --sport 1001 --dport 53 -t 100 -n 203.0.113.1:x
-I -p udp -s 10.0.0.1 -d 1.1.1.9 --sport 1001 --dport 53 -t 100 -n 203.0.113.1:70000
-I -p udp -s 10.0.0.1 -d 1.1.1.9 --sport 1001 --dport 53 -t 100 -n 203.0.113.1:
-I -p udp -s 10.0.0.1 -d 1.1.1.9 --sport 1001 --dport 53 -t 100 -n 203.0.113.1/24
-L
-L -n
-L -n 203.0.113.1
-L -n 203.0.113.1:4000
-L -n 203.0.113.1:4001
-L -p udp -g
-L -p udp -g 10.0.0.53:5353
-L -p udp -j
-L -n -g -p udp
-L -j -n
-L -f ipv6 -n [fd00::9]:77
-L -o extended
-L -o xml
-L -o save
-L -u SRC_NAT
-L -u UNSET
-L -u SRC_NAT,SEEN_REPLY
-D -n 10.0.0.254
-D -n 203.0.113.1:4000
-L -p udp
`

// TestConntrackNAT gives the same commands about translated connections to conntrack(8)
// and to ours, then has each save its table, empty it, and load what it saved.
func TestConntrackNAT(t *testing.T) {
	t.Run("one shard", func(t *testing.T) { conntrackNAT(t, newTwinsOf(t, engine.Router, 1, engine.RuleFiles{})) })
	// The reply tuples of several shards' connections are kept apart where rules map to
	// their addresses.
	t.Run("two shards", func(t *testing.T) {
		var text [2]strings.Builder
		for _, a := range []string{"203.0.113.1", "10.0.0.53", "10.0.0.254", "10.5.0.1", "10.6.0.9", "10.7.0.1", "fd00::9"} {
			n := 0
			if strings.Contains(a, "::") {
				n = 1
			}
			fmt.Fprintf(&text[n], "-A POSTROUTING -s %s -j SNAT --to-source %s\n", a, a)
		}
		rules := engine.RuleFiles{IPv4: filepath.Join(t.TempDir(), "v4"), IPv6: filepath.Join(t.TempDir(), "v6")}
		for n, name := range []string{rules.IPv4, rules.IPv6} {
			if err := os.WriteFile(name, []byte("*nat\n"+text[n].String()+"COMMIT\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		conntrackNAT(t, newTwinsOf(t, engine.Router, 2, rules))
	})
}

func conntrackNAT(t *testing.T, w *twins) {
	same := func(line string) {
		t.Helper()
		args := strings.Fields(line)
		want, got := w.kernelSays(t, args), w.xdpctSays(args)
		if got != want {
			t.Errorf("conntrack %s: %s", strings.TrimSpace(line), lineDiff(got, want))
		}
	}
	for line := range strings.Lines(strings.TrimSpace(natSession)) {
		same(line)
	}
	file := filepath.Join(t.TempDir(), "saved")
	saved, _, _ := strings.Cut(w.xdpctSays([]string{"-L", "-o", "save"}), "---")
	saved = strings.TrimLeft(strings.ReplaceAll(saved, "-t T", "-t 100"), "\n")
	// Tunnels of PPTP are not restored (docs/parity.md).
	saved = strings.Join(slices.DeleteFunc(strings.SplitAfter(saved, "\n"), func(l string) bool { return strings.Contains(l, " -p gre ") }), "")
	if strings.Count(saved, " -n ") < 5 || strings.Count(saved, " -g ") < 2 {
		t.Fatalf("nothing translated is saved:\n%s", saved)
	}
	if err := os.WriteFile(file, []byte(saved), 0o644); err != nil {
		t.Fatal(err)
	}
	same("-F")
	same("-R " + file)
	same("-L")
	same("-L -n")
	same("-L -o save")
	// conntrack(8) forgets the port of a connection that has both ends translated, and
	// finds nothing by -j with an address. Ours:
	w.xdpctSays(strings.Fields("-I -p udp -s 10.0.0.4 -d 203.0.113.1 --sport 1001 --dport 53 -t 100 -g 10.0.0.53 -n 10.0.0.254:9"))
	before := w.xdpctSays([]string{"-L"})
	saved, _, _ = strings.Cut(w.xdpctSays([]string{"-L", "-o", "save"}), "---")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(saved, "-t T", "-t 100")), 0o644); err != nil {
		t.Fatal(err)
	}
	w.xdpctSays([]string{"-F"})
	w.xdpctSays([]string{"-R", file})
	if after := w.xdpctSays([]string{"-L"}); after != before || !strings.Contains(after, "dst=10.0.0.254 sport=53 dport=9") {
		t.Errorf("what was loaded is not what was saved: %s", lineDiff(after, before))
	}
	if out := w.xdpctSays(strings.Fields("-L -j 10.0.0.254")); !strings.Contains(out, " 1 flow entries") {
		t.Errorf("-L -j 10.0.0.254: %s", out)
	}
}

// TestConntrackIDs: the id of a connection is its own: a later one of the same tuple has
// another.
func TestConntrackIDs(t *testing.T) {
	w := newTwinsOf(t, engine.Bridge, 1, engine.RuleFiles{})
	create := "-I -p udp -s 10.0.0.1 -d 1.1.1.1 --sport 1001 --dport 53 -t 100"
	id := regexp.MustCompile(`use=1 id=(\d+)`)
	seen := map[string]bool{}
	for range 100 {
		w.xdpctSays(strings.Fields(create))
		var out strings.Builder
		w.xdpctRaw(strings.Fields("-L -o id"), &out)
		m := id.FindStringSubmatch(out.String())
		if m == nil || seen[m[1]] {
			t.Fatalf("%q after %d others", out.String(), len(seen))
		}
		for old := range seen {
			if got := w.xdpctSays([]string{"-D", "-i", old}); !strings.Contains(got, " 0 flow entries have been deleted") {
				t.Fatalf("-D -i %s: %s", old, got)
			}
		}
		if got := w.xdpctSays([]string{"-D", "-i", m[1]}); !strings.Contains(got, " 1 flow entries have been deleted") {
			t.Fatalf("-D -i %s: %s", m[1], got)
		}
		if seen[m[1]] = true; len(seen) > 3 {
			clear(seen)
			seen[m[1]] = true
		}
	}
}
