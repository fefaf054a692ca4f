package export

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

func record(p flow.Proto, src, dst string, a, b uint16, timeout uint32, st flow.Status, state flow.TCPState) *flow.Record {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	f := flow.IPv4
	if s.Is6() {
		f = flow.IPv6
	}
	t := flow.Tuple{Src: flow.AddrFrom(s), Dst: flow.AddrFrom(d), L4: flow.MakeL4(f, p, 0, a, b)}
	r := &flow.Record{Orig: t, Timeout: timeout, Status: st, State: uint8(state)}
	r.Reply, _ = t.Invert()
	return r
}

// TestLines prints one connection of each class; the lines are what conntrack
// prints for such connections.
func TestLines(t *testing.T) {
	both := flow.SeenReply | flow.Assured
	for _, c := range []struct {
		r    *flow.Record
		want string
	}{
		{record(flow.TCP, "10.0.0.1", "10.0.0.2", 40000, 80, 431999, both, flow.TCPEstablished),
			"tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=40000 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=80 dport=40000 [ASSURED] mark=0 use=1"},
		{record(flow.TCP, "10.0.0.1", "10.0.0.2", 40000, 80, 120, 0, flow.TCPSynSent),
			"tcp      6 120 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=40000 dport=80 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=80 dport=40000 mark=0 use=1"},
		{record(flow.ICMP, "10.0.0.1", "10.0.0.2", 1226, 8<<8, 29, flow.SeenReply, 0),
			"icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=1226 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=1226 mark=0 use=1"},
		{record(flow.ICMPv6, "2001:db8::1", "2001:db8::2", 7, 128<<8, 29, flow.SeenReply, 0),
			"icmpv6   58 29 src=2001:db8::1 dst=2001:db8::2 type=128 code=0 id=7 src=2001:db8::2 dst=2001:db8::1 type=129 code=0 id=7 mark=0 use=1"},
		{record(2, "192.168.136.128", "224.0.0.22", 0, 0, 599, 0, 0),
			"unknown  2 599 src=192.168.136.128 dst=224.0.0.22 [UNREPLIED] src=224.0.0.22 dst=192.168.136.128 mark=0 use=1"},
	} {
		if got := string((&Format{}).AppendFlow(nil, c.r)); got != c.want {
			t.Errorf("\n%s, want\n%s", got, c.want)
		}
		family := "ipv4     2 "
		if c.r.Orig.L4.Family() == flow.IPv6 {
			family = "ipv6     10 "
		}
		if got := string((&Format{Extended: true}).AppendFlow(nil, c.r)); got != family+c.want {
			t.Errorf("extended: %s", got)
		}
	}
	r := record(flow.UDP, "10.0.0.1", "8.8.8.8", 5353, 53, 29, 0, 0)
	r.Counters[0] = flow.Counters{Packets: 1, Bytes: 60}
	want := "udp      17 29 src=10.0.0.1 dst=8.8.8.8 sport=5353 dport=53 packets=1 bytes=60 [UNREPLIED] src=8.8.8.8 dst=10.0.0.1 sport=53 dport=5353 packets=0 bytes=0 mark=0 use=1"
	if got := string((&Format{Counters: true}).AppendFlow(nil, r)); got != want {
		t.Errorf("\n%s, want\n%s", got, want)
	}
}

// TestStatsHasEveryReason: text with all, and metrics, show every reason, also at zero;
// plain text only what is not.
func TestStatsHasEveryReason(t *testing.T) {
	s := Stats{Shards: []ShardStats{{}}, States: map[string]uint64{"NEW": 3}, Reasons: map[string]uint64{"table_full": 7}}
	var text, all, metrics strings.Builder
	if err := errors.Join(s.WriteText(&text, false), s.WriteText(&all, true), s.WriteMetrics(&metrics)); err != nil {
		t.Fatal(err)
	}
	for r := flow.NoReason + 1; r < flow.NumReasons; r++ {
		if !strings.Contains(all.String(), "reason "+r.String()+" ") {
			t.Errorf("%s is not in the text", r)
		}
		if got := strings.Contains(text.String(), "reason "+r.String()+" "); got != (r == flow.ReasonTableFull) {
			t.Errorf("%s is in the text: %v", r, got)
		}
		if !strings.Contains(metrics.String(), `{reason="`+r.String()+`"}`) {
			t.Errorf("%s is not in the metrics", r)
		}
	}
	if !strings.Contains(metrics.String(), `xdpct_packets_reason_total{reason="table_full"} 7`) {
		t.Error("a value is wrong")
	}
	if n := strings.Count(text.String(), "\n"); n != 4 { // cpu, shard, one state, one reason
		t.Errorf("%d lines:\n%s", n, text.String())
	}
}

// TestRuleMetrics: rules have metrics by their place, up to a number of them.
func TestRuleMetrics(t *testing.T) {
	s := Stats{Rules: []RuleStats{{Family: "ipv4", Table: "filter", Chain: "FORWARD", Packets: 1, Bytes: 60}}}
	for n := range MaxRuleMetrics + 5 {
		s.Rules = append(s.Rules, RuleStats{"ipv4", "filter", "FORWARD", n + 1, uint64(n), uint64(100 * n)})
	}
	var b strings.Builder
	if err := s.WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"# HELP xdpct_rule_packets_total Packets that matched a rule, by its number in the chain.",
		"# TYPE xdpct_rule_packets_total counter",
		`xdpct_rule_packets_total{family="ipv4",table="filter",chain="FORWARD",rule="3"} 2`,
		`xdpct_rule_bytes_total{family="ipv4",table="filter",chain="FORWARD",rule="3"} 200`,
		`xdpct_policy_packets_total{family="ipv4",table="filter",chain="FORWARD"} 1`,
		`xdpct_rules_without_metrics 5`,
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
}
