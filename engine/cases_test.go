package engine

import (
	"net/netip"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/cases"
	"github.com/xdpct/xdpct/rx/capture"
	"github.com/xdpct/xdpct/shard"
)

// TestCases runs the cases that are written down packet by packet (internal/cases),
// which the running kernel is held to as well (internal/kernel).
func TestCases(t *testing.T) {
	all, err := cases.All()
	if err != nil {
		t.Fatal(err)
	}
	for file, list := range all {
		for _, c := range list {
			for _, f := range c.Families {
				t.Run(file+"/"+c.Name+"/"+f.String(), func(t *testing.T) { runCase(t, &c, f) })
			}
		}
	}
}

func runCase(t *testing.T, c *cases.Case, f flow.Family) {
	t.Helper()
	r, err := NewReplay(DefaultSettings(), 1, Zoning{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	run := &cases.Run{A: netip.MustParseAddr("10.1.1.1"), B: netip.MustParseAddr("10.2.2.1"), RouterA: netip.MustParseAddr("10.1.1.2"), RouterB: netip.MustParseAddr("10.2.2.2"), Port: 40000}
	if f == flow.IPv6 {
		run.A, run.B = netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:2::1")
		run.RouterA, run.RouterB = netip.MustParseAddr("2001:db8:1::2"), netip.MustParseAddr("2001:db8:2::2")
	}
	at := time.Unix(1700000000, 0)
	for i := range c.Steps {
		s := &c.Steps[i]
		d, err := run.Datagram(s)
		if err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Millisecond)
		_, v := r.Frame(&capture.Frame{Data: d, Wire: len(d), Link: capture.LinkRaw, Time: at})
		got := cases.Verdict{Passed: v.Action == shard.Accept, L4State: l4State(r)}
		if got.Passed {
			got.State = v.State
		}
		if v.Conn {
			got.Dir, got.SeenReply, got.Assured = v.Dir, v.Status&flow.SeenReply != 0, v.Status&flow.Assured != 0
		}
		if got != s.Want {
			t.Errorf("line %d: %s is %v (%v), want %v", s.Line, s.Text, got, v.Reason, s.Want)
		}
	}
}

// l4State is the state of the one connection that there is.
func l4State(r *Replay) string {
	for _, rec := range r.Records() {
		if p := rec.Orig.L4.Proto(); p == flow.TCP || p == flow.SCTP {
			return rec.StateName()
		}
	}
	return ""
}
