package export

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/VictoriaMetrics/metrics"

	"github.com/xdpct/xdpct/flow"
)

// ShardStats are the counters of a shard under the names of `conntrack -S`.
type ShardStats struct {
	Shard         int    `json:"cpu"`
	Found         uint64 `json:"found"`          // always 0: the kernel has it no more
	Invalid       uint64 `json:"invalid"`        // packets that are INVALID
	Insert        uint64 `json:"insert"`         // connections made
	InsertFailed  uint64 `json:"insert_failed"`  // connections that found no place in the index, or whose reply tuple another has
	Drop          uint64 `json:"drop"`           // packets dropped because the table is full or the reply tuple is taken
	EarlyDrop     uint64 `json:"early_drop"`     // connections that made room for others
	Error         uint64 `json:"error"`          // ICMP messages that are INVALID
	SearchRestart uint64 `json:"search_restart"` // always 0: nothing races with a search
	ClashResolve  uint64 `json:"clash_resolve"`  // always 0: packets of a connection come to its shard one after the other
	ChainTooLong  uint64 `json:"chaintoolong"`   // connections that found no place in the index

	Packets    uint64 `json:"packets"`
	Bytes      uint64 `json:"bytes"`
	Entries    uint64 `json:"entries"`
	Max        uint64 `json:"max"`
	Expired    uint64 `json:"expired"`
	Fragments  uint64 `json:"fragments"`   // frames that wait for the rest of their datagram
	HandedOver uint64 `json:"handed_over"` // frames received for another shard
	MaxProbes  uint64 `json:"max_probes"`  // most index buckets that a new connection had to look at
	Polls      uint64 `json:"polls"`       // turns of the shard's loop
	BusyPolls  uint64 `json:"busy_polls"`  // turns that found frames
	Sleeps     uint64 `json:"sleeps"`
}

// PortStats are the counters of a port.
type PortStats struct {
	Interface   string `json:"interface"`
	Attached    bool   `json:"attached"`
	XDP         string `json:"xdp"`
	ZeroCopy    bool   `json:"zero_copy"`
	Queues      int    `json:"queues"`
	Received    uint64 `json:"received"`
	Transmitted uint64 `json:"transmitted"`
	Passed      uint64 `json:"passed"` // frames left to the host
	Syscalls    uint64 `json:"syscalls"`
	TXBusy      uint64 `json:"tx_busy"`
	TXDown      uint64 `json:"tx_down"`
	TXErrors    uint64 `json:"tx_errors"`
}

// ListenerStats are the connections of clients of one of the program's listeners.
type ListenerStats struct {
	Name     string `json:"name"` // control or metrics
	Open     uint64 `json:"open"`
	Accepted uint64 `json:"accepted"`
	Refused  uint64 `json:"refused"` // closed at once, since all places were at work
	Evicted  uint64 `json:"evicted"` // closed while idle, since another needed the place
}

// ExpectStats are the counters of the expectation table.
type ExpectStats struct {
	Created uint64 `json:"created"`
	Deleted uint64 `json:"deleted"`
	Matched uint64 `json:"matched"` // connections that were expected
}

// Stats are the counters of a tracker.
type Stats struct {
	Expectations ExpectStats `json:"expectations"`

	Shards []ShardStats `json:"shards"`
	Ports  []PortStats  `json:"ports"`

	Listeners []ListenerStats `json:"listeners,omitempty"`

	// States counts packets by state, Reasons by reason. Every reason is there.
	States  map[string]uint64 `json:"states"`
	Reasons map[string]uint64 `json:"reasons"`
}

// WriteText prints s: lines as `conntrack -S` has them, then ports, then states
// and reasons.
func (s *Stats) WriteText(w io.Writer) error {
	for _, c := range s.Shards {
		fmt.Fprintf(w, "cpu=%-4d\tfound=%d invalid=%d insert=%d insert_failed=%d drop=%d early_drop=%d error=%d search_restart=%d clash_resolve=%d chaintoolong=%d \n",
			c.Shard, c.Found, c.Invalid, c.Insert, c.InsertFailed, c.Drop, c.EarlyDrop, c.Error, c.SearchRestart, c.ClashResolve, c.ChainTooLong)
	}
	for _, c := range s.Shards {
		fmt.Fprintf(w, "shard=%-4d\tpackets=%d bytes=%d entries=%d max=%d expired=%d fragments=%d handed_over=%d max_probes=%d polls=%d busy_polls=%d sleeps=%d\n",
			c.Shard, c.Packets, c.Bytes, c.Entries, c.Max, c.Expired, c.Fragments, c.HandedOver, c.MaxProbes, c.Polls, c.BusyPolls, c.Sleeps)
	}
	for _, p := range s.Ports {
		fmt.Fprintf(w, "port=%s\tattached=%v xdp=%s zero_copy=%v queues=%d received=%d transmitted=%d passed=%d syscalls=%d tx_busy=%d tx_down=%d tx_errors=%d\n",
			p.Interface, p.Attached, p.XDP, p.ZeroCopy, p.Queues, p.Received, p.Transmitted, p.Passed, p.Syscalls, p.TXBusy, p.TXDown, p.TXErrors)
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for st := flow.New; st <= flow.Untracked; st++ {
		fmt.Fprintf(tw, "state %s\t%d\n", st, s.States[st.String()])
	}
	fmt.Fprintf(tw, "state %s\t%d\n", flow.Invalid, s.States[flow.Invalid.String()])
	for r := flow.NoReason + 1; r < flow.NumReasons; r++ {
		fmt.Fprintf(tw, "reason %s\t%d\t%s\n", r, s.Reasons[r.String()], r.Text())
	}
	return tw.Flush()
}

// WriteMetrics prints s in the Prometheus text format. Entries and limit have the
// names that node_exporter gives the kernel's.
func (s *Stats) WriteMetrics(w io.Writer) {
	var entries, limit, held uint64
	for _, c := range s.Shards {
		held += c.Fragments
		entries += c.Entries
		limit += c.Max
	}
	metrics.WriteGaugeUint64(w, "node_nf_conntrack_entries", entries)
	metrics.WriteGaugeUint64(w, "node_nf_conntrack_entries_limit", limit)
	metrics.WriteGaugeUint64(w, "xdpct_fragments", held)
	for _, c := range s.Shards {
		l := fmt.Sprintf(`{shard="%d"}`, c.Shard)
		for _, m := range []struct {
			name string
			v    uint64
		}{
			{"node_nf_conntrack_stat_invalid", c.Invalid},
			{"node_nf_conntrack_stat_insert", c.Insert},
			{"node_nf_conntrack_stat_insert_failed", c.InsertFailed},
			{"node_nf_conntrack_stat_drop", c.Drop},
			{"node_nf_conntrack_stat_early_drop", c.EarlyDrop},
			{"xdpct_packets_total", c.Packets}, {"xdpct_bytes_total", c.Bytes},
			{"xdpct_expired_total", c.Expired}, {"xdpct_handed_over_total", c.HandedOver},
		} {
			metrics.WriteCounterUint64(w, m.name+l, m.v)
		}
	}
	metrics.WriteCounterUint64(w, "xdpct_expectations_created_total", s.Expectations.Created)
	metrics.WriteCounterUint64(w, "xdpct_expectations_matched_total", s.Expectations.Matched)
	for _, p := range s.Ports {
		l := fmt.Sprintf(`{interface=%q}`, p.Interface)
		metrics.WriteCounterUint64(w, "xdpct_port_received_total"+l, p.Received)
		metrics.WriteCounterUint64(w, "xdpct_port_transmitted_total"+l, p.Transmitted)
		metrics.WriteCounterUint64(w, "xdpct_port_passed_total"+l, p.Passed)
	}
	for st := flow.Invalid; st <= flow.Untracked; st++ {
		metrics.WriteCounterUint64(w, fmt.Sprintf(`xdpct_packets_state_total{state=%q}`, st), s.States[st.String()])
	}
	for r := flow.NoReason + 1; r < flow.NumReasons; r++ {
		metrics.WriteCounterUint64(w, fmt.Sprintf(`xdpct_packets_reason_total{reason=%q}`, r), s.Reasons[r.String()])
	}
}
