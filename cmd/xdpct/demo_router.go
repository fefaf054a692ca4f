package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/perf/netlab"
)

// demoRules are what the second part of the demo loads.
const demoRules = `*nat
-A PREROUTING -d 203.0.113.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.77.1.2:8080
-A POSTROUTING -s 10.77.1.0/24 -o wan -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i lan -o wan -j ACCEPT
-A FORWARD -i wan -m conntrack --ctstate DNAT -j ACCEPT
COMMIT
`

// newRouterNet is a LAN, a router and a WAN, with one host in each net.
func newRouterNet() (*demoNet, error) {
	d, err := newDemoNet(
		netlab.Port{Name: "eth0", Addrs: []string{"10.77.1.2/24"}}, netlab.Port{Name: "eth0", Addrs: []string{"203.0.113.2/24"}},
		netlab.Port{Name: "lan", Addrs: []string{"10.77.1.1/24"}}, netlab.Port{Name: "wan", Addrs: []string{"203.0.113.1/24"}})
	if err != nil {
		return d, err
	}
	return d, d.left.Netlink().RouteAdd(&netlink.Route{Gw: net.IPv4(10, 77, 1, 1)})
}

// demoRouter is the second part of the demo: translation.
func demoRouter(ctx context.Context, out io.Writer) (err error) {
	fmt.Fprintln(out, "\nThe same two hosts in different nets, and xdpct as the router between them:")
	fmt.Fprintln(out, "  inside 10.77.1.2 ── lan 10.77.1.1 [ xdpct ] wan 203.0.113.1 ── outside 203.0.113.2")
	heading(out, "Its rules, as iptables-save prints them")
	fmt.Fprint(out, demoRules)
	d, err := newRouterNet()
	defer d.close()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "xdpct-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "rules.v4")
	if err := os.WriteFile(file, []byte(demoRules), 0o600); err != nil {
		return err
	}
	cfg := engine.DefaultConfig()
	cfg.Mode, cfg.Control = engine.Router, filepath.Join(dir, "control.sock")
	cfg.Ports = []engine.PortConfig{{Interface: "lan"}, {Interface: "wan"}}
	cfg.Rules.IPv4 = file
	return d.serveWhile(ctx, cfg, slog.New(slog.DiscardHandler), func(ctx context.Context, c *control.Client) error {
		return d.showRouter(ctx, out, c)
	})
}

// serveWhile runs xdpct in the box while act does something with it.
func (d *demoNet) serveWhile(ctx context.Context, cfg engine.Config, log *slog.Logger, act func(context.Context, *control.Client) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		open := func(c engine.Config, l *slog.Logger) (e *engine.Engine, err error) {
			return e, errors.Join(d.box.Do(func() error { e, err = engine.Open(c, l); return nil }), err)
		}
		ended <- serve(ctx, cfg, log, open, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		return err
	}
	err := act(ctx, control.NewClient(cfg.Control))
	if errors.Is(err, context.Canceled) {
		err = nil // interrupting is how it is ended
	}
	cancel()
	return errors.Join(err, <-ended)
}

// showRouter lets the hosts talk through the router, in both directions.
func (d *demoNet) showRouter(ctx context.Context, out io.Writer, c *control.Client) error {
	heading(out, "Who each server sees")
	for _, v := range []struct {
		what    string
		client  *netlab.NS
		server  *netlab.NS
		listen  string
		connect string
	}{
		{"inside connects to outside, 203.0.113.2:80", d.left, d.right, "203.0.113.2:80", "203.0.113.2:80"},
		{"outside connects to the router, 203.0.113.1:80", d.right, d.left, "10.77.1.2:8080", "203.0.113.1:80"},
	} {
		seen, conn, err := visit(v.client, v.server, v.listen, v.connect)
		if err != nil {
			return fmt.Errorf("%s: %w", v.what, err)
		}
		defer conn.Close()
		fmt.Fprintf(out, "%s: the server at %s sees %s\n", v.what, v.listen, seen)
	}
	heading(out, "The table, as 'xdpct list' prints it: where the tuples differ, there is translation")
	if err := c.Lines(ctx, "/v1/flows", url.Values{}, func(line []byte) error {
		_, err := fmt.Fprintf(out, "%s\n", line)
		return err
	}); err != nil {
		return err
	}
	heading(out, "The rules with their counters, as 'xdpct rules show' prints them")
	rules, err := c.Rules(ctx, url.Values{"counters": {"1"}})
	if err != nil {
		return err
	}
	defer rules.Close()
	_, err = io.Copy(out, rules)
	return err
}

// visit connects to a server that is made for it, and returns whom it sees.
func visit(client, server *netlab.NS, listen, connect string) (seen string, c net.Conn, err error) {
	l, err := in(server, func() (net.Listener, error) { return net.Listen("tcp", listen) })
	if err != nil {
		return "", nil, err
	}
	defer l.Close()
	go func() {
		s, err := l.Accept()
		if err != nil {
			return
		}
		defer s.Close()
		fmt.Fprintln(s, s.RemoteAddr())
		_, _ = io.Copy(io.Discard, s) // until the client closes
	}()
	c, err = in(client, func() (net.Conn, error) { return net.DialTimeout("tcp", connect, 5*time.Second) })
	if err != nil {
		return "", nil, err
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	seen, err = bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(seen), c, err
}
