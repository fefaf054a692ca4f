package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
)

// tally is where the workers leave what they have counted for rules, and where those who
// read counters take it up. What a worker leaves is kept, whoever asked for it and whether
// he still waits; and it is added before a program's counts are carried to the next one, so
// that none is lost between two programs.
type tally struct {
	left atomic.Pointer[leftCounts] // a stack, the newest first
	mu   sync.Mutex                 // guards the counts of all programs, and shown
	// shown is the program whose counts are read: the one in force, once it has those of
	// the one before.
	shown *policy.Program
}

// leftCounts is what a worker has counted for a program.
type leftCounts struct {
	program *policy.Program
	counts  []policy.Count
	next    *leftCounts
}

// leave keeps what the shard has counted for its rules since it was asked last. It runs on
// the worker's thread.
func (w *worker) leave(t *tally) {
	p := w.shard.Rules()
	if p == nil {
		return
	}
	counts := w.shard.Counts()
	l := &leftCounts{program: p, counts: slices.Clone(counts)}
	clear(counts)
	for l.next = t.left.Load(); !t.left.CompareAndSwap(l.next, l); l.next = t.left.Load() {
	}
}

// takeUp adds what the workers have left. t.mu must be held.
func (t *tally) takeUp() {
	for l := t.left.Swap(nil); l != nil; l = l.next {
		l.program.AddCounts(l.counts)
	}
}

// collect adds what the workers have left.
func (t *tally) collect() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.takeUp()
}

// replace carries the counts of a program, for which nobody counts any more, to the one
// that took its place; from now on that is shown.
func (t *tally) replace(carried *policy.Heritage, now *policy.Program) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.takeUp()
	now.CarryCounts(carried)
	t.shown = now
}

// ruleset returns the rules of a family with the counts so far, nil if there are none.
func (t *tally) ruleset(f flow.Family) *syntax.Counted {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.takeUp()
	if t.shown == nil {
		return nil
	}
	return t.shown.Ruleset(f)
}

// Ruleset returns the rules in force of a family with their counters, nil if there are
// none. While rules are being replaced it returns those before, and waits for nobody.
func (e *Engine) Ruleset(ctx context.Context, f flow.Family) (*syntax.Counted, error) {
	if e.cfg.forwards() {
		for _, w := range e.workers {
			if err := e.ask(ctx, w, func(w *worker) bool { w.leave(&e.tally); return true }); err != nil {
				e.tally.collect()
				return nil, fmt.Errorf("reading counters: %w", err)
			}
		}
	}
	return e.tally.ruleset(f), nil
}
