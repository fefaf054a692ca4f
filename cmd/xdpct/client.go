package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/engine"
)

// clientOptions are the flags of the commands that talk to a running xdpct.
type clientOptions struct {
	control        string
	json, extended bool
	family, proto  string
}

func (o *clientOptions) socketFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.control, "control", engine.DefaultControl, "the control `SOCKET` of the running xdpct")
}

// jsonFlag is for commands whose answer is one object.
func (o *clientOptions) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
}

// number makes a request that is answered with a number and prints that, as JSON
// under the given name or with text.
func (o *clientOptions) number(cmd *cobra.Command, method, path string, q url.Values, name string, text func(n int)) error {
	n, err := control.NewClient(o.control).Number(cmd.Context(), method, path, q)
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]int{name: n})
	}
	text(n)
	return nil
}

func (o *clientOptions) formatFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON, an object a line")
	cmd.Flags().BoolVarP(&o.extended, "extended", "e", false, "begin lines with the layer 3 protocol, as conntrack -o extended")
}

func (o *clientOptions) filterFlags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.family, "family", "f", "", "only ipv4 or ipv6")
	cmd.Flags().StringVarP(&o.proto, "proto", "p", "", "only this protocol, by name or number")
}

// query checks the options and puts them into a request.
func (o *clientOptions) query() (url.Values, error) {
	if _, err := control.ParseFamily(o.family); err != nil {
		return nil, usageError{err}
	}
	if _, err := control.ParseProto(o.proto); err != nil {
		return nil, usageError{err}
	}
	q := url.Values{"format": {"text"}}
	if o.json {
		q.Set("format", "json")
	}
	if o.extended {
		q.Set("extended", "1")
	}
	if o.family != "" {
		q.Set("family", o.family)
	}
	if o.proto != "" {
		q.Set("proto", o.proto)
	}
	return q, nil
}

func listCommand() *cobra.Command {
	var o clientOptions
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the connections, as conntrack -L does",
		Example: "  xdpct list\n  xdpct list -p tcp -f ipv6 --json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := o.query()
			if err != nil {
				return err
			}
			w := bufio.NewWriterSize(cmd.OutOrStdout(), 1<<16)
			n := 0
			err = control.NewClient(o.control).Lines(cmd.Context(), "/v1/flows", q, func(line []byte) error {
				n++
				_, _ = w.Write(line)
				return w.WriteByte('\n')
			})
			if err := errors.Join(err, w.Flush()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "xdpct %s: %d flow entries have been shown.\n", version(), n)
			return nil
		},
	}
	o.socketFlag(cmd)
	o.formatFlags(cmd)
	o.filterFlags(cmd)
	return cmd
}

func getCommand() *cobra.Command {
	var o clientOptions
	var t control.Query
	cmd := &cobra.Command{
		Use:   "get -p PROTO -s ADDR -d ADDR [flags]",
		Short: "Show one connection",
		Long: `Show the connection to which a packet between the given ends belongs, in
whichever direction. The exit code is 1 if there is none.`,
		Example: "  xdpct get -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 40000 --dport 80\n" +
			"  xdpct get -p icmp -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-id 1226",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := t.Tuple(); err != nil {
				return usageError{err}
			}
			q, err := o.query()
			if err != nil {
				return err
			}
			for name, v := range map[string]string{
				"proto": t.Proto, "src": t.Src, "dst": t.Dst, "sport": t.SPort, "dport": t.DPort,
				"icmp-type": t.ICMPType, "icmp-code": t.ICMPCode, "icmp-id": t.ICMPID,
			} {
				q.Set(name, v)
			}
			return control.NewClient(o.control).Lines(cmd.Context(), "/v1/flow", q, func(line []byte) error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", line)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&t.Proto, "proto", "p", "", "protocol, by name or number")
	f.StringVarP(&t.Src, "src", "s", "", "source address")
	f.StringVarP(&t.Dst, "dst", "d", "", "destination address")
	f.StringVar(&t.SPort, "sport", "", "source port")
	f.StringVar(&t.DPort, "dport", "", "destination port")
	f.StringVar(&t.ICMPType, "icmp-type", "", "ICMP type")
	f.StringVar(&t.ICMPCode, "icmp-code", "", "ICMP code")
	f.StringVar(&t.ICMPID, "icmp-id", "", "ICMP identifier")
	o.socketFlag(cmd)
	o.formatFlags(cmd)
	return cmd
}

func countCommand() *cobra.Command {
	var o clientOptions
	cmd := &cobra.Command{
		Use:     "count",
		Short:   "Print the number of connections, as conntrack -C does",
		Example: "  xdpct count",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.number(cmd, http.MethodGet, "/v1/count", nil, "count", func(n int) {
				fmt.Fprintln(cmd.OutOrStdout(), n)
			})
		},
	}
	o.socketFlag(cmd)
	o.jsonFlag(cmd)
	return cmd
}

func statsCommand() *cobra.Command {
	var o clientOptions
	var all bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Print the counters, as conntrack -S does, and reasons",
		Long: `Print the counters of each shard under the names of conntrack -S, those of each
port, the packets by state, and the reasons for which packets were dropped, are
INVALID or were ignored. Counters that are zero are left out unless --all is given;
JSON has them all.`,
		Example: "  xdpct stats\n  xdpct stats --all\n  xdpct stats --json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := control.NewClient(o.control).Stats(cmd.Context())
			if err != nil {
				return err
			}
			if o.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
			}
			return s.WriteText(cmd.OutOrStdout(), all)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also the counters that are zero")
	o.socketFlag(cmd)
	o.jsonFlag(cmd)
	return cmd
}

func eventsCommand() *cobra.Command {
	var o clientOptions
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print new, changed and removed connections, as conntrack -E does",
		Long: `Print a line for every connection that is made, changes its status or state, or
goes, until interrupted. Events that come faster than they can be printed are
lost; how many is said on standard error.`,
		Example: "  xdpct events\n  xdpct events --json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := o.query()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			ctx, stop := untilInterrupted(cmd)
			defer stop()
			err = control.NewClient(o.control).Lines(ctx, "/v1/events", q, func(line []byte) error {
				if n, lost := bytes.CutPrefix(line, []byte("!lost ")); lost {
					_, err := fmt.Fprintf(cmd.ErrOrStderr(), "xdpct: %s events were lost\n", n)
					return err
				}
				_, err := fmt.Fprintf(out, "%s\n", line)
				return err
			})
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	o.socketFlag(cmd)
	o.formatFlags(cmd)
	return cmd
}

func flushCommand() *cobra.Command {
	var o clientOptions
	cmd := &cobra.Command{
		Use:     "flush",
		Short:   "Remove all connections, or those of a family or protocol",
		Example: "  xdpct flush\n  xdpct flush -p udp",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := o.query()
			if err != nil {
				return err
			}
			return o.number(cmd, http.MethodPost, "/v1/flush", q, "flushed", func(n int) {
				fmt.Fprintf(cmd.ErrOrStderr(), "xdpct %s: %d flow entries have been deleted.\n", version(), n)
			})
		},
	}
	o.socketFlag(cmd)
	o.filterFlags(cmd)
	o.jsonFlag(cmd)
	return cmd
}
