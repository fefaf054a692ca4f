package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/shard"
)

// RuleFiles names the files that rules are read from, as iptables-save and
// ip6tables-save print them; an empty name means that there are none.
type RuleFiles struct {
	IPv4 string `yaml:"ipv4"`
	IPv6 string `yaml:"ipv6"`
}

// Rules are rules for both families; either may be nil.
type Rules struct{ IPv4, IPv6 *syntax.Ruleset }

// Read reads the files. An error names file, line, column and token.
func (f RuleFiles) Read() (r Rules, err error) {
	v4, err4 := readRules(f.IPv4, flow.IPv4)
	v6, err6 := readRules(f.IPv6, flow.IPv6)
	return Rules{v4, v6}, errors.Join(err4, err6)
}

func readRules(name string, f flow.Family) (*syntax.Ruleset, error) {
	if name == "" {
		return nil, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return syntax.Parse(file, name, f)
}

// all returns the rulesets that there are.
func (r Rules) all() []*syntax.Ruleset {
	return slices.DeleteFunc([]*syntax.Ruleset{r.IPv4, r.IPv6}, func(s *syntax.Ruleset) bool { return s == nil })
}

// rulebook is the rules in force. Its mutex also orders changes of rules and routes.
type rulebook struct {
	mu       sync.Mutex
	rules    Rules
	program  *policy.Program
	routes   *route.Table // nil: a bridge
	timeouts map[string]uint16
}

// interfaceNames returns the names that rules know interfaces by, by number.
func (e *Engine) interfaceNames() (names []string) {
	if e.mirror != nil {
		for _, i := range e.mirror.interfaces {
			names = append(names, i.Name)
		}
		return names
	}
	for _, p := range e.ports {
		names = append(names, p.ifi.Name)
	}
	return names
}

// SetRules puts rules into force: from one batch of each shard to the next, for live
// connections as well. If the error is not nil the rules before stay.
func (e *Engine) SetRules(r Rules) error {
	if e.cfg.Mode == Tap {
		return errors.New("mode tap forwards nothing, so there is nothing for rules to decide")
	}
	if !e.cfg.forwards() {
		return errors.New("this bridge was started without rules: name a file of them in its configuration (rules: {ipv4: FILE}), if an empty one")
	}
	if e.cfg.Mode == Bridge {
		for _, s := range r.all() {
			if t := s.Table("nat"); t != nil && t.NumRules() > 0 {
				return errors.New("table nat needs mode: router; a bridge does not translate")
			}
		}
	}
	e.book.mu.Lock()
	defer e.book.mu.Unlock()
	e.names = e.interfaceNames()
	p, err := policy.Compile(r.IPv4, r.IPv6, e.names, e.book.program)
	if err != nil {
		return err
	}
	if e.mirror != nil {
		if err := e.mirror.interest(policy.LocalPorts(r.all()...)); err != nil {
			return err
		}
	}
	before := e.book.program
	e.book.rules, e.book.program = r, p
	if err := e.apply(); err != nil {
		return err
	}
	// Now no shard counts for the old ones any more.
	e.counting.Lock()
	defer e.counting.Unlock()
	p.CarryCounts(before)
	return nil
}

// apply gives all workers the rules and routes in force. The caller holds book.mu.
func (e *Engine) apply() error {
	b := &e.book
	f := &shard.Forwarding{Rules: b.program, Routes: b.routes, Timeouts: b.timeouts, ErrorRate: e.cfg.ICMPRateLimit}
	if !e.started.Load() {
		for _, w := range e.workers {
			w.setForwarding(f)
		}
		return nil
	}
	for _, w := range e.workers {
		if err := e.ask(context.Background(), w, func(w *worker) bool { w.setForwarding(f); return true }); err != nil {
			return err
		}
	}
	return nil
}

// settle adds to the rules what the shard has counted for them.
func (w *worker) settle(p *policy.Program) {
	counts := w.shard.Counts()
	w.settled(p, counts)
	clear(counts)
}

// WriteRules prints the rules in force of a family, with their counters if asked.
func (e *Engine) WriteRules(ctx context.Context, out io.Writer, f flow.Family, counters bool) error {
	e.book.mu.Lock()
	defer e.book.mu.Unlock()
	if e.book.program == nil {
		return nil
	}
	for _, w := range e.workers {
		if err := e.ask(ctx, w, func(w *worker) bool { w.settle(e.book.program); return true }); err != nil {
			return fmt.Errorf("reading counters: %w", err)
		}
	}
	e.counting.Lock()
	r := e.book.program.Ruleset(f)
	e.counting.Unlock()
	if r == nil {
		return nil
	}
	return r.WriteTo(out, counters)
}

// LoadRules reads rules of a family and puts their tables into force in place of
// those of the same names. If the error is not nil the rules before stay.
func (e *Engine) LoadRules(in io.Reader, name string, f flow.Family) error {
	r, err := syntax.Parse(in, name, f)
	if err != nil {
		return err
	}
	e.book.mu.Lock()
	rules := e.book.rules
	e.book.mu.Unlock()
	if f == flow.IPv6 {
		rules.IPv6 = rules.IPv6.With(r)
	} else {
		rules.IPv4 = rules.IPv4.With(r)
	}
	return e.SetRules(rules)
}
