package engine

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
)

// eventRing carries events off a worker. The worker makes only those that somebody
// wants, and counts what finds no room.
type eventRing struct {
	ring *spsc[flow.Event]
	want atomic.Pointer[[]want] // nil while nobody listens
	lost atomic.Uint64
}

// want is what a subscriber wants.
type want struct {
	filter flow.Filter
	kinds  flow.EventKinds
}

func (w *want) match(e *flow.Event) bool { return w.kinds.Has(e.Kind) && w.filter.Match(&e.Record) }

const (
	eventRingSize  = 1 << 14
	eventQueueSize = 1 << 12
	eventInterval  = 5 * time.Millisecond
)

// observe is called by the worker's shard.
func (w *worker) observe(k flow.EventKind, entry uint32) {
	wanted := w.events.want.Load()
	if wanted == nil || !slices.ContainsFunc(*wanted, func(w want) bool { return w.kinds.Has(k) }) {
		return
	}
	ev := flow.Event{Kind: k, Time: w.wall, Record: w.shard.Record(entry)}
	if k == flow.EventDestroy && ev.Record.Start != 0 {
		ev.Record.Stop = w.wall
	}
	for i := range *wanted {
		if (*wanted)[i].match(&ev) {
			if !w.events.ring.push(ev) {
				w.events.lost.Add(1)
			}
			return
		}
	}
}

// Subscription is one reader of events.
type Subscription struct {
	// C delivers the events. It is closed when the engine stops.
	C    chan flow.Event
	want want
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
	workers []*worker
	mu      sync.Mutex
	subs    map[*Subscription]bool
	over    bool // the engine has stopped: there are no subscriptions any more
}

// Subscribe starts a subscription to events of the given kinds about connections
// that f selects. At least buffer of them may wait for a reader. Close it.
//
// When the engine stops C is closed; of an engine that has stopped it is from the start.
//
// A subscriber that is too slow loses events, and Lost says how many. If it then
// lists the connections, it knows all there is to know: what changes after the
// listing began comes as an event.
func (e *Engine) Subscribe(f flow.Filter, kinds flow.EventKinds, buffer int) *Subscription {
	s := &Subscription{C: make(chan flow.Event, max(buffer, eventQueueSize)), want: want{f, kinds}, hub: &e.hub}
	e.hub.change(func() {
		if e.hub.over {
			close(s.C)
			return
		}
		e.hub.subs[s] = true
	})
	return s
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.hub.change(func() { delete(s.hub.subs, s) })
}

// change changes the subscribers and has the workers make events while there are
// any.
func (h *hub) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	var all *[]want
	if len(h.subs) > 0 {
		all = new([]want)
		for s := range h.subs {
			*all = append(*all, s.want)
		}
	}
	for _, w := range h.workers {
		w.events.want.Store(all)
	}
}

// distribute runs until the engine stops.
func (e *Engine) distribute() {
	tick := time.NewTicker(eventInterval)
	defer tick.Stop()
	buf := make([]flow.Event, 256)
	for {
		select {
		case <-e.stopped:
			e.hub.change(func() {
				for s := range e.hub.subs {
					close(s.C)
				}
				clear(e.hub.subs)
				e.hub.over = true
			})
			e.expectHub.end()
			return
		case <-tick.C:
		}
		mono, _ := e.workers[0].clock()
		e.expect.Expire(mono / 1e6)
		for _, w := range e.workers {
			for n := w.events.ring.pop(buf); n > 0; n = w.events.ring.pop(buf) {
				e.hub.deliver(buf[:n])
			}
			e.hub.deliverLoss(w.events.lost.Swap(0))
		}
	}
}

func (h *hub) deliver(events []flow.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		for i := range events {
			ev := events[i]
			if !s.want.match(&ev) {
				continue
			}
			select {
			case s.C <- ev:
			default:
				s.lost++
			}
		}
	}
}

// deliverLoss tells every subscriber that a worker found no room for n events.
func (h *hub) deliverLoss(n uint64) {
	if n == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.lost += n
	}
}

// ExpectEvent is an expectation that came or went.
type ExpectEvent struct {
	Kind        flow.EventKind // EventNew or EventDestroy
	Expectation expect.Expectation
	Now         int64 // milliseconds, of the clock that it expires by
}

// ExpectSubscription is one reader of events about expectations.
type ExpectSubscription struct {
	C    chan ExpectEvent
	hub  *expectHub
	lost atomic.Uint64
}

// expectHub hands events about expectations to all subscribers. They are rare, and
// made by whatever goroutine changes the table.
type expectHub struct {
	mu   sync.Mutex
	subs map[*ExpectSubscription]bool
	over bool // the engine has stopped
}

// end ends all subscriptions, and those to come.
func (h *expectHub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		close(s.C)
	}
	clear(h.subs)
	h.over = true
}

// SubscribeExpect starts a subscription to events about expectations. Close it. When the
// engine stops C is closed.
func (e *Engine) SubscribeExpect() *ExpectSubscription {
	s := &ExpectSubscription{C: make(chan ExpectEvent, eventQueueSize), hub: &e.expectHub}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.hub.over {
		close(s.C)
		return s
	}
	s.hub.subs[s] = true
	return s
}

// Close ends the subscription.
func (s *ExpectSubscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.subs, s)
}

// Lost returns how many events were lost since the last call.
func (s *ExpectSubscription) Lost() uint64 { return s.lost.Swap(0) }

// observeExpect is called with the expectation table locked.
func (e *Engine) observeExpect(k flow.EventKind, x *expect.Expectation) {
	mono, _ := e.workers[0].clock()
	h := &e.expectHub
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		select {
		case s.C <- ExpectEvent{k, *x, mono / 1e6}:
		default:
			s.lost.Add(1)
		}
	}
}
