package engine

import (
	"log/slog"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/shard"
	"github.com/xdpct/xdpct/table"
)

// TestMemoryIsChecked: the largest nf_conntrack_max of all is refused in words, where the
// machine has no memory for it; what the default takes is not.
func TestMemoryIsChecked(t *testing.T) {
	for _, mode := range []Mode{Tap, Bridge, Router} {
		cfg := DefaultConfig()
		cfg.Mode = mode
		cfg.Settings.Max = table.MaxConns
		sc := shard.Config{MaxConns: table.MaxConns / 2, Forwards: mode == Router, Translates: mode == Router}
		e := &Engine{cfg: cfg, log: slog.New(slog.DiscardHandler)}
		if err := e.checkMemory(2, &sc, 0); err == nil || !strings.Contains(err.Error(), "nf_conntrack_max: 2147483647 connections take ") {
			t.Errorf("%v: %v", mode, err)
		}
		sc.MaxConns = 1000
		if err := e.checkMemory(2, &sc, 0); err != nil {
			t.Errorf("%v: %v", mode, err)
		}
	}
	cfg := DefaultConfig()
	for _, c := range []struct {
		need, machine, space uint64
		want                 string
	}{
		{1 << 20, 1 << 20, math.MaxUint64, ""}, {1<<20 + 1, 1 << 20, math.MaxUint64, " 2 MiB of memory, and this machine has 1 MiB"},
		{3 << 20, 4 << 20, 2 << 20, " 3 MiB of memory, and the limit on the address space is 2 MiB"},
	} {
		if err := cfg.fits(c.need, c.machine, c.space); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestTooManyConnections: the start says so, instead of ending in a trace.
func TestTooManyConnections(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Mode, cfg.Settings.Max = Router, table.MaxConns
	e := &Engine{cfg: cfg, log: slog.New(slog.DiscardHandler), ports: []*port{{}, {}}}
	err := e.makeWorkers(2)
	if err == nil || !strings.HasPrefix(err.Error(), "nf_conntrack_max: ") {
		t.Errorf("%v", err)
	}
}

// TestSizesAreTrue: what is said to be taken is what the heap grows by, and what a table has.
func TestSizesAreTrue(t *testing.T) {
	const conns = 100_000
	for _, shards := range []int{1, 2} {
		took := func(conns int) int {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			runtime.KeepAlive(nat.NewShared(shards, conns, nat.Key{1}))
			runtime.ReadMemStats(&after)
			return int(after.TotalAlloc - before.TotalAlloc)
		}
		said, grows := nat.SharedSize(shards, 2*conns)-nat.SharedSize(shards, conns), took(2*conns)-took(conns)
		if max(said-grows, grows-said) > said/100 {
			t.Errorf("%d shards: %d connections more take %d bytes, not %d", shards, conns, grows, said)
		}
	}
	tab, err := table.New(conns, nil, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	if said := table.Size(conns, false); said != tab.Bytes() {
		t.Errorf("a table takes %d bytes, not %d", tab.Bytes(), said)
	}
}
