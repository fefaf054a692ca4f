package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
)

// rulesOptions are the flags of the commands about rules.
type rulesOptions struct {
	clientOptions
	v6, counters bool
}

func (o *rulesOptions) family() flow.Family {
	if o.v6 {
		return flow.IPv6
	}
	return flow.IPv4
}

func (o *rulesOptions) query() url.Values {
	q := url.Values{"family": {o.family().String()}}
	if o.counters {
		q.Set("counters", "1")
	}
	return q
}

func rulesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "Check, load, show and compare firewall rules (iptables-save)",
		Long: `Rules are what iptables-save and ip6tables-save print: such a file loads as it is.
What is not supported is refused by line, column and token, and nothing is ever
accepted and ignored; the rules in force then stay.

Rules for packets that a router or bridge forwards are applied: tables raw, mangle,
nat and filter, in PREROUTING, FORWARD and POSTROUTING. Those in INPUT and OUTPUT
are for the host's own packets: they are kept, printed back, and left to the kernel.`,
	}
	cmd.AddCommand(rulesCheck(), rulesShow(), rulesSave(), rulesLoad(), rulesDiff())
	return cmd
}

func (o *rulesOptions) flags(cmd *cobra.Command, running bool) {
	cmd.Flags().BoolVarP(&o.v6, "ipv6", "6", false, "the rules of ip6tables")
	if running {
		o.socketFlag(cmd)
	}
}

// parseFile reads rules from a file, - for standard input.
func (o *rulesOptions) parseFile(cmd *cobra.Command, name string) (*syntax.Ruleset, error) {
	text, err := o.readFile(cmd, name)
	if err != nil {
		return nil, err
	}
	return syntax.Parse(bytes.NewReader(text), name, o.family())
}

func (o *rulesOptions) readFile(cmd *cobra.Command, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(cmd.InOrStdin())
	}
	return os.ReadFile(name)
}

func rulesCheck() *cobra.Command {
	o := &rulesOptions{}
	cmd := &cobra.Command{
		Use:     "check FILE...",
		Short:   "Say whether files of rules would load",
		Example: "  iptables-save | xdpct rules check -\n  xdpct rules check -6 /etc/iptables/rules.v6",
		Args:    args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			var bad error
			for _, name := range files {
				r, err := o.parseFile(cmd, name)
				if err == nil {
					v4, v6 := r, (*syntax.Ruleset)(nil)
					if o.v6 {
						v4, v6 = nil, r
					}
					_, err = policy.Compile(v4, v6, nil, nil)
				}
				if err != nil {
					bad = errors.Join(bad, err)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: good: %s\n", name, r.Summary())
				for _, n := range r.Notes() {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", name, n)
				}
			}
			return bad
		},
	}
	o.flags(cmd, false)
	return cmd
}

// running reads the rules in force.
func (o *rulesOptions) running(cmd *cobra.Command, w io.Writer) error {
	body, err := control.NewClient(o.control).Rules(cmd.Context(), o.query())
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(w, body)
	return err
}

func rulesShow() *cobra.Command {
	o := &rulesOptions{}
	cmd := &cobra.Command{
		Use:     "show [FILE]",
		Short:   "Show the rules in force with their counters, or those of a file as they are understood",
		Example: "  xdpct rules show\n  xdpct rules show -6 rules.v6",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			if len(files) == 0 {
				o.counters = true
				return o.running(cmd, cmd.OutOrStdout())
			}
			r, err := o.parseFile(cmd, files[0])
			if err != nil {
				return err
			}
			return r.WriteTo(cmd.OutOrStdout(), false)
		},
	}
	o.flags(cmd, true)
	return cmd
}

func rulesSave() *cobra.Command {
	o := &rulesOptions{}
	cmd := &cobra.Command{
		Use:     "save",
		Short:   "Print the rules in force, as iptables-save does",
		Example: "  xdpct rules save -c > rules.v4",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.running(cmd, cmd.OutOrStdout()) },
	}
	o.flags(cmd, true)
	cmd.Flags().BoolVarP(&o.counters, "counters", "c", false, "with counters")
	return cmd
}

func rulesLoad() *cobra.Command {
	o := &rulesOptions{}
	cmd := &cobra.Command{
		Use:   "load FILE",
		Short: "Put rules into force, as iptables-restore does",
		Long: `Put the tables of a file into force in place of those there are; tables that the
file does not name stay. Live connections are judged by the new rules from the next
packet on. If anything in the file is not understood, nothing changes.`,
		Example: "  xdpct rules load /etc/iptables/rules.v4\n  iptables-save | xdpct rules load -",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			text, err := o.readFile(cmd, files[0])
			if err != nil {
				return err
			}
			r, err := syntax.Parse(bytes.NewReader(text), files[0], o.family()) // so that errors name the file as it is known here
			if err != nil {
				return err
			}
			for _, n := range r.Notes() {
				fmt.Fprintln(cmd.ErrOrStderr(), n)
			}
			return control.NewClient(o.control).LoadRules(cmd.Context(), o.query(), bytes.NewReader(text))
		},
	}
	o.flags(cmd, true)
	return cmd
}

func rulesDiff() *cobra.Command {
	o := &rulesOptions{}
	cmd := &cobra.Command{
		Use:   "diff FILE [FILE]",
		Short: "Compare the rules in force with a file, or two files",
		Long: `Print the rules that only one of the two has: "-" those in force (or of the first
file), "+" those of the file. Counters and comments between rules do not matter.
The exit code is 1 if there is a difference.`,
		Example: "  xdpct rules diff rules.v4",
		Args:    args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, files []string) error {
			var a *syntax.Ruleset
			var err error
			if len(files) == 2 {
				a, err = o.parseFile(cmd, files[0])
			} else {
				pr, pw := io.Pipe()
				go func() { pw.CloseWithError(o.running(cmd, pw)) }()
				a, err = syntax.Parse(pr, "rules in force", o.family())
			}
			if err != nil {
				return err
			}
			b, err := o.parseFile(cmd, files[len(files)-1])
			if err != nil {
				return err
			}
			lines := syntax.Diff(a, b)
			for _, l := range lines {
				fmt.Fprintln(cmd.OutOrStdout(), l)
			}
			if len(lines) > 0 {
				return status(exitFailed)
			}
			return nil
		},
	}
	o.flags(cmd, true)
	return cmd
}
