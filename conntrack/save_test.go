package conntrack

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// fakeTracker has connections and expectations, and notes what is created.
type fakeTracker struct {
	control.Tracker
	flows   []flow.Record
	expects []expect.Expectation
	created []flow.Record
}

func (f *fakeTracker) List(_ context.Context, q flow.Filter, emit func(*flow.Record) error) error {
	for i := range f.flows {
		if q.Match(&f.flows[i]) {
			if err := emit(&f.flows[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fakeTracker) Create(_ context.Context, r flow.Record) error {
	f.created = append(f.created, r)
	return nil
}

func (f *fakeTracker) Expectations(context.Context) ([]expect.Expectation, int64) {
	return f.expects, 0
}

// conntrackOn runs a command line against a tracker.
func conntrackOn(t *testing.T, tr control.Tracker, in string, args ...string) (out, errs string, code int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.sock")
	l, err := control.Listen(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := control.NewServer(tr, export.Format{}, time.Now)
	go func() { _ = s.Serve(l) }()
	defer func() { _ = s.Close() }()
	var o, e bytes.Buffer
	code = Main(context.Background(), args, path, IO{In: strings.NewReader(in), Out: &o, Err: &e})
	return o.String(), e.String(), code
}

func tcpFlow(status flow.Status, sport uint16) (r flow.Record) {
	r.Orig.L4 = flow.MakeL4(flow.IPv4, flow.TCP, 0, sport, 21)
	r.Reply, _ = r.Orig.Invert()
	r.Status = status
	return r
}

// TestSaveWarns: a saved connection that a helper has edited lacks what it would need to go
// on, and -L -o save says how many there are.
func TestSaveWarns(t *testing.T) {
	edited := tcpFlow(flow.SeenReply|flow.SeqAdjust, 1)
	for _, c := range []struct {
		flows []flow.Record
		want  string
	}{
		{[]flow.Record{edited, tcpFlow(flow.SeenReply, 2), edited}, "WARNING: a helper has edited 2 of these connections"},
		{[]flow.Record{tcpFlow(flow.SeenReply, 2)}, ""},
	} {
		out, errs, code := conntrackOn(t, &fakeTracker{flows: c.flows}, "", "-L", "-o", "save")
		if code != exitOK || strings.Count(out, "\n") != len(c.flows) || !strings.Contains(errs, c.want) || c.want == "" && strings.Contains(errs, "WARNING") {
			t.Errorf("exit code %d: %s%s", code, out, errs)
		}
	}
}

// TestRestoreLeavesTunnelsOut: GRE of which the sender's key is known comes of a call, and
// nothing of it would pass without that; other GRE is restored.
func TestRestoreLeavesTunnelsOut(t *testing.T) {
	const gre = " -t 30 -u SEEN_REPLY -s 10.0.0.2 -d 192.0.2.9 -r 192.0.2.9 -q 10.0.0.2 -p gre --srckey "
	saved := "-A" + gre + "0 --dstkey 0 --reply-key-src 0 --reply-key-dst 0\n" +
		"-A" + gre + "4369 --dstkey 8738 --reply-key-src 8738 --reply-key-dst 5787\n" +
		"-A" + gre + "0 --dstkey 8738 --reply-key-src 8738 --reply-key-dst 0\n"
	var tr fakeTracker
	_, errs, code := conntrackOn(t, &tr, saved, "-R", "-")
	if code != exitOK || len(tr.created) != 2 || !strings.Contains(errs, "WARNING: 1 tunnels of PPTP were not restored") {
		t.Errorf("exit code %d, %d were created: %s", code, len(tr.created), errs)
	}
}

// TestExpectFamily: -L expect shows one family, IPv4 if none is named, and selects by nothing
// else, as conntrack 1.4.7.
func TestExpectFamily(t *testing.T) {
	var tr fakeTracker
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6, flow.IPv6} {
		tr.expects = append(tr.expects, expect.Expectation{Tuple: flow.Tuple{L4: flow.MakeL4(f, flow.TCP, 0, 1, 2)}})
	}
	for args, want := range map[string]int{"": 1, " -f ipv4": 1, " -f ipv6": 2} {
		if out, errs, code := conntrackOn(t, &tr, "", strings.Fields("-L expect"+args)...); code != exitOK || strings.Count(out, "\n") != want {
			t.Errorf("-L expect%s: exit code %d, %s%s", args, code, out, errs)
		}
	}
	if _, errs, code := conntrackOn(t, &tr, "", "-L", "expect", "-p", "tcp"); code != exitUsage || !strings.Contains(errs, "Illegal option `--protonum' with this command") {
		t.Errorf("-p: exit code %d, %s", code, errs)
	}
}
