package policy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/xdpct/xdpct/flow"
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

// Program is compiled rules. It does not change; any number of shards may run it
// at once.
type Program struct {
	hooks      [2][NumHooks]*chain // by family, IPv4 first
	counters   []counterOf
	connCounts []*connCount
	recents    map[string]*recentList
	nat        [2]bool // there is a table nat
}

// counterOf says whose a counter is: of a rule, or of a chain's policy.
type counterOf struct {
	count *Count
}

// chain is a chain, compiled.
type chain struct {
	table, name string
	rules       []rule
	policy      Verdict // of a chain of the table itself
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
	isGoto, logs               bool
	line                       int
	count                      int
	conds                      []condition
	target                     target // nil: none
	jump                       *chain // nil: none
}

// compiler is what conditions are made with.
type compiler struct {
	p          *Program
	interfaces []string
	family     flow.Family
	hook       Hook
	counts     []*connCount
}

// Compile makes a program of rules for IPv4 and for IPv6, either of which may be
// nil: then nothing is asked of packets of that family. interfaces are the names of
// the interfaces, by number; there may be MaxInterfaces. What recent lists of
// before remember is kept (nil: nothing).
func Compile(v4, v6 *Ruleset, interfaces []string, before *Program) (*Program, error) {
	if len(interfaces) > MaxInterfaces {
		return nil, fmt.Errorf("%d interfaces: at most %d", len(interfaces), MaxInterfaces)
	}
	p := &Program{recents: map[string]*recentList{}}
	if before != nil {
		for name, l := range before.recents {
			p.recents[name] = l
		}
	}
	var errs []error
	for i, r := range []*Ruleset{v4, v6} {
		if r == nil {
			continue
		}
		c := &compiler{p: p, interfaces: interfaces, family: r.Family}
		for _, t := range r.Tables {
			errs = append(errs, c.table(t, &p.hooks[i])...)
			p.nat[i] = p.nat[i] || t.Name == "nat"
		}
		p.connCounts = append(p.connCounts, c.counts...)
	}
	return p, errors.Join(errs...)
}

func (c *compiler) table(t *Table, hooks *[NumHooks]*chain) (errs []error) {
	made := map[*Chain]*chain{}
	for _, ch := range t.Chains {
		h := hookOf(t.Name, ch.Name)
		if h < 0 {
			continue
		}
		c.hook = h
		hooks[h] = c.chain(t, ch, made)
		for _, reached := range reach(t, ch, map[*Chain]bool{}) {
			for _, r := range reached.Rules {
				if err := wrongHook(r, h); err != nil {
					errs = append(errs, fmt.Errorf("line %d: %w", r.Line, err))
				}
			}
		}
	}
	return errs
}

// reach returns the chains that a chain leads to, itself included.
func reach(t *Table, c *Chain, seen map[*Chain]bool) (all []*Chain) {
	if seen[c] {
		return nil
	}
	seen[c] = true
	all = append(all, c)
	for _, r := range c.Rules {
		if r.jump != "" {
			all = append(all, reach(t, t.Chain(r.jump), seen)...)
		}
	}
	return all
}

// wrongHook says what is wrong with a rule that packets reach at hook h.
func wrongHook(r *Rule, h Hook) error {
	point := hookNames[h][1]
	if t, ok := r.target.(*natTarget); ok && !slices.Contains(t.hooks, point) {
		return fmt.Errorf("%s is reached from %s", t.module, point)
	}
	return nil
}

// chain compiles a chain and those that it leads to. One that several hooks reach
// is compiled once.
func (c *compiler) chain(t *Table, ch *Chain, made map[*Chain]*chain) *chain {
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
		out.count = c.counter(&ch.Count)
	}
	out.rules = make([]rule, 0, len(ch.Rules))
	for _, r := range ch.Rules {
		out.rules = append(out.rules, c.rule(t, r, made))
	}
	return out
}

func (c *compiler) counter(of *Count) int {
	c.p.counters = append(c.p.counters, counterOf{of})
	return len(c.p.counters) - 1
}

func (c *compiler) rule(t *Table, r *Rule, made map[*Chain]*chain) rule {
	b := &r.base
	out := rule{
		src: b.src.addr, srcMask: b.src.mask, notSrc: b.src.not,
		dst: b.dst.addr, dstMask: b.dst.mask, notDst: b.dst.not,
		in: c.ports(&b.in), out: c.ports(&b.out),
		proto: b.proto.n, anyProto: !b.proto.set || b.proto.any, notProto: b.proto.not,
		never:  b.frag.set && !b.frag.not,
		isGoto: r.Goto, line: r.Line, count: c.counter(&r.Count), target: r.target,
	}
	if r.target != nil {
		out.logs = r.target.name() == "LOG" || r.target.name() == "NFLOG"
	}
	if r.jump != "" {
		out.jump = c.chain(t, t.Chain(r.jump), made)
	}
	for _, m := range r.matches {
		out.conds = append(out.conds, m.conditions(c)...)
	}
	return out
}

// none is the bit of "no interface" in a set of them.
const none = 63

// ports returns the interfaces that a name means.
func (c *compiler) ports(n *ifName) (set uint64) {
	if !n.set {
		return ^uint64(0)
	}
	for i, name := range c.interfaces {
		if n.is(name) {
			set |= 1 << i
		}
	}
	if n.name == "+" {
		set |= 1 << none
	}
	if n.not {
		return ^set
	}
	return set
}

// recent returns the list of a name.
func (c *compiler) recent(name string) *recentList {
	l := c.p.recents[name]
	if l == nil {
		l = &recentList{entries: map[flow.Addr]*recentEntry{}}
		c.p.recents[name] = l
	}
	return l
}

// NumCounters is how many counters a shard needs to run the program.
func (p *Program) NumCounters() int { return len(p.counters) }

// AddCounts adds what a shard has counted to the counts of the Rulesets that the
// program was made of.
func (p *Program) AddCounts(counts []Count) {
	for i, n := range counts {
		c := p.counters[i].count
		c.Packets += n.Packets
		c.Bytes += n.Bytes
	}
}

// Gone tells the rules that count connections that one has ended, by its original
// tuple.
func (p *Program) Gone(t flow.Tuple) {
	for _, c := range p.connCounts {
		c.gone(t)
	}
}

func familyIndex(f flow.Family) int {
	if f == flow.IPv4 {
		return 0
	}
	return 1
}

// Has reports whether there is a chain at a hook for packets of a family.
func (p *Program) Has(h Hook, f flow.Family) bool { return p.hooks[familyIndex(f)][h] != nil }

// Busy reports whether there are rules at a hook, or a policy that drops.
func (p *Program) Busy(h Hook, f flow.Family) bool {
	c := p.hooks[familyIndex(f)][h]
	return c != nil && (len(c.rules) > 0 || c.policy == Drop)
}

// NAT reports whether a family has a table nat, so that every connection gets a
// reply tuple of its own even without a rule (the null binding).
func (p *Program) NAT(f flow.Family) bool { return p.nat[familyIndex(f)] }
