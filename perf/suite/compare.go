package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/perf/benchmath"
)

// errRegression says that a figure has become worse.
var errRegression = errors.New("worse than before")

func compareCommand() *cobra.Command {
	var least float64
	cmd := &cobra.Command{
		Use:   "compare OLD NEW",
		Short: "Fail if a figure has become worse",
		Long: `Compare the samples of two result files, scenario by scenario, as benchstat does:
medians, and the probability (Mann-Whitney U test) that both are samples of the same.
A scenario is a regression if its figure fell by more than --least and that
probability is below 5 %. Exit status 3 if there is one.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err := readSamples(args[0])
			if err != nil {
				return err
			}
			after, err := readSamples(args[1])
			if err != nil {
				return err
			}
			return compare(cmd.OutOrStdout(), before, after, least)
		},
	}
	cmd.Flags().Float64Var(&least, "least", 0.05, "the fall that counts, as a share of the old figure")
	return cmd
}

// compare writes a line for each scenario of both files.
func compare(out io.Writer, before, after []sample, least float64) error {
	if before[0].Machine != after[0].Machine {
		fmt.Fprintf(out, "two machines: %v\n              %v\n", before[0].Machine, after[0].Machine)
	}
	old, values := group(before), group(after)
	var worse []string
	for _, name := range names(after) {
		if len(old[name]) == 0 {
			fmt.Fprintf(out, "%-18s is new\n", name)
			continue
		}
		a, b := newSample(old[name]), newSample(values[name])
		sa, sb := benchmath.AssumeNothing.Summary(a, 0.95), benchmath.AssumeNothing.Summary(b, 0.95)
		c := benchmath.AssumeNothing.Compare(a, b)
		verdict := "~"
		if c.P < c.Alpha {
			verdict = fmt.Sprintf("%+.1f %%", 100*(sb.Center/sa.Center-1))
			if sb.Center < (1-least)*sa.Center {
				verdict += "  WORSE"
				worse = append(worse, name)
			}
		}
		fmt.Fprintf(out, "%-18s %7.3f -> %7.3f  %s (p=%.3f n=%d+%d)\n", name, sa.Center, sb.Center, verdict, c.P, c.N1, c.N2)
	}
	for _, name := range names(before) {
		if len(values[name]) == 0 {
			fmt.Fprintf(out, "%-18s was not measured again\n", name)
		}
	}
	if len(worse) > 0 {
		return fmt.Errorf("%w: %v", errRegression, worse)
	}
	return nil
}

func newSample(values []float64) *benchmath.Sample {
	return benchmath.NewSample(values, &benchmath.DefaultThresholds)
}

// group gathers the values of each scenario.
func group(all []sample) map[string][]float64 {
	g := map[string][]float64{}
	for _, s := range all {
		g[s.Scenario] = append(g[s.Scenario], s.Value)
	}
	return g
}

// names lists the scenarios in the order of their first sample.
func names(all []sample) (list []string) {
	seen := map[string]bool{}
	for _, s := range all {
		if !seen[s.Scenario] {
			seen[s.Scenario] = true
			list = append(list, s.Scenario)
		}
	}
	return list
}
