package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// Tracker is what the API gives access to.
type Tracker interface {
	List(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error
	Get(ctx context.Context, t flow.Tuple) (r flow.Record, ok bool, err error)
	Count(ctx context.Context) (int, error)
	Flush(ctx context.Context, f flow.Filter) (int, error)
	Stats(ctx context.Context) (export.Stats, error)

	// Delete, Update and Zero call emit for every connection that they have
	// removed, changed or, as it was before, zeroed.
	Delete(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error
	Update(ctx context.Context, f flow.Filter, change func(*flow.Record) (ch flow.Change, any bool), emit func(*flow.Record) error) error
	Zero(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error
	Create(ctx context.Context, r flow.Record) error

	// Expectations returns the expectations and the time, in milliseconds, that
	// they expire by.
	Expectations(ctx context.Context) ([]expect.Expectation, int64)
	Expect(ctx context.Context, master flow.Tuple, x expect.Expectation, life time.Duration) error
	DeleteExpectations(ctx context.Context, which func(*expect.Expectation) bool) int

	// ExpectEvents is Events for expectations; now is the time, in milliseconds,
	// that x expires by.
	ExpectEvents(ctx context.Context, emit func(k flow.EventKind, x *expect.Expectation, now int64, lost uint64) error) error

	// WriteRules prints the rules in force of a family, which are those of one moment
	// however slowly w takes them. LoadRules puts tables into force in place of those of
	// the same names; r may be a *bytes.Buffer, which is not copied.
	WriteRules(ctx context.Context, w io.Writer, f flow.Family, counters bool) error
	LoadRules(r io.Reader, name string, f flow.Family) error

	// Events delivers events that f selects, of the given kinds, to emit, with
	// the number lost before each, until ctx ends. When what happens from now on
	// is delivered, and with no event for a while, it calls emit with nil. buffer
	// is how many may wait, 0 for the default.
	Events(ctx context.Context, f flow.Filter, kinds flow.EventKinds, buffer int, emit func(e *flow.Event, lost uint64) error) error
}

// Server serves the API of a Tracker.
type Server struct {
	Version string // of the program; set it before Serve

	tracker Tracker
	format  export.Format
	now     func() time.Time
	http    http.Server
	guard   atomic.Pointer[Guard]
	streams streams
	readers readers       // of rules
	texts   texts         // of rules to load
	loading chan struct{} // holds the one who reads rules and puts them into force
}

// NewServer makes a server; format is the default for text, now the clock.
func NewServer(t Tracker, format export.Format, now func() time.Time) *Server {
	s := &Server{tracker: t, format: format, now: now, loading: make(chan struct{}, 1)}
	mux := http.NewServeMux()
	for pattern, h := range s.routes() {
		mux.HandleFunc(pattern, handle(h))
	}
	s.http.Handler = mux
	return s
}

// routes are all requests; doc.go describes them.
func (s *Server) routes() map[string]func(http.ResponseWriter, *http.Request) error {
	return map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/flows":                s.flows,
		"POST /v1/flows":               s.create,
		"POST /v1/flows/delete":        s.delete,
		"POST /v1/flows/update":        s.update,
		"POST /v1/flows/zero":          s.zero,
		"GET /v1/expectations":         s.expectations,
		"GET /v1/expectations/events":  s.expectEvents,
		"POST /v1/expectations":        s.expect,
		"POST /v1/expectations/delete": s.unexpect,
		"GET /v1/rules":                s.rules,
		"POST /v1/rules":               s.loadRules,
		"GET /v1/flow":                 s.flow,
		"GET /v1/events":               s.events,
		"GET /v1/version":              s.version,
		"GET /v1/count":                s.count,
		"GET /v1/stats":                s.stats,
		"POST /v1/flush":               s.flush,
	}
}

// Serve serves until Close, within ControlLimits. It always returns an error that is
// not nil. Call it once.
func (s *Server) Serve(l net.Listener) error {
	g := NewGuard(l, ControlLimits)
	g.Protect(&s.http)
	s.guard.Store(g)
	return s.http.Serve(g)
}

// Connections counts the connections of clients.
func (s *Server) Connections() GuardStats {
	if g := s.guard.Load(); g != nil {
		return g.Stats()
	}
	return GuardStats{}
}

// Close ends the server and removes its socket.
func (s *Server) Close() error { return s.http.Close() }

func (s *Server) flows(w http.ResponseWriter, r *http.Request) error {
	return s.streamed(w, r, s.tracker.List)
}

func (s *Server) flow(w http.ResponseWriter, r *http.Request) error {
	t, err := parseTuple(r)
	if err != nil {
		return badRequest{err}
	}
	l, err := s.lines(w, r)
	if err != nil {
		return err
	}
	rec, ok, err := s.tracker.Get(r.Context(), t)
	if err != nil {
		return err
	}
	if !ok {
		return ErrNotFound
	}
	return errors.Join(l.record(&rec), l.flush())
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilter(r)
	if err != nil {
		return badRequest{err}
	}
	kinds, err := parseKinds(r.FormValue("kinds"))
	if err != nil {
		return badRequest{err}
	}
	bytes, err := bufferOf(r)
	if err != nil {
		return err
	}
	l, err := s.lines(w, r)
	if err != nil {
		return err
	}
	give, err := s.streams.take(r, bytes)
	if err != nil {
		return err
	}
	defer give()
	return s.tracker.Events(r.Context(), f, kinds, bytes/eventBytes, func(e *flow.Event, lost uint64) error {
		if lost > 0 {
			fmt.Fprintf(l.w, "!lost %d\n", lost)
		}
		if e != nil {
			return l.event(e)
		}
		return l.flush()
	})
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) error {
	return json.NewEncoder(w).Encode(map[string]string{"version": s.Version})
}

func (s *Server) count(w http.ResponseWriter, r *http.Request) error {
	n, err := s.tracker.Count(r.Context())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, n)
	return err
}

func (s *Server) stats(w http.ResponseWriter, r *http.Request) error {
	st, err := s.tracker.Stats(r.Context())
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(st)
}

func (s *Server) flush(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilter(r)
	if err != nil {
		return badRequest{err}
	}
	n, err := s.tracker.Flush(r.Context(), f)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, n)
	return err
}

// badRequest is an error in what the client asked for.
type badRequest struct{ error }

// answer knows whether any of an answer has been sent.
type answer struct {
	http.ResponseWriter
	begun bool
}

func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// handle turns the error of a handler into a status, or, if the answer has begun,
// breaks it off, so that the client does not take a part for the whole.
func handle(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a := &answer{ResponseWriter: w}
		err := h(a, r)
		if err == nil {
			return
		}
		// A client that has closed its half of the connection counts as gone, though it may
		// still read: what it gets must not look complete.
		if a.begun || r.Context().Err() != nil {
			panic(http.ErrAbortHandler)
		}
		code := http.StatusInternalServerError
		switch {
		case errors.As(err, new(badRequest)), errors.Is(err, flow.ErrInvalid), errors.Is(err, flow.ErrNoNAT):
			code = http.StatusBadRequest
		case errors.Is(err, ErrNotFound), errors.Is(err, flow.ErrNotFound):
			code = http.StatusNotFound
		case errors.Is(err, flow.ErrExists), errors.Is(err, flow.ErrBusy), errors.Is(err, expect.ErrBusy):
			code = http.StatusConflict
		case errors.Is(err, errStreams), errors.Is(err, errTexts):
			code = http.StatusServiceUnavailable
		case errors.As(err, new(*http.MaxBytesError)):
			code = http.StatusRequestEntityTooLarge
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, err.Error()+"\n")
	}
}
