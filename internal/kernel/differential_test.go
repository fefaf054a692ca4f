package kernel

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/dialogue"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx/capture"
	"github.com/xdpct/xdpct/shard"
)

var seed = flag.Uint64("seed", 0, "seed of the random dialogues; 0 takes the time")

const (
	packetsIPv4 = 20_000
	packetsIPv6 = 10_000
)

var network = dialogue.Network{
	Hosts: Hosts,
	Host: func(sideB bool, n int, f flow.Family) netip.Addr {
		if sideB {
			return B.Host(n, f)
		}
		return A.Host(n, f)
	},
}

// TestKernelAgrees runs random dialogues through the kernel and through a shard:
// the verdict on every packet and the final table must be the same.
func TestKernelAgrees(t *testing.T) {
	testenv.Root(t)
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (repeat with: go test ./internal/kernel -run %s -seed %d)", s, t.Name(), s)
	for _, v := range []struct {
		name    string
		sysctls map[string]string
		config  func(*l4.Config)
		zones   [2]flow.ZoneID // of packets from A and B
	}{
		{"default", nil, func(*l4.Config) {}, [2]flow.ZoneID{}},
		{"strict", map[string]string{"nf_conntrack_tcp_loose": "0", "nf_conntrack_tcp_max_retrans": "1"},
			func(c *l4.Config) { c.TCPLoose, c.TCPMaxRetrans = false, 1 }, [2]flow.ZoneID{}},
		{"liberal", map[string]string{"nf_conntrack_tcp_be_liberal": "1", "nf_conntrack_tcp_ignore_invalid_rst": "1"},
			func(c *l4.Config) { c.TCPBeLiberal, c.TCPIgnoreInvalidRST = true, true }, [2]flow.ZoneID{}},
		{"one zone", nil, func(*l4.Config) {}, [2]flow.ZoneID{{Zone: 5}, {Zone: 5}}},
		{"two zones", nil, func(*l4.Config) {}, [2]flow.ZoneID{{Zone: 5}, {Zone: 6}}},
		{"original zone", nil, func(*l4.Config) {}, [2]flow.ZoneID{{Zone: 7, Dirs: flow.ZoneOriginal}, {}}},
		{"reply zone", nil, func(*l4.Config) {}, [2]flow.ZoneID{{Zone: 3}, {Zone: 3, Dirs: flow.ZoneReply}}},
	} {
		t.Run(v.name, func(t *testing.T) {
			o, err := NewOracle(v.sysctls)
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			for side, z := range v.zones {
				if z.Zone == 0 {
					continue
				}
				testenv.Program(t, "nft")
				if err := o.SetZone(Side(side), z); err != nil {
					t.Fatal(err)
				}
			}
			zones = v.zones
			cfg := engine.DefaultSettings()
			cfg.Max = 1 << 16
			v.config(&cfg.L4)
			for _, run := range []struct {
				f flow.Family
				n int
			}{{flow.IPv4, packetsIPv4}, {flow.IPv6, packetsIPv6}} {
				steps := dialogue.Fragments(s, dialogue.Make(s, run.n, run.f, network), 12)
				if v.name != "default" {
					steps = slices.DeleteFunc(steps[:run.n/4], func(s dialogue.Step) bool { return s.Pause })
				}
				compare(t, o, cfg, steps)
			}
		})
	}
}

// compare fails t with a minimal case if the trackers differ.
func compare(t *testing.T, o *Oracle, cfg engine.Settings, steps []dialogue.Step) {
	t.Helper()
	diff := runBoth(t, o, cfg, steps)
	if diff == nil {
		return
	}
	t.Logf("difference at packet %d of %d: %s", diff.at, len(steps), diff.what)
	// The kernel's clock runs while a busy machine holds us up, and two seconds
	// make a UDP stream. A true difference shows every time; how many do not is bounded.
	first := diff
	if diff = runBoth(t, o, cfg, steps); diff == nil {
		unrepeated(t, fmt.Sprintf("packet %d: %s", first.at, first.what))
		return
	}
	steps = shrink(t, o, cfg, steps[:min(diff.at+1, len(steps))])
	if diff = runBoth(t, o, cfg, steps); diff == nil {
		t.Fatal("the difference does not show again")
	}
	var b strings.Builder
	for i, s := range steps {
		side := "A>"
		if s.FromB {
			side = "B>"
		}
		fmt.Fprintf(&b, "\n%3d %s %s\n      %x", i, side, describe(s.Datagram), s.Datagram)
	}
	t.Fatalf("minimal case: %s\npacket %d: %s", b.String(), diff.at, diff.what)
}

func describe(d []byte) string {
	var p packet.Packet
	typ := packet.EtherIPv4
	if d[0]>>4 == 6 {
		typ = packet.EtherIPv6
	}
	p.ParseFrom(d, len(d), 0, typ, packet.Checks{Transport: true})
	t := p.Key
	if p.Flipped {
		t, _ = t.Invert()
	}
	s := fmt.Sprintf("kind %d %s proto %d len %d %v>%v %d>%d", p.Kind, p.Reason, p.Proto, p.Len,
		t.Src.Netip(p.Family), t.Dst.Netip(p.Family), t.L4.Src(), t.L4.Dst())
	if p.Proto == flow.TCP && p.Kind == packet.Data {
		s += fmt.Sprintf(" flags %08b seq %d ack %d win %d seglen %d opts %x",
			p.TCP.Flags, p.TCP.Seq, p.TCP.Ack, p.TCP.Window, p.TCP.SegLen, p.Options())
	}
	return s
}

// shrink drops conversations and then packets while the difference stays.
func shrink(t *testing.T, o *Oracle, cfg engine.Settings, steps []dialogue.Step) []dialogue.Step {
	differs := func(s []dialogue.Step) bool { return len(s) > 0 && runBoth(t, o, cfg, s) != nil }
	last := steps[len(steps)-1].Conversation
	if only := slices.DeleteFunc(slices.Clone(steps), func(s dialogue.Step) bool { return s.Conversation != last }); differs(only) {
		steps = only
	}
	deadline := time.Now().Add(time.Minute)
	for chunk := max(len(steps)/2, 1); chunk >= 1 && time.Now().Before(deadline); {
		smaller := false
		for at := 0; at+chunk <= len(steps) && time.Now().Before(deadline); {
			without := append(slices.Clone(steps[:at]), steps[at+chunk:]...)
			if differs(without) {
				steps, smaller = without, true
			} else {
				at += chunk
			}
		}
		if !smaller || chunk > len(steps)/2 {
			chunk /= 2
		}
	}
	return steps
}

type difference struct {
	at   int
	what string
}

// salt tells the fragments of one run from those that the kernel still holds from
// others.
var salt uint16

// zones are those of packets from either side.
var zones [2]flow.ZoneID

// runBoth empties both tables, sends the steps through both trackers and returns
// the first difference.
func runBoth(t *testing.T, o *Oracle, cfg engine.Settings, steps []dialogue.Step) *difference {
	t.Helper()
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	salt += 257
	tracker, err := engine.NewReplay(cfg, 1, engine.Zoning{})
	if err != nil {
		t.Fatal(err)
	}
	defer tracker.Close()
	for i, s := range steps {
		if s.Pause {
			time.Sleep(2300 * time.Millisecond)
		}
		from := A
		if s.FromB {
			from = B
		}
		d, forwarded := s.Datagram, false
		var want Verdict
		if s.Raw {
			d = dialogue.Reidentify(d, salt)
			var frames int
			want, frames, err = o.Probe(from, d)
			forwarded = frames > 0
		} else {
			want, forwarded, err = o.Send(from, d)
		}
		if err != nil {
			t.Fatal(err)
		}
		tracker.SetZone(zones[from])
		_, v := tracker.Frame(&capture.Frame{Time: epoch.Add(time.Since(begin)), Data: d, Wire: len(d), Link: capture.LinkRaw})
		if what := differ(want, forwarded, v); what != "" {
			return &difference{i, what}
		}
	}
	tracker.SetTime(epoch.Add(time.Since(begin)))
	if what := differTable(t, o, tracker); what != "" {
		return &difference{len(steps), what}
	}
	return nil
}

// epoch is the tracker's time at the beginning of a run.
var epoch = time.Unix(1000, 0)

func differ(want Verdict, forwarded bool, v shard.Verdict) string {
	got := Verdict{State: v.State}
	if v.Conn {
		got.Dir = v.Dir
		got.SeenReply = v.Status&flow.SeenReply != 0
		got.Assured = v.Status&flow.Assured != 0
	}
	if forwarded != (v.Action == shard.Accept) {
		return fmt.Sprintf("kernel forwarded: %v, xdpct: %v (%v)", forwarded, v.Action, v.Reason)
	}
	if forwarded && got != want {
		return fmt.Sprintf("kernel: %+v, xdpct: %+v (%v)", want, got, v.Reason)
	}
	return ""
}

// differTable compares the final tables, timeouts within a second.
func differTable(t *testing.T, o *Oracle, tracker *engine.Replay) string {
	t.Helper()
	text, err := o.Table()
	if err != nil {
		t.Fatal(err)
	}
	what, err := differRecords(text, tracker.Records())
	if err != nil {
		t.Fatal(err)
	}
	return what
}

// differRecords compares connections with the kernel's listing of its own.
func differRecords(text []byte, records []flow.Record) (string, error) {
	kernel := map[string]int{}
	for line := range bytes.Lines(text) {
		id, timeout, err := split(string(line))
		if err != nil {
			return "", err
		}
		if !strings.Contains(id, markerEntry) {
			kernel[id] = timeout
		}
	}
	var diffs []string
	for _, r := range records {
		id, timeout, err := split(string((&export.Format{Extended: true}).AppendFlow(nil, &r)))
		if err != nil {
			return "", err
		}
		if strings.Contains(id, "dccp 33") { // which the kernel does not know any more
			id = strings.NewReplacer("dccp 33", "unknown 33", " sport=0 dport=0", "").Replace(id)
		}
		want, ok := kernel[id]
		delete(kernel, id)
		if !ok {
			if timeout > 1 { // or it has just ended there
				diffs = append(diffs, "only xdpct has "+id)
			}
		} else if timeout-want > 1 || want-timeout > 1 {
			diffs = append(diffs, fmt.Sprintf("timeout %d, kernel %d: %s", timeout, want, id))
		}
	}
	for id, timeout := range kernel {
		if timeout > 1 {
			diffs = append(diffs, "only the kernel has "+id)
		}
	}
	slices.Sort(diffs)
	return strings.Join(diffs[:min(len(diffs), 5)], "\n"), nil
}

// markerEntry is in the listing of every connection that Probe made.
var markerEntry = fmt.Sprintf(" unknown %d ", marker)

// split reads a line of a listing and returns what identifies and describes the
// connection, and its timeout.
func split(line string) (id string, timeout int, err error) {
	f := strings.Fields(line)
	if len(f) < 7 {
		return "", 0, fmt.Errorf("listing line %q", line)
	}
	if timeout, err = strconv.Atoi(f[4]); err != nil {
		return "", 0, fmt.Errorf("listing line %q: %w", line, err)
	}
	keep := f[:4:4]
	for _, w := range f[5:] {
		name, value, _ := strings.Cut(w, "=")
		if w == "zone=0" { // /proc always says so
			continue
		}
		switch name {
		case "use", "mark", "timeout", "stream_timeout", "packets", "bytes": // the last two once connbytes has asked for them, those before of GRE in /proc
			continue
		case "src", "dst": // /proc prints IPv6 addresses in full
			w = name + "=" + netip.MustParseAddr(value).String()
		}
		keep = append(keep, w)
	}
	return strings.Join(keep, " "), timeout, nil
}
