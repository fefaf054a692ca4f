package main

import (
	"context"
	"time"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/shard"
)

// tracker is an engine as the control API sees it.
type tracker struct {
	*engine.Engine
	listeners []listener // what clients connect to
}

// listener is something that clients connect to, under a name, with its counters.
type listener struct {
	name  string
	stats func() control.GuardStats
}

// Events implements control.Tracker.
func (t *tracker) Events(ctx context.Context, f flow.Filter, kinds flow.EventKinds, buffer int, emit func(*flow.Event, uint64) error) error {
	sub := t.Subscribe(f, kinds, buffer)
	defer sub.Close()
	if err := emit(nil, 0); err != nil {
		return err
	}
	const quiet = 100 * time.Millisecond
	idle := time.NewTimer(quiet)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-sub.C:
			if !ok {
				return nil
			}
			if err := emit(&e, sub.Lost()); err != nil {
				return err
			}
			if len(sub.C) > 0 {
				continue
			}
			if err := emit(nil, 0); err != nil {
				return err
			}
		case <-idle.C:
			if err := emit(nil, sub.Lost()); err != nil {
				return err
			}
			idle.Reset(quiet)
		}
	}
}

// ExpectEvents implements control.Tracker.
func (t *tracker) ExpectEvents(ctx context.Context, emit func(flow.EventKind, *expect.Expectation, int64, uint64) error) error {
	sub := t.SubscribeExpect()
	defer sub.Close()
	if err := emit(flow.EventNew, nil, 0, 0); err != nil {
		return err
	}
	quiet := time.NewTicker(100 * time.Millisecond)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-sub.C:
			if !ok {
				return nil
			}
			if err := emit(e.Kind, &e.Expectation, e.Now, sub.Lost()); err != nil {
				return err
			}
		case <-quiet.C:
			if err := emit(0, nil, 0, sub.Lost()); err != nil {
				return err
			}
		}
	}
}

// Stats implements control.Tracker.
func (t *tracker) Stats(ctx context.Context) (export.Stats, error) {
	st, err := t.Engine.Stats(ctx)
	if err != nil {
		return export.Stats{}, err
	}
	out := export.Stats{States: map[string]uint64{}, Reasons: map[string]uint64{}}
	for i, w := range st.Workers {
		s := shardStats(i, w.Shard)
		s.HandedOver, s.Polls, s.BusyPolls, s.Sleeps = w.Loop.HandedOver, w.Loop.Polls, w.Loop.Busy, w.Loop.Sleeps
		s.Fragments = uint64(w.Held)
		out.Shards = append(out.Shards, s)
	}
	for _, p := range st.Ports {
		q := p.Queue
		out.Ports = append(out.Ports, export.PortStats{
			Interface: p.Interface, Attached: p.Up, XDP: string(p.XDP), ZeroCopy: p.ZeroCopy, Queues: p.Queues,
			Received: q.Received, Transmitted: q.Transmitted, Passed: p.Program.Passed,
			Syscalls: q.Polls + q.Kicks, TXBusy: q.TXBusy, TXDown: q.TXDown, TXErrors: q.TXErrors,
		})
	}
	if r := st.Routing; r != nil {
		out.Routing = &export.RouteStats{
			Interfaces: uint64(r.Interfaces), Routes: uint64(r.Routes), Neighbours: uint64(r.Neighbours),
			Overruns: r.Overruns, RouteResyncs: r.RouteResyncs, NeighbourResyncs: r.NeighbourResyncs,
			Interrupted: r.Interrupted, Restarts: r.Restarts, NeighboursRefused: r.Refused,
		}
	}
	if n := st.NAT; n != nil {
		out.NAT = &export.NATStats{
			Claims: uint64(n.Directory.Claims), Room: uint64(n.Directory.Room), Full: n.Directory.Full,
			SourcesRoom: uint64(n.Sources.Room), SourcesForgotten: n.Sources.Forgotten,
		}
	}
	for _, l := range t.listeners {
		g := l.stats()
		out.Listeners = append(out.Listeners, export.ListenerStats{
			Name: l.name, Open: uint64(g.Open), Accepted: g.Accepted, Refused: g.Refused, Evicted: g.Evicted,
		})
	}
	out.Expectations = export.ExpectStats(t.ExpectStats())
	sum := st.Total()
	addNamed(&out, &sum)
	out.Helpers = helperStats(&sum.Help)
	return out, nil
}

func shardStats(i int, s shard.Stats) export.ShardStats {
	r := &s.Reasons
	// The kernel finds only when it confirms a connection that no reply tuple was free for
	// it, and counts it as one that clashes (nf_ct_resolve_clash).
	clashes := r[flow.ReasonClash] + r[flow.ReasonNATExhausted]
	return export.ShardStats{
		Shard: i, Invalid: s.States[flow.Invalid], Insert: s.Table.Inserts,
		InsertFailed: r[flow.ReasonProbeLimit] + clashes, ChainTooLong: r[flow.ReasonProbeLimit],
		Drop: r[flow.ReasonTableFull] + clashes, EarlyDrop: s.Table.Evicted,
		Error: r[flow.ReasonICMPErrorQuote] + r[flow.ReasonICMPErrorUnknown] +
			r[flow.ReasonICMPErrorAddress] + r[flow.ReasonICMPRedirect],
		Packets: s.Packets, Bytes: s.Bytes, Entries: uint64(s.Conns), Max: uint64(s.MaxConns), Expired: s.Table.Expired,
		MaxProbes: s.Table.MaxProbes(),
	}
}

func helperStats(h *shard.HelpStats) export.HelperStats {
	named := func(names []string, counts []uint64) map[string]uint64 {
		m := map[string]uint64{}
		for i, n := range counts {
			m[names[i]] = n
		}
		return m
	}
	return export.HelperStats{
		Flows: uint64(h.Now), Bytes: uint64(h.Bytes), Read: h.Flows, Full: h.Full, Crowded: h.Crowded, Evicted: h.Evicted, Picked: h.Picked,
		Messages: h.Messages, Edits: h.Edits, Passed: h.Passed,
		Off: named(helper.OffNames[:], h.Off[:]), Refused: named(helper.RefusedNames[:], h.Expects[:]),
	}
}

func addNamed(out *export.Stats, s *shard.Stats) {
	for st, n := range s.States {
		out.States[flow.State(st).String()] = n
	}
	for r := flow.NoReason + 1; r < flow.NumReasons; r++ {
		out.Reasons[r.String()] = s.Reasons[r]
	}
}
