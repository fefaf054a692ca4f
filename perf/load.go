package perf

import (
	"fmt"
	"strings"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy"
)

// Order is how packets pick their connections.
type Order string

// The orders.
const (
	Uniform    Order = "uniform"    // at random, all alike
	Zipf       Order = "zipf"       // at random, few of them often (exponent 1.1)
	Sequential Order = "sequential" // one after the other
)

// Work is what kind of packets a load has.
type Work string

// The kinds of work.
const (
	Established Work = "established" // packets of known connections
	New         Work = "new"         // some or all packets begin a connection
	Lifecycle   Work = "lifecycle"   // whole TCP connections, from SYN to the last ACK
	Flood       Work = "flood"       // first packets, while the table is full
)

// EngineLoad describes an engine measurement.
type EngineLoad struct {
	Work   Work
	Flows  int        // connections, 1..16M; of Lifecycle and New about so many at once
	Proto  flow.Proto // TCP, UDP or ICMP
	Mix    bool       // all three instead
	IPv6   bool
	Size   int  // of frames in bytes, with their checksum, 64..1518
	IMIX   bool // frames of 64, 594 and 1518 bytes instead, 7:4:1
	Order  Order
	Shards int // each on a core of its own, with connections of its own
	Batch  int // packets judged at once, 1..64
	// NewRate is the share of packets of New that begin a connection, 0..1.
	NewRate  float64
	Checksum bool
	forwards bool            // rules will be set
	rules    *policy.Program // in force from the first packet on, nil: none
	controls int             // the first connections are FTP control connections
	Duration time.Duration
}

// DefaultLoad is a million UDP connections.
func DefaultLoad() EngineLoad {
	return EngineLoad{
		Work: Established, Flows: 1_000_000, Proto: flow.UDP, Size: minFrame, Order: Uniform,
		Shards: 1, Batch: maxBatch, NewRate: 1, Duration: 3 * time.Second,
	}
}

const (
	minFrame  = 64
	maxFrame  = 1518
	maxBatch  = 64
	maxFlows  = 16 << 20
	maxShards = 256
)

// Validate checks the load; an error names what is out of range.
func (l *EngineLoad) Validate() error {
	switch {
	case l.Flows < 1 || l.Flows > maxFlows:
		return fmt.Errorf("%d flows: must be 1..%d", l.Flows, maxFlows)
	case l.Batch < 1 || l.Batch > maxBatch:
		return fmt.Errorf("batches of %d: must be 1..%d", l.Batch, maxBatch)
	case l.Size < minFrame || l.Size > maxFrame:
		return fmt.Errorf("frames of %d bytes: must be %d..%d", l.Size, minFrame, maxFrame)
	case l.Shards < 1 || l.Shards > maxShards || l.Shards > l.Flows:
		return fmt.Errorf("%d shards: must be 1..%d, and no more than flows", l.Shards, maxShards)
	case l.NewRate <= 0 || l.NewRate > 1:
		return fmt.Errorf("a rate of new connections of %g: must be above 0, at most 1", l.NewRate)
	case l.Duration <= 0:
		return fmt.Errorf("a duration of %v: must be positive", l.Duration)
	}
	switch l.Order {
	case Uniform, Zipf, Sequential:
	default:
		return fmt.Errorf("order %q: must be uniform, zipf or sequential", l.Order)
	}
	switch l.Work {
	case Established, New:
	case Lifecycle:
		if l.Proto != flow.TCP || l.Mix {
			return fmt.Errorf("lifecycles are TCP's")
		}
	case Flood:
		if l.Mix || l.Proto == flow.ICMP {
			return fmt.Errorf("a flood is of TCP or UDP")
		}
		if l.Flows < 2 {
			return fmt.Errorf("a flood needs a table of at least 2 connections")
		}
	default:
		return fmt.Errorf("work %q: must be established, new, lifecycle or flood", l.Work)
	}
	switch l.Proto {
	case flow.TCP, flow.UDP, flow.ICMP:
		return nil
	}
	return fmt.Errorf("protocol %v: must be udp, tcp or icmp", l.Proto)
}

// SetProto sets the protocol by its name: udp, tcp, icmp or mix.
func (l *EngineLoad) SetProto(name string) error {
	l.Mix = false
	switch strings.ToLower(name) {
	case "udp":
		l.Proto = flow.UDP
	case "tcp":
		l.Proto = flow.TCP
	case "icmp":
		l.Proto = flow.ICMP
	case "mix":
		l.Mix = true
	default:
		return fmt.Errorf("proto %q: must be udp, tcp, icmp or mix", name)
	}
	return nil
}

// Scenario names the load.
func (l *EngineLoad) Scenario() string {
	proto, size := l.Proto.String(), fmt.Sprint(l.Size)
	if l.Mix {
		proto = "mix"
	}
	if l.IMIX {
		size = "imix"
	}
	s := fmt.Sprintf("engine/%s/%s/flows=%d", l.Work, proto, l.Flows)
	if l.IPv6 {
		s += "/ip=6"
	}
	if size != fmt.Sprint(minFrame) {
		s += "/size=" + size
	}
	if l.Order != Uniform && l.Work == Established {
		s += "/order=" + string(l.Order)
	}
	if l.Work == New && l.NewRate != 1 {
		s += fmt.Sprintf("/new=%g", l.NewRate)
	}
	if l.Shards > 1 {
		s += fmt.Sprintf("/shards=%d", l.Shards)
	}
	return s
}
