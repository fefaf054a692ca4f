package syntax

import (
	"fmt"
	"slices"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// With returns r with the tables of change in place of its own, as iptables-restore
// does it: tables that change does not name stay. Neither is changed.
func (r *Ruleset) With(change *Ruleset) *Ruleset {
	if r == nil {
		return change
	}
	out := &Ruleset{Family: change.Family, Tables: slices.Clone(change.Tables)}
	for _, t := range r.Tables {
		if change.Table(t.Name) == nil {
			out.Tables = append(out.Tables, t)
		}
	}
	return out
}

// Diff returns the lines, as WriteTo prints them, that are only in a ("-") or only in
// b ("+"), in their order, by table; empty if the two say the same.
func Diff(a, b *Ruleset) (lines []string) {
	names := map[string]bool{}
	var order []string
	for _, r := range []*Ruleset{a, b} {
		if r == nil {
			continue
		}
		for _, t := range r.Tables {
			if !names[t.Name] {
				names[t.Name] = true
				order = append(order, t.Name)
			}
		}
	}
	for _, name := range order {
		d := diffLines(tableLines(a, name), tableLines(b, name))
		if len(d) > 0 {
			lines = append(append(lines, "*"+name), d...)
		}
	}
	return lines
}

// tableLines returns the lines of a table without counters. A chain that is empty and
// accepts says nothing.
func tableLines(r *Ruleset, name string) (lines []string) {
	if r == nil || r.Table(name) == nil {
		return nil
	}
	t := r.Table(name)
	for _, c := range t.Chains {
		if c.Policy != "ACCEPT" {
			lines = append(lines, fmt.Sprintf(":%s %s", c.Name, c.Policy))
		}
	}
	for _, c := range t.Chains {
		for _, rule := range c.Rules {
			lines = append(lines, rule.Text(c.Name))
		}
	}
	return lines
}

// diffLines is the difference by a longest common subsequence.
func diffLines(a, b []string) (out []string) {
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	a, b = a[start:], b[start:]
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for k := len(b) - 1; k >= 0; k-- {
			if a[i] == b[k] {
				common[i][k] = common[i+1][k+1] + 1
			} else {
				common[i][k] = max(common[i+1][k], common[i][k+1])
			}
		}
	}
	for i, k := 0, 0; i < len(a) || k < len(b); {
		switch {
		case i < len(a) && k < len(b) && a[i] == b[k]:
			i, k = i+1, k+1
		case i < len(a) && (k == len(b) || common[i+1][k] >= common[i][k+1]):
			out = append(out, "-"+a[i])
			i++
		default:
			out = append(out, "+"+b[k])
			k++
		}
	}
	return out
}

// Notes says what an operator should know of rules that are right: what is kept, but
// not applied.
func (r *Ruleset) Notes() (notes []string) {
	for _, t := range r.Tables {
		for _, c := range t.Chains {
			if len(c.Rules) > 0 && Dormant(t.Name, c.Name) {
				notes = append(notes, fmt.Sprintf("table %s, chain %s: rules kept, and not applied: %d; the host's own packets are its kernel's to filter",
					t.Name, c.Name, len(c.Rules)))
			}
		}
		for _, c := range t.Chains {
			for _, rule := range c.Rules {
				if rule.Why != nil {
					notes = append(notes, fmt.Sprintf("line %d: kept as it is written, and not applied: %s", rule.Line, rule.Why.problem()))
				}
				if p, _ := rule.Base.Proto.Only(); p == flow.DCCP && translatesPorts(rule.Target) {
					notes = append(notes, fmt.Sprintf("line %d: the ports of DCCP stay as they are, as in Linux, which does not track them", rule.Line))
				}
				if n, ok := rule.Target.(*NAT); ok && n.Kind == Redirect {
					notes = append(notes, fmt.Sprintf("line %d: REDIRECT sends to this host, whose answers a router does not see: it drops such packets (local_redirect); DNAT to another host works", rule.Line))
				}
			}
		}
	}
	notes = slices.Compact(notes)
	if more := len(notes) - maxNotes; more > 0 {
		notes = append(notes[:maxNotes], fmt.Sprintf("and %d notes more", more))
	}
	return notes
}

// maxNotes is how many notes there may be.
const maxNotes = 50

func translatesPorts(t Target) bool {
	n, ok := t.(*NAT)
	return ok && (n.To.Ports || n.Ports.Set)
}

// Summary says in a line what there is.
func (r *Ruleset) Summary() string {
	var parts []string
	for _, t := range r.Tables {
		parts = append(parts, fmt.Sprintf("%s %d", t.Name, t.NumRules()))
	}
	if len(parts) == 0 {
		return "no tables"
	}
	return strings.Join(parts, ", ") + " rules"
}
