package engine

import (
	"context"
	"errors"

	"github.com/xdpct/xdpct/flow"
)

// request is work for a worker between two batches. step is called again and
// again until it is done; each call must be short.
type request struct {
	step func(w *worker) (done bool)
	stop bool // the worker ends after this request
	done chan struct{}
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
		w.current = &r
	}
	if r := w.current; r.step(w) {
		w.current = nil
		close(r.done)
		return len(w.requests) > 0, r.stop
	}
	return true, false
}

// ask has a worker run step to its end.
func (e *Engine) ask(ctx context.Context, w *worker, step func(*worker) bool) error {
	r := request{step: step, done: make(chan struct{})}
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
		return ctx.Err()
	}
}

// slice is how many entries a request visits between two batches.
const slice = 512

// walk visits the connections of every shard, one shard after the other, in
// slices between batches. visit runs on the worker's thread and returns whether
// to remove the connection. flush is called, off the worker's thread, between
// slices, and may block without holding up packets; its error ends the walk.
func (e *Engine) walk(ctx context.Context, visit func(w *worker, c *flow.Conn) bool, flush func() error) error {
	for _, w := range e.workers {
		for cursor, first := uint32(0), true; first || cursor != 0; first = false {
			err := e.ask(ctx, w, func(w *worker) bool {
				cursor = w.shard.Walk(cursor, slice, func(c *flow.Conn) bool { return visit(w, c) })
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

// List calls emit for every connection that matches, in no order. Connections
// that live through the call are listed once; packets are not held up.
func (e *Engine) List(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error {
	page := make([]flow.Record, 0, slice)
	return e.walk(ctx, func(w *worker, c *flow.Conn) bool {
		if f.Match(c) {
			page = append(page, c.Record(flow.Millis(w.now)))
		}
		return false
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

// Flush removes every connection that matches and returns how many those were.
func (e *Engine) Flush(ctx context.Context, f flow.Filter) (n int, err error) {
	err = e.walk(ctx, func(_ *worker, c *flow.Conn) bool {
		if !f.Match(c) {
			return false
		}
		n++
		return true
	}, func() error { return nil })
	return n, err
}

// Get returns the connection with the tuple t in either direction.
func (e *Engine) Get(ctx context.Context, t flow.Tuple) (r flow.Record, ok bool, err error) {
	key, _ := t.Canonical()
	w := e.workers[e.owner(&key)]
	err = e.ask(ctx, w, func(w *worker) bool {
		if c, found := w.shard.Find(t); found {
			r, ok = c.Record(flow.Millis(w.now)), true
		}
		return true
	})
	return r, ok, err
}
