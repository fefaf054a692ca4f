package shard

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/table"
)

// Stats are a shard's counters since it was made.
type Stats struct {
	Packets uint64                     // packets judged
	Bytes   uint64                     // of frames judged
	States  [flow.Untracked + 1]uint64 // packets by state
	Dropped uint64                     // packets with Action Drop
	// Reasons are packets by reason. One that conntrack found INVALID and a rule dropped
	// has two.
	Reasons [flow.NumReasons]uint64
	Table   table.Stats
	Help    HelpStats
	// Conns is the number of connections now, MaxConns the room for them.
	Conns, MaxConns int
}

// Add adds the counters of o.
func (s *Stats) Add(o Stats) {
	s.Packets += o.Packets
	s.Bytes += o.Bytes
	for i, n := range o.States {
		s.States[i] += n
	}
	s.Dropped += o.Dropped
	for i, n := range o.Reasons {
		s.Reasons[i] += n
	}
	s.Table.Add(o.Table)
	s.Help.Add(&o.Help)
	s.Conns += o.Conns
	s.MaxConns += o.MaxConns
}
