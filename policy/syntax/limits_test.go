package syntax

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// endless is a file without an end.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '\n'
	}
	e.read += len(p)
	return len(p), nil
}

// TestLimits: a file has as many bytes, rules, chains and matches as there may be, a line as
// many bytes and words as iptables-restore takes, and one more of any is an error that says
// so. (iptables 1.8.9: a line of 10,239 bytes is read, one of 10,240 is not; 254 words are not,
// with its own.)
func TestLimits(t *testing.T) {
	table := func(lines ...string) string { return "*filter\n" + strings.Join(lines, "") + "COMMIT\n" }
	rules := func(n int) string { return strings.Repeat("-A FORWARD -j DROP\n", n) }
	chains := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, ":%d - [0:0]\n", i)
		}
		return b.String()
	}
	matches := func(n int) string { // 50 a rule
		return strings.Repeat("-A FORWARD"+strings.Repeat(" -m addrtype --src-type LOCAL", 50)+" -j DROP\n", n/50)
	}
	padded := func(n int) string {
		const rule = "-A FORWARD -m comment --comment x"
		return rule + strings.Repeat(" ", n-len(rule)-len(" -j DROP")) + " -j DROP\n"
	}
	words := func(n int) string { return "-A FORWARD" + strings.Repeat(" !", n-2) + "\n" }
	for i, c := range []struct {
		name, text string
		want       string // "" if it is to be read
	}{
		{"rules", table(rules(MaxRules)), ""},
		{"one rule more", table(rules(MaxRules + 1)), ":262147:1: too many rules: at most 262144 rules and chains are possible"},
		{"chains", table(chains(MaxRules)), ""},
		{"one chain more", table(chains(MaxRules + 1)), ":262147:1: too many rules: at most 262144"},
		{"matches", table(matches(MaxMatches)), ""},
		{"too many matches", table(matches(MaxMatches + 50)), "too many rules: at most 1048576 matches"},
		{"a long line", table(padded(maxLine)), ""},
		{"a line too long", table(padded(maxLine + 1)), ":2:10240: a line has at most 10239 bytes"},
		{"a long comment", "#" + strings.Repeat("x", maxLine) + "\n", ":1:10240: a line has at most"},
		{"a line without an end", strings.Repeat("a ", MaxText/2), ":1:10240: a line has at most"},
		{"many words", table(words(maxWords)), "not twice"},
		{"too many words", table(words(maxWords + 1)), ":2:518: a line has at most 255 words"},
		{"text", strings.Repeat("\n", MaxText), ""},
		{"one byte more, from a file", strings.Repeat("\n", MaxText+1), "more than 67108864 bytes of text"},
		{"one byte more", strings.Repeat("\n", MaxText+1), "more than 67108864 bytes of text"},
	} {
		var in io.Reader = strings.NewReader(c.text)
		if i%2 == 0 {
			in = bytes.NewBufferString(c.text)
		}
		got, err := Parse(in, "file", flow.IPv4)
		if c.want == "" {
			if err != nil || got.CheckSize() != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		} else if n := len(err.Error()); n > 1000 {
			t.Errorf("%s: an error of %d bytes", c.name, n)
		}
	}
	var zeros endless
	if _, err := Parse(&zeros, "file", flow.IPv4); !errors.Is(err, ErrTooLarge) || zeros.read > 2*MaxText {
		t.Errorf("a file without an end: %v after %d bytes", err, zeros.read)
	}
}

// TestTablesTogether: tables that are read one after the other may not have more rules
// together than one file.
func TestTablesTogether(t *testing.T) {
	var all *Ruleset
	for i, name := range []string{"raw", "mangle", "security"} {
		r, err := Parse(strings.NewReader("*"+name+"\n:own - [0:0]\n"+strings.Repeat("-A own -j DROP\n", MaxRules/2-20)+"COMMIT\n"), "rules", flow.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		all = all.With(r)
		if err := all.CheckSize(); (i < 2) != (err == nil) || err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d tables: %v", i+1, err)
		}
	}
}

// TestMemoryOfRules: a rule as Kubernetes writes them takes about a kilobyte.
func TestMemoryOfRules(t *testing.T) {
	const n = 20_000
	var text bytes.Buffer
	text.WriteString("*filter\n")
	for i := range n {
		fmt.Fprintf(&text, "-A FORWARD ! -s 10.244.0.0/16 -d 10.96.%d.%d/32 -p tcp -m comment --comment \"default/service-%d:http cluster IP\" -m tcp --dport 80 -m conntrack --ctstate NEW -j MARK --set-xmark 0x4000/0x4000\n", i>>8, i&255, i)
	}
	text.WriteString("COMMIT\n")
	used := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	r, err := Parse(&text, "rules", flow.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Buffer{}
	if each := int64(used()-before) / n; each > 1100 {
		t.Errorf("%d bytes for each rule", each)
	}
	runtime.KeepAlive(r)
}
