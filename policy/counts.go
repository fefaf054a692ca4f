package policy

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy/syntax"
)

// NumCounters is how many counters a shard needs to run the program.
func (p *Program) NumCounters() int { return len(p.counts) }

// AddCounts adds what a shard has counted.
func (p *Program) AddCounts(counts []Count) {
	for i, n := range counts {
		p.counts[i].Packets += n.Packets
		p.counts[i].Bytes += n.Bytes
	}
}

// CarryCounts adds what the program before has counted for the same rules and
// policies: those of tables that were not replaced, and otherwise, where the file had
// no counters of theirs, those with the same text in the same chain, the first of
// them to the first. To be called when no shard counts for before any more.
func (p *Program) CarryCounts(before *Program) {
	if before == nil {
		return
	}
	for i, r := range p.rulesets {
		if r == nil || before.rulesets[i] == nil {
			continue
		}
		for _, t := range r.Tables {
			if was := before.rulesets[i].Table(t.Name); was != nil {
				for _, c := range t.Chains {
					if old := was.Chain(c.Name); old != nil {
						p.carry(before, c, old)
					}
				}
			}
		}
	}
}

func (p *Program) carry(before *Program, c, was *syntax.Chain) {
	if n, ok := p.chains[c]; ok && (c == was || c.Count == Count{}) {
		p.add(n, before.ofChain(was), c.Count)
	}
	if c == was {
		for _, r := range c.Rules {
			if n, ok := p.rules[r]; ok {
				p.add(n, before.ofRule(r), r.Count)
			}
		}
		return
	}
	counts := map[string][]Count{}
	for _, r := range was.Rules {
		text := r.Text(c.Name)
		counts[text] = append(counts[text], before.ofRule(r))
	}
	for _, r := range c.Rules {
		n, compiled := p.rules[r]
		if !compiled || r.Counted {
			continue
		}
		text := r.Text(c.Name)
		if same := counts[text]; len(same) > 0 {
			p.add(n, same[0], Count{})
			counts[text] = same[1:]
		}
	}
}

// add adds to a count what another program had, but for what it began with.
func (p *Program) add(n int, had, began Count) {
	p.counts[n].Packets += had.Packets - began.Packets
	p.counts[n].Bytes += had.Bytes - began.Bytes
}

func (p *Program) ofRule(r *syntax.Rule) Count {
	if n, ok := p.rules[r]; ok {
		return p.counts[n]
	}
	return r.Count
}

func (p *Program) ofChain(c *syntax.Chain) Count {
	if n, ok := p.chains[c]; ok {
		return p.counts[n]
	}
	return c.Count
}

// Ruleset returns the rules of a family with what they have counted so far, nil if
// there are none. It is a copy, which does not change.
func (p *Program) Ruleset(f flow.Family) *syntax.Ruleset {
	r := p.rulesets[f.Index()]
	if r == nil {
		return nil
	}
	return r.WithCounts(p.ofChain, p.ofRule)
}
