package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
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
nat, filter and security, in PREROUTING, FORWARD and POSTROUTING. Those in INPUT and OUTPUT
are for the host's own packets: they are kept, printed back, and left to the kernel.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
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
					_, err = policy.Compile(v4, v6, nil, nat.Key{}, nil)
				}
				if err != nil {
					bad = errors.Join(bad, err)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: good: %s\n", name, r.Summary())
				for _, n := range append(r.Notes(), policy.HostNotes(r)...) {
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

// parseRunning reads the rules in force as rules.
func (o *rulesOptions) parseRunning(cmd *cobra.Command) (*syntax.Ruleset, error) {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(o.running(cmd, pw)) }()
	return syntax.Parse(pr, "rules in force", o.family())
}

// ruleJSON is a rule, or the policy of a chain.
type ruleJSON struct {
	Family  string `json:"family"`
	Table   string `json:"table"`
	Chain   string `json:"chain"`
	Policy  string `json:"policy,omitempty"`
	Rule    int    `json:"rule,omitempty"` // number in the chain, from 1
	Text    string `json:"text,omitempty"` // as iptables-save prints it
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// writeRulesJSON prints an object a line.
func writeRulesJSON(w io.Writer, r *syntax.Ruleset) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	for _, t := range r.Tables {
		for _, c := range t.Chains {
			j := ruleJSON{Family: r.Family.String(), Table: t.Name, Chain: c.Name}
			if c.Policy != "-" {
				p := j
				p.Policy, p.Packets, p.Bytes = c.Policy, c.Count.Packets, c.Count.Bytes
				if err := enc.Encode(p); err != nil {
					return err
				}
			}
			for n, rule := range c.Rules {
				j.Rule, j.Text, j.Packets, j.Bytes = n+1, rule.Text(c.Name), rule.Count.Packets, rule.Count.Bytes
				if err := enc.Encode(j); err != nil {
					return err
				}
			}
		}
	}
	return b.Flush()
}

func rulesShow() *cobra.Command {
	o := &rulesOptions{}
	cmd := &cobra.Command{
		Use:     "show [FILE]",
		Short:   "Show the rules in force with their counters, or those of a file as they are understood",
		Example: "  xdpct rules show\n  xdpct rules show -6 rules.v6\n  xdpct rules show --json | jq 'select(.packets > 0)'",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			o.counters = true
			var r *syntax.Ruleset
			var err error
			switch {
			case len(files) > 0:
				r, err = o.parseFile(cmd, files[0])
			case o.json:
				r, err = o.parseRunning(cmd)
			default:
				return o.running(cmd, forTerminal(cmd.OutOrStdout()))
			}
			if err != nil {
				return err
			}
			if o.json {
				return writeRulesJSON(cmd.OutOrStdout(), r)
			}
			return r.WriteTo(forTerminal(cmd.OutOrStdout()), false)
		},
	}
	o.flags(cmd, true)
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON, an object for each chain with a policy and for each rule")
	return cmd
}

func rulesSave() *cobra.Command {
	o := &rulesOptions{}
	cmd := &cobra.Command{
		Use:     "save",
		Short:   "Print the rules in force, as iptables-save does",
		Example: "  xdpct rules save -c > rules.v4",
		Args:    args(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.running(cmd, forTerminal(cmd.OutOrStdout())) },
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
			for _, n := range append(r.Notes(), policy.HostNotes(r)...) {
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
				a, err = o.parseRunning(cmd)
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
				fmt.Fprintln(forTerminal(cmd.OutOrStdout()), l)
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
