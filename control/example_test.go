package control_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// oneFlow is a Tracker with one connection. A whole one is an engine.Engine.
type oneFlow struct {
	control.Tracker
	record flow.Record
}

func (t oneFlow) Count(context.Context) (int, error) { return 1, nil }

func (t oneFlow) List(_ context.Context, f flow.Filter, emit func(*flow.Record) error) error {
	if !f.Match(&t.record) {
		return nil
	}
	return emit(&t.record)
}

func (t oneFlow) Get(_ context.Context, tuple flow.Tuple) (flow.Record, bool, error) {
	return t.record, tuple == t.record.Orig || tuple == t.record.Reply, nil
}

// serveOne serves a DNS query and returns the path of the socket.
func serveOne() (socket string, stop func()) {
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		log.Fatal(err)
	}
	socket = filepath.Join(dir, "xdpct.sock")
	l, err := control.Listen(context.Background(), socket)
	if err != nil {
		log.Fatal(err)
	}
	q := control.Query{Proto: "udp", Src: "10.0.0.1", Dst: "192.0.2.53", SPort: "40000", DPort: "53"}
	t := oneFlow{record: flow.Record{Timeout: 29}}
	if t.record.Orig, err = q.Tuple(); err != nil {
		log.Fatal(err)
	}
	t.record.Reply, _ = t.record.Orig.Invert()
	s := control.NewServer(t, export.Format{}, time.Now)
	go func() { _ = s.Serve(l) }()
	return socket, func() { _ = errors.Join(s.Close(), os.RemoveAll(dir)) }
}

// A client asks a running xdpct, here for connections, a line each.
func Example() {
	socket, stop := serveOne() // in earnest: xdpct run
	defer stop()

	ctx := context.Background()
	client := control.NewClient(socket)
	n, err := client.Number(ctx, http.MethodGet, "/v1/count", nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n)
	err = client.Lines(ctx, "/v1/flows", url.Values{"proto": {"udp"}}, func(line []byte) error {
		fmt.Println(string(line))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// 1
	// udp      17 29 src=10.0.0.1 dst=192.0.2.53 sport=40000 dport=53 [UNREPLIED] src=192.0.2.53 dst=10.0.0.1 sport=53 dport=40000 mark=0 use=1
}

// That there is no such connection is an error to be told from others.
func ExampleClient_Lines_notFound() {
	socket, stop := serveOne()
	defer stop()

	q := url.Values{"proto": {"udp"}, "src": {"10.0.0.9"}, "dst": {"192.0.2.53"}, "sport": {"1"}, "dport": {"53"}}
	err := control.NewClient(socket).Lines(context.Background(), "/v1/flow", q, func([]byte) error { return nil })
	fmt.Println(errors.Is(err, control.ErrNotFound))
	// Output: true
}
