// Command suite measures named scenarios again and again, compares two sets of
// measurements, and plots one.
//
//	suite run -o new.jsonl            measure all scenarios (as root, those on the wire too)
//	suite compare old.jsonl new.jsonl fail if a figure has become worse
//	suite plot -o dir new.jsonl       rate over connections, and over shards
//
// Each line of a result file is one sample: scenario, figure, and the machine it
// was measured on. The figure that is compared is a ratio of two rates of the
// same run: on a noisy machine they fall and rise together.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/perf/wire"
)

func main() {
	// A measurement has nothing to save, but may have changed something outside
	// of its namespaces.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	context.AfterFunc(ctx, func() {
		_ = wire.Restore()
		os.Exit(130)
	})
	root := &cobra.Command{
		Use: "suite", Short: "Measure xdpct, compare and plot the results",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(runCommand(), compareCommand(), plotCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "suite:", err)
		if errors.Is(err, errRegression) {
			os.Exit(3)
		}
		os.Exit(1)
	}
}
