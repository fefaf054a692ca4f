package engine

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/policy/syntax"
)

// TestCountsBesideReloads counts for a rule while rules are loaded, counters read, and
// readers give up in the middle: no count is lost, none is there twice, and none that a
// reader has seen is ever less.
func TestCountsBesideReloads(t *testing.T) {
	const stays = "-A FORWARD -p udp -m udp --dport 9 -j DROP\n"
	text := func(other string) string { return "*filter\n:FORWARD ACCEPT [0:0]\n" + other + stays + "COMMIT\n" }
	_, e := newHosts(t, netlab.HostsOptions{Queues: 2}, text(""), "", nil)
	counted := func(ctx context.Context) (n uint64, err error) {
		r, err := e.Ruleset(ctx, flow.IPv4)
		if err != nil {
			return 0, err
		}
		err = errors.New("the rule is gone")
		r.Each(func(_ *syntax.Table, c *syntax.Chain, _ syntax.Count, rules []syntax.Count) bool {
			for i, rule := range c.Rules {
				if rule.Text("FORWARD")+"\n" == stays {
					n, err = rules[i].Packets, nil
				}
			}
			return true
		})
		return n, err
	}

	var all, readers sync.WaitGroup
	var over atomic.Bool
	for patient := range 4 {
		readers.Go(func() {
			seen := uint64(0)
			for n := 0; !over.Load(); n++ {
				ctx, cancel := context.WithCancel(context.Background())
				if patient == 0 { // gives up while a worker is at it
					_ = e.ask(context.Background(), e.workers[n%2], func(*worker) bool { go cancel(); return true })
				}
				now, err := counted(ctx)
				cancel()
				if errors.Is(err, context.Canceled) {
					continue
				}
				if err != nil || now < seen {
					t.Errorf("after %d packets the rule has counted %d: %v", seen, now, err)
					return
				}
				seen = now
			}
		})
	}
	const steps = 2000
	for _, w := range e.workers {
		all.Go(func() {
			for range steps {
				if err := e.ask(context.Background(), w, func(w *worker) bool {
					for i := range w.shard.Counts() { // a packet that every rule matches
						w.shard.Counts()[i].Packets++
					}
					return true
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Go(func() {
		for n := range 300 {
			other := strings.Repeat("-A FORWARD -p tcp -m tcp --dport 1 -j DROP\n", n%3)
			if err := e.LoadRules(strings.NewReader(text(other)), "new", flow.IPv4); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	over.Store(true)
	readers.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if n, err := counted(ctx); err != nil || n != 2*steps {
		t.Errorf("%d packets were counted, the rule has %d: %v", 2*steps, n, err)
	}
}
