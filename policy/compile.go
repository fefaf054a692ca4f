package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy/syntax"
)

// Hook is a table's chain at one of the points that a forwarded packet passes.
type Hook int8

// The hooks, in the order in which a packet passes them (enum nf_ip_hook_priorities).
const (
	RawPrerouting Hook = iota
	ManglePrerouting
	NATPrerouting
	MangleForward
	FilterForward
	SecurityForward
	ManglePostrouting
	NATPostrouting
	NumHooks // the number of hooks above
)

var hookNames = [NumHooks][2]string{
	{"raw", "PREROUTING"}, {"mangle", "PREROUTING"}, {"nat", "PREROUTING"}, {"mangle", "FORWARD"},
	{"filter", "FORWARD"}, {"security", "FORWARD"}, {"mangle", "POSTROUTING"}, {"nat", "POSTROUTING"},
}

// hookOf returns the hook of a table's chain, -1 if a forwarded packet never comes
// there.
func hookOf(table, chain string) Hook {
	return Hook(slices.Index(hookNames[:], [2]string{table, chain}))
}

// MaxInterfaces is how many interfaces a Program tells apart.
const MaxInterfaces = 63

// Program is compiled rules, and what they remember: limits, lists, counts of
// connections. Any number of shards may run it at once. AddCounts, CarryCounts and
// Ruleset are for one goroutine at a time.
type Program struct {
	hooks    [2][NumHooks]*chain // by family, IPv4 first
	rulesets [2]*syntax.Ruleset  // that it was made of, by family; nil: none
	// counts are what rules and policies have counted, the files' counters included.
	counts []Count
	// rules and chains say whose a count is.
	rules   map[*syntax.Rule]int
	chains  map[*syntax.Chain]int
	states  map[syntax.Match]any // what matches remember
	recents map[string]*recentList
	hashes  map[tableName]*hashTable
	nat     [2]bool // there is a table nat
	key     nat.Key // of the hashes of what matches remember
	seeds   uint64  // how many were taken from it
	traces  bool    // a rule traces packets
	// connCounts are what connlimit remembers, of all rules.
	connCounts map[*connCount]bool
}

// seed returns a seed for the next store. Without the key nothing about the seeds of other
// stores follows from it.
func (p *Program) seed() (s [2]uint64) {
	p.seeds++
	for i := range s { // SplitMix64, over both words of the key
		x := p.key[i] + (2*p.seeds+uint64(i))*0x9e3779b97f4a7c15
		for _, w := range [...]uint64{p.key[1-i], 0xbf58476d1ce4e5b9, 0x94d049bb133111eb} {
			x = (x ^ x>>30) * (w | 1)
		}
		s[i] = x ^ x>>31
	}
	return s
}

// Count is what a rule or a policy has seen.
type Count = syntax.Count

// chain is a chain, compiled.
type chain struct {
	table, name string
	rules       []rule
	policy      Verdict // of a chain of the table itself
	trace       []Log   // of packets that are traced, by rule, and at its end; nil if none are
	count       int     // of the policy
}

// rule is a rule, compiled.
type rule struct {
	src, srcMask, dst, dstMask flow.Addr
	in, out                    uint64 // interfaces, a bit each; the last is none
	proto                      flow.Proto
	anyProto                   bool
	notSrc, notDst, notProto   bool
	never                      bool // a fragment is asked for, and there are none
	isGoto                     bool
	line                       int
	count                      int
	conds                      []condition
	action                     action
	jump                       *chain // nil: none
}

// compiler is what conditions are made with.
type compiler struct {
	p          *Program
	interfaces []string
	family     flow.Family
	proto      flow.Proto // of the rule under way, 0 if it is not for one
	before     *Program   // nil: none
	errs       []error
}

// stateOf returns what a match remembers: what it remembered in the program before,
// where that had the same match (its table was not replaced), else what create makes.
func stateOf[S any](c *compiler, m syntax.Match, create func() S) S {
	if s, ok := c.p.states[m].(S); ok { // reached from a second hook
		return s
	}
	if c.before != nil {
		if s, ok := c.before.states[m].(S); ok {
			c.p.states[m] = s
			return s
		}
	}
	s := create()
	c.p.states[m] = s
	return s
}

// Compile makes a program of rules for IPv4 and for IPv6, either of which may be
// nil: then nothing is asked of packets of that family. interfaces are the names of
// the interfaces, by number; there may be MaxInterfaces. before is the program that
// this one takes the place of, nil if there is none: tables that both have, and
// lists of recent and tables of hashlimit by their names, go on remembering what they do.
// The Rulesets are kept. The error also says if their tables take more than MaxMemory.
//
// key is for the hashes of what matches remember by address. It is to be random and
// secret where packets are strangers': who knows it can choose addresses that fill a
// bucket, whose packets the match then drops. A fixed one is for tests, and for a
// program that is not run.
func Compile(v4, v6 *syntax.Ruleset, interfaces []string, key nat.Key, before *Program) (*Program, error) {
	if len(interfaces) > MaxInterfaces {
		return nil, fmt.Errorf("%d interfaces: at most %d", len(interfaces), MaxInterfaces)
	}
	p := newProgram(v4, v6)
	p.key = key
	if err := p.checkMemory(); err != nil {
		return nil, err
	}
	p.findRecents(before)
	var errs []error
	for i, r := range p.rulesets {
		if r == nil {
			continue
		}
		c := &compiler{p: p, interfaces: interfaces, family: r.Family, before: before}
		for _, t := range r.Tables {
			c.table(t, &p.hooks[i])
			p.nat[i] = p.nat[i] || t.Name == "nat"
		}
		errs = append(errs, c.errs...)
	}
	for _, chains := range p.hooks {
		for _, c := range chains {
			if p.traces {
				traceAll(c)
			}
		}
	}
	return p, errors.Join(errs...)
}

func newProgram(v4, v6 *syntax.Ruleset) *Program {
	return &Program{
		rulesets: [2]*syntax.Ruleset{v4, v6}, recents: map[string]*recentList{}, hashes: map[tableName]*hashTable{}, states: map[syntax.Match]any{},
		rules: map[*syntax.Rule]int{}, chains: map[*syntax.Chain]int{}, connCounts: map[*connCount]bool{},
	}
}

// fail notes what is wrong with a rule.
func (c *compiler) fail(r *syntax.Rule, err error) {
	c.errs = append(c.errs, fmt.Errorf("line %d: %w", r.Line, err))
}

func (c *compiler) table(t *syntax.Table, hooks *[NumHooks]*chain) {
	made := map[*syntax.Chain]*chain{}
	w := newWalks(t)
	for _, ch := range t.Chains {
		h := hookOf(t.Name, ch.Name)
		if h < 0 {
			continue
		}
		if r, err := w.tooLong(ch); err != nil {
			c.fail(r, err)
		}
		hooks[h] = c.chain(t, ch, made)
		for _, reached := range reach(t, ch) {
			for _, r := range reached.Rules {
				if err := wrongHook(r, h); err != nil {
					c.fail(r, err)
				}
			}
		}
	}
}

// reach returns the chains that a chain leads to, itself included.
func reach(t *syntax.Table, c *syntax.Chain) []*syntax.Chain {
	all, seen := []*syntax.Chain{c}, map[*syntax.Chain]bool{c: true}
	for i := 0; i < len(all); i++ {
		for _, r := range all[i].Rules {
			if next := t.Chain(r.Jump); next != nil && !seen[next] {
				seen[next] = true
				all = append(all, next)
			}
		}
	}
	return all
}

// wrongHook says what is wrong with a rule that packets reach at hook h.
func wrongHook(r *syntax.Rule, h Hook) error {
	point := hookNames[h][1]
	if t, ok := r.Target.(interface{ Hooks() []string }); ok && !slices.Contains(t.Hooks(), point) {
		return fmt.Errorf("%s is reached from %s", r.Target.Name(), point)
	}
	for _, m := range r.Matches {
		if h, ok := m.(interface{ Hooks() []string }); ok && !slices.Contains(h.Hooks(), point) {
			return fmt.Errorf("-m %s as it is given is reached from %s", m.Name(), point)
		}
	}
	return nil
}

// chain compiles a chain and those that it leads to. One that several hooks reach
// is compiled once.
func (c *compiler) chain(t *syntax.Table, ch *syntax.Chain, made map[*syntax.Chain]*chain) *chain {
	if done := made[ch]; done != nil {
		return done
	}
	out := &chain{table: t.Name, name: ch.Name, count: -1}
	made[ch] = out
	if ch.Policy != "-" {
		out.policy = Accept
		if ch.Policy == "DROP" {
			out.policy = Drop
		}
		out.count = c.counter(ch.Count)
		c.p.chains[ch] = out.count
	}
	out.rules = make([]rule, 0, len(ch.Rules))
	for _, r := range ch.Rules {
		out.rules = append(out.rules, c.rule(t, r, made))
		if l := out.rules[len(out.rules)-1].action.log; l != nil {
			l.Table, l.Chain, l.Line = t.Name, ch.Name, r.Line
		}
	}
	return out
}

func (c *compiler) counter(from Count) int {
	c.p.counts = append(c.p.counts, from)
	return len(c.p.counts) - 1
}

func (c *compiler) rule(t *syntax.Table, r *syntax.Rule, made map[*syntax.Chain]*chain) rule {
	b := &r.Base
	out := rule{
		src: b.Src.Addr, srcMask: b.Src.Mask, notSrc: b.Src.Not,
		dst: b.Dst.Addr, dstMask: b.Dst.Mask, notDst: b.Dst.Not,
		in: c.ports(&b.In), out: c.ports(&b.Out),
		proto: b.Proto.N, anyProto: !b.Proto.Set, notProto: b.Proto.Not,
		never:  b.Frag.Set && !b.Frag.Not,
		isGoto: r.Goto, line: r.Line, count: c.counter(r.Count),
	}
	c.p.rules[r] = out.count
	var err error
	if r.Target != nil {
		if out.action, err = c.target(r.Target); err != nil {
			c.fail(r, err)
		}
	}
	if r.Jump != "" {
		out.jump = c.chain(t, t.Chain(r.Jump), made)
	}
	c.proto, _ = b.Proto.Only()
	for _, m := range r.Matches {
		conds, err := c.match(m)
		if err != nil {
			c.fail(r, err)
		}
		out.conds = append(out.conds, conds...)
	}
	return out
}

// none is the bit of "no interface" in a set of them.
const none = 63

// ports returns the interfaces that a name means.
func (c *compiler) ports(n *syntax.IfName) (set uint64) {
	if !n.Set {
		return ^uint64(0)
	}
	for i, name := range c.interfaces {
		if n.Is(name) {
			set |= 1 << i
		}
	}
	if n.Name == "+" {
		set |= 1 << none
	}
	if n.Not {
		return ^set
	}
	return set
}

// Has reports whether there is a chain at a hook for packets of a family.
func (p *Program) Has(h Hook, f flow.Family) bool { return p.hooks[f.Index()][h] != nil }

// Busy reports whether there are rules at a hook, or a policy that drops.
func (p *Program) Busy(h Hook, f flow.Family) bool {
	c := p.hooks[f.Index()][h]
	return c != nil && (len(c.rules) > 0 || c.policy == Drop)
}

// NAT reports whether a family has a table nat, so that every connection gets a
// reply tuple of its own even without a rule (the null binding).
func (p *Program) NAT(f flow.Family) bool { return p.nat[f.Index()] }
