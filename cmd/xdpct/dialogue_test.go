package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/dialogue"
	"github.com/xdpct/xdpct/rx/capture"
)

// TestReplayDialogues replays captures of random traffic, sound and damaged, whole and in
// fragments: every frame gets a verdict, and verdicts and table are the same whatever the
// number of shards.
func TestReplayDialogues(t *testing.T) {
	net := dialogue.Network{Hosts: 4, Host: func(sideB bool, n int, f flow.Family) netip.Addr {
		side := byte(1)
		if sideB {
			side = 2
		}
		if f == flow.IPv4 {
			return netip.AddrFrom4([4]byte{10, side, side, byte(n)})
		}
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, side, 15: byte(n)})
	}}
	const frames = 3000
	for seed := range uint64(3) {
		for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
			name := filepath.Join(t.TempDir(), fmt.Sprintf("%d-%v.pcap", seed, f))
			w, err := capture.Create(name, capture.LinkRaw)
			if err != nil {
				t.Fatal(err)
			}
			at := time.Unix(1700000000, 0)
			steps := dialogue.Fragments(seed, dialogue.Make(seed, frames, f, net), 12)
			for i, s := range steps {
				if at = at.Add(time.Millisecond); s.Pause {
					at = at.Add(3 * time.Second)
				}
				if err := w.Write(&capture.Frame{N: i + 1, Time: at, Data: s.Datagram, Wire: len(s.Datagram), Link: capture.LinkRaw}); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			sameForAllShards(t, name, len(steps))
		}
	}
}

// sameForAllShards replays a capture with 1, 2 and 4 shards.
func sameForAllShards(t *testing.T, name string, frames int) {
	t.Helper()
	verdicts, errOut, code := runCLI(t, "replay", "--verdicts", name)
	if n := strings.Count(verdicts, "\n"); code != 0 || n != frames {
		t.Fatalf("%d verdicts on %d frames, exit code %d: %s", n, frames, code, errOut)
	}
	table, _, _ := runCLI(t, "replay", name)
	if !strings.Contains(table, "ESTABLISHED") {
		t.Error("no connection was established: the traffic is of no use")
	}
	for _, shards := range []string{"2", "4"} {
		if got, _, _ := runCLI(t, "replay", "--verdicts", "--shards", shards, name); got != verdicts {
			t.Errorf("%s: %s shards give other verdicts", name, shards)
		}
		if got, _, _ := runCLI(t, "replay", "--shards", shards, name); got != table {
			t.Errorf("%s: %s shards give another table", name, shards)
		}
	}
}
