package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/l4"
)

func settingsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "List every setting with its default and meaning",
		Long: `List the settings of the tracker with their defaults. They carry the names of
Linux's sysctls (net.netfilter.*) and are set under "settings:" in the
configuration, or with --set on the command line of replay.`,
		Example: "  xdpct settings",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := engine.DefaultSettings()
			w := bufio.NewWriter(cmd.OutOrStdout())
			if asJSON {
				values := map[string]uint64{}
				s.Each(func(name string, value uint64, _ string) { values[name] = value })
				return errors.Join(json.NewEncoder(w).Encode(values), w.Flush())
			}
			s.Each(func(name string, value uint64, doc string) {
				fmt.Fprintf(w, "%s = %d\n\t%s\n", name, value, doc)
			})
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, names and defaults")
	return cmd
}

// settingsFlag is the --set option: name=value, may be repeated.
type settingsFlag struct{ s *engine.Settings }

func (f settingsFlag) String() string { return "" }
func (f settingsFlag) Type() string   { return "name=value" }
func (f settingsFlag) Set(v string) error {
	name, value, ok := strings.Cut(v, "=")
	if !ok {
		return fmt.Errorf("%q is not name=value", v)
	}
	return f.s.Set(strings.TrimSpace(name), strings.TrimSpace(value))
}

// profileFlag is the --profile option.
type profileFlag struct{ s *engine.Settings }

func (f profileFlag) String() string { return "" }
func (f profileFlag) Type() string   { return "name" }
func (f profileFlag) Set(v string) error {
	t, ok := l4.TimeoutsByName(v)
	if !ok {
		return fmt.Errorf("%q is neither linux nor rfc", v)
	}
	f.s.L4.Timeouts = t
	return nil
}
