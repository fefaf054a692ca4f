package kernel

import (
	"flag"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/internal/testenv"
)

var survey = flag.Int("survey", 0, "differences of each ruleset that TestSurvey looks for")

// TestSurvey lists differences, many of a seed, for whoever wants to know what there is to
// do: after each it leaves out the packet that showed it, and goes on. -features=all
// brings those that are known.
func TestSurvey(t *testing.T) {
	if *survey == 0 {
		t.Skip("skipped: -survey is missing, which says how many differences; not part of the suite")
	}
	testenv.Root(t)
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	pin(t)
	seen := map[string]int{}
	for i := range *seeds {
		for round := range rulesRounds {
			if *onlyRound >= 0 && round != *onlyRound {
				continue
			}
			tr := makeTrial(first+uint64(i), round)
			for range *survey {
				f, _, err := tr.run()
				if err != nil {
					t.Errorf("seed %d round %d: %v", first+uint64(i), round, err)
					break
				}
				if f == nil {
					break
				}
				small, g := tr.shrink(f)
				if g == nil {
					t.Logf("seed %d round %d: does not show again: %v", first+uint64(i), round, f)
				} else {
					kind := small.kind(g)
					if seen[kind]++; seen[kind] == 1 {
						t.Logf("seed %d round %d: %s\n%s", first+uint64(i), round, kind, small.report(g))
					}
				}
				if f.act >= len(tr.acts) {
					if g == nil || g.act >= len(small.acts) {
						break
					}
					// The packet whose counters differ: leave it out.
					culprit := small.acts[g.act]
					tr.acts = slices.DeleteFunc(tr.acts, func(a act) bool { return a.what == culprit.what })
					continue
				}
				tr.acts = slices.Delete(tr.acts, f.act, f.act+1)
			}
		}
	}
	var all []string
	for k := range seen {
		all = append(all, k)
	}
	slices.Sort(all)
	for _, k := range all {
		t.Logf("%4d %s", seen[k], k)
	}
}

var anyNumber = regexp.MustCompile(`\d+`)

// kind says what kind of difference a finding is, in a line.
func (tr *trial) kind(f *finding) string {
	what, _, _ := strings.Cut(f.what, "\n")
	what = anyNumber.ReplaceAllString(what, "N")
	if f.act < len(tr.acts) {
		what += " | " + tr.acts[f.act].what
	}
	for _, line := range strings.Split(tr.rules, "\n") {
		if strings.HasPrefix(line, "-A") {
			what += " | " + line
		}
	}
	return what
}
