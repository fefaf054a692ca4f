package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/export"
)

func runCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Track connections on network interfaces",
		Long: `Open the interfaces that the configuration names, track what passes, and serve
the control socket that list, events and the others use. In mode bridge frames
are forwarded between two interfaces, unchanged; in mode tap they end here.

In mode router they are forwarded by the
kernel's routes, as rules say (rules: ipv4, ipv6).

It runs until it gets SIGINT or SIGTERM; SIGHUP makes it read the rules again. The XDP programs go with the process,
however it ends.`,
		Example: `  cat > xdpct.yaml <<EOF
  mode: bridge
  ports:
    - interface: eth0
    - interface: eth1
  settings:
    nf_conntrack_max: 1000000
    nf_conntrack_tcp_timeout_established: 86400
  EOF
  xdpct run -c xdpct.yaml`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := engine.LoadConfig(config)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			return serve(cmd.Context(), cfg, log, engine.Open, nil)
		},
	}
	cmd.Flags().StringVarP(&config, "config", "c", "", "the configuration, in YAML (required)")
	_ = cmd.MarkFlagRequired("config")
	return cmd
}

// openFunc is engine.Open, or that in another network namespace.
type openFunc func(engine.Config, *slog.Logger) (*engine.Engine, error)

// serve runs an engine with its control socket and metrics until ctx ends.
// open makes the engine; ready, if not nil, is called when frames flow.
func serve(ctx context.Context, cfg engine.Config, log *slog.Logger, open openFunc, ready func()) (err error) {
	if os.Geteuid() != 0 {
		log.Warn("not running as root: this works only with CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW")
	}
	l, err := control.Listen(ctx, cfg.Control)
	if err != nil {
		return err
	}
	defer l.Close()
	e, err := open(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Stop()) }()

	failed := make(chan error, 2)
	srv := control.NewServer(tracker{e}, export.Format{Counters: cfg.Settings.Acct}, time.Now)
	srv.Version = version()
	defer srv.Close()
	go func() { failed <- srv.Serve(l) }()
	if cfg.Metrics != "" {
		ml, err := net.Listen("tcp", metricsAddress(cfg.Metrics))
		if err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		ms := &http.Server{Handler: metricsHandler(tracker{e}), ReadHeaderTimeout: 5 * time.Second}
		defer ms.Close()
		go func() { failed <- ms.Serve(ml) }()
	}
	e.Start()
	log.Info("tracking", "mode", cfg.Mode, "control", cfg.Control)
	if ready != nil {
		ready()
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			log.Info("stopping")
			return nil
		case err := <-failed:
			return err
		case <-hup:
			if err := e.Reload(); err != nil {
				log.Error("the rules stay as they are", "error", err)
			} else {
				log.Info("rules reloaded")
			}
		}
	}
}

// metricsAddress puts a bare port on loopback.
func metricsAddress(s string) string {
	if host, port, err := net.SplitHostPort(s); err == nil && host == "" {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return s
}

func metricsHandler(t tracker) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		s, err := t.Stats(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.WriteMetrics(io.Writer(w))
	})
	return mux
}
