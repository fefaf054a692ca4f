package syntax

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// FuzzParse: whatever a file says, reading it ends well, errors have a place, and what
// is read is printed so that it is read the same.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/files/*.v4")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), false)
	}
	f.Add("*filter\n:FORWARD DROP [1:2]\n[3:4] -A FORWARD ! -s fe80::/10 -p ipv6-icmp -m icmp6 --icmpv6-type 1/4 -m comment --comment \"a \\\"b\" -j ACCEPT\nCOMMIT\n", true)
	f.Add("*nat\n-A POSTROUTING -p tcp -j SNAT --to-source [::1]-[::2]:1-2 --random\nCOMMIT\n", true)
	for i, name := range []string{"commands4", "commands6"} {
		for _, c := range lines(f, filepath.Join("testdata", name)) {
			if strings.HasPrefix(c, "-A FORWARD ") {
				f.Add("*filter\n:mychain - [0:0]\n:v6chain - [0:0]\n"+c+"\nCOMMIT\n", i == 1)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string, v6 bool) {
		family := flow.IPv4
		if v6 {
			family = flow.IPv6
		}
		r, err := Parse(strings.NewReader(text), "fuzz", family)
		if err != nil {
			if r != nil || !strings.Contains(err.Error(), "fuzz") {
				t.Fatalf("%v, with rules: %v", err, r != nil)
			}
			return
		}
		printed := r.String()
		again, err := Parse(strings.NewReader(printed), "printed", family)
		if err != nil {
			t.Fatalf("what was printed is not read: %v\n%s", err, printed)
		}
		if got := again.String(); got != printed {
			t.Fatalf("printed:\n%s\nread and printed again:\n%s", printed, got)
		}
	})
}
