package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/perf"
	"github.com/xdpct/xdpct/perf/wire"
)

// benchFlags are the flags of bench that are not yet what they mean.
type benchFlags struct {
	pps, asJSON, lifecycle, wire bool
	proto, size, flood, order    string
	ip                           int
	load                         perf.EngineLoad
	rules                        []int
	helpers                      int
	onWire                       wireFlags
}

func benchCommand() *cobra.Command {
	b := &benchFlags{load: perf.DefaultLoad()}
	cmd := &cobra.Command{
		Use:   "bench --pps",
		Short: "Measure how many packets a second are tracked",
		Long: `Measure packets a second.

Without --wire, in memory: packets of many connections go through a shard as they
would in a port's worker, parsed, hashed and judged batch by batch. Beside the rate
stands the limit: the rate at which the same core touches as many cache lines at
random, with nothing to wait for in between. On a noisy machine their ratio is the
figure that counts. Needs no root and no network.

With --wire, between namespaces that are made for it and go with it: a generator in
the kernel, veth pairs, and xdpct as a bridge or a tap; with --compare, the kernel and
others on the same wires by turns. Needs root.`,
		Example: `  xdpct bench --pps
  xdpct bench --pps --flows 8000000 --proto tcp --json
  xdpct bench --pps --lifecycle
  xdpct bench --pps --flood syn
  xdpct bench --pps --rules 10,1000,10000
  xdpct bench --pps --helpers
  xdpct bench --pps --wire --compare kernel
  xdpct bench --pps --wire --mode tap --flows 1000 --compare kernel,xdp_drop
  xdpct bench --pps --wire --ndr`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !b.pps {
				return usageError{errors.New("say what to measure: --pps")}
			}
			ctx, stop := untilInterrupted(cmd)
			undo := context.AfterFunc(ctx, endBench)
			defer func() { undo(); stop() }()
			if b.wire {
				return b.onWire.run(cmd, b)
			}
			if name := firstChanged(cmd, wireOnly); name != "" {
				return usageError{fmt.Errorf("--%s needs --wire", name)}
			}
			return b.engine(cmd)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&b.pps, "pps", false, "packets a second")
	f.IntVar(&b.load.Flows, "flows", b.load.Flows, "number of connections, 1..16777216")
	f.StringVar(&b.size, "size", "64", "frame length in bytes, with its checksum, 64..1518, or imix")
	f.DurationVar(&b.load.Duration, "duration", b.load.Duration, "how long to measure, after setting up")
	f.BoolVar(&b.asJSON, "json", false, "print JSON")
	f.StringVar(&b.proto, "proto", "udp", "udp, tcp, icmp or mix")
	f.IntVar(&b.ip, "ip", 4, "IP version, 4 or 6")
	f.StringVar(&b.order, "order", string(b.load.Order), "which connection is next: uniform, zipf or sequential")
	f.IntVar(&b.load.Shards, "shards", b.load.Shards, "number of shards, each on a core of its own")
	f.IntVar(&b.load.Batch, "batch", b.load.Batch, "packets judged at once, 1..64")
	f.Float64Var(&b.load.NewRate, "new-rate", 0, "share of packets that begin a connection, up to 1")
	f.BoolVar(&b.lifecycle, "lifecycle", false, "whole TCP connections, from SYN to the last ACK")
	f.StringVar(&b.flood, "flood", "", "syn or udp: first packets while the table is full, half of it ASSURED")
	f.BoolVar(&b.load.Checksum, "checksum", false, "verify transport checksums, as where the card does not")
	f.IntSliceVar(&b.rules, "rules", nil, "numbers of firewall rules: what an established packet costs with them, and without (100,000 connections if --flows does not say)")
	f.IntVar(&b.helpers, "helpers", 0, "number of FTP control connections that a helper reads: what it costs all others, and nothing else (1000 if no number is given)")
	f.Lookup("helpers").NoOptDefVal = "1000"
	b.onWire.register(f)
	f.BoolVar(&b.wire, "wire", false, "on veth pairs instead of in memory")
	return cmd
}

// endBench ends the program when it is told to: a measurement has nothing to save,
// but may have changed something outside of its namespaces.
func endBench() {
	if err := wire.Restore(); err != nil {
		fmt.Fprintln(os.Stderr, "xdpct:", err)
	}
	os.Exit(exitInterrupted)
}

// exitInterrupted is the exit status of a program that was interrupted, as a
// shell has it: 128 and SIGINT.
const exitInterrupted = 130

// firstChanged returns the first of the flags that was given.
func firstChanged(cmd *cobra.Command, names []string) string {
	for _, n := range names {
		if cmd.Flags().Changed(n) {
			return n
		}
	}
	return ""
}

// engine is the measurement in memory.
func (b *benchFlags) engine(cmd *cobra.Command) error {
	if len(b.rules) > 0 && !cmd.Flags().Changed("flows") {
		b.load.Flows = 100_000
	}
	if err := b.engineLoad(cmd); err != nil {
		return usageError{err}
	}
	if len(b.rules) > 0 {
		return b.ruleCost(cmd)
	}
	if b.helpers != 0 {
		return b.helperCost(cmd)
	}
	r, err := perf.EngineBeside(b.load)
	if err != nil {
		return err
	}
	if b.asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	return r.WriteText(cmd.OutOrStdout())
}

// ruleCost is the measurement of rules.
func (b *benchFlags) ruleCost(cmd *cobra.Command) error {
	for _, n := range b.rules {
		r, err := perf.RuleCost(b.load, n)
		if err != nil {
			return err
		}
		if b.asJSON {
			if err := json.NewEncoder(cmd.OutOrStdout()).Encode(r); err != nil {
				return err
			}
			continue
		}
		r.WriteText(cmd.OutOrStdout())
	}
	return nil
}

// helperCost is the measurement of helpers.
func (b *benchFlags) helperCost(cmd *cobra.Command) error {
	r, err := perf.HelperCost(b.load, b.helpers)
	if err != nil {
		return err
	}
	if b.asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
	}
	r.WriteText(cmd.OutOrStdout())
	return nil
}

// engineLoad makes a load of the flags.
func (b *benchFlags) engineLoad(cmd *cobra.Command) error {
	l := &b.load
	if err := l.SetProto(b.proto); err != nil {
		return err
	}
	if b.ip != 4 && b.ip != 6 {
		return fmt.Errorf("--ip %d: must be 4 or 6", b.ip)
	}
	l.IPv6, l.Order = b.ip == 6, perf.Order(b.order)
	size, isIMIX, err := frameSize(b.size)
	if err != nil {
		return err
	}
	l.Size, l.IMIX = size, isIMIX
	if err := b.chooseWork(cmd); err != nil {
		return err
	}
	return l.Validate()
}

func (b *benchFlags) chooseWork(cmd *cobra.Command) error {
	l, given := &b.load, 0
	for _, name := range []string{"new-rate", "lifecycle", "flood"} {
		if cmd.Flags().Changed(name) {
			given++
		}
	}
	if given > 1 {
		return errors.New("--new-rate, --lifecycle and --flood exclude each other")
	}
	switch {
	case cmd.Flags().Changed("new-rate"):
		l.Work = perf.New
	case b.lifecycle:
		l.Work, l.Proto, l.NewRate = perf.Lifecycle, flow.TCP, 1
		if cmd.Flags().Changed("proto") && b.proto != "tcp" {
			return errors.New("--lifecycle is TCP's")
		}
	case b.flood != "":
		protos := map[string]flow.Proto{"syn": flow.TCP, "udp": flow.UDP}
		p, ok := protos[strings.ToLower(b.flood)]
		if !ok {
			return fmt.Errorf("--flood %q: must be syn or udp", b.flood)
		}
		l.Work, l.Proto, l.NewRate = perf.Flood, p, 1
	default:
		l.NewRate = 1
	}
	return nil
}

// frameSize reads a frame length, or imix.
func frameSize(s string) (size int, isIMIX bool, err error) {
	if strings.EqualFold(s, "imix") {
		return 64, true, nil
	}
	size, err = strconv.Atoi(s)
	if err != nil {
		return 0, false, fmt.Errorf("--size %q: must be a number or imix", s)
	}
	return size, false, nil
}
