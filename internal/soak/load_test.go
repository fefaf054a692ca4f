package soak

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// load is one kind of traffic between two hosts, and what became of it: transfers,
// connections, requests or datagrams.
type load struct {
	name string
	// mapped says that it uses the router's IPv4 address on the WAN: what is under way
	// while that changes may be lost.
	mapped bool

	mu       sync.Mutex
	tried    int
	done     int
	excused  int
	bytes    int64
	failures []failure
}

// failure is something that did not arrive.
type failure struct {
	from, to time.Time // when it was under way
	what     string
	datagram bool // that nobody sends again
}

func (l *load) try() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried++
}

func (l *load) ok(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done++
	l.bytes += bytes
}

func (l *load) fail(from, to time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, failure{from, to, err.Error(), errors.Is(err, errNoAnswer)})
}

// outcome counts one that began at from: a success if err is nil.
func (l *load) outcome(from time.Time, bytes int64, err error) {
	l.try()
	if err != nil {
		l.fail(from, time.Now(), err)
		return
	}
	l.ok(bytes)
}

// excuse takes out failures that were under way while the address changed.
func (l *load) excuse(changes []window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.mapped {
		return
	}
	left := l.failures[:0]
	for _, f := range l.failures {
		excused := false
		for _, c := range changes {
			excused = excused || !f.from.After(c.to) && !f.to.Before(c.from)
		}
		if excused {
			l.excused++
		} else {
			left = append(left, f)
		}
	}
	l.failures = left
}

func (l *load) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%-34s %8d %8d %8d %8d %9.1f", l.name, l.tried, l.done, l.excused, len(l.failures), float64(l.bytes)/1e6)
}

// window is the time during which the router's address changed.
type window struct{ from, to time.Time }

// soak is one run.
type soak struct {
	*lab
	router, bridge *tracker

	sending  context.Context // done when nothing new is to begin
	stop     context.CancelFunc
	senders  sync.WaitGroup
	mu       sync.Mutex
	loads    []*load
	changes  []window
	changing chan struct{} // closed when connections by the address before are given up
}

// begin runs f until nothing new is to begin.
func (s *soak) begin(name string, mapped bool, f func(l *load)) {
	l := &load{name: name, mapped: mapped}
	s.mu.Lock()
	s.loads = append(s.loads, l)
	s.mu.Unlock()
	s.senders.Go(func() { f(l) })
}

// every runs f again and again, so long from beginning to beginning if it does not take
// longer.
func (s *soak) every(interval time.Duration, f func()) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for s.sending.Err() == nil {
		f()
		select {
		case <-s.sending.Done():
		case <-tick.C:
		}
	}
}

// ended returns a channel that is closed when connections by the router's present address
// are given up.
func (s *soak) ended() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changing
}

// changed notes that the address has changed.
func (s *soak) changed(w window) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes = append(s.changes, w)
	close(s.changing)
	s.changing = make(chan struct{})
}
