package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// broken is a tracker that fails after some records.
type broken struct {
	records int
	Tracker
}

var errBroken = errors.New("the tracker broke")

func (b broken) List(_ context.Context, _ flow.Filter, emit func(*flow.Record) error) error {
	var r flow.Record
	r.Orig.L4 = flow.MakeL4(flow.IPv4, flow.UDP, 0, 1, 2)
	r.Reply, _ = r.Orig.Invert()
	for range b.records {
		if err := emit(&r); err != nil {
			return err
		}
	}
	return errBroken
}

func (b broken) Get(context.Context, flow.Tuple) (r flow.Record, ok bool, err error) {
	return r, false, nil
}

func (b broken) Count(context.Context) (int, error) { return 0, errBroken }

func serve(t *testing.T, tr Tracker) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := Listen(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	s := NewServer(tr, export.Format{}, time.Now)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return NewClient(path)
}

// TestErrors: an error before the answer comes as its text, one in the middle
// breaks the answer off, so that a part is never taken for the whole.
func TestErrors(t *testing.T) {
	ctx := context.Background()
	lines := func(c *Client, path string, q url.Values) (n int, err error) {
		err = c.Lines(ctx, path, q, func([]byte) error { n++; return nil })
		return n, err
	}
	if n, err := lines(serve(t, broken{}), "/v1/flows", nil); n != 0 || err == nil || err.Error() != errBroken.Error() {
		t.Errorf("at once: %d lines, %v", n, err)
	}
	const many = 100_000
	if n, err := lines(serve(t, broken{records: many}), "/v1/flows", nil); n == 0 || n >= many || err == nil || !strings.Contains(err.Error(), "broke") {
		t.Errorf("in the middle: %d lines, %v", n, err)
	}
	c := serve(t, broken{})
	for _, q := range []struct {
		path  string
		query url.Values
		want  string
	}{
		{"/v1/flows", url.Values{"format": {"csv"}}, `format "csv" is neither`},
		{"/v1/flows", url.Values{"family": {"ipx"}}, `family "ipx" is neither`},
		{"/v1/flow", url.Values{"proto": {"tcp"}}, "are required"},
		{"/v1/flow", url.Values{"proto": {"tcp"}, "src": {"10.0.0.1"}, "dst": {"10.0.0.2"}, "sport": {"70000"}}, "not a number from 0 to 65535"},
		{"/v1/flow", url.Values{"proto": {"icmp"}, "src": {"10.0.0.1"}, "dst": {"10.0.0.2"}, "icmp-type": {"3"}}, "names no connection"},
		{"/v1/nothing", nil, "404"},
	} {
		if _, err := lines(c, q.path, q.query); err == nil || !strings.Contains(err.Error(), q.want) {
			t.Errorf("%s %v: %v, want %q", q.path, q.query, err, q.want)
		}
	}
	found := url.Values{"proto": {"tcp"}, "src": {"10.0.0.1"}, "dst": {"10.0.0.2"}}
	if _, err := lines(c, "/v1/flow", found); !errors.Is(err, ErrNotFound) {
		t.Errorf("a connection that is not there: %v", err)
	}
	if _, err := c.Number(ctx, http.MethodGet, "/v1/count", nil); err == nil || err.Error() != errBroken.Error() {
		t.Errorf("count: %v", err)
	}
}

// TestListen: a socket whose server answers is not taken over; one whose server is
// being taken apart is waited for; one left behind is replaced.
func TestListen(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(broken{}, export.Format{}, time.Now)
	go func() { _ = s.Serve(l) }()
	if _, err := Listen(ctx, path); err == nil || !strings.Contains(err.Error(), "another xdpct serves it") {
		t.Errorf("a socket in use: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{path, path + lockSuffix} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s is left", name)
		}
	}

	// A process that was killed holds both for a while and answers nothing.
	dying, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listen(ctx, path, 0); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another process (%d ", os.Getpid())) {
		t.Errorf("one that does not answer: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Listen(gone, path); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	taken := make(chan net.Listener, 1)
	go func() {
		l, err := Listen(ctx, path)
		if err != nil {
			t.Errorf("one that goes away: %v", err)
		}
		taken <- l
	}()
	// It goes as a process does: nothing is unlinked.
	d := dying.(*locked)
	d.Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := errors.Join(d.lock.Close(), d.Listener.Close()); err != nil {
		t.Fatal(err)
	}
	if l = <-taken; l == nil {
		t.Fatal("nothing to go on with")
	}
	_ = l.Close()

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ctx, path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file has %q, %v", b, err)
	}
}

// TestDocumented: the package comment has every request.
func TestDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for pattern := range NewServer(broken{}, export.Format{}, time.Now).routes() {
		method, path, _ := strings.Cut(pattern, " ")
		if line := fmt.Sprintf("//\t%-4s %s ", method, path); !strings.Contains(string(doc), line) {
			t.Errorf("doc.go lacks %s", pattern)
		}
	}
}

// TestClosed: a server that goes before it answers is an error in words.
func TestClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1)) // so that the request is under way
			_ = c.Close()
		}
	}()
	_, err = NewClient(path).Number(context.Background(), http.MethodGet, "/v1/count", nil)
	if err == nil || !strings.Contains(err.Error(), "closed the connection before it answered") {
		t.Errorf("%v", err)
	}
}
