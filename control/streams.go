package control

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
)

// What readers of events may have waiting, in bytes: one of them, and all together; and
// what one event takes, and a reader that asks for nothing.
const (
	maxBuffer   = 1 << 28
	maxBuffers  = 1 << 28
	eventBytes  = 256
	leastBuffer = 1 << 20
	maxStreams  = 64
)

// errStreams says that there are as many readers of events as there may be.
var errStreams = errors.New("too many readers of events at once")

// streams bounds the readers of events and the memory that waits for them.
type streams struct {
	mu       sync.Mutex
	n, bytes int
}

// take reserves room for a reader with a buffer of so many bytes; give returns it.
func (s *streams) take(bytes int) (give func(), err error) {
	bytes = max(bytes, leastBuffer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n >= maxStreams || s.bytes+bytes > maxBuffers {
		return nil, fmt.Errorf("%w: %d, with %d bytes to buffer", errStreams, s.n, s.bytes)
	}
	s.n++
	s.bytes += bytes
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.n--
		s.bytes -= bytes
	}, nil
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
