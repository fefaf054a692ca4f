package perf

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/shard"
)

// HelpersResult is what packets of established connections cost while a helper reads some of
// them, beside the same packets without the rule that names the helper, and with one in its
// place that accepts, measured by turns in one run. Ratios are of the rates, and the medians
// of neighbouring rounds.
type HelpersResult struct {
	Controls    int     `json:"controls"` // connections that the helper reads
	Flows       int     `json:"flows"`    // others
	NSPerPacket float64 `json:"ns_per_packet"`
	NSRuleFree  float64 `json:"ns_rule_free"` // without a rule of table raw
	Ratio       float64 `json:"ratio"`        // to that
	RatioRule   float64 `json:"ratio_rule"`   // to a rule of table raw that names no helper
	Messages    uint64  `json:"messages"`
	PPS         float64 `json:"pps"`
}

// What the rule of table raw does, by run.
const (
	noRawRule = iota
	rawAccepts
	rawHelps
)

// Lines of FTP that fill a frame of 64 bytes, by direction: what keeps a control connection
// alive (RFC 959, 4.1.3), and what a server may say first.
var ftpLines = [2]string{"NOOP\r\n", "220 \r\n"}

// HelperCost measures a load of established connections, to which n FTP control connections
// come that say something in each packet.
func HelperCost(load EngineLoad, n int) (r HelpersResult, err error) {
	if load.Work != Established || load.Shards != 1 || load.IPv6 || load.IMIX || load.Size != minFrame || n < 1 || n > 60_000 {
		return r, fmt.Errorf("%d control connections: must be 1..60000, for established connections over IPv4, frames of %d bytes and one shard", n, minFrame)
	}
	r = HelpersResult{Controls: n, Flows: load.Flows}
	load.Flows, load.controls, load.forwards = load.Flows+n, n, true
	if err := load.Validate(); err != nil {
		return r, err
	}
	var runs [rawHelps + 1]*engineRun
	for i := range runs {
		if load.rules, err = helperRules(n, i); err != nil {
			return r, err
		}
		if runs[i], err = newEngineRun(load, 0); err != nil {
			return r, err
		}
		defer runs[i].close()
	}
	var cost, free, ratios, ruled []float64
	for deadline := time.Now().Add(load.Duration); time.Now().Before(deadline) || len(ratios) < minRounds; {
		var ns [len(runs)]float64
		for k := range runs {
			i := (k + len(ratios)) % len(runs) // neither is always the first
			count := runs[i].round()
			start := time.Now()
			runs[i].judge(count)
			ns[i] = float64(time.Since(start)) / float64(count)
		}
		free, cost = append(free, ns[noRawRule]), append(cost, ns[rawHelps])
		ratios, ruled = append(ratios, ns[noRawRule]/ns[rawHelps]), append(ruled, ns[rawAccepts]/ns[rawHelps])
	}
	helped := runs[rawHelps].shard.HelpStats()
	switch {
	case runs[noRawRule].shard.Stats().Dropped+runs[rawAccepts].shard.Stats().Dropped+runs[rawHelps].shard.Stats().Dropped > 0:
		return r, errors.New("packets were dropped: the rules are not what was meant")
	case helped.Now != n || helped.Messages == 0:
		return r, fmt.Errorf("the helper reads %d of %d connections, and has read %d messages", helped.Now, n, helped.Messages)
	}
	r.NSPerPacket, r.NSRuleFree, r.Ratio, r.RatioRule, r.Messages = median(cost), median(free), median(ratios), median(ruled), helped.Messages
	r.PPS = 1e9 / r.NSPerPacket
	return r, nil
}

// helperRules accept everything; what the rule of table raw does is for the first n
// connections of a generator.
func helperRules(n, raw int) (*policy.Program, error) {
	text := "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT\nCOMMIT\n"
	if target := [...]string{"", "ACCEPT", "CT --helper ftp"}[raw]; target != "" {
		text = fmt.Sprintf("*raw\n-A PREROUTING -s 10.0.0.0 -p tcp --sport 0:%d -j %s\nCOMMIT\n", n-1, target) + text
	}
	rules, err := syntax.Parse(strings.NewReader(text), "rules", flow.IPv4)
	if err != nil {
		return nil, err
	}
	return policy.Compile(rules, nil, []string{"left", "right"}, nat.Key{1, 2}, nil)
}

// helping gives a shard what helpers need.
func helping(cfg *shard.Config) {
	cfg.Expect = expect.New(4096, &cfg.Secret)
	cfg.Helpers, cfg.HelpFlows, cfg.HelpBytes = helper.All(), 1<<16, 64<<20
}

// WriteText prints the result as a line.
func (r *HelpersResult) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%d FTP control connections among %d others: %.1f ns a packet, %.1f without the rule: %.3f of the rate, and %.3f of that with a rule that names no helper; %d messages read\n",
		r.Controls, r.Flows, r.NSPerPacket, r.NSRuleFree, r.Ratio, r.RatioRule, r.Messages)
}
