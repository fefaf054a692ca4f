package wire

import (
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/rx"
)

func options(mode engine.Mode) Options {
	return Options{
		Setup: Setup{Mode: mode, XDP: rx.ModeAuto, Flows: 2000, CPU: 1},
		Size:  60, Duration: 200 * time.Millisecond, GenCPU: 0,
	}
}

// TestSubjects measures each subject in each mode for a moment: what it does must
// be seen at the far end, or in its own counters, and no more than was sent.
func TestSubjects(t *testing.T) {
	testenv.Root(t)
	for _, mode := range []engine.Mode{engine.Bridge, engine.Tap} {
		for _, name := range Subjects() {
			o := options(mode)
			if _, err := newSystem(name, o.Setup); err != nil {
				continue // not in this mode
			}
			tracks := name == XDPCT || name == Asavie || name == NFConntrack
			var r Result
			undisturbed(t, func() (bool, string) {
				var err error
				if r, err = Measure(name, o); err != nil {
					t.Fatalf("%s, %s: %v", name, mode, err)
				}
				if r.PPS > 1.02*r.OfferedPPS {
					t.Fatalf("%s, %s: more came than was sent: %+v", name, mode, r)
				}
				return r.PPS >= 10_000 && (!tracks || r.Flows == o.Flows), fmt.Sprintf("%s, %s: %+v", name, mode, r)
			})
			if mode == engine.Bridge && (r.Latency.P50 <= 0 || r.Latency.P999 < r.Latency.P50) {
				t.Errorf("%s: latency %+v", name, r.Latency)
			}
		}
	}
}

// TestHistogram sorts times as the program does, by another computation of the
// bucket, and finds each within an eighth.
func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.Uint64Range(1, 1<<50).Draw(t, "time")
		high := bits.Len64(d) - 1
		bucket := d
		if high >= 3 {
			bucket = uint64(high)*8 + d>>(high-3) - 8
		}
		var h Histogram
		h[bucket] = 3
		for _, q := range []float64{0.01, 0.5, 1} {
			if end := uint64(h.Quantile(q)); end <= d || end > d+d/8+1 {
				t.Fatalf("%d ns is in bucket %d, which ends at %d", d, bucket, end)
			}
		}
	})
	var none Histogram
	if none.Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
}

// TestPace sends slowly: as many frames as asked for, no faster than asked for, and
// all arrive at the far end of a bridge.
func TestPace(t *testing.T) {
	testenv.Root(t)
	o := options(engine.Bridge)
	err := with(AFXDP, o, func(b *bench) error {
		undisturbed(t, func() (bool, string) {
			r, err := b.try(20_000, 50_000)
			if err != nil {
				t.Fatal(err)
			}
			said := fmt.Sprintf("%d sent, %d arrived, %.0f frames/s", r.sent.Frames, r.done, r.offered())
			if r.sent.Frames != 20_000 || r.offered() > 51_000 || r.done > 20_000 {
				t.Fatal(said)
			}
			return r.done == 20_000 && r.offered() >= 5_000, said
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// undisturbed measures until what asks for a machine without other work comes out, some
// time: frames are lost in the kernel's rings while others have the cores.
func undisturbed(t *testing.T, measure func() (ok bool, said string)) {
	t.Helper()
	var said string
	for range 20 {
		ok := false
		if ok, said = measure(); ok {
			return
		}
	}
	t.Errorf("20 times: %s", said)
}

// TestPktgen follows a run of pktgen in a directory that looks like its own, for
// kernels without it: what it is told, and what is made of its answer.
func TestPktgen(t *testing.T) {
	dir := t.TempDir()
	load := Load{Flows: 40_000, Size: 60, Uniform: true, PPS: 1e6, Frames: 5000}
	if _, err := runPktgen(dir, load); err == nil || !strings.Contains(err.Error(), "CONFIG_NET_PKTGEN") {
		t.Errorf("a kernel without pktgen: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kpktgend_0"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := runPktgen(dir, load) // the last command is all that a plain file keeps
	if err == nil || !strings.Contains(err.Error(), "ratep 1000000") {
		t.Errorf("a run that did not begin: %v", err)
	}
	told := strings.Join(pktgenCommands(load), "\n")
	for _, want := range []string{
		"count 5000", "pkt_size 60", "dst_mac 02:00:00:00:00:02", "src_min 198.18.0.1", "src_max 198.18.0.4",
		"dst 198.19.0.1", "udp_src_min 1024", "udp_src_max 17408", "flag UDPSRC_RND", "ratep 1000000",
	} {
		if !strings.Contains(told+"\n", want+"\n") {
			t.Errorf("not told %q:\n%s", want, told)
		}
	}
	s, err := pktgenResult([]byte("Params: ...\nResult: OK: 2500(c2400+d100) usec, 5000 (60byte,0frags)\n  2000000pps"))
	if err != nil || s.Frames != 5000 || s.Took != 2500*time.Microsecond {
		t.Errorf("%+v %v", s, err)
	}
}
