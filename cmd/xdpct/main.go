// Command xdpct tracks connections outside the kernel, on AF_XDP.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes, as conntrack(8) has them.
const (
	exitFailed = 1 // it did not work, or nothing matched
	exitUsage  = 2 // wrong usage
)

func main() {
	args := os.Args[1:]
	if asConntrack() {
		args = append([]string{"conntrack"}, args...)
	}
	os.Exit(run(args, os.Stdout, os.Stderr))
}

// usageError marks errors in what the user typed.
type usageError struct{ error }

func run(args []string, out, errOut io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(context.Background())
	if err == nil {
		return 0
	}
	if code := status(0); errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintf(errOut, "xdpct: %v\n", err)
	if errors.As(err, new(usageError)) || strings.HasPrefix(err.Error(), "unknown command ") { // cobra has no type for it
		fmt.Fprintf(errOut, "Try '%s --help'.\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// untilInterrupted returns a context that SIGINT and SIGTERM end, for commands that
// then have something to clean up; a second signal ends the process as it stands. All
// other commands are ended by the first, whatever they are at.
func untilInterrupted(cmd *cobra.Command) (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "xdpct",
		Short: "Track connections outside the kernel, on AF_XDP",
		Long: `xdpct tracks connections as Linux nf_conntrack does, packet for packet, but
outside the kernel: AF_XDP sockets on every queue feed one lock-free shard a core.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate(versionLine())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		runCommand(), replayCommand(), demoCommand(), benchCommand(),
		listCommand(), getCommand(), countCommand(), statsCommand(), eventsCommand(), flushCommand(), conntrackCommand(),
		rulesCommand(), settingsCommand(), versionCommand(),
	)
	return root
}

// args wraps a cobra argument check so that its error counts as wrong usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}
