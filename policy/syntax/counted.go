package syntax

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// Counted is a Ruleset with counters that are not those of its file. It does not change,
// and takes no more memory than they do.
type Counted struct {
	ruleset *Ruleset
	// In the order of the tables, of their chains, and of the rules of those; nil: those
	// of the file.
	chains, rules []Count
}

// WithCounts returns the rules with the counters that the functions say.
func (r *Ruleset) WithCounts(ofChain func(*Chain) Count, ofRule func(*Rule) Count) *Counted {
	out := &Counted{ruleset: r, chains: make([]Count, 0, r.numChains()), rules: make([]Count, 0, r.NumRules())}
	for _, t := range r.Tables {
		for _, c := range t.Chains {
			out.chains = append(out.chains, ofChain(c))
			for _, rule := range c.Rules {
				out.rules = append(out.rules, ofRule(rule))
			}
		}
	}
	return out
}

// Each calls visit for each chain of each table with its counters and those of its rules,
// until it returns false. What it is given must not be changed.
func (r *Counted) Each(visit func(t *Table, c *Chain, policy Count, rules []Count) bool) {
	chain, rule := 0, 0
	for _, t := range r.ruleset.Tables {
		for _, c := range t.Chains {
			if !visit(t, c, r.chains[chain], r.rules[rule:rule+len(c.Rules)]) {
				return
			}
			chain++
			rule += len(c.Rules)
		}
	}
}

// WriteTo prints the rules as Ruleset.WriteTo does. It ends with the first error of w.
func (r *Counted) WriteTo(w io.Writer, counters bool) error {
	b := bufio.NewWriterSize(w, 1<<16)
	chain, rule := 0, 0 // the first of the table
	for _, t := range r.ruleset.Tables {
		fmt.Fprintf(b, "*%s\n", t.Name)
		first := make([]int, len(t.Chains)) // rule of each chain
		for i, c := range t.Chains {
			count := c.Count
			if r.chains != nil {
				count = r.chains[chain+i]
			}
			if _, err := fmt.Fprintf(b, ":%s %s [%d:%d]\n", chainName(c.Name), c.Policy, count.Packets, count.Bytes); err != nil {
				return err
			}
			first[i] = rule
			rule += len(c.Rules)
		}
		for _, i := range t.printOrder() {
			if err := r.writeRules(b, t.Chains[i], first[i], counters); err != nil {
				return err
			}
		}
		fmt.Fprintln(b, "COMMIT")
		chain += len(t.Chains)
	}
	return b.Flush()
}

// writeRules prints the rules of a chain, the first of which has the counters of that
// number.
func (r *Counted) writeRules(b *bufio.Writer, c *Chain, first int, counters bool) error {
	var buf []byte
	for k, rule := range c.Rules {
		buf = buf[:0]
		if counters {
			count := rule.Count
			if r.rules != nil {
				count = r.rules[first+k]
			}
			buf = append(strconv.AppendUint(append(buf, '['), count.Packets, 10), ':')
			buf = append(strconv.AppendUint(buf, count.Bytes, 10), "] "...)
		}
		buf = append(append(buf, rule.Text(c.Name)...), '\n')
		if _, err := b.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// printOrder is the order of the chains that have rules: that of the lines of those.
func (t *Table) printOrder() []int {
	order := make([]int, 0, len(t.Chains))
	for i, c := range t.Chains {
		if len(c.Rules) > 0 {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return t.Chains[a].Rules[0].Line - t.Chains[b].Rules[0].Line })
	return order
}
