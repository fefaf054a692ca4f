package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/conntrack"
	"github.com/xdpct/xdpct/engine"
)

// controlEnv names the control socket for `conntrack`, all of whose options are
// those of conntrack(8).
const controlEnv = "XDPCT_CONTROL"

// status is an exit code that a command has explained already.
type status int

func (status) Error() string { return "" }

func conntrackCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "conntrack [commands] [options]",
		Short: "Speak conntrack(8): -L -G -D -I -A -U -E -F -C -S -R",
		Long: `Everything that conntrack(8) of conntrack-tools does, with its options, output,
messages and exit codes, on the connections of a running xdpct. If the program
is called conntrack (by a link), it is this command.

The control socket is that of --control, anywhere among the options, of the variable
` + controlEnv + `, or ` + engine.DefaultControl + `.`,
		Example: `  xdpct conntrack -L -p tcp --state ESTABLISHED -o extended
  xdpct conntrack -D -s 10.0.0.0/8
  ln -s "$(which xdpct)" /usr/local/sbin/conntrack && conntrack -E -e NEW`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			std := conntrack.IO{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
			socket, args, err := controlSocket(args)
			if err != nil {
				return err
			}
			if code := conntrack.Main(cmd.Context(), args, socket, std); code != 0 {
				return status(code)
			}
			if len(args) == 1 && (args[0] == "-h" || args[0] == "--help") && !asConntrack() {
				fmt.Fprintf(std.Out, "\nOf xdpct:\n  --control SOCKET\t\tthe control socket; without it that of the variable\n\t\t\t\t%s, or %s\n", controlEnv, engine.DefaultControl)
			}
			return nil
		},
	}
}

// controlSocket takes --control, which conntrack(8) does not have, out of a command line,
// wherever it stands; the last one counts.
func controlSocket(args []string) (socket string, rest []string, err error) {
	if socket = os.Getenv(controlEnv); socket == "" {
		socket = engine.DefaultControl
	}
	for i := 0; i < len(args); i++ {
		s, attached := strings.CutPrefix(args[i], "--control=")
		switch {
		case attached:
			socket = s
		case args[i] != "--control":
			rest = append(rest, args[i])
		case i+1 == len(args):
			return "", nil, usageError{errors.New("flag needs an argument: --control")}
		default:
			i++
			socket = args[i]
		}
	}
	return socket, rest, nil
}

// asConntrack reports whether the program was called by the name of conntrack(8).
func asConntrack() bool { return filepath.Base(os.Args[0]) == "conntrack" }
