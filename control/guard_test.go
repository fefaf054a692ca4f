package control

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// counted is a tracker whose connections are n, and of whose events there are none.
type counted struct{ Tracker }

func (counted) Count(context.Context) (int, error) { return 7, nil }

func (counted) Events(ctx context.Context, _ flow.Filter, _ flow.EventKinds, _ int, emit func(*flow.Event, uint64) error) error {
	if err := emit(nil, 0); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// descriptors counts the open descriptors of the process.
func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// TestIdleConnections: twenty thousand connections that ask for nothing cost the
// server no more than its limit, and a client that asks is served.
func TestIdleConnections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := Listen(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(counted{}, export.Format{}, time.Now)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })

	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const connects, held = 20_000, 500 // of which the client holds so many open itself
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for i := range connects {
		c, err := dial(context.Background(), path)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if i%4 == 0 { // one in four begins a header, and never ends it
			_, _ = io.WriteString(c, "GET /v1/count HTTP/1.1\r\nX: ")
		}
		if open = append(open, c); len(open) > held {
			_ = open[0].Close()
			open = open[1:]
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n, err := NewClient(path).Number(ctx, http.MethodGet, "/v1/count", nil)
	if n != 7 || err != nil {
		t.Errorf("a client among idle ones: %d, %v", n, err)
	}
	st := s.Connections()
	if st.Open > ControlLimits.PerOwner || st.Evicted == 0 || st.Accepted+st.Refused < connects {
		t.Errorf("%+v", st)
	}
	if d := descriptors(t) - len(open); d > ControlLimits.PerOwner+50 {
		t.Errorf("%d descriptors", d)
	}
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse); grown > 16<<20 {
		t.Errorf("%d bytes more in use", grown)
	}
}

// TestOwners: who has his share takes places from himself only; when all places are
// taken, who has most gives one up; requests under way are never cut off.
func TestOwners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := NewGuard(l, Limits{Conns: 4, PerOwner: 3, Header: time.Minute, Idle: time.Minute, Write: time.Minute, Stall: time.Minute, HeaderBytes: 4096})
	names := make(chan string, 1)
	g.Owner = func(net.Conn) string { return <-names }
	release := make(chan struct{})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-release
		_, _ = io.WriteString(w, "done")
	})}
	g.Protect(s)
	go func() { _ = s.Serve(g) }()
	t.Cleanup(func() { _ = s.Close() })
	dial := func(who string) net.Conn {
		t.Helper()
		accepted := func() uint64 { st := g.Stats(); return st.Accepted + st.Refused }
		before := accepted()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		names <- who
		await(t, func() bool { return accepted() > before })
		return c
	}
	ask := func(c net.Conn) {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		await(t, func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			for a := range g.conns {
				if a.busy && !a.writing {
					return true
				}
			}
			return false
		})
	}
	closed := func(c net.Conn) bool {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err := c.Read(make([]byte, 1))
		return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET)
	}
	busy := dial("alice")
	ask(busy)
	idle := []net.Conn{dial("alice"), dial("alice")}
	over := dial("alice") // her fourth
	if !closed(idle[0]) {
		t.Error("the oldest idle connection of an owner with her share stays open")
	}
	bob := dial("bob") // the fourth of all
	carol := dial("carol")
	if !closed(idle[1]) {
		t.Error("who has most connections gave none up")
	}
	close(release)
	for name, c := range map[string]net.Conn{"busy": busy, "over": over, "bob": bob, "carol": carol} {
		if name != "busy" {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	if st := g.Stats(); st.Evicted != 2 || st.Refused != 0 || st.Open != 4 {
		t.Errorf("%+v", st)
	}
}

// TestAllBusy: when every place is at work a client is refused, in HTTP.
func TestAllBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := NewGuard(l, Limits{Conns: 2, PerOwner: 2, Header: time.Minute, Idle: time.Minute, Write: time.Minute, Stall: time.Minute, HeaderBytes: 4096})
	var serving sync.WaitGroup
	serving.Add(2)
	release := make(chan struct{})
	s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		serving.Done()
		<-release
	})}
	g.Protect(s)
	go func() { _ = s.Serve(g) }()
	t.Cleanup(func() { _ = s.Close() })
	defer close(release)
	for range 2 {
		go func() { _, _ = NewClient(path).Number(context.Background(), http.MethodGet, "/", nil) }()
	}
	serving.Wait()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Fatalf("%v, %v", resp, err)
	}
	if text, _ := io.ReadAll(resp.Body); !strings.Contains(string(text), "too many connections") {
		t.Errorf("%q", text)
	}
	if st := g.Stats(); st.Refused != 1 || st.Open != 2 {
		t.Errorf("%+v", st)
	}
}

// TestHalfRequests: clients that send half of a body do not keep others out, though each
// has a place.
func TestHalfRequests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := NewGuard(l, Limits{Conns: 2, PerOwner: 2, Header: time.Minute, Idle: time.Minute, Write: time.Minute, Stall: time.Minute, Body: time.Minute, HeaderBytes: 4096, BodyBytes: 4096})
	waiting := make(chan struct{}, 2)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			waiting <- struct{}{}
			_, _ = io.ReadAll(r.Body)
			return
		}
		_, _ = io.WriteString(w, "7")
	})}
	g.Protect(s)
	go func() { _ = s.Serve(g) }()
	t.Cleanup(func() { _ = s.Close() })
	for range 2 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"); err != nil {
			t.Fatal(err)
		}
		<-waiting
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		resp, err := (&http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}}}).Get("http://x/")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the clients with half a request keep others out: %v", err)
		}
	}
}

// flood is a tracker with connections without end.
type flood struct{ Tracker }

func (flood) List(_ context.Context, _ flow.Filter, emit func(*flow.Record) error) error {
	var r flow.Record
	r.Orig.L4 = flow.MakeL4(flow.IPv4, flow.UDP, 0, 1, 2)
	r.Reply, _ = r.Orig.Invert()
	for {
		if err := emit(&r); err != nil {
			return err
		}
	}
}

// TestStalled: a client that takes nothing of its answer gives its place up when
// another needs it.
func TestStalled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(flood{}, export.Format{}, time.Now)
	g := NewGuard(l, Limits{Conns: 1, PerOwner: 1, Header: time.Minute, Idle: time.Minute, Write: time.Minute, Stall: time.Nanosecond, HeaderBytes: 4096})
	g.Protect(&srv.http)
	go func() { _ = srv.http.Serve(g) }()
	t.Cleanup(func() { _ = srv.http.Close() })
	slow, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	_, _ = io.WriteString(slow, "GET /v1/flows HTTP/1.1\r\nHost: x\r\n\r\n")
	await(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		for a := range g.conns {
			return a.writing && time.Since(a.since) > 50*time.Millisecond
		}
		return false
	})
	if err := NewClient(path).Lines(context.Background(), "/v1/flows", nil, func([]byte) error { return io.EOF }); !errors.Is(err, io.EOF) {
		t.Errorf("beside a stalled client: %v", err)
	}
	if st := g.Stats(); st.Evicted != 1 {
		t.Errorf("%+v", st)
	}
}

// TestStreams: readers of events are bounded in number and in memory.
func TestStreams(t *testing.T) {
	var s streams
	r := httptest.NewRequest(http.MethodGet, "/v1/events", nil)
	var gives []func()
	for range maxStreams {
		give, err := s.take(r, 0)
		if err != nil {
			t.Fatal(err)
		}
		gives = append(gives, give)
	}
	if _, err := s.take(r, 0); !errors.Is(err, errStreams) {
		t.Errorf("one too many: %v", err)
	}
	for _, give := range gives {
		give()
	}
	give, err := s.take(r, maxBuffers)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(r, 0); !errors.Is(err, errStreams) {
		t.Errorf("beside one that has all memory: %v", err)
	}
	give()
	if len(s.all) != 0 || s.bytes != 0 {
		t.Errorf("%d readers, %d bytes are left", len(s.all), s.bytes)
	}
}

// TestSlowBody: a request whose body does not come is given up, and its place freed.
func TestSlowBody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(counted{}, export.Format{}, time.Now)
	g := NewGuard(l, Limits{Conns: 1, PerOwner: 1, Header: time.Minute, Body: 50 * time.Millisecond, Idle: time.Minute, Write: time.Minute, Stall: time.Minute, HeaderBytes: 4096, BodyBytes: 100})
	g.Protect(&srv.http)
	go func() { _ = srv.http.Serve(g) }()
	t.Cleanup(func() { _ = srv.http.Close() })
	for _, target := range []string{"GET /v1/count", "POST /v1/flows", "POST /v1/rules"} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, target+" HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%s: it is still open: %v", target, err)
		}
		_ = c.Close()
	}
	await(t, func() bool { return g.Stats().Open == 0 })
}

// await waits for a condition.
func await(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
	}
}
