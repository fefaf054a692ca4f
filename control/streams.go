package control

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// What readers of events may have waiting, in bytes: one of them, and all together; and
// what one event takes, and a reader that asks for nothing.
const (
	maxBuffer   = 1 << 28
	maxBuffers  = 1 << 28
	eventBytes  = 256
	leastBuffer = 1 << 20
	maxStreams  = 48 // fewer than one user may have connections, so that he can ask something as well
)

// errStreams says that there are as many readers of events as there may be.
var errStreams = errors.New("too many readers of events at once")

// streams bounds the readers of events and the memory that waits for them. One that takes
// nothing any more (Limits.Stall) is cut off when another needs its place.
type streams struct {
	mu    sync.Mutex // held before Guard.mu
	bytes int
	all   map[*stream]bool
}

// stream is a reader of events.
type stream struct {
	bytes int
	conn  *guarded // nil if nobody guards it
}

// take reserves room for the reader who makes the request, with a buffer of so many bytes;
// give returns it.
func (s *streams) take(r *http.Request, bytes int) (give func(), err error) {
	conn, _ := r.Context().Value(guardKey{}).(*guarded)
	t := &stream{max(bytes, leastBuffer), conn}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.all) >= maxStreams || s.bytes+t.bytes > maxBuffers {
		victim := s.stalled()
		if victim == nil {
			return nil, fmt.Errorf("%w: %d, with %d bytes to buffer", errStreams, len(s.all), s.bytes)
		}
		s.remove(victim)
		victim.conn.evict()
	}
	if s.all == nil {
		s.all = map[*stream]bool{}
	}
	s.all[t] = true
	s.bytes += t.bytes
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.remove(t)
	}, nil
}

// remove gives the room of a reader back, once. s.mu is held.
func (s *streams) remove(t *stream) {
	if s.all[t] {
		delete(s.all, t)
		s.bytes -= t.bytes
	}
}

// stalled returns the reader that has taken nothing for longest, and too long.
func (s *streams) stalled() (oldest *stream) {
	var least time.Time
	for t := range s.all {
		if t.conn == nil {
			continue
		}
		if since, is := t.conn.stalled(); is && (oldest == nil || since.Before(least)) {
			oldest, least = t, since
		}
	}
	return oldest
}

// bufferOf reads the buffer that a request for events asks for, in bytes.
func bufferOf(r *http.Request) (bytes int, err error) {
	b := r.FormValue("buffer")
	if b == "" {
		return 0, nil
	}
	if bytes, err = strconv.Atoi(b); err != nil || bytes < 0 || bytes > maxBuffer {
		return 0, badRequest{fmt.Errorf("buffer %q is not a number of bytes from 0 to %d", b, maxBuffer)}
	}
	return bytes, nil
}
