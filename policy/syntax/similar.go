package syntax

import (
	"fmt"
	"maps"
	"slices"
)

// noSuch says that there is nothing of the name that r jumps to, and what its author may
// have meant.
func (t *Table) noSuch(r *Rule) string {
	var known []string
	what := "chain"
	if !r.Goto {
		what = "target or chain"
		known = slices.Sorted(maps.Keys(targets))
	}
	for _, c := range t.Chains {
		if c.own() {
			known = append(known, c.Name)
		}
	}
	msg := fmt.Sprintf("no %s of that name in table %s", what, t.Name)
	if s := similar(r.Jump, known); s != "" {
		return msg + "; " + s + "?"
	}
	return msg
}

// similar returns the name that is most like another, "" if none is by two edits or less
// (and by less than half of its length).
func similar(name string, known []string) string {
	best, least := "", 3
	for _, k := range known {
		if d := edits(name, k); d < least && 2*d < len(k) {
			best, least = k, d
		}
	}
	return best
}

// edits is how many bytes have to be inserted, removed or replaced to make b of a
// (Levenshtein's distance).
func edits(a, b string) int {
	row := make([]int, len(b)+1) // the distance of what of a was seen to each beginning of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d++
			}
			diagonal = row[j+1]
			row[j+1] = min(d, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
