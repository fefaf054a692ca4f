package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/perf"
)

func benchCommand() *cobra.Command {
	var pps, asJSON, checksum bool
	var proto string
	var ip int
	load := perf.EngineLoad{}
	cmd := &cobra.Command{
		Use:   "bench --pps",
		Short: "Measure how many packets a second one shard tracks",
		Long: `Run packets of established connections, chosen at random, through one shard in
memory: parse, hash and judge, batch by batch. Beside the rate stands the limit: the
rate at which the same core touches as many cache lines at random, with nothing in
between. On a noisy machine their ratio is the figure that counts.

Needs no root and no network.`,
		Example: "  xdpct bench --pps\n  xdpct bench --pps --flows 8000000 --proto tcp --json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !pps {
				return usageError{fmt.Errorf("say what to measure: --pps")}
			}
			switch strings.ToLower(proto) {
			case "udp":
				load.Proto = flow.UDP
			case "tcp":
				load.Proto = flow.TCP
			default:
				return usageError{fmt.Errorf("--proto %q: must be udp or tcp", proto)}
			}
			if ip != 4 && ip != 6 {
				return usageError{fmt.Errorf("--ip %d: must be 4 or 6", ip)}
			}
			load.IPv6, load.Checksum = ip == 6, checksum
			if err := load.Validate(); err != nil {
				return usageError{err}
			}
			r, err := perf.Engine(load)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return json.NewEncoder(out).Encode(r)
			}
			_, err = fmt.Fprintf(out, `scenario        %s
rate            %.2f Mpps a core
a packet        %.1f ns: %.1f parse and hash, %.1f judge
limit           %.2f Mpps, of which this is %.2f
bytes a flow    %.1f
packets         %d, %d INVALID
`, r.Scenario, r.PPS/1e6, r.NSPerPacket, r.NSParse, r.NSJudge, r.LimitPPS/1e6, r.LimitRatio, r.BytesPerFlow, r.Packets, r.Invalid)
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&pps, "pps", false, "packets a second, in memory")
	f.IntVar(&load.Flows, "flows", 1_000_000, "number of connections, 1..16777216")
	f.StringVar(&proto, "proto", "udp", "udp or tcp")
	f.IntVar(&ip, "ip", 4, "IP version, 4 or 6")
	f.IntVar(&load.Size, "size", 64, "frame length in bytes, without its checksum")
	f.IntVar(&load.Batch, "batch", 64, "packets judged at once, 1..64")
	f.BoolVar(&checksum, "checksum", false, "verify transport checksums, as without a card that does")
	f.DurationVar(&load.Duration, "duration", 3*time.Second, "how long to measure, after setting up")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
