package control

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// at serves a tracker within limits, and returns the path of the socket.
func at(t *testing.T, tr Tracker, limits Limits) (path string, s *Server, g *Guard) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s = NewServer(tr, export.Format{}, time.Now)
	g = NewGuard(l, limits)
	g.Protect(&s.http)
	go func() { _ = s.http.Serve(g) }()
	t.Cleanup(func() { _ = s.http.Close() })
	return path, s, g
}

// patient are limits that no test reaches.
var patient = Limits{
	Conns: 100, PerOwner: 100, Header: time.Minute, Body: time.Minute, Idle: time.Minute,
	Write: time.Minute, Stall: time.Minute, HeaderBytes: 1 << 14, BodyBytes: maxRules,
}

func connect(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// send writes a request, or part of one.
func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func request(line string) string { return line + " HTTP/1.1\r\nHost: x\r\n\r\n" }

// slowLoader takes until it is released to put rules into force, and prints rules without
// end, or one line.
type slowLoader struct {
	obliging
	begun, release chan struct{}
	endless        bool
}

func (l slowLoader) LoadRules(r io.Reader, _ string, _ flow.Family) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	l.begun <- struct{}{}
	<-l.release
	return nil
}

func (l slowLoader) WriteRules(ctx context.Context, w io.Writer, _ flow.Family, _ bool) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.WriteString(w, "*filter\nCOMMIT\n"); err != nil || !l.endless {
			return err
		}
	}
}

// TestReadingBesideLoads: while rules are being loaded, and more wait for that, and clients
// send rules that never end, each other request is answered.
func TestReadingBesideLoads(t *testing.T) {
	l := slowLoader{begun: make(chan struct{}, 100), release: make(chan struct{})}
	path, s, _ := at(t, l, patient)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const loads = 5
	var loading sync.WaitGroup
	for range loads {
		loading.Go(func() {
			if err := NewClient(path).LoadRules(ctx, nil, strings.NewReader("*filter\nCOMMIT\n")); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 { // and three that do not send what they announce
		c := connect(t, path)
		send(t, c, "POST /v1/rules HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n*filter\n")
	}
	<-l.begun
	for pattern := range s.routes() {
		method, target, _ := strings.Cut(pattern, " ")
		if pattern == "POST /v1/rules" {
			continue
		}
		body := ""
		if method == http.MethodPost {
			body = "{}"
		}
		req, err := http.NewRequestWithContext(ctx, method, "http://x"+target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := NewClient(path).http.Do(req)
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode >= 500 {
			t.Errorf("%s: %s, %v", pattern, resp.Status, err)
		}
		_ = resp.Body.Close()
	}
	close(l.release)
	loading.Wait()
}

// TestOneLoad: rules are put into force one load after the other.
func TestOneLoad(t *testing.T) {
	l := slowLoader{begun: make(chan struct{}, 100), release: make(chan struct{})}
	path, s, _ := at(t, l, patient)
	var loading sync.WaitGroup
	for range 3 {
		loading.Go(func() {
			if err := NewClient(path).LoadRules(context.Background(), nil, strings.NewReader("*filter\nCOMMIT\n")); err != nil {
				t.Error(err)
			}
		})
	}
	waiting := func() int {
		s.texts.mu.Lock()
		defer s.texts.mu.Unlock()
		return s.texts.all
	}
	await(t, func() bool { return waiting() == 3*textPart && len(s.loading) == 1 })
	<-l.begun
	if len(l.begun) > 0 {
		t.Error("two loads at once")
	}
	close(l.release)
	loading.Wait()
	await(t, func() bool { return waiting() == 0 && len(s.loading) == 0 })
}

// TestTextsBounded: what clients send to be loaded takes no more memory than it may, all
// together and of one owner; one that is refused is told so; and all is given back.
func TestTextsBounded(t *testing.T) {
	var x texts
	full := bytes.Repeat([]byte{'\n'}, maxRules)
	var gives []func()
	read := func(owner string, n int) error {
		_, give, err := x.read(http.MaxBytesReader(nil, io.NopCloser(bytes.NewReader(full[:n])), maxRules), owner)
		gives = append(gives, give)
		return err
	}
	if err := read("a", maxRules); err != nil {
		t.Error(err)
	}
	if err := read("a", 1); !errors.Is(err, errTexts) {
		t.Errorf("beside as much as one owner may have: %v", err)
	}
	if err := read("b", maxRules/2); err != nil {
		t.Errorf("of another owner: %v", err)
	}
	if err := read("c", maxRules/2); !errors.Is(err, errTexts) {
		t.Errorf("beside as much as all may have: %v", err)
	}
	for _, give := range gives {
		give()
	}
	if x.all != 0 || len(x.owned) != 0 {
		t.Errorf("%d bytes are left, of %v", x.all, x.owned)
	}
	if err := read("a", maxRules); err != nil {
		t.Errorf("afterwards: %v", err)
	}

	s := NewServer(obliging{}, export.Format{}, time.Now)
	_ = s.texts.take("", maxOwnTexts)
	_ = s.texts.take("x", maxTexts-maxOwnTexts)
	w := httptest.NewRecorder()
	s.http.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/rules", strings.NewReader("*filter\nCOMMIT\n")))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "too many rules are being loaded") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	NewServer(obliging{}, export.Format{}, time.Now).http.Handler.ServeHTTP(w,
		httptest.NewRequest(http.MethodPost, "/v1/rules", io.MultiReader(bytes.NewReader(full), strings.NewReader("x"))))
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("one byte too many: %d %s", w.Code, w.Body)
	}
}

// TestReadersOfOldRules: a client that does not take the rules that it has asked for is cut
// off when they have been replaced twice, so that it keeps no more than those in memory.
func TestReadersOfOldRules(t *testing.T) {
	l := slowLoader{begun: make(chan struct{}, 100), release: make(chan struct{}), endless: true}
	close(l.release)
	path, s, g := at(t, l, patient)
	slow := connect(t, path)
	send(t, slow, request("GET /v1/rules"))
	began := func() int {
		s.readers.mu.Lock()
		defer s.readers.mu.Unlock()
		return len(s.readers.began)
	}
	await(t, func() bool { return began() == 1 })
	load := func() {
		t.Helper()
		if err := NewClient(path).LoadRules(context.Background(), nil, strings.NewReader("*filter\nCOMMIT\n")); err != nil {
			t.Fatal(err)
		}
	}
	load()
	if began() != 1 {
		t.Error("it is cut off by the first")
	}
	load()
	await(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		for a := range g.conns {
			if a.busy {
				return false
			}
		}
		return began() == 0
	})
	resp, err := http.ReadResponse(bufio.NewReader(slow), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("what it has looks complete")
	}
}

// TestRefusedWhileSending: clients that send their requests while they are being refused
// read why.
func TestRefusedWhileSending(t *testing.T) {
	l := slowLoader{begun: make(chan struct{}, 100), release: make(chan struct{})}
	limits := patient
	limits.Conns, limits.PerOwner = 1, 1
	path, _, g := at(t, l, limits)
	defer close(l.release)
	go func() {
		_ = NewClient(path).LoadRules(context.Background(), nil, strings.NewReader("*filter\nCOMMIT\n"))
	}()
	<-l.begun
	large := strings.NewReader(strings.Repeat("\n", refusalBytes/2)) // more than the buffers of a socket
	for i := range 50 {
		refused := g.Stats().Refused
		c := connect(t, path)
		await(t, func() bool { return g.Stats().Refused > refused }) // before it says a word
		go func() {
			_, _ = io.WriteString(c, fmt.Sprintf("POST /v1/rules HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", large.Size()))
			_, _ = io.Copy(c, io.NewSectionReader(large, 0, large.Size()))
		}()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("client %d: %v, %v", i, resp, err)
		}
		if text, err := io.ReadAll(resp.Body); err != nil || string(text) != refusal {
			t.Fatalf("client %d: %q, %v", i, text, err)
		}
		_ = c.Close()
		_, err = NewClient(path).Number(context.Background(), http.MethodGet, "/v1/count", nil)
		if err == nil || !strings.Contains(err.Error(), "too many connections at once") {
			t.Fatalf("the client's own words: %v", err)
		}
	}
	await(t, func() bool { return len(g.refusals) == 0 }) // and nothing of them is left
}

// TestHalfClosed: a client that closes its half of the connection behind its request gets an
// answer that is complete or one that breaks off, never a part that looks complete.
func TestHalfClosed(t *testing.T) {
	whole := broken{records: 3 * 100_000}
	path, _, _ := at(t, interrupted{whole}, patient)
	for range 20 {
		c := connect(t, path)
		send(t, c, request("GET /v1/flows"))
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			continue // broken off before it began
		}
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Fatalf("%s with %d bytes looks complete", resp.Status, n)
		}
	}
}

// interrupted lists until nobody waits any more.
type interrupted struct{ broken }

func (i interrupted) List(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error {
	err := i.broken.List(ctx, f, func(r *flow.Record) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return emit(r)
	})
	if err == nil || errors.Is(err, errBroken) {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// TestPipelined: requests that are sent without waiting are answered one after the other.
func TestPipelined(t *testing.T) {
	path, _, _ := at(t, counted{}, patient)
	c := connect(t, path)
	const n = 500
	go func() { _, _ = io.WriteString(c, strings.Repeat(request("GET /v1/count"), n)) }()
	r := bufio.NewReader(c)
	for i := range n {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if b, err := io.ReadAll(resp.Body); string(b) != "7\n" || err != nil {
			t.Fatalf("answer %d: %q, %v", i, b, err)
		}
	}
}

// TestStrangeRequests: what is no request of the API comes to no handler, whatever its path,
// method, header and body, and is answered by a status. The tracker has no methods but
// Count, so that to ask it anything would be seen.
func TestStrangeRequests(t *testing.T) {
	path, _, _ := at(t, counted{}, patient)
	for _, c := range []struct {
		request string
		want    int
	}{
		{request("GET /"), 404},
		{request("GET /v1"), 404},
		{request("GET /v1/"), 404},
		{request("GET /v1/flows/"), 404},
		{request("GET /v1/flows/1"), 404},
		{request("GET /V1/flows"), 404},
		{request("GET /v2/flows"), 404},
		{request("GET /v1/flows%00"), 404},
		{request("GET /v1/flows%2f"), 404},
		{request("GET /v1%2Fflows"), 404},
		{request("GET /v1/rules/../../etc/passwd"), 307},
		{request("GET //v1/flows"), 307},
		{request("GET /v1/./flows"), 307},
		{request("POST //v1/flush"), 307},
		{request("POST /v1/%2e%2e/v1/flush"), 404},
		{request("GET /v1/flows/%2e%2e/%2e%2e/%2e%2e/etc/passwd"), 404},
		{request("GET http://elsewhere/v1/none"), 404},
		{request("GET v1/flows"), 400},
		{request("GET"), 400},
		{request("GET  /v1/count"), 400},
		{request("GET /v1/flush"), 405},
		{request("HEAD /v1/flush"), 405},
		{request("PUT /v1/flows"), 405},
		{request("DELETE /v1/flows"), 405},
		{request("get /v1/flows"), 405},
		{request("CONNECT /v1/flows"), 405},
		{request("OPTIONS *"), 200},
		{request("PRI *"), 400},
		{request("BREW /v1/count"), 405},
		{"GET /v1/count HTTP/1.1\r\n\r\n", 400}, // no Host
		{"GET /v1/count HTTP/9.9\r\nHost: x\r\n\r\n", 505},
		{"GET /v1/count HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
		{"GET /v1/count HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n", 400},
		{"GET /v1/count HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", 431},
		{"GET /v1/count HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X: y\r\n", 1<<16) + "\r\n", 431},
		{"GET /v1/count?" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
		{"POST /v1/flush HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
		{"POST /v1/flush HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
		{"POST /v1/flush HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501},
		{"POST /v1/flows HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400},
		{"POST /v1/flows HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n\x00\x00\x00\x00\x00", 400},
		{"POST /v1/flows/update HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + strings.Repeat("[", 99999), 400},
		{request("GET /v1/flows?filter=" + url.QueryEscape(strings.Repeat("[", 4_000))), 400},
		{request("GET /v1/flows?%zz=1&format=csv"), 400},
		{request("GET /v1/events?buffer=99999999999999999999"), 400},
		{request("GET /v1/events?buffer=-1"), 400},
		{request("GET /v1/rules?family=ipx"), 400},
	} {
		conn := connect(t, path)
		go func() { _, _ = io.WriteString(conn, c.request) }()
		method, _, _ := strings.Cut(c.request, " ")
		what := c.request[:min(len(c.request), 80)]
		resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
		if err != nil {
			t.Errorf("%q: %v", what, err)
		} else if resp.StatusCode != c.want {
			t.Errorf("%q: status %d, want %d", what, resp.StatusCode, c.want)
		}
		_ = conn.Close()
	}
}

// TestBodiesOfGets: what a request has behind its header that asks for nothing there is not
// taken for the next request, and a long one is not waited for.
func TestBodiesOfGets(t *testing.T) {
	path, _, _ := at(t, counted{}, patient)
	c := connect(t, path)
	smuggled := request("GET /v1/version")
	send(t, c, fmt.Sprintf("GET /v1/count HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(smuggled), smuggled)+request("GET /v1/count"))
	r := bufio.NewReader(c)
	for range 2 {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); string(b) != "7\n" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	}
	long := connect(t, path)
	go func() {
		_, _ = io.WriteString(long, "GET /v1/count HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
		for {
			if _, err := long.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(long), nil)
	if err != nil || resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("%v, %v", resp, err)
	}
}

// talker makes events and rules without end.
type talker struct{ flood }

func (talker) Events(ctx context.Context, _ flow.Filter, _ flow.EventKinds, _ int, emit func(*flow.Event, uint64) error) error {
	return flood{}.List(ctx, flow.Filter{}, func(r *flow.Record) error { return emit(&flow.Event{Record: *r}, 0) })
}

func (talker) WriteRules(ctx context.Context, w io.Writer, f flow.Family, c bool) error {
	return slowLoader{endless: true}.WriteRules(ctx, w, f, c)
}

func (talker) Count(context.Context) (int, error) { return 7, nil }

// TestSlowReaders: a client that takes nothing of an answer, whichever it is, gives its place
// up when another needs it, and then nothing of it is left.
func TestSlowReaders(t *testing.T) {
	for _, target := range []string{"/v1/flows", "/v1/flows?format=json", "/v1/events", "/v1/rules"} {
		limits := patient
		limits.Conns, limits.PerOwner, limits.Stall = 1, 1, time.Nanosecond
		path, s, g := at(t, talker{}, limits)
		slow := connect(t, path)
		send(t, slow, request("GET "+target))
		await(t, func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			for a := range g.conns {
				return a.writing && time.Since(a.since) > 50*time.Millisecond
			}
			return false
		})
		if n, err := NewClient(path).Number(context.Background(), http.MethodGet, "/v1/count", nil); n != 7 || err != nil {
			t.Errorf("beside a stalled reader of %s: %d, %v", target, n, err)
		}
		await(t, func() bool {
			s.streams.mu.Lock()
			defer s.streams.mu.Unlock()
			s.readers.mu.Lock()
			defer s.readers.mu.Unlock()
			return len(s.streams.all) == 0 && len(s.readers.began) == 0
		})
	}
}
