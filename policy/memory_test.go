package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy/syntax"
)

// TestMemoryBound: rules whose tables take more memory than they may are refused before any
// is taken; as many as may be are not. What is accounted for is what a table has.
func TestMemoryBound(t *testing.T) {
	s := newStore(connMax, connKey, connWidth, [2]uint64{1, 2})
	if got, want := storeBytes(connMax, connWidth), 8*len(s.heads)+4*len(s.next)+8*len(s.words); got != want {
		t.Errorf("a store of %d bytes is taken for one of %d", want, got)
	}
	fits := MaxMemory / storeBytes(connMax, connWidth)
	compile := func(rules string, n int) error {
		t.Helper()
		text := "*filter\n" + strings.Repeat(rules+"\n", n) + "COMMIT\n"
		if strings.Contains(rules, "%d") {
			text = "*filter\n"
			for i := range n {
				text += fmt.Sprintf(rules, i) + "\n"
			}
			text += "COMMIT\n"
		}
		r, err := syntax.Parse(strings.NewReader(text), "rules", flow.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Compile(r, nil, nil, nat.Key{1, 2}, nil)
		return err
	}
	const (
		connlimit = "-A FORWARD -m connlimit --connlimit-above 1 -j DROP"
		hashlimit = "-A FORWARD -m hashlimit --hashlimit-above 1/s --hashlimit-mode srcip,srcport --hashlimit-htable-max 4194304 --hashlimit-name t%d -j DROP"
		recent    = "-A FORWARD -m recent --rcheck --name r%d --hitcount 255"
	)
	for rule, n := range map[string]int{connlimit: fits + 1, hashlimit: 10, recent: 10_000} {
		if err := compile(rule, n); err == nil || !strings.Contains(err.Error(), "MiB are possible") {
			t.Errorf("%d times %s: %v", n, rule, err)
		}
	}
	if err := compile("-A INPUT -m connlimit --connlimit-above 1 -j DROP", fits+1); err != nil {
		t.Errorf("rules that are not applied count: %v", err)
	}
	if err := compile(connlimit, 3); err != nil {
		t.Error(err)
	}
}
