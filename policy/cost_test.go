package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// costRules are n rules that cannot hold of the packet of the test, and a few that have to be
// asked anew for each, before the one that lets it pass.
func costRules(n int) string {
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD DROP [0:0]\n:far - [0:0]\n")
	for i := range n {
		to := "DROP"
		if i < 8 { // not too many paths through that chain
			to = "far"
		}
		switch i % 4 {
		case 0:
			fmt.Fprintf(&b, "-A FORWARD -s 192.0.%d.%d -j DROP\n", i>>8&255, i&255)
		case 1:
			fmt.Fprintf(&b, "-A FORWARD -p udp -m udp --dport %d -j %s\n", i, to)
		case 2:
			fmt.Fprintf(&b, "-A FORWARD -m conntrack --ctstate NEW -j %s\n", to)
		default:
			fmt.Fprintf(&b, "-A far -p tcp -m tcp --dport %d -m limit --limit 1/hour -j DROP\n", i)
		}
	}
	b.WriteString("-A FORWARD -m length --length 0:20 -j DROP\n-A FORWARD -m mark --mark 7 -j DROP\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n")
	return b.String()
}

// TestRuleCost: what the rules come to for packets of a known connection does not depend on
// how many there are that cannot concern it. It is counted, not timed: the steps of the code,
// and the conditions that they ask.
func TestRuleCost(t *testing.T) {
	ip := packet.IP{Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("10.2.0.1")}
	work := func(n int) (steps []opKind, conds int) {
		p := compile(t, costRules(n), flow.IPv4, nil)
		v := viewOf(t, p, packet.AppendTCP(nil, ip, 1, 2, packet.Segment{Flags: packet.ACK}), 0)
		v.State, v.Tracked, v.Conn = flow.Established, true, &flow.Conn{}
		var sp Special
		sp.Begin(0, 1)
		sp.Hook(p, FilterForward, v)
		code, _, ok := sp.End()
		if !ok || code.Run(FilterForward, v) != Accept {
			t.Fatalf("%d rules: no code, or the wrong verdict", n)
		}
		for _, o := range code.hooks[FilterForward] {
			steps = append(steps, o.kind)
			conds += len(o.conds)
		}
		return steps, conds
	}
	steps, conds := work(0)
	if conds != 2 {
		t.Errorf("%d conditions are asked without rules that do not matter, want those of length and mark", conds)
	}
	for _, n := range []int{10, 1000, 20_000} {
		if s, c := work(n); !slices.Equal(s, steps) || c != conds {
			t.Errorf("%d rules: %d steps and %d conditions, %d and %d without them", n, len(s), c, len(steps), conds)
		}
	}
}
