package control

import (
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

// rules answers with the rules in force, as iptables-save prints them.
func (s *Server) rules(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFamily(r)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	return s.tracker.WriteRules(r.Context(), w, f, r.URL.Query().Get("counters") != "")
}

// loadRules puts the tables of the body into force.
func (s *Server) loadRules(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFamily(r)
	if err != nil {
		return err
	}
	if err := s.tracker.LoadRules(http.MaxBytesReader(w, r.Body, maxRules), "rules", f); err != nil {
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
