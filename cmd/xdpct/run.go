package main

import (
	"context"
	"errors"
	"log/slog"
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
			if config == "" {
				return usageError{errors.New("-c FILE is required: the configuration")}
			}
			cfg, err := engine.LoadConfig(config)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			ctx, stop := untilInterrupted(cmd)
			defer stop()
			context.AfterFunc(ctx, func() { time.AfterFunc(stopPatience, func() { abandon(log) }) })
			privileged(&cfg, log)
			return serve(ctx, cfg, log, openConfined, nil)
		},
	}
	cmd.Flags().StringVarP(&config, "config", "c", "", "the configuration, in YAML (required)")
	return cmd
}

// openConfined opens an engine and drops the privileges that only opening takes, before
// the first packet.
func openConfined(cfg engine.Config, log *slog.Logger) (*engine.Engine, error) {
	e, err := engine.Open(cfg, log)
	if err != nil {
		return nil, err
	}
	if err := confine(&cfg, e.Generic(), log); err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

// stopPatience is how long the end of the engine may take once it is asked for. It leaves the
// kernel some of the two seconds that an end may take: to take an address space of several
// gigabytes of small pages apart costs it 0.1 to 0.2 s for each.
const stopPatience = 1200 * time.Millisecond

// abandon ends the process although the engine has not stopped. The kernel then
// detaches the XDP programs and closes the queues, as after any other end.
func abandon(log *slog.Logger) {
	log.Error("stopping takes too long; ending as it stands")
	os.Exit(exitFailed)
}

// openFunc is engine.Open, or that in another network namespace.
type openFunc func(engine.Config, *slog.Logger) (*engine.Engine, error)

// serve runs an engine with its control socket and metrics until ctx ends.
// open makes the engine; ready, if not nil, is called when frames flow.
func serve(ctx context.Context, cfg engine.Config, log *slog.Logger, open openFunc, ready func()) (err error) {
	hup := make(chan os.Signal, 1) // from the first to the last: it would end the process
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Ignore(syscall.SIGHUP)
	l, err := control.Listen(ctx, cfg.Control)
	if err != nil {
		return cfg.Locate("control", err)
	}
	defer l.Close()
	var m *metricsServer
	if cfg.Metrics != "" { // a port below 1024 takes a capability that goes
		if m, err = listenMetrics(cfg.Metrics); err != nil {
			return cfg.Locate("metrics", err)
		}
		defer m.guard.Close()
	}
	e, err := open(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Stop()) }()

	failed := make(chan error, 2)
	t := tracker{Engine: e}
	if m != nil {
		t.listeners = append(t.listeners, m.listener())
		ms := m.server(&t)
		defer ms.Close()
		go func() { failed <- ms.Serve(m.guard) }()
	}
	srv := control.NewServer(&t, export.Format{Counters: cfg.Settings.Acct}, time.Now)
	t.listeners = append(t.listeners, listener{"control", srv.Connections})
	srv.Version = version()
	defer srv.Close()
	go func() { failed <- srv.Serve(l) }()
	e.Start()
	log.Info("tracking", "mode", cfg.Mode, "control", cfg.Control)
	if ready != nil {
		ready()
	}
	go reload(ctx, e, &cfg, hup, log) // reading many rules takes seconds, and the end does not wait for it
	select {
	case <-ctx.Done():
		log.Info("stopping")
		return nil
	case err := <-failed:
		return err
	}
}

// reload reads the rules again at each signal, until ctx ends. The rest of the configuration
// is in force as it was at the start; that its file says something else now is warned about.
func reload(ctx context.Context, e *engine.Engine, cfg *engine.Config, hup <-chan os.Signal, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		}
		switch changed, err := cfg.Changed(); {
		case err != nil:
			log.Warn("only files of rules are read again, and the configuration cannot be compared with what is in force", "error", err)
		case len(changed) > 0:
			log.Warn("only files of rules are read again: these keys of the configuration have changed since the start, and take a restart", "keys", changed)
		}
		err := e.Reload()
		switch {
		case ctx.Err() != nil: // nobody wants to know any more
		case err != nil:
			log.Error("the rules stay as they are", "error", err)
		default:
			log.Info("rules reloaded", "files", cfg.Rules.Files())
		}
	}
}
