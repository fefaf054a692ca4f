package policy

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy/syntax"
)

// TestEveryMatchCompiles: a match that the syntax knows is compiled.
func TestEveryMatchCompiles(t *testing.T) {
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		for name, m := range syntax.Matches(f) {
			if _, err := newCompiler(f).match(m); err != nil {
				t.Errorf("%v, -m %s: %v", f, name, err)
			}
		}
	}
}

// TestEveryTargetCompiles: a target that the syntax knows is compiled.
func TestEveryTargetCompiles(t *testing.T) {
	idle := map[string]bool{"CHECKSUM": true, "CLASSIFY": true} // nothing of what they do is left to do here
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		for name, target := range syntax.Targets(f) {
			a, err := newCompiler(f).target(target)
			if err != nil {
				t.Errorf("%v, -j %s: %v", f, name, err)
			} else if (a.do == nil && a.verdict == Continue) != idle[name] {
				t.Errorf("%v, -j %s: does nothing is %v", f, name, !idle[name])
			}
		}
	}
}

func newCompiler(f flow.Family) *compiler {
	return &compiler{p: newProgram(nil, nil), family: f}
}

// compile reads and compiles rules for two interfaces.
func compile(t testing.TB, text string, f flow.Family, before *Program) *Program {
	t.Helper()
	r, err := syntax.Parse(strings.NewReader(text), "rules", f)
	if err != nil {
		t.Fatal(err)
	}
	v := [2]*syntax.Ruleset{}
	v[f.Index()] = r
	p, err := Compile(v[0], v[1], []string{"eth0", "eth1"}, nat.Key{1, 2}, before)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestCompilesFiles compiles the rules that Docker, a Kubernetes node and firewalld load.
func TestCompilesFiles(t *testing.T) {
	files, err := filepath.Glob("syntax/testdata/files/*.v4")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		compile(t, string(text), flow.IPv4, nil)
	}
}

// FuzzCompile: what is read compiles, or is refused with the line of the rule.
func FuzzCompile(f *testing.F) {
	files, _ := filepath.Glob("syntax/testdata/files/*.v4")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, false)
	}
	f.Add([]byte("*filter\n-A FORWARD -m hashlimit --hashlimit-upto 15b/s --hashlimit-mode srcip --hashlimit-name x\nCOMMIT\n"), false) // a rate of none
	f.Fuzz(func(t *testing.T, text []byte, v6 bool) {
		family := flow.IPv4
		if v6 {
			family = flow.IPv6
		}
		r, err := syntax.Parse(bytes.NewReader(text), "fuzz", family)
		if err != nil {
			return
		}
		v := [2]*syntax.Ruleset{}
		v[family.Index()] = r
		if _, err := Compile(v[0], v[1], []string{"eth0"}, nat.Key{1, 2}, nil); err != nil && !strings.Contains(err.Error(), "line ") {
			t.Fatalf("no line is named: %v", err)
		}
	})
}

// TestCountsCarry: the counters of rules go on when rules are loaded, by the table that
// was not replaced, or else by their text; those that a file has are taken as they are.
func TestCountsCarry(t *testing.T) {
	const text = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p tcp -j ACCEPT\n[7:70] -A FORWARD -p udp -j ACCEPT\n-A FORWARD -p tcp -j ACCEPT\nCOMMIT\n"
	print := func(p *Program) string {
		var b strings.Builder
		if err := p.Ruleset(flow.IPv4).WriteTo(&b, true); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	before := compile(t, text, flow.IPv4, nil)
	before.AddCounts([]Count{{Packets: 1, Bytes: 10}, {Packets: 2, Bytes: 20}, {Packets: 3, Bytes: 30}, {Packets: 4, Bytes: 40}})
	const want = "*filter\n:FORWARD DROP [1:10]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n[2:20] -A FORWARD -p tcp -j ACCEPT\n[10:100] -A FORWARD -p udp -j ACCEPT\n[4:40] -A FORWARD -p tcp -j ACCEPT\nCOMMIT\n"
	if got := print(before); got != want {
		t.Fatalf("counted:\n%swant\n%s", got, want)
	}

	kept, err := Compile(before.rulesets[0], nil, []string{"eth0", "eth1"}, nat.Key{1, 2}, before)
	if err != nil {
		t.Fatal(err)
	}
	kept.CarryCounts(kept.Heritage(before))
	if got := print(kept); got != want {
		t.Errorf("the same rules, compiled again:\n%swant\n%s", got, want)
	}

	after := compile(t, text, flow.IPv4, before)
	after.CarryCounts(after.Heritage(before))
	if got, want := print(after), strings.Replace(want, "[10:100]", "[7:70]", 1); got != want {
		t.Errorf("the file, read again:\n%swant\n%s", got, want)
	}
}
