package engine

import (
	"context"
	"errors"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/mirror"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/rx"
	"github.com/xdpct/xdpct/shard"
)

// WorkerStats are the counters of one shard and its thread.
type WorkerStats struct {
	Shard shard.Stats
	Loop  LoopStats
	Free  int // free chunks
	Held  int // fragments that wait for the rest of their datagram
}

// PortStats are the counters of one port since the start, those of interfaces that have come
// and gone under its name included.
type PortStats struct {
	Interface string
	Up        bool // the interface exists and is attached
	XDP       rx.XDPMode
	ZeroCopy  bool
	Queues    int
	Program   rx.ProgramStats
	Queue     rx.QueueStats // of all queues
}

// Stats are the counters of an engine.
type Stats struct {
	Workers []WorkerStats
	Ports   []PortStats
	Routing *mirror.Stats // nil: not a router
	NAT     *NATStats     // nil: nothing is translated
}

// NATStats are the counters of what the shards of a router share.
type NATStats struct {
	Directory nat.DirectoryStats // zero with one shard, which needs none
	Sources   nat.SourceStats
}

// Stats reads all counters. Those of a worker belong together; those of two
// workers may be a moment apart.
func (e *Engine) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	queues := make([]rx.QueueStats, len(e.ports))
	for _, w := range e.workers {
		var ws WorkerStats
		err := e.ask(ctx, w, func(w *worker) bool {
			ws = WorkerStats{w.shard.Stats(), w.loop, w.pool.Free(), w.frags.Len()}
			for r, n := range w.drops {
				ws.Shard.Reasons[r] += n
				ws.Shard.Dropped += n
			}
			for i, p := range w.ports {
				q, tooLarge := p.stats()
				queues[i].Add(q)
				ws.Shard.Reasons[flow.ReasonFrameTooLarge] += tooLarge
			}
			return true
		})
		if err != nil {
			return Stats{}, err
		}
		s.Workers = append(s.Workers, ws)
	}
	if e.router != nil {
		r := e.router.mirror.Stats()
		s.Routing = &r
	}
	if e.shared != nil {
		s.NAT = &NATStats{Sources: e.shared.SourceStats()}
		if d := e.shared.Directory; d != nil {
			s.NAT.Directory = d.Stats()
		}
	}
	var errs error
	for i, p := range e.ports {
		p.mu.Lock()
		ps := PortStats{Interface: p.ifi.Name, Queues: min(p.ifi.Queues, len(p.queues)), Queue: queues[i], Program: p.past}
		if p.program != nil {
			ps.Up, ps.XDP = true, p.program.Mode()
			ps.ZeroCopy = len(p.queues) > 0 && p.queues[0].ZeroCopy()
			now, err := p.program.Stats()
			ps.Program.Add(now)
			errs = errors.Join(errs, err)
		}
		p.mu.Unlock()
		s.Ports = append(s.Ports, ps)
	}
	return s, errs
}

// Total adds the shards' counters, and the drops that the XDP programs and the
// sockets counted.
func (s *Stats) Total() shard.Stats {
	var sum shard.Stats
	for _, w := range s.Workers {
		sum.Add(w.Shard)
	}
	for _, p := range s.Ports {
		sum.Reasons[flow.ReasonXDPNoSocket] += p.Program.NoSocket
		sum.Reasons[flow.ReasonFrameTooLarge] += p.Program.TooLarge
		d := p.Queue.Drops
		// In copy mode the kernel counts a frame that met an empty fill ring twice.
		empty := min(d.Rx_fill_ring_empty_descs, d.Rx_dropped)
		sum.Reasons[flow.ReasonFillRingEmpty] += empty
		sum.Reasons[flow.ReasonRXDropped] += d.Rx_dropped - empty
		sum.Reasons[flow.ReasonRXRingFull] += d.Rx_ring_full
		sum.Reasons[flow.ReasonTXDown] += p.Queue.TXDown
		sum.Reasons[flow.ReasonTXDropped] += p.Queue.TXDropped
		sum.Reasons[flow.ReasonTXError] += d.Tx_invalid_descs
	}
	return sum
}
