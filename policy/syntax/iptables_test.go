package syntax

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// TestPrintsAsIptables gives commands to iptables, of either make, in a namespace of
// its own, and to Parse: what iptables-save prints and what WriteTo prints must be
// the same, and reading that back must change nothing.
func TestPrintsAsIptables(t *testing.T) {
	testenv.Root(t)
	for _, v := range []struct {
		program, commands string
		family            flow.Family
	}{
		{"iptables-nft", "commands4", flow.IPv4}, {"iptables-legacy", "commands4", flow.IPv4},
		{"ip6tables-nft", "commands6", flow.IPv6}, {"ip6tables-legacy", "commands6", flow.IPv6},
	} {
		t.Run(v.program, func(t *testing.T) {
			testenv.Program(t, v.program)
			commands := lines(t, filepath.Join("testdata", v.commands))
			ns, err := netlab.NewNS("rules")
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			var saved []byte
			var taken []string
			err = ns.Do(func() error {
				for _, c := range commands {
					words, _ := split(c)
					args := make([]string, len(words))
					for i, w := range words {
						args[i] = w.text
					}
					if out, err := exec.Command(v.program, args...).CombinedOutput(); err != nil {
						// The two makes differ in what they take.
						t.Logf("%s %s: %v: %s", v.program, c, err, out)
						continue
					}
					taken = append(taken, c)
				}
				saved, err = exec.Command(v.program + "-save").Output()
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(taken) < len(commands)*9/10 {
				t.Fatalf("%s took only %d of %d commands", v.program, len(taken), len(commands))
			}
			want := bare(saved)
			read, err := Parse(bytes.NewReader(saved), "saved", v.family)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "what was saved, printed again", read.String(), want)

			commanded, err := Parse(strings.NewReader(asRestore(taken, read)), "commands", v.family)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "the commands, printed", commanded.String(), want)
		})
	}
}

// bare is what was saved without comments and counters.
func bare(saved []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(saved)) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// asRestore writes commands as a file for iptables-restore, with the chains of r.
func asRestore(commands []string, r *Ruleset) string {
	var b strings.Builder
	for _, t := range r.Tables {
		fmt.Fprintf(&b, "*%s\n", t.Name)
		for _, c := range t.Chains {
			fmt.Fprintf(&b, ":%s %s [0:0]\n", c.Name, c.Policy)
		}
		for _, c := range t.Chains {
			for _, cmd := range commands {
				table := "filter"
				if rest, ok := strings.CutPrefix(cmd, "-t "); ok {
					table, cmd, _ = strings.Cut(rest, " ")
				}
				if table == t.Name && strings.HasPrefix(cmd, "-A "+c.Name+" ") {
					b.WriteString(cmd + "\n")
				}
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

func same(t *testing.T, what, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Errorf("%s, line %d:\n got %s\nwant %s", what, i+1, a, b)
			if t.Failed() && i > 100 {
				return
			}
		}
	}
}

func lines(t testing.TB, file string) (all []string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		all = append(all, s.Text())
	}
	return all
}
