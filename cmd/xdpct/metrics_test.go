package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/internal/testenv"
)

// scrape gets the metrics of a program that serves them on loopback in a namespace.
func scrape(t *testing.T, do func(func() error) error) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, address string) (c net.Conn, err error) {
		err = do(func() error { c, err = net.Dial(network, address); return err })
		return c, err
	}}}
	resp, err := client.Get("http://127.0.0.1:9273/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
		t.Errorf("the content is %s", kind)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestScrape: what is scraped of a running router is what export.Metrics, and so
// docs/metrics.md, lists: every metric, with its help and type before its values.
func TestScrape(t *testing.T) {
	testenv.Root(t)
	box, _ := boxOf(t)
	if err := box.SetUp("lo", true); err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(t.TempDir(), "rules.v4")
	if err := os.WriteFile(rules, []byte("*filter\n:FORWARD DROP [5:300]\n[7:420] -A FORWARD -p tcp -j ACCEPT\nCOMMIT\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, box, routerConfig+"metrics: \":9273\"\nrules: {ipv4: "+rules+"}\n")
	p.ready(t)
	text := scrape(t, box.Do)
	if out := os.Getenv("XDPCT_TEST_SCRAPE"); out != "" {
		if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	known := map[string]export.Metric{}
	for _, m := range export.Metrics() {
		known[m.Name] = m
	}
	sample := regexp.MustCompile(`^([a-z_]+)(\{([a-z]+="[^"]*",?)+\})? [0-9]+$`)
	var now string // the metric whose help and type came last
	values := map[string]int{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch f := strings.Fields(line); {
		case strings.HasPrefix(line, "# HELP "):
			if now = f[2]; strings.TrimPrefix(line, "# HELP "+now+" ") != known[now].Help {
				t.Errorf("%s", line)
			}
		case strings.HasPrefix(line, "# TYPE "):
			if f[2] != now || f[3] != known[now].Type {
				t.Errorf("%s", line)
			}
		default:
			m := sample.FindStringSubmatch(line)
			if m == nil || m[1] != now {
				t.Errorf("%s, after the help of %s", line, now)
				continue
			}
			for _, l := range known[now].Labels {
				if !strings.Contains(m[2], l+"=") {
					t.Errorf("%s has no label %s", line, l)
				}
			}
			values[now]++
		}
	}
	for name := range known {
		if values[name] == 0 {
			t.Errorf("%s is not there", name)
		}
	}
	if len(values) != len(known) {
		t.Errorf("%d metrics, %d are listed", len(values), len(known))
	}
	for _, line := range []string{
		`xdpct_rule_packets_total{family="ipv4",table="filter",chain="FORWARD",rule="1"} 7`,
		`xdpct_policy_bytes_total{family="ipv4",table="filter",chain="FORWARD"} 300`,
		`xdpct_port_up{interface="left"} 1`,
		`xdpct_clients{listener="metrics"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
}
