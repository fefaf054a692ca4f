package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/rx"
)

// tracker is xdpct itself.
type tracker struct {
	setup  Setup
	driver rx.Driver
	engine *engine.Engine
}

func (t *tracker) start(l *Lab) error {
	cfg := engine.DefaultConfig()
	cfg.Mode, cfg.XDP, cfg.CPUs, cfg.FrameSize = t.setup.Mode, t.setup.XDP, []int{t.setup.CPU}, rx.MinChunk
	cfg.Settings.Max = t.setup.Flows + t.setup.Flows/4
	cfg.Settings.L4.Timeouts.UDP = udpTimeout
	cfg.Driver = t.driver
	cfg.Ports = []engine.PortConfig{{Interface: inName}}
	if t.setup.Mode != engine.Tap {
		cfg.Ports = append(cfg.Ports, engine.PortConfig{Interface: outName})
	}
	if err := l.enableNAPI(); err != nil {
		return err
	}
	if t.setup.Mode == engine.Router {
		if err := l.routes(); err != nil {
			return err
		}
	}
	if t.setup.SNAT {
		file, err := natRules()
		if err != nil {
			return err
		}
		defer func() { _ = os.Remove(file) }()
		cfg.Rules.IPv4 = file
	}
	err := l.box.Do(func() (err error) {
		t.engine, err = engine.Open(cfg, slog.New(slog.DiscardHandler))
		return err
	})
	if err == nil {
		t.engine.Start()
	}
	return err
}

// natRules writes the rules that map sources to the pool, beside one that looks at the
// state as the kernel's does, into a file.
func natRules() (name string, err error) {
	f, err := os.CreateTemp("", "rules")
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(f, `*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT
COMMIT
*nat
-A POSTROUTING -o %s -j SNAT --to-source %v-%v
COMMIT
`, outName, poolFirst, poolLast)
	return f.Name(), errors.Join(err, f.Close())
}

func (t *tracker) ready() error { return nil }

func (t *tracker) flows() (n int, ok bool, err error) {
	n, err = t.engine.Count(context.Background())
	return n, true, err
}

func (t *tracker) taken() (uint64, error) {
	s, err := t.engine.Stats(context.Background())
	total := s.Total()
	return total.Packets, err
}

func (t *tracker) flush() error {
	_, err := t.engine.Flush(context.Background(), flow.Filter{})
	return err
}

func (t *tracker) detail() (Detail, error) {
	s, err := t.engine.Stats(context.Background())
	if err != nil {
		return Detail{}, err
	}
	total := s.Total()
	d := Detail{
		Hits: total.Packets - total.Table.Inserts, Inserts: total.Table.Inserts, Evictions: total.Table.Evicted,
		ProbesP99: total.Table.ProbesQuantile(0.99), Drops: map[string]uint64{},
	}
	var busy, calls uint64
	for _, w := range s.Workers {
		busy += w.Loop.Busy
		calls += w.Loop.Sleeps
		d.HandedOver += w.Loop.HandedOver
	}
	for _, p := range s.Ports {
		calls += p.Queue.Polls + p.Queue.Kicks
		d.Mode = fmt.Sprintf("%s, %s", p.XDP, map[bool]string{true: "zero copy", false: "copy"}[p.ZeroCopy])
	}
	if busy > 0 {
		d.PacketsPerPoll = float64(total.Packets) / float64(busy)
	}
	if total.Packets > 0 {
		d.SyscallsPerPacket = float64(calls) / float64(total.Packets)
	}
	for r, n := range total.Reasons {
		if n > 0 {
			d.Drops[flow.Reason(r).String()] = n
		}
	}
	return d, nil
}

func (t *tracker) stop() error {
	if t.engine == nil {
		return nil
	}
	return t.engine.Stop()
}
