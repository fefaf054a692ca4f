package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/export"
)

// ErrNotFound says that there is no such connection.
var ErrNotFound = errors.New("no such connection")

// conflict is an error that wraps ErrConflict under the server's text.
type conflict struct{ error }

func (conflict) Is(target error) bool { return target == ErrConflict }

// ErrConflict says that there is such a thing already, or that it may not be so.
var ErrConflict = errors.New("conflict")

// Client talks to a Server.
type Client struct {
	path string
	http http.Client
}

// NewClient makes a client of the server at a socket.
func NewClient(path string) *Client {
	c := &Client{path: path}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) },
	}
	return c
}

// queuePatience is how long a client waits for a place in the queue of connections that
// the server has not accepted yet.
const queuePatience = 5 * time.Second

// dial connects to a socket. A full queue is no error by itself: somebody else may
// connect thousands of times a second.
func dial(ctx context.Context, path string) (net.Conn, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	var d net.Dialer
	for deadline := time.Now().Add(queuePatience); ; {
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil || !errors.Is(err, unix.EAGAIN) || time.Now().After(deadline) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// do makes a request, with body in JSON unless it is nil, and returns the body of a
// successful answer.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, body any) (io.ReadCloser, error) {
	var send io.Reader
	if body != nil {
		j, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		send = bytes.NewReader(j)
	}
	return c.send(ctx, method, path, query, send)
}

// send makes a request with a body, or none, and returns the body of a successful answer.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, send io.Reader) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://xdpct"+path+"?"+query.Encode(), send)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			switch {
			case errors.Is(err, fs.ErrPermission):
				return nil, fmt.Errorf("%s: permission denied", c.path)
			case op.Op == "dial" && errors.Is(err, unix.EAGAIN):
				return nil, fmt.Errorf("the xdpct at %s has too many clients at once", c.path)
			case op.Op == "dial":
				return nil, fmt.Errorf("no xdpct is running at %s (start one with 'xdpct run', or name its socket with --control)", c.path)
			case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
				return nil, fmt.Errorf("the xdpct at %s closed the connection before it answered: it has ended, or has too many clients at once", c.path)
			}
		}
		var request *url.Error // says what was asked in words of HTTP, which nobody has typed
		if errors.As(err, &request) {
			if err = request.Err; errors.Is(err, io.EOF) {
				err = fmt.Errorf("the xdpct at %s closed the connection before it answered", c.path)
			}
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode == http.StatusNotFound && path == "/v1/flow" {
		return nil, ErrNotFound
	}
	if resp.StatusCode == http.StatusConflict {
		return nil, conflict{errors.New(strings.TrimSpace(string(text)))}
	}
	return nil, errors.New(strings.TrimSpace(string(text)))
}

// Lines calls emit for every line of a streaming answer, without its newline.
// The line is valid during the call.
func (c *Client) Lines(ctx context.Context, path string, query url.Values, emit func(line []byte) error) error {
	return c.stream(ctx, http.MethodGet, path, query, nil, emit)
}

// Post is Lines for a request that changes something. body is sent as JSON unless
// it is nil.
func (c *Client) Post(ctx context.Context, path string, query url.Values, body any, emit func(line []byte) error) error {
	return c.stream(ctx, http.MethodPost, path, query, body, emit)
}

func (c *Client) stream(ctx context.Context, method, path string, query url.Values, send any, emit func(line []byte) error) error {
	body, err := c.do(ctx, method, path, query, send)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	sc := bufio.NewScanner(body)
	for sc.Scan() {
		if err := emit(sc.Bytes()); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("the connection to xdpct broke: %w", err)
	}
	return nil
}

// Number makes a request that is answered with a number.
func (c *Client) Number(ctx context.Context, method, path string, query url.Values) (n int, err error) {
	body, err := c.do(ctx, method, path, query, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	_, err = fmt.Fscan(body, &n)
	return n, err
}

// Stats reads the counters.
func (c *Client) Stats(ctx context.Context) (s export.Stats, err error) {
	body, err := c.do(ctx, http.MethodGet, "/v1/stats", nil, nil)
	if err != nil {
		return s, err
	}
	defer func() { _ = body.Close() }()
	return s, json.NewDecoder(body).Decode(&s)
}
