package control

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
)

// gated is a tracker that follows events when it is told to.
type gated struct {
	Tracker
	asked, follow chan struct{}
}

func (g gated) events(ctx context.Context, now func() error) error {
	g.asked <- struct{}{}
	<-g.follow
	if err := now(); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (g gated) Events(ctx context.Context, _ flow.Filter, _ flow.EventKinds, _ int, emit func(*flow.Event, uint64) error) error {
	return g.events(ctx, func() error { return emit(nil, 0) })
}

func (g gated) ExpectEvents(ctx context.Context, emit func(flow.EventKind, *expect.Expectation, int64, uint64) error) error {
	return g.events(ctx, func() error { return emit(flow.EventNew, nil, 0, 0) })
}

// TestAnswerOfEventsBeginsWhenFollowed: who has the head of the answer misses no event.
func TestAnswerOfEventsBeginsWhenFollowed(t *testing.T) {
	for _, target := range []string{"/v1/events", "/v1/expectations/events"} {
		g := gated{asked: make(chan struct{}, 1), follow: make(chan struct{})}
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		s := NewServer(g, export.Format{}, time.Now)
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := io.WriteString(c, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-g.asked
		if n := testenv.Pending(t, c.(*net.UnixConn)); n > 0 {
			t.Errorf("%s: the answer has begun before events are followed", target)
		}
		close(g.follow)
		_ = c.SetReadDeadline(testenv.Deadline())
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
}
