package export

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/xdpct/xdpct/flow"
)

// ShardStats are the counters of a shard under the names of `conntrack -S`.
type ShardStats struct {
	Shard         int    `json:"cpu"`
	Found         uint64 `json:"found"`          // always 0: tuples that NAT finds taken are not counted
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

// RouteStats are what a router knows of the kernel's routing state.
type RouteStats struct {
	Interfaces        uint64 `json:"interfaces"`
	Routes            uint64 `json:"routes"`             // destinations that there are routes to
	Neighbours        uint64 `json:"neighbours"`         // those whose link-layer address is known
	Overruns          uint64 `json:"overruns"`           // times that the kernel had more to tell than there was room for
	RouteResyncs      uint64 `json:"route_resyncs"`      // times that all routes were read anew, since messages were lost
	NeighbourResyncs  uint64 `json:"neighbour_resyncs"`  // the same of neighbours
	Interrupted       uint64 `json:"interrupted"`        // times that what was read had to be read again
	Restarts          uint64 `json:"restarts"`           // netlink subscriptions that ended and were made again
	NeighboursRefused uint64 `json:"neighbours_refused"` // neighbours that were not taken, for there were too many
}

// NATStats are the counters of what the shards of a router share for translation.
type NATStats struct {
	Claims           uint64 `json:"claims"`            // reply tuples, and original ones that some may be mapped onto, in the directory
	Room             uint64 `json:"room"`              // words of the directory; 0 with one shard, which has none
	Full             uint64 `json:"full"`              // times that a tuple found no room there
	SourcesRoom      uint64 `json:"sources_room"`      // mappings of sources that may be remembered
	SourcesForgotten uint64 `json:"sources_forgotten"` // mappings that were in use, and were forgotten for others
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

	Helpers HelperStats `json:"helpers"`

	Shards []ShardStats `json:"shards"`
	Ports  []PortStats  `json:"ports"`

	Routing *RouteStats `json:"routing,omitempty"` // nil: not a router

	NAT *NATStats `json:"nat,omitempty"` // nil: nothing is translated

	Listeners []ListenerStats `json:"listeners,omitempty"`
	// Rules are for metrics only; `xdpct rules show` has them in full.
	Rules []RuleStats `json:"-"`
	// MoreRules is how many rules there are besides, without metrics.
	MoreRules uint64 `json:"-"`

	// States counts packets by state, Reasons by reason. Every reason is there.
	States  map[string]uint64 `json:"states"`
	Reasons map[string]uint64 `json:"reasons"`
}

// WriteText prints s: lines as `conntrack -S` has them, then shards, ports and listeners,
// then packets by state and by reason. What is zero of these is left out unless all is set.
func (s *Stats) WriteText(w io.Writer, all bool) error {
	for _, c := range s.Shards {
		fmt.Fprintf(w, "cpu=%-4d\tfound=%d invalid=%d insert=%d insert_failed=%d drop=%d early_drop=%d error=%d search_restart=%d clash_resolve=%d chaintoolong=%d \n",
			c.Shard, c.Found, c.Invalid, c.Insert, c.InsertFailed, c.Drop, c.EarlyDrop, c.Error, c.SearchRestart, c.ClashResolve, c.ChainTooLong)
	}
	for _, c := range s.Shards {
		fmt.Fprintf(w, "shard=%-4d\t%s\n", c.Shard, pairs(all,
			"packets", c.Packets, "bytes", c.Bytes, "entries", c.Entries, "max", c.Max, "expired", c.Expired, "fragments", c.Fragments,
			"handed_over", c.HandedOver, "max_probes", c.MaxProbes, "polls", c.Polls, "busy_polls", c.BusyPolls, "sleeps", c.Sleeps))
	}
	for _, p := range s.Ports {
		fmt.Fprintf(w, "port=%s\tattached=%v xdp=%s zero_copy=%v queues=%d %s\n", p.Interface, p.Attached, p.XDP, p.ZeroCopy, p.Queues, pairs(all,
			"received", p.Received, "transmitted", p.Transmitted, "passed", p.Passed, "syscalls", p.Syscalls,
			"tx_busy", p.TXBusy, "tx_down", p.TXDown, "tx_errors", p.TXErrors))
	}
	if r := s.Routing; r != nil {
		fmt.Fprintf(w, "routing\t%s\n", pairs(all,
			"interfaces", r.Interfaces, "routes", r.Routes, "neighbours", r.Neighbours, "overruns", r.Overruns,
			"route_resyncs", r.RouteResyncs, "neighbour_resyncs", r.NeighbourResyncs, "interrupted", r.Interrupted,
			"restarts", r.Restarts, "neighbours_refused", r.NeighboursRefused))
	}
	if n := s.NAT; n != nil {
		fmt.Fprintf(w, "nat\t%s\n", pairs(all, "claims", n.Claims, "room", n.Room, "full", n.Full,
			"sources_room", n.SourcesRoom, "sources_forgotten", n.SourcesForgotten))
	}
	s.Helpers.writeText(w, all)
	for _, l := range s.Listeners {
		fmt.Fprintf(w, "clients=%s\t%s\n", l.Name, pairs(all, "open", l.Open, "accepted", l.Accepted, "refused", l.Refused, "evicted", l.Evicted))
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, st := range []flow.State{flow.New, flow.Established, flow.Related, flow.Untracked, flow.Invalid} {
		if n := s.States[st.String()]; n > 0 || all {
			fmt.Fprintf(tw, "state %s\t%d\n", st, n)
		}
	}
	for r := flow.NoReason + 1; r < flow.NumReasons; r++ {
		if n := s.Reasons[r.String()]; n > 0 || all {
			fmt.Fprintf(tw, "reason %s\t%d\t%s\n", r, n, r.Text())
		}
	}
	return tw.Flush()
}

// pairs prints names and numbers as name=number, those that are zero only if all is set.
func pairs(all bool, namesAndNumbers ...any) string {
	var b strings.Builder
	for i := 0; i < len(namesAndNumbers); i += 2 {
		if n := namesAndNumbers[i+1].(uint64); n > 0 || all {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "%s=%d", namesAndNumbers[i], n)
		}
	}
	return b.String()
}
