package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
)

// doubling makes n chains of which each jumps twice to the next, and the last has a rule
// that counts: a packet passes 2^n times that, and 2^(n+1)-2 jumps.
func doubling(n int) string {
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n")
	for i := range n {
		fmt.Fprintf(&b, ":c%d - [0:0]\n", i)
	}
	from := "FORWARD"
	for i := range n {
		fmt.Fprintf(&b, "-A %s -j c%d\n-A %s -j c%d\n", from, i, from, i)
		from = fmt.Sprintf("c%d", i)
	}
	fmt.Fprintf(&b, "-A %s -m mark --mark 1\nCOMMIT\n", from)
	return b.String()
}

// TestWalksAreBounded: rules whose jumps have so many paths that a packet would never
// come to their end are refused, and the error names a chain. Each rule once, and a
// million more, is what may be passed.
func TestWalksAreBounded(t *testing.T) {
	build := func(rules string) error {
		r, err := syntax.Parse(strings.NewReader(rules), "rules", flow.IPv4)
		if err != nil {
			t.Fatal(err)
		}
		_, err = policy.Compile(r, nil, []string{"eth0", "eth1"}, nat.Key{1, 2}, nil)
		return err
	}
	if err := build(doubling(18)); err != nil { // 2^18 + 2^19 - 2 rules
		t.Errorf("786430 rules to pass: %v", err)
	}
	err := build(doubling(39))
	if err == nil {
		t.Fatal("2^39 paths were taken")
	}
	// The chain that is k before the last has 3*2^k-2 rules to pass: too many for k = 19.
	for _, want := range []string{"line 83: ", "chain c19:", "pass 1572862 rules of 79", "jump to c20 from one rule"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in the error: %v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "line "); n != 1 {
		t.Errorf("%d errors: %v", n, err)
	}

	var flat strings.Builder // what is written once may be passed, however much it is
	flat.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n")
	for range 2_000 {
		flat.WriteString("-A FORWARD -m mark --mark 1\n")
	}
	flat.WriteString("COMMIT\n")
	if err := build(flat.String()); err != nil {
		t.Error(err)
	}
}
