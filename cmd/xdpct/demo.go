package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/rx/capture"
)

//go:embed demo.pcap
var demoCapture []byte

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show it all in namespaces that come and go with the demo",
		Long: `Build two hosts and a bridge of xdpct between them, in network namespaces of its
own, let the hosts talk TCP, UDP and ICMP with their own stacks, and show the
events, the table and the rates; then the same with a router that masquerades and
forwards a port. It takes less than a minute, touches nothing of
the machine's own and leaves nothing behind.

Without root it says so and replays a capture of such traffic instead.`,
		Example: "  sudo xdpct demo",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			if os.Geteuid() != 0 {
				fmt.Fprintln(out, "The live demo makes network namespaces and loads an XDP program, which needs root.")
				fmt.Fprintln(out, "Without it, the same traffic from a capture:")
				return demoReplay(out)
			}
			ctx, stop := untilInterrupted(cmd)
			defer stop()
			return demoLive(ctx, out)
		},
	}
}

// demoReplay runs the capture that ships with the project.
func demoReplay(out io.Writer) error {
	r, err := engine.NewReplay(engine.DefaultSettings(), 1, engine.Zoning{})
	if err != nil {
		return err
	}
	defer r.Close()
	in, err := capture.NewReader("demo.pcap", bytes.NewReader(demoCapture))
	if err != nil {
		return err
	}
	heading(out, "Packets and their states")
	for {
		var f capture.Frame
		if err := in.Next(&f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		p, v := r.Frame(&f)
		line := describe(f.N, &f, p, v, r)
		fmt.Fprintf(out, "%3d  %-11s %-8s %-11s %v\n", line.N, line.CTState, line.Dir, line.L4State, line.Status)
	}
	heading(out, "The table at the end, as 'xdpct list' prints it")
	return printRecords(out, r, export.Format{})
}

func heading(out io.Writer, text string) { fmt.Fprintf(out, "\n== %s\n", text) }

// demoNet is the two hosts and the box between them.
type demoNet struct {
	left, box, right *netlab.NS
}

var (
	demoLeft  = []string{"10.77.0.1/24", "fd77::1/64"}
	demoRight = []string{"10.77.0.2/24", "fd77::2/64"}
)

// newDemoNet makes the two hosts, with these addresses, and the box between them,
// whose ports have these.
func newDemoNet(left, right, port0, port1 netlab.Port) (d *demoNet, err error) {
	d = &demoNet{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	for _, n := range []struct {
		ns   **netlab.NS
		name string
	}{{&d.left, "left"}, {&d.box, "box"}, {&d.right, "right"}} {
		if *n.ns, err = netlab.NewNS(n.name); err != nil {
			return d, err
		}
	}
	left.NS, right.NS, port0.NS, port1.NS = d.left, d.right, d.box, d.box
	for _, p := range []*netlab.Port{&left, &right, &port0, &port1} {
		p.Offload = true
	}
	return d, errors.Join(netlab.Join(left, port0), netlab.Join(right, port1))
}

func (d *demoNet) close() {
	for _, ns := range []*netlab.NS{d.left, d.box, d.right} {
		if ns != nil {
			ns.Close()
		}
	}
}

// demoLive is the demo in namespaces.
func demoLive(ctx context.Context, out io.Writer) (err error) {
	fmt.Fprintln(out, "Two hosts, left and right, and xdpct as a bridge between them:")
	fmt.Fprintln(out, "  left 10.77.0.1, fd77::1 ── port0 [ xdpct ] port1 ── right 10.77.0.2, fd77::2")
	d, err := newDemoNet(netlab.Port{Name: "eth0", Addrs: demoLeft}, netlab.Port{Name: "eth0", Addrs: demoRight},
		netlab.Port{Name: "port0"}, netlab.Port{Name: "port1"})
	if err != nil {
		return err
	}
	defer d.close()
	dir, err := os.MkdirTemp("", "xdpct-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	cfg := engine.DefaultConfig()
	cfg.Mode, cfg.Control = engine.Bridge, filepath.Join(dir, "control.sock")
	cfg.Ports = []engine.PortConfig{{Interface: "port0"}, {Interface: "port1"}}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: dropTime}))
	err = d.serveWhile(ctx, cfg, log, func(ctx context.Context, c *control.Client) error { return d.show(ctx, out, c) })
	if err != nil || ctx.Err() != nil {
		return err
	}
	return demoRouter(ctx, out)
}

func dropTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// show makes traffic and prints what xdpct makes of it.
func (d *demoNet) show(ctx context.Context, out io.Writer, c *control.Client) error {
	heading(out, "Events, as 'xdpct events' prints them, while the hosts talk")
	watch, stop := context.WithCancel(ctx)
	defer stop()
	watched, follows := make(chan error, 1), make(chan struct{})
	watch = httptrace.WithClientTrace(watch, &httptrace.ClientTrace{GotFirstResponseByte: func() { close(follows) }})
	go func() {
		watched <- c.Lines(watch, "/v1/events", url.Values{}, func(line []byte) error {
			_, err := fmt.Fprintf(out, "%s\n", line)
			return err
		})
	}()
	select {
	case <-follows:
	case err := <-watched:
		return fmt.Errorf("following events: %w", err)
	}
	talk, err := d.talk(ctx)
	stop()
	<-watched
	if err != nil {
		return fmt.Errorf("traffic between the hosts: %w", err)
	}
	defer talk.close()

	heading(out, "The table, as 'xdpct list' prints it, while the connections are open")
	if err := c.Lines(ctx, "/v1/flows", url.Values{}, func(line []byte) error {
		_, err := fmt.Fprintf(out, "%s\n", line)
		return err
	}); err != nil {
		return err
	}
	heading(out, "A TCP transfer between the hosts' own stacks, through xdpct")
	before, err := c.Stats(ctx)
	if err != nil {
		return err
	}
	sent, took, err := talk.bulk(ctx, 3*time.Second)
	if err != nil {
		return fmt.Errorf("bulk transfer: %w", err)
	}
	after, err := c.Stats(ctx)
	if err != nil {
		return err
	}
	var packets uint64
	for i := range after.Shards {
		packets += after.Shards[i].Packets - before.Shards[i].Packets
	}
	s := took.Seconds()
	fmt.Fprintf(out, "%.0f Mbit/s, %.0f packets/s tracked and forwarded, in %.1f s\n",
		float64(sent)*8/1e6/s, float64(packets)/s, s)

	heading(out, "The counters, as 'xdpct stats' prints them")
	if err := after.WriteText(out, false); err != nil {
		return err
	}
	return nil
}
