package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/perf"
	"github.com/xdpct/xdpct/perf/wire"
	"github.com/xdpct/xdpct/rx"
)

//go:embed scenarios.yaml
var builtIn []byte

// scenario is one entry of scenarios.yaml.
type scenario struct {
	Name   string      `yaml:"name"`
	Engine *engineSpec `yaml:"engine"`
	Wire   *wireSpec   `yaml:"wire"`
	Plot   string      `yaml:"plot"`  // flows or shards: what it is plotted over
	Curve  string      `yaml:"curve"` // its curve in that plot
}

// engineSpec is a perf.EngineLoad; what is not given is as in perf.DefaultLoad.
type engineSpec struct {
	Work     perf.Work  `yaml:"work"`
	Flows    int        `yaml:"flows"`
	Proto    string     `yaml:"proto"`
	IP       int        `yaml:"ip"`
	Size     int        `yaml:"size"`
	IMIX     bool       `yaml:"imix"`
	Order    perf.Order `yaml:"order"`
	Shards   int        `yaml:"shards"`
	Batch    int        `yaml:"batch"`
	NewRate  float64    `yaml:"new_rate"`
	Checksum bool       `yaml:"checksum"`
}

// wireSpec is wire.Options and what to compare with.
type wireSpec struct {
	Mode    engine.Mode    `yaml:"mode"`
	XDP     rx.XDPMode     `yaml:"xdp"`
	Flows   int            `yaml:"flows"`
	Size    int            `yaml:"size"`
	SNAT    bool           `yaml:"snat"`
	Compare []wire.Subject `yaml:"compare"`
}

// readScenarios reads and checks scenarios.
func readScenarios(text []byte) ([]scenario, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	var all []scenario
	if err := d.Decode(&all); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for i := range all {
		s := &all[i]
		if s.Name == "" || seen[s.Name] {
			return nil, fmt.Errorf("scenario %d: its name %q is empty or taken", i+1, s.Name)
		}
		seen[s.Name] = true
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("scenario %s: %w", s.Name, err)
		}
	}
	return all, nil
}

func (s *scenario) check() error {
	switch {
	case (s.Engine == nil) == (s.Wire == nil):
		return errors.New("must be either an engine or a wire scenario")
	case s.Engine != nil:
		l, err := s.Engine.load(time.Second)
		return errors.Join(err, l.Validate())
	}
	o := s.Wire.options(time.Second)
	for _, name := range s.Wire.Compare {
		if err := wire.Check(name, o.Setup); err != nil {
			return err
		}
	}
	return o.Validate()
}

func (e *engineSpec) load(d time.Duration) (perf.EngineLoad, error) {
	l := perf.DefaultLoad()
	l.Duration, l.IMIX, l.Checksum, l.IPv6 = d, e.IMIX, e.Checksum, e.IP == 6
	set(&l.Work, e.Work)
	set(&l.Flows, e.Flows)
	set(&l.Size, e.Size)
	set(&l.Order, e.Order)
	set(&l.Shards, e.Shards)
	set(&l.Batch, e.Batch)
	set(&l.NewRate, e.NewRate)
	if e.Proto != "" {
		if err := l.SetProto(e.Proto); err != nil {
			return l, err
		}
	}
	if e.IP != 0 && e.IP != 4 && e.IP != 6 {
		return l, fmt.Errorf("ip %d: must be 4 or 6", e.IP)
	}
	return l, nil
}

// set sets what was given.
func set[T comparable](dst *T, v T) {
	var none T
	if v != none {
		*dst = v
	}
}

func (w *wireSpec) options(d time.Duration) wire.Options {
	o := wire.Options{
		Setup:    wire.Setup{Mode: w.Mode, SNAT: w.SNAT, XDP: rx.ModeAuto, Flows: w.Flows, CPU: 1},
		Size:     wire.MinSize,
		Duration: d,
	}
	set(&o.XDP, w.XDP)
	if w.Size != 0 {
		o.Size = w.Size - 4 // the frame's checksum counts, as in an engine scenario
	}
	return o
}
