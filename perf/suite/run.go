package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/perf"
	"github.com/xdpct/xdpct/perf/wire"
)

// sample is one line of a result file.
type sample struct {
	Scenario string       `json:"scenario"`
	PPS      float64      `json:"pps"`
	Figure   string       `json:"figure"` // what Value is
	Value    float64      `json:"value"`  // a ratio; more is better
	Flows    int          `json:"flows"`
	Shards   int          `json:"shards"`
	Plot     string       `json:"plot,omitempty"`
	Curve    string       `json:"curve,omitempty"`
	Machine  perf.Machine `json:"machine"`
}

func runCommand() *cobra.Command {
	var out, only string
	var samples int
	var each time.Duration
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Measure the scenarios",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			all, err := readScenarios(builtIn)
			if err != nil {
				return err
			}
			if all, err = choose(all, only); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if out != "" {
				f, err := os.Create(out)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Close()) }()
				return run(all, samples, each, f, cmd.ErrOrStderr())
			}
			return run(all, samples, each, w, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "file for the results, instead of standard output")
	f.StringVar(&only, "scenario", "", "comma-separated names, instead of all")
	f.IntVar(&samples, "samples", 5, "how often to measure each")
	f.DurationVar(&each, "duration", time.Second, "how long to measure each time, after setting up")
	return cmd
}

func choose(all []scenario, only string) ([]scenario, error) {
	if only == "" {
		return all, nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(all, func(s scenario) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no scenario %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// run measures round by round, all scenarios in each, so that a slow minute of
// the machine is spread over all.
func run(all []scenario, samples int, each time.Duration, out, progress io.Writer) error {
	root := os.Geteuid() == 0
	enc := json.NewEncoder(out)
	for round := range samples {
		for _, s := range all {
			if s.Wire != nil && !root {
				if round == 0 {
					fmt.Fprintf(progress, "%s: left out, it needs root\n", s.Name)
				}
				continue
			}
			r, err := s.measure(each, round)
			if err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
			r.Scenario, r.Plot, r.Curve, r.Machine = s.Name, s.Plot, s.Curve, perf.ThisMachine()
			fmt.Fprintf(progress, "%d/%d %-18s %7.3f Mpps, %s %.3f\n", round+1, samples, s.Name, r.PPS/1e6, r.Figure, r.Value)
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *scenario) measure(each time.Duration, round int) (sample, error) {
	if s.Engine != nil {
		l, err := s.Engine.load(each)
		if err != nil {
			return sample{}, err
		}
		r, err := perf.EngineBeside(l)
		if err != nil {
			return sample{}, err
		}
		out := sample{PPS: r.PPS, Figure: "of the limit", Value: r.LimitRatio, Flows: l.Flows, Shards: l.Shards}
		if len(r.Compare) > 0 {
			out.Figure, out.Value = "of "+r.Compare[0].Name, r.Compare[0].Ratio
		}
		return out, nil
	}
	o := s.Wire.options(each)
	order := append([]wire.Subject{wire.XDPCT}, s.Wire.Compare...)
	if round%2 == 1 {
		slices.Reverse(order) // there and back
	}
	pps := map[wire.Subject]float64{}
	for _, name := range order {
		r, err := wire.Measure(name, o)
		if err != nil {
			return sample{}, err
		}
		pps[name] = r.PPS
	}
	out := sample{PPS: pps[wire.XDPCT], Figure: "Mpps", Value: pps[wire.XDPCT] / 1e6, Flows: o.Flows, Shards: 1}
	if len(s.Wire.Compare) > 0 {
		out.Figure, out.Value = "of "+string(s.Wire.Compare[0]), out.PPS/pps[s.Wire.Compare[0]]
	}
	return out, nil
}

// readSamples reads a result file.
func readSamples(name string) (all []sample, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		var s sample
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		all = append(all, s)
	}
	if len(all) == 0 && lines.Err() == nil {
		return nil, fmt.Errorf("%s: no samples", name)
	}
	return all, lines.Err()
}
