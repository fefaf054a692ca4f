package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
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
	file, err := openRegular(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return syntax.Parse(file, name, f)
}

// openRegular opens a file that is read again while frames flow. What is no regular file is
// refused, but for /dev/null, which is an empty one: a FIFO would be waited for, by whoever
// asked for the rules and all who come after, or be taken for no rules.
func openRegular(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		if null, e := os.Stat(os.DevNull); e != nil || !os.SameFile(info, null) {
			err = &os.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// all returns the rulesets that there are.
func (r Rules) all() []*syntax.Ruleset {
	return slices.DeleteFunc([]*syntax.Ruleset{r.IPv4, r.IPv6}, func(s *syntax.Ruleset) bool { return s == nil })
}

// number returns how many rules there are.
func (r Rules) number() (n int) {
	for _, s := range r.all() {
		n += s.NumRules()
	}
	return n
}

// rulebook is the rules and routes in force.
//
// Order of its locks: loading, applying, mu. None is held while anything is read from
// or written to a client or a file, and the packet path takes none of them.
type rulebook struct {
	loading  sync.Mutex // held by who changes rules, from reading those in force to their end
	applying sync.Mutex // held by who gives the workers something new, so that all get the same last
	mu       sync.Mutex // guards what follows, for no longer than it takes to read or write it
	rules    Rules
	program  *policy.Program
	mappable mappable       // by the rules
	mapped   *nat.AddrSet   // what the workers were last prepared for; guarded by applying
	routes   *route.Table   // nil: a bridge
	ports    *nat.HostPorts // of the host's own addresses, for connections; nil: a bridge
	timeouts map[string]uint16
}

// interfaceNames returns the names that rules know interfaces by, by number.
func (e *Engine) interfaceNames() (all []string) {
	if e.router != nil {
		return names(e.router.mirror.Table())
	}
	for _, p := range e.ports {
		all = append(all, p.name())
	}
	return all
}

// acceptable says why rules cannot be put into force in this mode.
func (e *Engine) acceptable(r Rules) error {
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
	return nil
}

// SetRules puts rules into force: from one batch of each shard to the next, for live
// connections as well. If the error is not nil the rules before stay.
func (e *Engine) SetRules(r Rules) error {
	return e.tidily(func() error { return e.warned(e.changeRules(func(Rules) Rules { return r })) })
}

// warned warns of what new rules mean for those of the host, if err says that they are in
// force, and returns err.
func (e *Engine) warned(err error) error {
	if err == nil && e.router != nil {
		e.router.warnOfBypass()
	}
	return err
}

// recompile compiles the rules in force for the interfaces that there are now.
func (e *Engine) recompile() error {
	return e.tidily(func() error { return e.changeRules(func(now Rules) Rules { return now }) })
}

// recompileForNames compiles the rules in force for interfaces that have other names now.
// Until it is done rules know those that they knew.
func (e *Engine) recompileForNames() {
	if err := e.recompile(); err != nil && !errors.Is(err, errStopped) {
		e.say("compiling the rules for new interfaces", err)
	}
}

// changeRules puts what change makes of the rules in force into their place.
func (e *Engine) changeRules(change func(now Rules) Rules) error {
	b := &e.book
	b.loading.Lock()
	defer b.loading.Unlock()
	b.mu.Lock()
	now, before := b.rules, b.program
	b.mu.Unlock()
	r := change(now)
	if err := e.acceptable(r); err != nil {
		return err
	}
	for _, s := range r.all() {
		if err := s.CheckSize(); err != nil {
			return err
		}
	}
	names := e.interfaceNames()
	var key nat.Key
	if err := secrets(key[:]); err != nil {
		return err
	}
	p, err := policy.Compile(r.IPv4, r.IPv6, names, key, before)
	if err != nil {
		return err
	}
	if e.router != nil {
		if err := e.router.interest(interestOf(r)); err != nil {
			return err
		}
	}
	carried := p.Heritage(before) // while nobody waits for it
	e.names.Store(&names)
	if err := e.apply(func(b *rulebook) { b.rules, b.program, b.mappable = r, p, mappableOf(r) }); err != nil {
		return err
	}
	if now.number() > manyRules {
		e.leaving.Store(true)
	}
	e.tally.replace(carried, p) // no shard counts for the old ones any more
	return nil
}

// setRoutes gives the workers other routes, and returns those that they had.
func (e *Engine) setRoutes(t *route.Table) (old *route.Table, err error) {
	err = e.apply(func(b *rulebook) { old, b.routes = b.routes, t })
	return old, err
}

// setPorts gives the workers other ports that connections may be mapped to.
func (e *Engine) setPorts(p *nat.HostPorts) error {
	return e.apply(func(b *rulebook) { b.ports = p })
}

// apply changes the rules, routes and ports in force, and gives them to all workers.
func (e *Engine) apply(change func(*rulebook)) error {
	b := &e.book
	b.applying.Lock()
	defer b.applying.Unlock()
	b.mu.Lock()
	change(b)
	f := &shard.Forwarding{Rules: b.program, Routes: b.routes, Ports: b.ports, Timeouts: b.timeouts, Errors: e.icmp}
	need := b.mappable.with(b.routes)
	b.mu.Unlock()
	if f.Rules == nil { // at the start: rules come soon
		return nil
	}
	changed := !b.mapped.Covers(need) || !need.Covers(b.mapped)
	others := false
	if changed {
		var err error
		if others, err = e.concern(need); err != nil {
			return err
		}
		b.mapped = need
	}
	for _, w := range e.workers {
		if !e.started.Load() {
			w.setForwarding(f, &e.tally)
			continue
		}
		if err := e.ask(context.Background(), w, func(w *worker) bool { w.setForwarding(f, &e.tally); return true }); err != nil {
			return err
		}
	}
	if others {
		return e.unconcern(need)
	}
	return nil
}

// WriteRules prints the rules in force of a family, with their counters if asked. The
// rules are those of one moment, however slowly out takes them.
func (e *Engine) WriteRules(ctx context.Context, out io.Writer, f flow.Family, counters bool) error {
	r, err := e.Ruleset(ctx, f)
	if err != nil || r == nil {
		return err
	}
	return r.WriteTo(writerUntil{ctx, out}, counters)
}

// writerUntil is a writer until a context ends.
type writerUntil struct {
	ctx context.Context
	io.Writer
}

// Write writes, or returns the error of the context.
func (w writerUntil) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.Writer.Write(p)
}

// LoadRules reads rules of a family and puts their tables into force in place of
// those of the same names. If the error is not nil the rules before stay.
func (e *Engine) LoadRules(in io.Reader, name string, f flow.Family) error {
	return e.tidily(func() error {
		r, err := syntax.Parse(in, name, f)
		if err != nil {
			return err
		}
		return e.warned(e.changeRules(func(rules Rules) Rules {
			if f == flow.IPv6 {
				rules.IPv6 = rules.IPv6.With(r)
			} else {
				rules.IPv4 = rules.IPv4.With(r)
			}
			return rules
		}))
	})
}
