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

// Heritage says which counters of a program go on counting for which of the one before.
type Heritage struct {
	before *Program
	all    []heir
}

// heir is a counter that goes on with what another has counted.
type heir struct {
	n     int   // its number
	of    int   // that of the other, -1 if that is not counted
	had   Count // what the other has in that case
	began Count // what of it this one has already
}

// Heritage says what goes on counting: the rules and policies of tables that were not
// replaced, and otherwise, where the file had no counters of theirs, those with the same
// text in the same chain, the first of them to the first. It looks at no counter, so it may
// run while shards count.
func (p *Program) Heritage(before *Program) *Heritage {
	h := &Heritage{before: before}
	if before == nil {
		return h
	}
	for i, r := range p.rulesets {
		if r == nil || before.rulesets[i] == nil {
			continue
		}
		for _, t := range r.Tables {
			if was := before.rulesets[i].Table(t.Name); was != nil {
				for _, c := range t.Chains {
					if old := was.Chain(c.Name); old != nil {
						h.chain(p, c, old)
					}
				}
			}
		}
	}
	return h
}

// chain adds the counters of a chain and its rules, which take the place of was.
func (h *Heritage) chain(p *Program, c, was *syntax.Chain) {
	if n, ok := p.chains[c]; ok && (c == was || c.Count == Count{}) {
		of, known := h.before.chains[was]
		h.add(n, of, known, was.Count, c.Count)
	}
	if c == was {
		for _, r := range c.Rules {
			if n, ok := p.rules[r]; ok {
				of, known := h.before.rules[r]
				h.add(n, of, known, r.Count, r.Count)
			}
		}
		return
	}
	same := map[string][]*syntax.Rule{}
	for _, r := range was.Rules {
		text := r.Text(c.Name)
		same[text] = append(same[text], r)
	}
	for _, r := range c.Rules {
		n, compiled := p.rules[r]
		if !compiled || r.Counted {
			continue
		}
		text := r.Text(c.Name)
		if olds := same[text]; len(olds) > 0 {
			of, known := h.before.rules[olds[0]]
			h.add(n, of, known, olds[0].Count, Count{})
			same[text] = olds[1:]
		}
	}
}

// add adds a counter: known says whether the one before has a number.
func (h *Heritage) add(n, of int, known bool, had, began Count) {
	if !known {
		of = -1
	}
	h.all = append(h.all, heir{n, of, had, began})
}

// CarryCounts adds what the program before has counted. To be called when no shard counts
// for that any more.
func (p *Program) CarryCounts(h *Heritage) {
	for i := range h.all {
		e := &h.all[i]
		had := e.had
		if e.of >= 0 {
			had = h.before.counts[e.of]
		}
		p.counts[e.n].Packets += had.Packets - e.began.Packets
		p.counts[e.n].Bytes += had.Bytes - e.began.Bytes
	}
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
// there are none. It does not change.
func (p *Program) Ruleset(f flow.Family) *syntax.Counted {
	r := p.rulesets[f.Index()]
	if r == nil {
		return nil
	}
	return r.WithCounts(p.ofChain, p.ofRule)
}
