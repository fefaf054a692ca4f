package syntax

import (
	"io"
	"slices"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// Ruleset is what a file of iptables-save or ip6tables-save says. It does not change
// once it is parsed, and any number of goroutines may read it.
type Ruleset struct {
	Family flow.Family
	Tables []*Table // in the order of the file
}

// Table is one of raw, mangle, nat, filter, security.
type Table struct {
	Name   string
	Chains []*Chain // in the order of the file
	byName map[string]*Chain
}

// Chain is a chain: a hook's own, with a policy, or a user's.
type Chain struct {
	Name   string
	Policy string // ACCEPT or DROP; "-" for a user's chain
	Count  Count
	Rules  []*Rule
}

// Count is the counters of a rule or a policy as the file has them.
type Count struct{ Packets, Bytes uint64 }

// Rule is one rule.
type Rule struct {
	Line    int // in its file, from 1
	Count   Count
	Counted bool // the file has counters
	Base    Base
	Matches []Match
	Target  Target // nil: none
	Goto    bool   // -g, not -j
	Jump    string // user chain, "" if none

	column int // of the name after -j or -g, 0 if none or not known

	// Why says what of the rule was not understood: it stands in a chain that
	// forwarded packets do not pass, and is kept as it is written. nil: nothing.
	Why  *Error
	text string // valid iff Why is set
}

// Table returns the table of that name, nil if there is none.
func (r *Ruleset) Table(name string) *Table {
	for _, t := range r.Tables {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Chain returns the chain of that name, nil if there is none.
func (t *Table) Chain(name string) *Chain { return t.byName[name] }

// add puts a chain behind those that the table has.
func (t *Table) add(c *Chain) {
	if t.byName == nil {
		t.byName = map[string]*Chain{}
	}
	t.Chains = append(t.Chains, c)
	t.byName[c.Name] = c
}

// NumRules returns how many rules there are.
func (r *Ruleset) NumRules() (n int) {
	for _, t := range r.Tables {
		n += t.NumRules()
	}
	return n
}

// NumRules returns how many rules the table has.
func (t *Table) NumRules() (n int) {
	for _, c := range t.Chains {
		n += len(c.Rules)
	}
	return n
}

// Text returns the rule as iptables-save prints it, without counters.
func (r *Rule) Text(chain string) string {
	if r.Why != nil {
		return r.text
	}
	var b strings.Builder
	b.WriteString("-A " + chainName(chain))
	r.Base.write(&b)
	for _, m := range r.Matches {
		b.WriteString(" -m " + m.Name())
		writeAll(&b, m)
	}
	switch {
	case r.Goto:
		b.WriteString(" -g " + chainName(r.Jump))
	case r.Jump != "":
		b.WriteString(" -j " + chainName(r.Jump))
	case r.Target != nil:
		b.WriteString(" -j " + r.Target.Name())
		writeAll(&b, r.Target)
	}
	return b.String()
}

// WriteTo prints the rules as iptables-save does (with counters: as iptables-save
// -c does), without comments. What it prints is read back as the same Ruleset.
func (r *Ruleset) WriteTo(w io.Writer, counters bool) error {
	return (&Counted{ruleset: r}).WriteTo(w, counters)
}

// String is WriteTo without counters.
func (r *Ruleset) String() string {
	var b strings.Builder
	_ = r.WriteTo(&b, false) // a Builder does not fail
	return b.String()
}

// Dormant is a chain whose rules are kept but never asked: those for the host's own
// packets, which do not pass through a forwarder.
func Dormant(table, chain string) bool {
	return (chain == "INPUT" || chain == "OUTPUT") && slices.Contains(builtin[table], chain)
}

// builtin lists the chains that a table has by itself.
var builtin = map[string][]string{
	"raw":      {"PREROUTING", "OUTPUT"},
	"mangle":   {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"nat":      {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"},
	"filter":   {"INPUT", "FORWARD", "OUTPUT"},
	"security": {"INPUT", "FORWARD", "OUTPUT"},
}
