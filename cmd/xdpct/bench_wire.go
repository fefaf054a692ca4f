package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/perf"
	"github.com/xdpct/xdpct/perf/wire"
	"github.com/xdpct/xdpct/rx"
)

// wireFlags are the flags of bench --wire.
type wireFlags struct {
	mode, xdp  string
	generator  string
	compare    []string
	rounds     int
	ndr, setup bool
	dump, snat bool
}

// wireOnly and engineOnly are the flags that belong to one kind of measurement.
var (
	wireOnly   = []string{"mode", "xdp", "generator", "compare", "rounds", "ndr", "setup", "dump", "snat"}
	engineOnly = []string{"proto", "ip", "order", "shards", "batch", "new-rate", "lifecycle", "flood", "checksum", "rules"}
)

func (w *wireFlags) register(f *pflag.FlagSet) {
	f.StringVar(&w.mode, "mode", string(engine.Bridge), "with --wire: bridge, tap or router")
	f.BoolVar(&w.snat, "snat", false, "with --wire --mode router: translate sources, here and in the kernel beside")
	f.StringVar(&w.xdp, "xdp", string(rx.ModeAuto), "with --wire: auto, driver or generic")
	f.StringVar(&w.generator, "generator", string(wire.LiveFrames), "with --wire: live (an XDP program's frames) or pktgen (the kernel's, where it has one)")
	f.StringSliceVar(&w.compare, "compare", nil, "with --wire: kernel (its forwarding with nf_conntrack), forwarding (without), af_xdp (no tracking), xdpct_asavie (the other driver), xdp_drop")
	f.IntVar(&w.rounds, "rounds", 1, "with --wire: how often to measure all there and back (A B B A)")
	f.BoolVar(&w.ndr, "ndr", false, "with --wire: find the rates without loss, and with half a percent (RFC 2544)")
	f.BoolVar(&w.dump, "dump", false, "with --wire: how long a listing of all connections takes, and what it costs the packets")
	f.BoolVar(&w.setup, "setup", false, "with --wire: how fast connections come and go, and how many there can be (RFC 9693)")
}

// wireReport is what bench --wire --json prints.
type wireReport struct {
	Scenario    string            `json:"scenario"`
	wire.Result                   // of xdpct
	NSPerPacket float64           `json:"ns_per_packet"`
	Limiter     string            `json:"limiter"` // generator or subject
	Machine     perf.Machine      `json:"machine"`
	Compare     []wireCompared    `json:"compare"`
	Rates       []wire.Rates      `json:"rates,omitempty"`
	SetUp       []wire.SetUpRates `json:"setup,omitempty"`
	Dumps       []wire.Dump       `json:"dumps,omitempty"`
}

// wireCompared is another subject beside xdpct: Ratio is xdpct's rate divided by
// this one's.
type wireCompared struct {
	wire.Result
	Ratio  float64    `json:"ratio"`
	Spread [2]float64 `json:"ratio_spread"`
}

func (w *wireFlags) run(cmd *cobra.Command, b *benchFlags) error {
	if name := firstChanged(cmd, engineOnly); name != "" {
		return usageError{fmt.Errorf("--%s is for measurements in memory, not for --wire", name)}
	}
	subjects, o, err := w.options(b)
	if err != nil {
		return usageError{err}
	}
	if os.Geteuid() != 0 {
		return errors.New("bench --wire needs root: it makes network namespaces")
	}
	r := wireReport{Scenario: fmt.Sprintf("wire/%s/flows=%d", o.Mode, o.Flows), Machine: perf.ThisMachine(), Compare: []wireCompared{}}
	if w.dump {
		r.Scenario = fmt.Sprintf("wire/dump/flows=%d", o.Flows)
	}
	if o.SNAT {
		r.Scenario += "/snat"
	}
	if o.Size != wire.MinSize {
		r.Scenario += fmt.Sprintf("/size=%d", o.Size+fcsLen)
	}
	out := cmd.OutOrStdout()
	progress := io.Discard
	if !b.asJSON {
		progress = out
		fmt.Fprintf(out, "scenario        %s\nmachine         %s\n", r.Scenario, r.Machine)
	}
	switch {
	case w.ndr:
		err = w.searchAll(subjects, o, &r, progress)
	case w.dump:
		err = w.dumpAll(subjects, o, &r, progress)
	case w.setup:
		err = w.setUpAll(subjects, o, &r, progress)
	default:
		err = w.compareAll(subjects, o, &r, progress)
	}
	if err != nil || !b.asJSON {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}

const fcsLen = 4

func (w *wireFlags) options(b *benchFlags) (subjects []wire.Subject, o wire.Options, err error) {
	size, isIMIX, err := frameSize(b.size)
	if err == nil && isIMIX {
		err = errors.New("--size imix is for measurements in memory, not for --wire")
	}
	if err != nil {
		return nil, o, err
	}
	if w.ndr && w.setup || w.ndr && w.dump || w.setup && w.dump {
		return nil, o, errors.New("--ndr, --setup and --dump exclude each other")
	}
	if w.rounds < 1 {
		return nil, o, fmt.Errorf("--rounds %d: must be at least 1", w.rounds)
	}
	o = wire.Options{
		Setup: wire.Setup{
			Mode: engine.Mode(w.mode), SNAT: w.snat, XDP: rx.XDPMode(w.xdp), Flows: b.load.Flows, CPU: min(1, runtime.NumCPU()-1),
		},
		Size: size - fcsLen, Duration: b.load.Duration, Generator: wire.Generator(w.generator),
	}
	switch o.XDP {
	case rx.ModeAuto, rx.ModeDriver, rx.ModeGeneric:
	default:
		return nil, o, fmt.Errorf("--xdp %q: must be auto, driver or generic", w.xdp)
	}
	subjects = []wire.Subject{wire.XDPCT}
	for _, name := range w.compare {
		if name == "kernel" {
			name = string(wire.NFConntrack)
		}
		if err := wire.Check(wire.Subject(name), o.Setup); err != nil {
			return nil, o, fmt.Errorf("--compare: %w", err)
		}
		subjects = append(subjects, wire.Subject(name))
	}
	return subjects, o, o.Validate()
}

func (w *wireFlags) compareAll(subjects []wire.Subject, o wire.Options, r *wireReport, out io.Writer) error {
	c, err := wire.Compare(subjects, o, w.rounds, func(m wire.Result) { describeResult(out, m) })
	if err != nil {
		return err
	}
	r.Result = c.Results[0]
	r.NSPerPacket, r.Limiter = 1e9/r.PPS, "subject"
	if r.PPS > 0.97*r.OfferedPPS {
		r.Limiter = "generator"
	}
	for i := range subjects[1:] {
		r.Compare = append(r.Compare, wireCompared{c.Results[i+1], c.Ratios[i+1], c.Spread[i+1]})
	}
	fmt.Fprintf(out, "\n%-12s %9s   %s\n%-12s %6.3f Mpps\n", "medians", "rate", "xdpct's by it, lowest to highest", r.Name, r.PPS/1e6)
	for _, m := range r.Compare {
		fmt.Fprintf(out, "%-12s %6.3f Mpps   %.2f, %.2f to %.2f\n", m.Name, m.PPS/1e6, m.Ratio, m.Spread[0], m.Spread[1])
	}
	fmt.Fprintf(out, "limiter      %s\n", r.Limiter)
	return nil
}

// describeResult writes one measurement as a block of lines.
func describeResult(out io.Writer, m wire.Result) {
	fmt.Fprintf(out, "\n%-12s %6.3f Mpps of %.3f offered, %d connections, %s\n", m.Name, m.PPS/1e6, m.OfferedPPS/1e6, m.Flows, m.Detail.Mode)
	fmt.Fprintf(out, "  CPU        ")
	for i, c := range m.CPUNSPerPacket {
		fmt.Fprintf(out, "cpu%d %.0f user + %.0f system + %.0f softirq  ", i, c.User, c.System, c.SoftIRQ)
	}
	fmt.Fprintf(out, "ns a packet\n")
	if l := m.Latency; l != nil {
		fmt.Fprintf(out, "  latency    %.1f us p50, %.1f p99, %.1f p99.9, at half that rate\n", l.P50, l.P99, l.P999)
	}
	if m.Name != wire.XDPCT && m.Name != wire.Asavie {
		return
	}
	d := m.Detail
	fmt.Fprintf(out, "  loop       %.1f packets a poll, %.4f system calls a packet, %d handed over\n", d.PacketsPerPoll, d.SyscallsPerPacket, d.HandedOver)
	fmt.Fprintf(out, "  table      %d hits, %d inserts, %d probes at p99, %d evictions\n", d.Hits, d.Inserts, d.ProbesP99, d.Evictions)
	fmt.Fprintf(out, "  garbage    %d collections, %v paused\n", m.GC.Cycles, m.GC.PauseNS)
	if len(d.Drops) > 0 {
		fmt.Fprintf(out, "  drops      %s\n", strings.Trim(fmt.Sprint(d.Drops), "map[]"))
	}
}

func (w *wireFlags) searchAll(subjects []wire.Subject, o wire.Options, r *wireReport, out io.Writer) error {
	for _, s := range subjects {
		rates, err := wire.Search(s, o)
		if err != nil {
			return err
		}
		r.Rates = append(r.Rates, rates)
		fmt.Fprintf(out, "%-12s NDR %.3f Mpps, PDR (%.1f %%) %.3f Mpps, in %d trials of %v\n",
			s, rates.NDR/1e6, 100*wire.PartialLoss, rates.PDR/1e6, len(rates.Trials), o.Duration)
	}
	r.Name, r.PPS = wire.XDPCT, r.Rates[0].PDR
	if r.PPS > 0 {
		r.NSPerPacket = 1e9 / r.PPS
	}
	return nil
}

func (w *wireFlags) setUpAll(subjects []wire.Subject, o wire.Options, r *wireReport, out io.Writer) error {
	for _, s := range subjects {
		rates, err := wire.Phases(s, o)
		if err != nil {
			return err
		}
		r.SetUp = append(r.SetUp, rates)
		fmt.Fprintf(out, "%-12s %.3f M connections/s established, %.2f M/s torn down, %d of %d places used\n",
			s, rates.Establishment/1e6, rates.TearDown/1e6, rates.Capacity, rates.Room)
	}
	r.Name, r.PPS = wire.XDPCT, r.SetUp[0].Establishment
	if r.PPS > 0 {
		r.NSPerPacket = 1e9 / r.PPS
	}
	return nil
}
