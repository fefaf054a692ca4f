package control

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/xdpct/xdpct/flow"
)

// maxRules bounds the size of a file of rules.
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

// printing waits until one of maxPrints may go on; done ends it.
func (s *Server) printing(ctx context.Context) (done func(), err error) {
	select {
	case s.prints <- struct{}{}:
		return func() { <-s.prints }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// rules answers with the rules in force, as iptables-save prints them. They are printed
// in full before the client gets the first byte: it may be slow.
func (s *Server) rules(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFamily(r)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	done, err := s.printing(r.Context())
	if err != nil {
		return err
	}
	err = s.tracker.WriteRules(r.Context(), &text, f, r.URL.Query().Get("counters") != "")
	done()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err = text.WriteTo(w)
	return err
}

// loadRules puts the tables of the body into force.
func (s *Server) loadRules(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFamily(r)
	if err != nil {
		return err
	}
	// The text is taken from the client before anything is done with it.
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRules))
	if err != nil {
		return badRequest{fmt.Errorf("body: %w", err)}
	}
	bodyRead(w)
	done, err := s.printing(r.Context())
	if err != nil {
		return err
	}
	defer done()
	if err := s.tracker.LoadRules(bytes.NewReader(text), "rules", f); err != nil {
		return badRequest{err}
	}
	return nil
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
