package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/perf/wire"
)

// dumpAll times a listing of each subject, there and back, and reports medians.
func (w *wireFlags) dumpAll(subjects []wire.Subject, o wire.Options, r *wireReport, out io.Writer) error {
	o.Mode = engine.Tap
	took := map[wire.Subject][]time.Duration{}
	order := slices.Clone(subjects)
	for range 2 * w.rounds {
		for _, s := range order {
			d, err := wire.MeasureDump(s, o, listSelf)
			if err != nil {
				return err
			}
			r.Dumps = append(r.Dumps, d)
			took[s] = append(took[s], d.Took)
			fmt.Fprintf(out, "%-12s %d of %d connections listed in %v", s, d.Listed, d.Flows, d.Took.Round(time.Millisecond))
			if d.Quiet > 0 {
				fmt.Fprintf(out, ", packets %.3f Mpps before and %.3f during it (%+.1f %%), %.2f %% lost", d.Quiet/1e6, d.During/1e6, 100*(d.During/d.Quiet-1), 100*d.Lost)
			}
			fmt.Fprintln(out)
		}
		slices.Reverse(order)
	}
	median := func(s wire.Subject) time.Duration {
		slices.Sort(took[s])
		return took[s][len(took[s])/2]
	}
	for _, s := range subjects[1:] {
		fmt.Fprintf(out, "%s takes %.2f times as long as %s\n", s, float64(median(s))/float64(median(subjects[0])), subjects[0])
	}
	return nil
}

// listSelf serves the API of an engine and lists by this very program.
func listSelf(e *engine.Engine) (argv []string, stop func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "xdpct-bench-")
	if err != nil {
		return nil, nil, err
	}
	socket := filepath.Join(dir, "control.sock")
	l, err := control.Listen(context.Background(), socket)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	srv := control.NewServer(&tracker{Engine: e}, export.Format{}, time.Now)
	go func() { _ = srv.Serve(l) }()
	stop = func() error { return errors.Join(srv.Close(), os.RemoveAll(dir)) }
	return []string{self, "conntrack", "--control", socket, "-L"}, stop, nil
}
