package kernel

import (
	"flag"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/internal/testenv"
)

// Features are kinds of traffic and rules that a generator may leave out. Those in known
// are left out unless -features names them: what comes of them is known to differ.
//
// A feature leaves the list when it no longer differs; TestKnownDifferences says so.
var known = map[string]string{
	"cutnft":       "iptables-nft makes expressions of its own of matches for ports, which do not drop a packet that is cut off",
	"ah6nft":       "iptables-nft takes AH for the protocol of an IPv6 packet, ip_tables what follows it",
	"optown":       "what is wrong with options of a packet for the router itself is the host's to say: its answers pass the kernel's rules, and not xdpct",
	"srcown6":      "the kernel's answers come back to it by its loopback interface",
	"srcanycast6":  "as srcown6",
	"srcbroadcast": "errors to broadcast addresses, which xdpct does not send",
	"dstzero6":     "masquerading to :: takes another source (docs/parity.md)",
	"gredamaged":   "GRE of unknown versions under translation",
	"zoneorig":     "a zone for the original direction alone, of which some packets of the same addresses and ports know nothing (docs/parity.md)",
	"zonereply":    "a zone for replies alone, of which some packets of the same addresses and ports know nothing (docs/parity.md)",
}

var onlyFeatures = flag.String("features", "", "features to take although they are known to differ, by name, with commas between; all: all of them")

// forced is a known feature that is taken all the same.
var forced string

// on reports whether a feature is wanted.
func on(feature string) bool {
	if _, differs := known[feature]; !differs {
		return true
	}
	return feature == forced || *onlyFeatures == "all" || slices.Contains(strings.Split(*onlyFeatures, ","), feature)
}

var knownSeeds = flag.Int("known", 0, "seeds that TestKnownDifferences takes for each feature that is known to differ")

// TestKnownDifferences takes each feature that is known to differ by itself, and fails for
// those that do not differ any more: they have to leave the list.
func TestKnownDifferences(t *testing.T) {
	if *knownSeeds == 0 {
		t.Skip("skipped: -known is missing, which says how many seeds; not part of the suite")
	}
	testenv.Root(t)
	defer func() { forced = "" }()
	for feature, why := range known {
		forced = feature
		t.Run(feature, func(t *testing.T) {
			pin(t)
			var f *finding
			for seed := 0; seed < *knownSeeds && f == nil; seed++ {
				for round := 0; round < rulesRounds && f == nil; round++ {
					tr := makeTrial(uint64(1000+seed), round)
					var err error
					if f, _, err = tr.run(); err != nil {
						t.Fatal(err)
					}
					if f != nil {
						small, g := tr.shrink(f)
						if g == nil {
							f = nil
							continue
						}
						t.Logf("%s\n%s", why, small.report(g))
					}
				}
			}
			if f == nil {
				t.Errorf("no longer differs: %s", why)
			}
		})
	}
}
