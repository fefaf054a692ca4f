package perf

import (
	"fmt"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
)

// loads are small ones of every kind.
func loads() map[string]EngineLoad {
	all := map[string]EngineLoad{}
	add := func(name string, change func(*EngineLoad)) {
		l := DefaultLoad()
		l.Flows, l.Checksum, l.Duration = 40_000, true, 50*time.Millisecond
		change(&l)
		all[name] = l
	}
	add("udp", func(*EngineLoad) {})
	add("one", func(l *EngineLoad) { l.Flows, l.Batch = 1, 32 })
	add("udp6", func(l *EngineLoad) { l.IPv6 = true })
	add("tcp", func(l *EngineLoad) { l.Proto = flow.TCP })
	add("tcp6", func(l *EngineLoad) { l.Proto, l.IPv6, l.Size = flow.TCP, true, 1518 })
	add("icmp", func(l *EngineLoad) { l.Proto = flow.ICMP })
	add("icmp6", func(l *EngineLoad) { l.Proto, l.IPv6 = flow.ICMP, true })
	add("mix", func(l *EngineLoad) { l.Mix, l.IMIX, l.Order = true, true, Zipf })
	add("sequential", func(l *EngineLoad) { l.Order = Sequential })
	add("shards", func(l *EngineLoad) { l.Shards = 2 })
	add("new", func(l *EngineLoad) { l.Work = New })
	add("some new", func(l *EngineLoad) { l.Work, l.NewRate, l.Mix = New, 0.1, true })
	add("new6", func(l *EngineLoad) { l.Work, l.Proto, l.IPv6 = New, flow.TCP, true })
	add("lifecycle", func(l *EngineLoad) { l.Work, l.Proto = Lifecycle, flow.TCP })
	add("syn flood", func(l *EngineLoad) { l.Work, l.Proto = Flood, flow.TCP })
	add("udp flood", func(l *EngineLoad) { l.Work = Flood })
	return all
}

// TestLoads: generated packets are what they should be: none INVALID, checksums
// right, and as many of them new as the load says.
func TestLoads(t *testing.T) {
	for name, load := range loads() {
		t.Run(name, func(t *testing.T) {
			r, err := EngineBeside(load)
			if err != nil {
				t.Fatal(err)
			}
			if r.Invalid != 0 || r.Packets == 0 || r.AssuredLost != 0 || len(r.Reasons) != 0 {
				t.Errorf("%+v", r)
			}
			fresh := float64(r.Inserts) / float64(r.Packets)
			want := map[Work]float64{Established: 0, New: load.NewRate, Lifecycle: 1. / 6, Flood: 1}[load.Work]
			if fresh < want*0.9 || fresh > want*1.1 {
				t.Errorf("%.3f of the packets were new, want %.3f", fresh, want)
			}
			if (load.Work == Flood) != (r.Evictions > 0) {
				t.Errorf("%d evictions", r.Evictions)
			}
		})
	}
}

// TestBadLoads: every field out of range is refused by name.
func TestBadLoads(t *testing.T) {
	for name, change := range map[string]func(*EngineLoad){
		"flows 0":       func(l *EngineLoad) { l.Flows = 0 },
		"too many":      func(l *EngineLoad) { l.Flows = maxFlows + 1 },
		"batch":         func(l *EngineLoad) { l.Batch = 65 },
		"size":          func(l *EngineLoad) { l.Size = 63 },
		"shards":        func(l *EngineLoad) { l.Shards = 0 },
		"more shards":   func(l *EngineLoad) { l.Flows, l.Shards = 1, 2 },
		"new rate":      func(l *EngineLoad) { l.NewRate = 1.5 },
		"order":         func(l *EngineLoad) { l.Order = "backwards" },
		"work":          func(l *EngineLoad) { l.Work = "none" },
		"udp lifecycle": func(l *EngineLoad) { l.Work = Lifecycle },
		"icmp flood":    func(l *EngineLoad) { l.Work, l.Proto = Flood, flow.ICMP },
		"protocol":      func(l *EngineLoad) { l.Proto = flow.SCTP },
		"duration":      func(l *EngineLoad) { l.Duration = 0 },
	} {
		l := DefaultLoad()
		change(&l)
		if _, err := Engine(l); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func BenchmarkEngine(b *testing.B) {
	for _, of := range []struct {
		proto flow.Proto
		flows int
	}{{flow.UDP, 1}, {flow.UDP, 1000}, {flow.UDP, 100_000}, {flow.UDP, 1_000_000}, {flow.TCP, 1_000_000}, {flow.UDP, 8_000_000}} {
		b.Run(fmt.Sprintf("proto=%v/flows=%d", of.proto, of.flows), func(b *testing.B) {
			load := DefaultLoad()
			load.Proto, load.Flows, load.Duration = of.proto, of.flows, 1500*time.Millisecond
			for range b.N {
				r, err := Engine(load)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(r.PPS/1e6, "Mpps")
				b.ReportMetric(r.NSPerPacket, "ns/pkt")
				b.ReportMetric(r.NSParse, "ns-parse/pkt")
				b.ReportMetric(r.LimitPPS/1e6, "limit-Mpps")
				b.ReportMetric(r.LimitRatio, "ratio")
			}
		})
	}
}

func BenchmarkEngineRules(b *testing.B) {
	for _, flows := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			load := DefaultLoad()
			load.Flows, load.Duration = flows, 1500*time.Millisecond
			for range b.N {
				r, err := RuleCost(load, 10)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(r.NSPerPacket, "ns/pkt")
				b.ReportMetric(r.Ratio, "ratio")
			}
		})
	}
}

// TestRuleCost: the measurement has an outcome, and refuses what it cannot measure. That the cost
// does not depend on the number of rules is counted, not timed (policy.TestRuleCost,
// shard.TestRulesAreNotWalked).
func TestRuleCost(t *testing.T) {
	load := DefaultLoad()
	load.Flows, load.Duration = 1000, 20*time.Millisecond
	r, err := RuleCost(load, 100)
	if err != nil {
		t.Fatal(err)
	}
	if r.Rules != 100 || r.Flows != load.Flows || r.NSPerPacket <= 0 || r.NSRuleFree <= 0 || r.NSFirst <= 0 || r.Ratio <= 0 || r.PPS <= 0 {
		t.Errorf("%+v", r)
	}
	for _, bad := range []int{0, -1, 2_000_000} {
		if _, err := RuleCost(load, bad); err == nil {
			t.Errorf("%d rules: no error", bad)
		}
	}
}

// TestNoGarbage: parse, hash and judge allocate nothing, whatever the load.
func TestNoGarbage(t *testing.T) {
	for name, load := range loads() {
		e, err := newEngineRun(load, 0)
		if err != nil {
			t.Fatal(name, err)
		}
		n := e.round()
		if a := testing.AllocsPerRun(5, func() { e.judge(n) }); a != 0 {
			t.Errorf("%s: %v allocations a round of %d packets", name, a, n)
		}
		e.close()
	}
}
