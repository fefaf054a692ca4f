package policy

import (
	"fmt"

	"github.com/xdpct/xdpct/policy/syntax"
)

// MaxMemory is how many bytes the tables may take in which the matches of a Program remember
// what they have seen: connlimit, of which each rule has one of 17 MB, hashlimit and recent.
// They are made in full when the rules are loaded, and memory that is not there would end
// the process.
const MaxMemory = 4 << 30

// checkMemory says whether the tables of the rules are larger than they may be.
func (p *Program) checkMemory() error {
	connlimits := 0
	hashes, recents := map[tableName]int{}, map[string]int{}
	for _, r := range p.rulesets {
		for m := range matchesOf(r) {
			switch m := m.(type) {
			case *syntax.ConnLimit:
				connlimits++
			case *syntax.HashLimit:
				most, keyWords := hashDims(m, r.Family)
				name := tableName{m.Table.S, r.Family}
				hashes[name] = max(hashes[name], storeBytes(most, keyWords+hashState))
			case *syntax.Recent:
				recents[m.List.S] = max(recents[m.List.S], storeBytes(recentAddrs, recentFixed+int(stampsFor(m))))
			}
		}
	}
	all := connlimits * storeBytes(connMax, connWidth)
	for _, n := range hashes {
		all += n
	}
	for _, n := range recents {
		all += n
	}
	if all > MaxMemory {
		return fmt.Errorf("what %d rules of connlimit, %d tables of hashlimit and %d lists of recent remember takes %d MiB; at most %d MiB are possible",
			connlimits, len(hashes), len(recents), all>>20, MaxMemory>>20)
	}
	return nil
}
