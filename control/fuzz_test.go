package control

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// obliging is a tracker that has one connection and does all that it is asked.
type obliging struct{ record flow.Record }

func (o obliging) List(_ context.Context, f flow.Filter, emit func(*flow.Record) error) error {
	f.Match(&o.record)
	return emit(&o.record)
}

func (o obliging) Get(context.Context, flow.Tuple) (flow.Record, bool, error) {
	return o.record, true, nil
}
func (o obliging) Count(context.Context) (int, error)              { return 1, nil }
func (o obliging) Flush(context.Context, flow.Filter) (int, error) { return 1, nil }
func (o obliging) Stats(context.Context) (export.Stats, error)     { return export.Stats{}, nil }

func (o obliging) Delete(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error {
	return o.List(ctx, f, emit)
}

func (o obliging) Update(ctx context.Context, f flow.Filter, change func(*flow.Record) (flow.Change, bool), emit func(*flow.Record) error) error {
	change(&o.record)
	return o.List(ctx, f, emit)
}

func (o obliging) Zero(ctx context.Context, f flow.Filter, emit func(*flow.Record) error) error {
	return o.List(ctx, f, emit)
}
func (o obliging) Create(context.Context, flow.Record) error { return nil }

func (o obliging) Expectations(context.Context) ([]expect.Expectation, int64) {
	return []expect.Expectation{{Tuple: o.record.Orig, Master: o.record.Orig}}, 0
}

func (o obliging) Expect(context.Context, flow.Tuple, expect.Expectation, time.Duration) error {
	return nil
}

func (o obliging) DeleteExpectations(_ context.Context, which func(*expect.Expectation) bool) int {
	which(&expect.Expectation{Tuple: o.record.Orig})
	return 1
}

func (o obliging) ExpectEvents(_ context.Context, emit func(flow.EventKind, *expect.Expectation, int64, uint64) error) error {
	return emit(flow.EventNew, &expect.Expectation{Tuple: o.record.Orig, Master: o.record.Orig}, 0, 3)
}

func (o obliging) WriteRules(_ context.Context, w io.Writer, _ flow.Family, _ bool) error {
	_, err := io.WriteString(w, "*filter\nCOMMIT\n")
	return err
}

func (o obliging) LoadRules(r io.Reader, _ string, _ flow.Family) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func (o obliging) Events(_ context.Context, _ flow.Filter, _ flow.EventKinds, _ int, emit func(*flow.Event, uint64) error) error {
	return emit(&flow.Event{Record: o.record}, 3)
}

// FuzzRequest makes arbitrary requests: each is answered, with a status that says what it
// is; none takes a reader's place for good.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/v1/flows", "proto=tcp&format=xml&labels=1&labelnames={}", "")
	f.Add("POST", "/v1/flows", "", `{"protonum":17,"original":{"src":"10.0.0.1","dst":"10.0.0.2"},"reply":{"src":"10.0.0.2","dst":"10.0.0.1"},"status":["SRC_NAT"]}`)
	f.Add("POST", "/v1/flows/update", `filter={"orig":{"src":"10.0.0.0/8"},"src_nat_port":5}`, `{"timeout":5,"state":"CLOSE","mark":1,"mask":3}`)
	f.Add("POST", "/v1/expectations", "", `{"protonum":6,"master":{"src":"::1","dst":"::2"},"expected":{"src":"::1","dst":"::2"},"mask":{"src":"::","dst":"::"}}`)
	f.Add("POST", "/v1/expectations/delete", "family=ipv6", "")
	f.Add("GET", "/v1/events", "kinds=NEW,DESTROY&buffer=100&timestamp=1", "")
	f.Add("GET", "/v1/expectations/events", "", "")
	f.Add("POST", "/v1/rules", "family=ipv6", "*filter\nCOMMIT\n")
	f.Add("GET", "/v1/flow", "proto=icmp&src=1.1.1.1&dst=2.2.2.2&icmp-type=8&zone=5&held=1&extended=1&id=1&ktimestamp=1", "")
	var o obliging
	o.record.Orig.L4 = flow.MakeL4(flow.IPv4, flow.UDP, 0, 1, 2)
	o.record.Reply, _ = o.record.Orig.Invert()
	s := NewServer(o, export.Format{}, time.Now)
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		r := &http.Request{
			Method: method, URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{}, Host: "xdpct",
			Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, r.WithContext(context.Background()))
		if w.Code < 200 || w.Code >= 500 && w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s %s?%s: status %d: %s", method, path, query, w.Code, w.Body)
		}
		if w.Code >= 400 && strings.TrimSpace(w.Body.String()) == "" {
			t.Errorf("%s %s?%s: an error without a text", method, path, query)
		}
		if len(s.streams.all) != 0 || len(s.loading) != 0 || s.texts.all != 0 || len(s.readers.began) != 0 {
			t.Fatalf("%d readers of events, %d of rules, %d loaders, %d bytes of rules are left", len(s.streams.all), len(s.readers.began), len(s.loading), s.texts.all)
		}
	})
}
