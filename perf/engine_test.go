package perf

import (
	"fmt"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
)

// TestEngineLoad: generated packets are what they should be: all of known
// connections, none INVALID.
func TestEngineLoad(t *testing.T) {
	for _, load := range []EngineLoad{
		{Flows: 1, Proto: flow.UDP, Size: 60, Batch: 32, Checksum: true},
		{Flows: 100_000, Proto: flow.UDP, Size: 60, Batch: 64, Checksum: true},
		{Flows: 70_000, Proto: flow.UDP, IPv6: true, Size: 80, Batch: 64, Checksum: true},
		{Flows: 70_000, Proto: flow.TCP, Size: 64, Batch: 64, Checksum: true},
		{Flows: 70_000, Proto: flow.TCP, IPv6: true, Size: 1514, Batch: 64, Checksum: true},
	} {
		r, err := Engine(load)
		if err != nil || r.Invalid != 0 || r.Packets == 0 {
			t.Errorf("%+v: %+v %v", load, r, err)
		}
	}
}

func BenchmarkEngine(b *testing.B) {
	for _, load := range []EngineLoad{
		{Flows: 1, Proto: flow.UDP}, {Flows: 1000, Proto: flow.UDP}, {Flows: 100_000, Proto: flow.UDP},
		{Flows: 1_000_000, Proto: flow.UDP}, {Flows: 1_000_000, Proto: flow.TCP}, {Flows: 8_000_000, Proto: flow.UDP},
	} {
		b.Run(fmt.Sprintf("proto=%v/flows=%d", load.Proto, load.Flows), func(b *testing.B) {
			load.Size, load.Batch, load.Duration = 60, 64, 1500*time.Millisecond
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
