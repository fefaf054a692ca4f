package kernel

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
)

var (
	onlyRound = flag.Int("round", -1, "only this ruleset of a seed's")
	seeds     = flag.Int("seeds", 1, "how many seeds TestRulesAgree takes, from -seed on")
)

const (
	rulesRounds = 24
	rulesActs   = 1200 // a round

	ciSeed = 1
)

// TestRulesAgree puts random rules into a kernel router and into devices of 1, 2 and 4
// shards, and lets hosts on both sides talk through each. What comes out must be the same,
// byte for byte, but for ports that translation draws at random; those must be of the same
// range, and stay what they are. Rules must have counted the same.
func TestRulesAgree(t *testing.T) {
	testenv.Root(t)
	for _, p := range []string{"iptables-restore", "ip6tables-restore", "iptables-legacy-restore", "ip6tables-legacy-restore"} {
		testenv.Program(t, p)
	}
	first := *seed
	switch {
	case first != 0:
	case os.Getenv("CI") != "": // what other seeds find is not the fault of the change under test; make kernel
		first = ciSeed
	default:
		first = uint64(time.Now().UnixNano())
	}
	for i := range *seeds {
		s := first + uint64(i)
		t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
			t.Logf("repeat with: go test ./internal/kernel -run RulesAgree -seed %d", s)
			pin(t)
			var all stats
			for round := range rulesRounds {
				if *onlyRound >= 0 && round != *onlyRound {
					continue
				}
				t.Run(fmt.Sprint(round), func(t *testing.T) {
					pin(t)
					st := makeTrial(s, round).check(t)
					all.Acts += st.Acts
					all.Forwarded += st.Forwarded
					all.Answered += st.Answered
					all.Drawn += st.Drawn
					all.Evaded += st.Evaded
				})
			}
			t.Logf("%+v", all)
			if *onlyRound < 0 && !t.Failed() && (all.Forwarded < all.Acts/10 || all.Drawn == 0) {
				t.Errorf("hardly anything was compared: %+v", all)
			}
		})
	}
}

// makeTrial makes the rules and the traffic of a round.
func makeTrial(seed uint64, round int) *trial {
	r := rand.New(rand.NewPCG(seed, uint64(round)))
	tr := &trial{family: flow.IPv4, shards: shardCounts, legacy: round%4 == 1}
	if round%3 == 2 {
		tr.family = flow.IPv6
	}
	if !on("shards") {
		tr.shards = shardCounts[:1]
	}
	if one(r, 3) && on("mtu") {
		tr.lab.mtu[B] = 1400
	}
	tr.lab.remote = one(r, 2)
	if one(r, 3) && on("routemtu") && (tr.family == flow.IPv4 || on("routemtu6")) {
		tr.lab.narrow = 1300
	}
	n := rulesActs
	g := &rulesets{r: r, f: tr.family, legacy: tr.legacy}
	if round%8 == 3 { // nf_conncount looks at its lists once in a jiffy
		g.connlimit, tr.jiffies, n = true, 1, 120
	}
	tr.rules = g.text()
	tr.acts = (&traffic{r: r, f: tr.family, lab: &tr.lab, legacy: tr.legacy}).acts(n)
	return tr
}

// pin keeps a test on one CPU until its end.
func pin(t *testing.T) {
	unpin, err := Pin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(unpin)
}
