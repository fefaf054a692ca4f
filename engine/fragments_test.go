package engine

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx"
)

// cutDatagram returns the frames of a UDP datagram of connection n in three
// fragments.
func cutDatagram(n int) (frames [][]byte, length uint64) {
	d := packet.AppendUDP(nil, packet.IP{Src: ipA, Dst: ipB, ID: uint16(n)}, uint16(1000+n), 53, make([]byte, 500))
	for _, c := range [][2]int{{0, 24}, {24, 480}, {480, 508}} {
		f := packet.AppendIP(nil, packet.IP{Src: ipA, Dst: ipB, ID: uint16(n)}, flow.UDP, d[20+c[0]:20+c[1]])
		field := uint16(c[0] / 8)
		if c[1] < 508 {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], field)
		sum := uint32(^binary.BigEndian.Uint16(f[10:])) + uint32(field) // RFC 1624, from zero
		binary.BigEndian.PutUint16(f[10:], ^uint16(sum+sum>>16))
		frames = append(frames, packet.AppendEthernet(nil, macB, macA, f))
	}
	return frames, uint64(len(d))
}

// TestFragments passes fragmented datagrams, in any order, over queues and shards
// that mostly are not those of their connections: they come out as they went in,
// and each is one packet of its connection. One that is not complete leaves no
// trace.
func TestFragments(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		t.Run("tracked", func(t *testing.T) { passFragments(t, newWire(t, d, 2, nil)) })
		t.Run("filtered", func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "rules.v4")
			const rules = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p udp -m udp --dport 53 -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n"
			if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
				t.Fatal(err)
			}
			passFragments(t, newWire(t, d, 2, func(c *Config) { c.Rules.IPv4 = file }))
		})
	})
}

func passFragments(t *testing.T, w *wire) {
	t.Helper()
	const flows = 200
	r := rand.New(rand.NewPCG(1, 1))
	sent := map[string]int{}
	var length uint64
	for n := 0; n < flows; n += 20 {
		var frames [][]byte
		for k := n; k < n+20; k++ {
			var cuts [][]byte
			cuts, length = cutDatagram(k)
			for _, f := range cuts {
				sent[string(f)]++
			}
			frames = append(frames, cuts...)
		}
		lost, _ := cutDatagram(flows + n)
		frames = append(frames, lost[r.IntN(3)])
		r.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
		for _, f := range frames {
			if err := w.raw[0].Send(f); err != nil {
				t.Fatal(err)
			}
		}
		for deadline := testenv.Deadline(); len(sent) > 0 && time.Now().Before(deadline); {
			f, err := w.raw[1].Recv(20 * time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				continue
			}
			if sent[string(f)]--; sent[string(f)] == 0 {
				delete(sent, string(f))
			}
		}
	}
	if len(sent) != 0 {
		t.Errorf("%d of %d fragments came out wrong, or not at all", len(sent), 3*flows)
	}
	var counters []flow.Counters
	if err := w.e.List(context.Background(), flow.Filter{}, func(r *flow.Record) error {
		counters = append(counters, r.Counters[flow.Original])
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := slices.Repeat([]flow.Counters{{Packets: 1, Bytes: length}}, flows); !slices.Equal(counters, want) {
		t.Errorf("%d connections, want %d of one packet each: %v", len(counters), flows, counters[:min(len(counters), 3)])
	}
	st, err := w.e.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var handed uint64
	for _, s := range st.Workers {
		handed += s.Loop.HandedOver
	}
	if handed == 0 {
		t.Error("no fragment was handed to another shard")
	}
}
