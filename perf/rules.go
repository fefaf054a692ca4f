package perf

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/shard"
)

// RulesResult is what packets of established connections cost with rules, beside the
// same without, measured by turns in one run.
type RulesResult struct {
	Rules       int     `json:"rules"`
	Flows       int     `json:"flows"`
	NSPerPacket float64 `json:"ns_per_packet"`
	NSRuleFree  float64 `json:"ns_rule_free"`
	Ratio       float64 `json:"ratio"`    // the median of the ratios of neighbouring rounds
	NSFirst     float64 `json:"ns_first"` // of a packet that has to walk the rules
	PPS         float64 `json:"pps"`
}

// RuleCost measures a load of established connections with n rules that do not match
// them before the last one, which accepts what is ESTABLISHED.
func RuleCost(load EngineLoad, n int) (r RulesResult, err error) {
	if err := load.Validate(); err != nil {
		return r, err
	}
	if load.Work != Established || load.Shards != 1 || n < 1 || n > 1_000_000 {
		return r, fmt.Errorf("%d rules: must be 1..1000000, for established connections and one shard", n)
	}
	plain, err := newEngineRun(load, 0)
	if err != nil {
		return r, err
	}
	defer plain.close()
	load.forwards = true
	ruled, err := newEngineRun(load, 0)
	if err != nil {
		return r, err
	}
	defer ruled.close()
	text := rulesText(n, load.IPv6)
	f := flow.IPv4
	if load.IPv6 {
		f = flow.IPv6
	}
	rules, err := syntax.Parse(strings.NewReader(text), "rules", f)
	if err != nil {
		return r, err
	}
	v4, v6 := rules, (*syntax.Ruleset)(nil)
	if load.IPv6 {
		v4, v6 = nil, rules
	}
	prog, err := policy.Compile(v4, v6, []string{"left", "right"}, nat.Key{1, 2}, nil)
	if err != nil {
		return r, err
	}
	ruled.shard.SetForwarding(&shard.Forwarding{Rules: prog})
	begin, packets := time.Now(), 0
	for _, dir := range []int{0, 1} { // every connection walks the rules once in each direction
		for at := 0; at < load.Flows; at += chunks {
			k := min(chunks, load.Flows-at)
			for j := range k {
				ruled.descs[j].Len = uint32(ruled.gen.bare(ruled.chunk(j), at+j, handshake[dir].dir, packet.ACK))
			}
			ruled.judge(k)
			packets += k
		}
	}
	r = RulesResult{Rules: n, Flows: load.Flows, NSFirst: float64(time.Since(begin)) / float64(packets)}
	var cost, free, ratios []float64
	for deadline := time.Now().Add(load.Duration); time.Now().Before(deadline) || len(ratios) < minRounds; {
		var ns [2]float64
		for i, e := range []*engineRun{plain, ruled} {
			k := e.round()
			start := time.Now()
			e.judge(k)
			ns[i] = float64(time.Since(start)) / float64(k)
		}
		free, cost, ratios = append(free, ns[0]), append(cost, ns[1]), append(ratios, ns[1]/ns[0])
	}
	if st := ruled.shard.Stats(); st.Dropped > 0 {
		return r, fmt.Errorf("%d packets were dropped: the rules are not what was meant", st.Dropped)
	}
	r.NSPerPacket, r.NSRuleFree, r.Ratio = median(cost), median(free), median(ratios)
	r.PPS = 1e9 / r.NSPerPacket
	return r, nil
}

// rulesText makes n rules.
func rulesText(n int, v6 bool) string {
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD DROP [0:0]\n")
	for i := range n - 1 {
		src := fmt.Sprintf("172.%d.%d.%d", 16+i>>16&15, i>>8&255, i&255)
		if v6 {
			src = fmt.Sprintf("fd00::%x", i)
		}
		proto := []string{"tcp", "udp"}[i&1]
		fmt.Fprintf(&b, "-A FORWARD -s %s -p %s -m %s --dport %d -j DROP\n", src, proto, proto, 1+i%60000)
	}
	b.WriteString("-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n")
	return b.String()
}

// WriteText prints the result as a line.
func (r *RulesResult) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%7d rules  %8d flows  %6.1f ns a packet, %6.1f without rules: %.2f times; %9.0f ns to walk them\n",
		r.Rules, r.Flows, r.NSPerPacket, r.NSRuleFree, r.Ratio, r.NSFirst)
}
