package main

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

func plotCommand() *cobra.Command {
	dir := "."
	cmd := &cobra.Command{
		Use:   "plot RESULTS",
		Short: "Plot rate over connections (flows.svg) and over shards (shards.svg)",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := readSamples(args[0])
			if err != nil {
				return err
			}
			for _, name := range []string{"flows", "shards"} {
				file := filepath.Join(dir, name+".svg")
				if err := draw(all, name, file); err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				fmt.Fprintln(cmd.OutOrStdout(), file)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&dir, "output", "o", dir, "directory for the plots")
	return cmd
}

// draw plots the median rates of the scenarios of a plot.
func draw(all []sample, name, file string) error {
	curves := map[string]map[float64][]float64{} // rates by curve and x
	for _, s := range all {
		if s.Plot != name {
			continue
		}
		x := float64(s.Flows)
		if name == "shards" {
			x = float64(s.Shards)
		}
		if curves[s.Curve] == nil {
			curves[s.Curve] = map[float64][]float64{}
		}
		curves[s.Curve][x] = append(curves[s.Curve][x], s.PPS/1e6)
	}
	p := plot.New()
	p.Title.Text = "Packets tracked in memory, " + all[0].Machine.CPU
	p.X.Label.Text, p.Y.Label.Text, p.Y.Min = name, "Mpps", 0
	p.Legend.Top = true
	if name == "flows" {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{}
	}
	p.Add(plotter.NewGrid())
	var lines []any
	for _, curve := range sortedKeys(curves) {
		var points plotter.XYs
		for x, rates := range curves[curve] {
			slices.Sort(rates)
			points = append(points, plotter.XY{X: x, Y: rates[len(rates)/2]})
		}
		slices.SortFunc(points, func(a, b plotter.XY) int { return int(a.X - b.X) })
		lines = append(lines, curve, points)
	}
	if len(lines) == 0 {
		return fmt.Errorf("no samples of a scenario to plot over %s", name)
	}
	if err := plotutil.AddLinePoints(p, lines...); err != nil {
		return err
	}
	return p.Save(16*vg.Centimeter, 10*vg.Centimeter, file)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
