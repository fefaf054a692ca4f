package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/xdpct/xdpct/flow"
)

// maxRules bounds the text of rules that one request may load, in bytes. A node of
// Kubernetes has 100,000 rules of 200 bytes, a third of it.
const maxRules = 64 << 20

func parseFamily(r *http.Request) (flow.Family, error) {
	switch f := r.URL.Query().Get("family"); f {
	case "", "ipv4":
		return flow.IPv4, nil
	case "ipv6":
		return flow.IPv6, nil
	default:
		return 0, badRequest{fmt.Errorf("family %q is neither ipv4 nor ipv6", f)}
	}
}

// rules answers with the rules in force, as iptables-save prints them. It waits for nobody
// who loads rules, and holds nobody up: what it prints does not change, and no lock is held.
func (s *Server) rules(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFamily(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer s.readers.begin(func() {
		cancel()
		if c, ok := ctx.Value(guardKey{}).(*guarded); ok {
			_ = c.Close() // it may wait for the client
		}
	})()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	return s.tracker.WriteRules(ctx, w, f, r.URL.Query().Get("counters") != "")
}

// readers are those who read rules. A reader keeps the rules in memory that were in force
// when it began, so one that has not come to the end of them when they have been replaced
// twice is cut off.
type readers struct {
	mu       sync.Mutex
	replaced uint64             // how often rules were replaced
	began    map[*reader]uint64 // and how often when a reader began
}

type reader struct{ cut func() }

// begin notes a reader; cut ends it early, and end says that it has ended.
func (r *readers) begin(cut func()) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.began == nil {
		r.began = map[*reader]uint64{}
	}
	one := &reader{cut}
	r.began[one] = r.replaced
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.began, one)
	}
}

// replace notes that rules were replaced.
func (r *readers) replace() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replaced++
	for one, began := range r.began {
		if r.replaced-began > 1 {
			delete(r.began, one)
			go one.cut() // it closes a connection, which takes a lock
		}
	}
}

// loadRules puts the tables of the body into force. All that is read from the client is
// read before it takes its turn, so that a slow one holds nobody up.
func (s *Server) loadRules(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFamily(r)
	if err != nil {
		return err
	}
	owner := ""
	if c, ok := r.Context().Value(guardKey{}).(*guarded); ok {
		owner = c.owner
	}
	text, give, err := s.texts.read(http.MaxBytesReader(w, r.Body, maxRules), owner)
	defer give()
	if err != nil {
		return err
	}
	bodyRead(w)
	select {
	case s.loading <- struct{}{}:
	case <-r.Context().Done():
		return r.Context().Err()
	}
	defer func() { <-s.loading }()
	if err := s.tracker.LoadRules(text, "rules", f); err != nil {
		return badRequest{err}
	}
	s.readers.replace()
	return nil
}

// What the texts of rules that wait to be loaded may take, in bytes: those of one owner, and
// all together. One owner leaves room for another; two that take all they may leave none for
// a third until a text of theirs is loaded.
const (
	maxOwnTexts = maxRules
	maxTexts    = 2 * maxRules
	textPart    = 1 << 16 // they are accounted for in parts of this size
)

// errTexts says that there is as much text of rules to load as there may be.
var errTexts = errors.New("too many rules are being loaded at once")

// texts accounts for the texts of rules that have come, or are coming, and wait to be
// loaded.
type texts struct {
	mu    sync.Mutex
	all   int
	owned map[string]int
}

// take accounts for n bytes of an owner, which may be negative.
func (t *texts) take(owner string, n int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n > 0 && (t.all+n > maxTexts || t.owned[owner]+n > maxOwnTexts+textPart) {
		return fmt.Errorf("%w: %d bytes", errTexts, t.all)
	}
	if t.owned == nil {
		t.owned = map[string]int{}
	}
	t.all += n
	if t.owned[owner] += n; t.owned[owner] == 0 {
		delete(t.owned, owner)
	}
	return nil
}

// read reads a text. give gives the account back what was taken for it; it is to be called
// whatever the error.
func (t *texts) read(body io.Reader, owner string) (text *bytes.Buffer, give func(), err error) {
	text = new(bytes.Buffer)
	taken := 0
	give = func() { _ = t.take(owner, -taken) }
	for {
		if err := t.take(owner, textPart); err != nil {
			return nil, give, err
		}
		taken += textPart
		switch _, err := io.CopyN(text, body, textPart); {
		case errors.Is(err, io.EOF):
			return text, give, nil
		case errors.As(err, new(*http.MaxBytesError)):
			return nil, give, err
		case err != nil:
			return nil, give, badRequest{fmt.Errorf("body: %w", err)}
		}
	}
}

// Rules reads the rules in force. Close what it returns.
func (c *Client) Rules(ctx context.Context, q url.Values) (io.ReadCloser, error) {
	return c.do(ctx, http.MethodGet, "/v1/rules", q, nil)
}

// LoadRules puts the rules that text has into force.
func (c *Client) LoadRules(ctx context.Context, q url.Values, text io.Reader) error {
	body, err := c.send(ctx, http.MethodPost, "/v1/rules", q, text)
	if err != nil {
		return err
	}
	return body.Close()
}
