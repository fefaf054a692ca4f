package policy

import (
	"fmt"
	"math"

	"github.com/xdpct/xdpct/policy/syntax"
)

// maxRewalked is how many rules of a table a packet may pass more than there are, because
// chains are jumped to from more than one rule. Chains that jump twice to the next are
// walked 2^n times: Linux takes them, and a packet then holds up one of its processors
// for as long as that takes. Here it would be all connections of a shard.
const maxRewalked = 1_000_000

// walks finds how many rules a packet passes in a table if all of them match and none
// ends the walk. Work is that of reading each rule once.
type walks struct {
	t    *syntax.Table
	most uint64                   // that may be passed
	of   map[*syntax.Chain]uint64 // chains that are done
}

func newWalks(t *syntax.Table) *walks {
	return &walks{t: t, most: uint64(t.NumRules()) + maxRewalked, of: map[*syntax.Chain]uint64{}}
}

// tooLong returns an error if a packet may pass too many rules from a chain on, and the
// rule that makes them too many: of the chains that it leads to, the first.
func (w *walks) tooLong(c *syntax.Chain) (*syntax.Rule, error) {
	if _, done := w.of[c]; done {
		return nil, nil
	}
	n := uint64(0)
	for _, r := range c.Rules {
		n++
		next := w.t.Chain(r.Jump)
		if next == nil {
			continue
		}
		if r, err := w.tooLong(next); err != nil {
			return r, err
		}
		if n += w.of[next]; n > w.most {
			w.of[c] = math.MaxUint32 // said once
			return r, fmt.Errorf("table %s, chain %s: up to here a packet may pass %d rules of %d, by chains that are jumped to again and again; at most %d may be: jump to %s from one rule",
				w.t.Name, c.Name, n, w.t.NumRules(), w.most, r.Jump)
		}
	}
	w.of[c] = n
	return nil, nil
}
