package engine

import (
	"context"
	"sync"
	"time"

	"github.com/xdpct/xdpct/flow"
)

// eventRing carries events off a worker. The worker counts what finds no room.
type eventRing struct {
	ring *spsc[flow.Event]
	on   bool   // owned by the worker
	lost uint64 // owned by the worker
}

const (
	eventRingSize  = 1 << 14
	eventQueueSize = 1 << 12
	eventInterval  = 5 * time.Millisecond
)

// observe is called by the worker's shard.
func (w *worker) observe(k flow.EventKind, c *flow.Conn) {
	if !w.events.on {
		return
	}
	if !w.events.ring.push(flow.Event{Kind: k, Time: w.wall, Record: c.Record(flow.Millis(w.now))}) {
		w.events.lost++
	}
}

// Subscription is one reader of events.
type Subscription struct {
	// C delivers the events. It is closed when the engine stops.
	C    chan flow.Event
	hub  *hub
	lost uint64 // guarded by hub.mu
}

// Lost returns how many events were lost since the last call, because the reader
// was too slow or the workers too fast.
func (s *Subscription) Lost() uint64 {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	n := s.lost
	s.lost = 0
	return n
}

// hub hands the events of all workers to all subscribers.
type hub struct {
	mu   sync.Mutex
	subs map[*Subscription]bool
}

// Subscribe starts a subscription. Close it.
func (e *Engine) Subscribe(ctx context.Context) (*Subscription, error) {
	s := &Subscription{C: make(chan flow.Event, eventQueueSize), hub: &e.hub}
	e.hub.mu.Lock()
	e.hub.subs[s] = true
	e.hub.mu.Unlock()
	if err := e.switchEvents(ctx, true); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.subs, s)
}

func (e *Engine) switchEvents(ctx context.Context, on bool) error {
	for _, w := range e.workers {
		if err := e.ask(ctx, w, func(w *worker) bool { w.events.on = on; return true }); err != nil {
			return err
		}
	}
	return nil
}

// distribute runs until the engine stops.
func (e *Engine) distribute() {
	tick := time.NewTicker(eventInterval)
	defer tick.Stop()
	buf := make([]flow.Event, 256)
	lost := make([]uint64, len(e.workers))
	for {
		select {
		case <-e.stopped:
			e.hub.mu.Lock()
			for s := range e.hub.subs {
				close(s.C)
			}
			clear(e.hub.subs)
			e.hub.mu.Unlock()
			return
		case <-tick.C:
		}
		e.hub.mu.Lock()
		active := len(e.hub.subs) > 0
		e.hub.mu.Unlock()
		for i, w := range e.workers {
			for n := w.events.ring.pop(buf); n > 0; n = w.events.ring.pop(buf) {
				e.hub.deliver(buf[:n])
			}
			if active {
				e.reportLost(w, &lost[i])
			}
		}
	}
}

func (h *hub) deliver(events []flow.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		for _, ev := range events {
			select {
			case s.C <- ev:
			default:
				s.lost++
			}
		}
	}
}

// reportLost tells every subscriber of events that a worker could not deliver.
func (e *Engine) reportLost(w *worker, seen *uint64) {
	var total uint64
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := e.ask(ctx, w, func(w *worker) bool { total = w.events.lost; return true }); err != nil {
		return
	}
	if n := total - *seen; n > 0 {
		*seen = total
		e.hub.mu.Lock()
		for s := range e.hub.subs {
			s.lost += n
		}
		e.hub.mu.Unlock()
	}
}
