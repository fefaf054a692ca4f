package perf

import (
	"fmt"
	"io"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/shard"
)

// EngineResult is what an engine measurement found. Rates are those of all
// shards together; times are medians over rounds, and means over shards.
type EngineResult struct {
	Scenario     string  `json:"scenario"`
	PPS          float64 `json:"pps"`
	NSPerPacket  float64 `json:"ns_per_packet"` // of one core
	NSParse      float64 `json:"ns_parse"`      // of it, to parse and hash
	NSJudge      float64 `json:"ns_judge"`      // of it, to fetch, find and judge
	LimitPPS     float64 `json:"limit_pps"`
	LimitRatio   float64 `json:"limit_ratio"`
	BytesPerFlow float64 `json:"bytes_per_flow"`
	Shards       int     `json:"shards"`
	// NewPerSecond is the rate at which connections began.
	NewPerSecond float64           `json:"new_per_second"`
	Packets      uint64            `json:"packets"`
	Hits         uint64            `json:"hits"`
	Inserts      uint64            `json:"inserts"`
	ProbesP99    int               `json:"probes_p99"` // buckets that an insertion looked at
	Evictions    uint64            `json:"evictions"`
	AssuredLost  uint64            `json:"assured_lost"`
	Invalid      uint64            `json:"invalid"`
	Reasons      map[string]uint64 `json:"reasons"`
	GC           GCResult          `json:"gc"`
	Machine      Machine           `json:"machine"`
	Compare      []Compared        `json:"compare"`
}

// Compared is a figure of the same run to compare with. Ratio is the subject's
// rate divided by this one's.
type Compared struct {
	Name  string  `json:"name"`
	PPS   float64 `json:"pps"`
	Ratio float64 `json:"ratio"`
}

// GCResult is what the garbage collector did during a measurement.
type GCResult struct {
	Cycles  uint32 `json:"cycles"`
	PauseNS uint64 `json:"pause_ns"`
}

func sumUp(load EngineLoad, runs []*engineRun) EngineResult {
	r := EngineResult{
		Scenario: load.Scenario(), Shards: len(runs), Reasons: map[string]uint64{}, Machine: ThisMachine(),
		Compare: []Compared{},
	}
	var bytes int
	var before, after shard.Stats
	for _, e := range runs {
		ns, parse := median(e.judged), median(e.parsed)
		r.PPS += 1e9 / median(e.all)
		r.LimitPPS += 1e9 / median(e.lim)
		r.NSParse += parse / float64(len(runs))
		r.NSPerPacket += ns / float64(len(runs))
		r.AssuredLost += e.lost
		bytes += e.shard.Bytes()
		before.Add(e.before)
		after.Add(e.shard.Stats())
	}
	r.NSJudge = r.NSPerPacket - r.NSParse
	r.LimitRatio = r.PPS / r.LimitPPS
	r.BytesPerFlow = float64(bytes) / float64(load.Flows)
	r.Packets = after.Packets - before.Packets
	r.Inserts = after.Table.Inserts - before.Table.Inserts
	r.Evictions = after.Table.Evicted - before.Table.Evicted
	r.Invalid = after.States[flow.Invalid] - before.States[flow.Invalid]
	r.Hits = r.Packets - r.Inserts - r.Invalid
	r.ProbesP99 = after.Table.ProbesQuantile(0.99)
	r.NewPerSecond = r.PPS * float64(r.Inserts) / float64(r.Packets)
	for i, n := range after.Reasons {
		if n -= before.Reasons[i]; n > 0 {
			r.Reasons[flow.Reason(i).String()] = n
		}
	}
	return r
}

// WriteText writes the result for people.
func (r *EngineResult) WriteText(w io.Writer) error {
	_, err := fmt.Fprintf(w, `scenario        %s
rate            %.2f Mpps, %d shard(s)
a packet        %.1f ns: %.1f parse and hash, %.1f fetch, find and judge
limit           %.2f Mpps, of which this is %.2f
new             %.2f M connections/s
bytes a flow    %.1f
packets         %d: %d hits, %d inserts, %d INVALID
table           %d probes at p99, %d evictions, %d ASSURED lost
garbage         %d collections, %d ns paused
machine         %s
`, r.Scenario, r.PPS/1e6, r.Shards, r.NSPerPacket, r.NSParse, r.NSJudge, r.LimitPPS/1e6, r.LimitRatio, r.NewPerSecond/1e6,
		r.BytesPerFlow, r.Packets, r.Hits, r.Inserts, r.Invalid, r.ProbesP99, r.Evictions, r.AssuredLost,
		r.GC.Cycles, r.GC.PauseNS, r.Machine)
	for _, c := range r.Compare {
		if err == nil {
			_, err = fmt.Fprintf(w, "beside          %s: %.2f Mpps, ratio %.2f\n", c.Name, c.PPS/1e6, c.Ratio)
		}
	}
	return err
}
