package control

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound what the clients of a listener may hold of the program: descriptors,
// memory and time.
type Limits struct {
	Conns    int // connections at once
	PerOwner int // of them those of one owner, see Guard.Owner

	Header time.Duration // for the header of a request
	Body   time.Duration // for its body
	Idle   time.Duration // between two requests of a connection
	// Write is how long a client may take no byte of an answer before its connection
	// is closed.
	Write time.Duration
	// Stall is the same for a connection whose place another client needs.
	Stall time.Duration

	HeaderBytes int
	BodyBytes   int64
}

// ControlLimits are those of the control socket. A pager may hold an answer back for
// minutes, but not keep others out.
var ControlLimits = Limits{
	Conns: 128, PerOwner: 64, Header: 5 * time.Second, Body: 30 * time.Second, Idle: time.Minute,
	Write: 15 * time.Minute, Stall: 5 * time.Second, HeaderBytes: 1 << 14, BodyBytes: maxRules,
}

// MetricsLimits are those of the metrics.
var MetricsLimits = Limits{
	Conns: 32, PerOwner: 16, Header: 5 * time.Second, Body: 5 * time.Second, Idle: 2 * time.Minute,
	Write: 10 * time.Second, Stall: time.Second, HeaderBytes: 1 << 14, BodyBytes: 0,
}

// GuardStats count the connections of a listener.
type GuardStats struct {
	Open     int
	Accepted uint64
	Refused  uint64 // closed at once, because all others were at work
	Evicted  uint64 // closed while idle or stalled, because another needed the place
}

// Guard is a listener with Limits. A connection above them takes the place of the one
// that has been idle for longest, of its own owner if that has its share, else of the
// owner that has most; where nobody is idle it is refused with status 503. So a user
// who opens thousands takes nothing from another.
//
// A connection is idle unless a handler serves a request of it; its Protect-ed server
// tells. The methods may be called from any goroutine.
type Guard struct {
	net.Listener
	limits Limits
	// Owner names the owner of a connection: the user at the other end of a unix
	// socket ("uid 0"), else the remote address. Set it before the first Accept.
	Owner func(net.Conn) string

	refusals chan struct{} // holds as many as are being told that they are refused

	mu    sync.Mutex
	conns map[*guarded]bool
	owned map[string]int
	stats GuardStats
}

// NewGuard puts limits on a listener.
func NewGuard(l net.Listener, limits Limits) *Guard {
	return &Guard{
		Listener: l, limits: limits, Owner: owner, conns: map[*guarded]bool{}, owned: map[string]int{},
		refusals: make(chan struct{}, maxRefusals),
	}
}

// owner is the default of Guard.Owner.
func owner(c net.Conn) string {
	switch c := c.(type) {
	case *net.UnixConn:
		raw, err := c.SyscallConn()
		if err != nil {
			break
		}
		var cred *unix.Ucred
		if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e == nil && err == nil {
			return fmt.Sprint("uid ", cred.Uid)
		}
	case *net.TCPConn:
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			return a.IP.String()
		}
	}
	return ""
}

// Stats returns the counters.
func (g *Guard) Stats() GuardStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.stats
	s.Open = len(g.conns)
	return s
}

// Accept waits for a connection and admits it or the next one.
func (g *Guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		a := &guarded{Conn: c, guard: g, owner: g.Owner(c), since: time.Now()}
		admitted, victim := g.admit(a)
		if victim != nil {
			_ = victim.Conn.Close() // its server closes it once more, which does no harm
		}
		if admitted {
			return a, nil
		}
		g.refuse(c)
	}
}

// What it may cost to tell clients why they are refused: so many at once, for so long and
// so many bytes of their requests each. Those beyond are told as well, but may not hear it.
const (
	maxRefusals  = 64
	refusalTime  = time.Second
	refusalBytes = 1 << 20
)

const refusal = "too many connections at once\n"

// refuse tells an HTTP client why it gets no place, in a goroutine of its own.
func (g *Guard) refuse(c net.Conn) {
	select {
	case g.refusals <- struct{}{}:
		go func() {
			// Clients take an answer that comes before they have asked for an error.
			_ = c.SetReadDeadline(time.Now().Add(refusalTime))
			_, _ = c.Read(make([]byte, 1<<12))
			sayNo(c)
			// A socket that is closed with something unread tells the other end of a reset,
			// and the answer may be lost (RFC 9112 section 9.6; unix_release_sock).
			_, _ = io.CopyN(io.Discard, c, refusalBytes)
			_ = c.Close()
			<-g.refusals
		}()
	default:
		sayNo(c)
		_ = c.Close()
	}
}

// sayNo answers with status 503, and ends the server's half of the connection. The buffer of
// a new socket has room for it, so that it does not block.
func sayNo(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(refusalTime))
	_, _ = fmt.Fprintf(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(refusal), refusal)
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// admit gives a connection a place, that of victim if there was none.
func (g *Guard) admit(a *guarded) (ok bool, victim *guarded) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.owned[a.owner] >= g.limits.PerOwner:
		victim = g.longestIdle(func(c *guarded) bool { return c.owner == a.owner })
	case len(g.conns) >= g.limits.Conns:
		most := 0
		for _, n := range g.owned {
			most = max(most, n)
		}
		if victim = g.longestIdle(func(c *guarded) bool { return g.owned[c.owner] == most }); victim == nil {
			victim = g.longestIdle(func(*guarded) bool { return true })
		}
	default:
		g.add(a)
		return true, nil
	}
	if victim == nil {
		g.stats.Refused++
		return false, nil
	}
	g.stats.Evicted++
	g.remove(victim)
	g.add(a)
	return true, victim
}

func (g *Guard) add(a *guarded) {
	g.stats.Accepted++
	g.conns[a] = true
	g.owned[a.owner]++
}

// remove takes a connection out of the accounts, once. g.mu is held.
func (g *Guard) remove(a *guarded) {
	if !g.conns[a] {
		return
	}
	delete(g.conns, a)
	if g.owned[a.owner]--; g.owned[a.owner] == 0 {
		delete(g.owned, a.owner)
	}
}

// longestIdle returns the connection that has been idle, or stalled, for longest among
// those that which selects; nil if there is none. One whose request is still to come in
// whole is idle: who sends half of it would otherwise hold a place as long as he likes.
func (g *Guard) longestIdle(which func(*guarded) bool) (oldest *guarded) {
	now := time.Now()
	for c := range g.conns {
		idle := !c.busy || c.receiving || c.writing && now.Sub(c.since) > g.limits.Stall
		if idle && which(c) && (oldest == nil || c.since.Before(oldest.since)) {
			oldest = c
		}
	}
	return oldest
}

type guardKey struct{}

// Protect makes a server, which serves this listener only, keep the limits.
func (g *Guard) Protect(s *http.Server) {
	s.ReadHeaderTimeout, s.IdleTimeout, s.MaxHeaderBytes = g.limits.Header, g.limits.Idle, g.limits.HeaderBytes
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, guardKey{}, c)
	}
	next := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, guards := r.Context().Value(guardKey{}).(*guarded)
		if guards {
			if !a.begin() {
				panic(http.ErrAbortHandler) // another has its place already
			}
			defer a.end()
		}
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(g.limits.Body))
			r.Body = http.MaxBytesReader(w, r.Body, g.limits.BodyBytes)
			if guards {
				r.Body = body{r.Body, a}
			}
		}
		next.ServeHTTP(w, r)
	})
}

// guarded is a connection that a Guard has admitted. Its last fields are guarded by
// the Guard's mutex.
type guarded struct {
	net.Conn
	guard *Guard
	owner string

	busy      bool // a request is being served
	receiving bool // its body is waited for
	writing   bool // a Write is under way
	since     time.Time
}

// begin notes that a request is served, unless the connection has been closed.
func (a *guarded) begin() bool {
	a.guard.mu.Lock()
	defer a.guard.mu.Unlock()
	a.busy, a.since = true, time.Now()
	return a.guard.conns[a]
}

// stalled reports whether the client takes nothing of an answer, since when, and for longer
// than it may if another needs its place.
func (a *guarded) stalled() (since time.Time, is bool) {
	a.guard.mu.Lock()
	defer a.guard.mu.Unlock()
	return a.since, a.writing && time.Since(a.since) > a.guard.limits.Stall
}

// evict closes the connection in favour of another.
func (a *guarded) evict() {
	a.guard.mu.Lock()
	if a.guard.conns[a] {
		a.guard.stats.Evicted++
		a.guard.remove(a)
	}
	a.guard.mu.Unlock()
	_ = a.Conn.Close() // its server closes it once more, which does no harm
}

func (a *guarded) end() {
	a.guard.mu.Lock()
	defer a.guard.mu.Unlock()
	a.busy, a.since = false, time.Now()
}

// body is a request's body, and notes while it is waited for.
type body struct {
	io.ReadCloser
	conn *guarded
}

// Read reads from the body.
func (b body) Read(p []byte) (int, error) {
	b.conn.receive(true)
	defer b.conn.receive(false)
	return b.ReadCloser.Read(p)
}

func (a *guarded) receive(waits bool) {
	a.guard.mu.Lock()
	defer a.guard.mu.Unlock()
	a.receiving, a.since = waits, time.Now()
}

// Write writes with a deadline of its own.
func (a *guarded) Write(b []byte) (int, error) {
	if err := a.SetWriteDeadline(a.note(true).Add(a.guard.limits.Write)); err != nil {
		return 0, err
	}
	n, err := a.Conn.Write(b)
	a.note(false)
	return n, err
}

func (a *guarded) note(writing bool) (now time.Time) {
	now = time.Now()
	a.guard.mu.Lock()
	defer a.guard.mu.Unlock()
	a.writing, a.since = writing, now
	return now
}

// Close closes the connection and gives its place back.
func (a *guarded) Close() error {
	a.guard.mu.Lock()
	a.guard.remove(a)
	a.guard.mu.Unlock()
	return a.Conn.Close()
}
