package main

import (
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

The control socket is that of --control before all other options, of the variable
` + controlEnv + `, or ` + engine.DefaultControl + `.`,
		Example: `  xdpct conntrack -L -p tcp --state ESTABLISHED -o extended
  xdpct conntrack -D -s 10.0.0.0/8
  ln -s "$(which xdpct)" /usr/local/sbin/conntrack && conntrack -E -e NEW`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			std := conntrack.IO{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
			socket, args := controlSocket(args)
			if code := conntrack.Main(cmd.Context(), args, socket, std); code != 0 {
				return status(code)
			}
			return nil
		},
	}
}

// controlSocket takes --control from the front of a command line.
func controlSocket(args []string) (socket string, rest []string) {
	if socket = os.Getenv(controlEnv); socket == "" {
		socket = engine.DefaultControl
	}
	if len(args) > 1 && args[0] == "--control" {
		return args[1], args[2:]
	}
	if len(args) > 0 {
		if s, ok := strings.CutPrefix(args[0], "--control="); ok {
			return s, args[1:]
		}
	}
	return socket, args
}

// asConntrack reports whether the program was called by the name of conntrack(8).
func asConntrack() bool { return filepath.Base(os.Args[0]) == "conntrack" }
