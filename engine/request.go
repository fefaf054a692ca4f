package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/shard"
)

// request is work for a worker between two batches. step is called again and
// again until it is done; each call must be short.
type request struct {
	step func(w *worker) (done bool)
	stop bool // the worker ends after this request
	done chan struct{}
	// taken says that the worker has begun, or that nobody waits any more: who sets it
	// first has it, so that no step runs after ask has returned.
	taken *atomic.Bool
}

func newRequest(step func(*worker) bool) request {
	return request{step: step, done: make(chan struct{}), taken: new(atomic.Bool)}
}

// errStopped is returned for requests to an engine that has stopped.
var errStopped = errors.New("the engine has stopped")

// serve does a slice of the current request, or takes the next one. It reports
// whether there is more to do.
func (w *worker) serve() (more, stop bool) {
	if w.current == nil {
		if len(w.requests) == 0 {
			return false, false
		}
		r := <-w.requests
		if r.taken.Swap(true) {
			return len(w.requests) > 0, false
		}
		w.current = &r
	}
	if r := w.current; r.step(w) {
		w.current = nil
		close(r.done)
		return len(w.requests) > 0, r.stop
	}
	return true, false
}

// ask has a worker run step to its end. When it returns step does not run any more,
// whatever the error: what it writes to belongs to the caller again.
func (e *Engine) ask(ctx context.Context, w *worker, step func(*worker) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := newRequest(step)
	select {
	case w.requests <- r:
	case <-e.stopped:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	w.rouse()
	select {
	case <-r.done:
		return nil
	case <-e.stopped:
		return errStopped
	case <-ctx.Done():
		if !r.taken.Swap(true) {
			return ctx.Err()
		}
	}
	select { // the worker has begun
	case <-r.done:
		return ctx.Err()
	case <-e.stopped:
		return errStopped
	}
}

// slice is how many entries a request visits between two batches.
const slice = 512

// walk visits the connections of every shard, one shard after the other, in
// slices between batches. visit runs on the worker's thread and returns whether
// to remove the connection. flush is called, off the worker's thread, between
// slices, and may block without holding up packets; its error ends the walk.
func (e *Engine) walk(ctx context.Context, visit func(s *shard.Shard, entry uint32, c *flow.Conn) bool, flush func() error) error {
	for _, w := range e.workers {
		for cursor, first := uint32(0), true; first || cursor != 0; first = false {
			err := e.ask(ctx, w, func(w *worker) bool {
				cursor = w.shard.Walk(cursor, slice, func(i uint32, c *flow.Conn) bool { return visit(w.shard, i, c) })
				return true
			})
			if err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// selected is walk over the connections that f selects. emit gets their records,
// off the worker's thread; act, if not nil, runs on the worker's thread and
// returns whether to remove the connection.
func (e *Engine) selected(ctx context.Context, f *flow.Filter, act func(s *shard.Shard, entry uint32, r *flow.Record) bool, emit func(*flow.Record) error) error {
	page := make([]flow.Record, 0, slice)
	return e.walk(ctx, func(s *shard.Shard, i uint32, c *flow.Conn) bool {
		if !f.MayMatch(c) {
			return false
		}
		page = append(page, s.Record(i))
		r := &page[len(page)-1]
		if !f.Match(r) {
			page = page[:len(page)-1]
			return false
		}
		return act != nil && act(s, i, r)
	}, func() error {
		for i := range page {
			if err := emit(&page[i]); err != nil {
				return err
			}
		}
		page = page[:0]
		return nil
	})
}

// List calls emit for every connection that f selects, in no order. Connections
// that live through the call are listed once; packets are not held up.
func (e *Engine) List(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error {
	return e.selected(ctx, &f, nil, emit)
}

// Delete removes every connection that f selects and calls emit for each.
func (e *Engine) Delete(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error {
	return e.selected(ctx, &f, func(*shard.Shard, uint32, *flow.Record) bool { return true }, emit)
}

// Flush removes every connection that f selects and returns how many those were.
func (e *Engine) Flush(ctx context.Context, f flow.Filter) (n int, err error) {
	err = e.Delete(ctx, f, func(*flow.Record) error { n++; return nil })
	return n, err
}

// Update changes every connection that f selects as change says of each, and calls
// emit for each that is changed, as it is then. It goes on after a connection that
// refuses, and returns the last error.
func (e *Engine) Update(ctx context.Context, f flow.Filter, change func(*flow.Record) (ch flow.Change, any bool), emit func(*flow.Record) error) error {
	var refused error
	changed := map[uint32]bool{} // by ID
	walked := e.selected(ctx, &f, func(s *shard.Shard, i uint32, r *flow.Record) bool {
		ch, any := change(r)
		if !any {
			return false
		}
		if err := s.Update(i, ch); err != nil {
			refused = err
			return false
		}
		*r = s.Record(i)
		changed[r.ID] = true
		return false
	}, func(r *flow.Record) error {
		if !changed[r.ID] {
			return nil
		}
		delete(changed, r.ID)
		return emit(r)
	})
	return errors.Join(walked, refused)
}

// Zero sets the counters of every connection that f selects to zero, and calls emit
// for each as it was.
func (e *Engine) Zero(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error {
	return e.selected(ctx, &f, func(s *shard.Shard, i uint32, _ *flow.Record) bool { s.Zero(i); return false }, emit)
}

// at runs step on the worker that owns the connection with the tuple t.
func (e *Engine) at(ctx context.Context, t flow.Tuple, step func(s *shard.Shard)) error {
	return e.ask(ctx, e.owner(t), func(w *worker) bool { step(w.shard); return true })
}

// Get returns the connection with the tuple t in either direction.
func (e *Engine) Get(ctx context.Context, t flow.Tuple) (r flow.Record, ok bool, err error) {
	err = e.at(ctx, t, func(s *shard.Shard) {
		var i uint32
		if i, ok = s.Find(t); ok {
			r = s.Record(i)
		}
	})
	return r, ok, err
}

// Create makes a connection (shard.Shard.Create).
func (e *Engine) Create(ctx context.Context, r flow.Record) (err error) {
	done, err := e.concernReply(&r)
	if err != nil {
		return err
	}
	defer done()
	asked := e.at(ctx, r.Orig, func(s *shard.Shard) { err = s.Create(r) })
	return errors.Join(asked, err)
}

// Expect adds an expectation of the connection with the tuple master, which lives
// for the given time.
func (e *Engine) Expect(ctx context.Context, master flow.Tuple, x expect.Expectation, life time.Duration) (err error) {
	asked := e.at(ctx, master, func(s *shard.Shard) {
		x.Expires = s.Now() + life.Milliseconds()
		err = s.Expect(master, x)
	})
	return errors.Join(asked, err)
}

// Expectations returns the expectations, oldest first, and the time in milliseconds
// of the clock that they expire by.
func (e *Engine) Expectations(context.Context) ([]expect.Expectation, int64) {
	mono, _ := e.workers[0].clock()
	return e.expect.List(mono / 1e6), mono / 1e6
}

// ExpectStats returns the counters of the expectation table.
func (e *Engine) ExpectStats() expect.Stats { return e.expect.Stats() }

// DeleteExpectations removes the expectations that which selects and returns their
// number.
func (e *Engine) DeleteExpectations(_ context.Context, which func(*expect.Expectation) bool) int {
	return e.expect.Remove(which)
}
