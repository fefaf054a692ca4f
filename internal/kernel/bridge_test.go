package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
)

const (
	bridgeRounds = 12
	bridgeActs   = 400 // a round
)

// bridgeTrial is rules of both families, and frames.
type bridgeTrial struct {
	k       *linuxBridge
	x       *xdpctBridge
	plain   bool // the engine has no rules at all
	rules   [2]string
	acts    []act
	frames  [][][]byte // of each act, as they were sent first
	closely bool       // compare counters after each act
}

// TestBridgeAgrees puts random rules into the kernel's bridge (br_netfilter) and into an
// engine in bridge mode, and sends random frames through both. What comes out must be the
// same byte for byte, and so must the connections and what rules have counted; what does
// not come out the engine has counted as dropped.
func TestBridgeAgrees(t *testing.T) {
	testenv.Root(t)
	for _, p := range []string{"iptables-legacy-restore", "ip6tables-legacy-restore", "ip", "bridge", "nft"} {
		testenv.Program(t, p)
	}
	if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
		testenv.Missing(t, "br_netfilter")
	}
	k, err := newLinuxBridge()
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	for i := range *seeds {
		s := firstSeed() + uint64(i)
		t.Run(fmt.Sprintf("seed %d", s), func(t *testing.T) {
			t.Logf("repeat with: go test ./internal/kernel -run BridgeAgrees -seed %d", s)
			for _, plain := range []bool{false, true} {
				x, err := newXdpctBridge(!plain)
				if err != nil {
					t.Fatal(err)
				}
				defer x.close()
				for round := range bridgeRounds {
					if *onlyRound >= 0 && round != *onlyRound || plain && round%6 != 0 {
						continue
					}
					t.Run(fmt.Sprint(map[bool]string{true: "plain "}[plain], round), func(t *testing.T) {
						r := rand.New(rand.NewPCG(s, uint64(round)))
						tr := &bridgeTrial{k: k, x: x, plain: plain}
						tr.rules = [2]string{noRules, noRules}
						for i, f := range []flow.Family{flow.IPv4, flow.IPv6} {
							if !plain {
								tr.rules[i] = bridgeRules((&rulesets{r: r, f: f, bridge: true, legacy: true}).text())
							}
						}
						tr.acts = newBridgeTraffic(r, plain).acts(bridgeActs)
						tr.frames = make([][][]byte, len(tr.acts))
						tr.check(t)
					})
				}
			}
		})
	}
}

// firstSeed is that of the flag, in CI always the same, else another each time.
func firstSeed() uint64 {
	switch {
	case *seed != 0:
		return *seed
	case os.Getenv("CI") != "":
		return ciSeed
	}
	return uint64(time.Now().UnixNano())
}

var (
	rejectTarget = regexp.MustCompile(`-j REJECT.*`)
	notOut       = regexp.MustCompile(`(-A (?:one|two|three) .*)! -o`)
)

// bridgeRules lets rules drop what they would reject, since a bridge of the kernel without an
// address answers nothing. Chains that may be entered before it is known where a packet leaves
// ask for no port by which it does not: -m physdev then says no, -o yes.
func bridgeRules(rules string) string {
	return notOut.ReplaceAllString(rejectTarget.ReplaceAllString(rules, "-j DROP"), "$1-o")
}

// run sends all acts through both, and returns the first difference.
func (tr *bridgeTrial) run() (f *finding, err error) {
	rules := [2]string{renamed(tr.rules[0]), renamed(tr.rules[1])}
	if err := tr.k.load(rules); err != nil {
		return nil, fmt.Errorf("the kernel: %w", err)
	}
	if !tr.plain {
		err = tr.x.load(rules)
	} else {
		err = tr.x.forget()
	}
	if err != nil {
		return nil, fmt.Errorf("xdpct: %w", err)
	}
	for i := range tr.acts {
		if t := tr.acts[i].talk; t != nil {
			t.far, t.near = [maxRouters]*end{}, [maxRouters]*end{}
		}
	}
	for n := range tr.acts {
		a := &tr.acts[n]
		if tr.frames[n] == nil {
			if tr.frames[n] = a.frames(0); tr.frames[n] == nil {
				tr.frames[n] = [][]byte{}
			}
		}
		if len(tr.frames[n]) == 0 {
			continue
		}
		what, err := tr.act(a, tr.frames[n])
		if err != nil {
			return nil, fmt.Errorf("%w: %s, %s", err, a.what, dump(tr.frames[n]))
		}
		if what == "" && tr.closely {
			what = tr.compareCounts(rules)
		}
		if what != "" {
			return &finding{n, 1, what, fmt.Sprintf("%s from side %d\nsent %s", a.what, a.from, dump(tr.frames[n]))}, nil
		}
	}
	what := tr.compareCounts(rules)
	if what == "" {
		what = tr.compareTables()
	}
	if what != "" {
		return &finding{len(tr.acts), 1, what, ""}, nil
	}
	return nil, nil
}

// act sends frames through both, and says what differs.
func (tr *bridgeTrial) act(a *act, frames [][]byte) (what string, err error) {
	before, err := tr.x.stats()
	if err != nil {
		return "", err
	}
	k, err := tr.k.exchange(a.from, frames...)
	if err != nil {
		return "", fmt.Errorf("the kernel: %w", err)
	}
	x, err := tr.x.exchange(a.from, frames...)
	if err != nil {
		return "", fmt.Errorf("xdpct: %w", err)
	}
	after, err := tr.x.stats()
	if err != nil {
		return "", err
	}
	for side := range k {
		if a, b := joined6(k[side]), joined6(x[side]); a != nil && bytes.Equal(a, b) && sameLinks(x[side], frames[0]) {
			continue
		}
		same := slices.EqualFunc(k[side], x[side], bytes.Equal)
		if tr.plain { // it leaves frames as they are, where the kernel trims them, and cuts datagrams anew
			same = (len(k[side]) > 0) == (len(x[side]) > 0) && !slices.ContainsFunc(x[side], func(f []byte) bool {
				return !slices.ContainsFunc(frames, func(sent []byte) bool { return bytes.Equal(f, sent) })
			})
		}
		if !same {
			return fmt.Sprintf("to side %d:\nkernel %s\nxdpct  %s\n%s", side, dump(k[side]), dump(x[side]), reasons(&before, &after)), nil
		}
	}
	if len(frames) == 1 && len(x[a.from^1]) == 0 && len(k[a.from^1]) == 0 {
		if after.Dropped == before.Dropped && !isFragment(frames[0]) {
			return "lost, and not counted as dropped: " + reasons(&before, &after), nil
		}
	}
	var out [maxRouters][2][][]byte
	for _, f := range k[a.from^1] {
		out[0][a.from^1] = append(out[0][a.from^1], withoutTags(f))
	}
	if a.plain {
		a.see(&out)
	}
	return "", nil
}

// joined6 returns the datagram that fragments of IPv6 make, in the frame of the first, nil if
// frames are anything else. br_netfilter cuts such anew, to other lengths than they came in,
// one alone among them, and gives them another identification, and the VLAN tag that the last
// fragments of IPv4 had, or none.
func joined6(frames [][]byte) (whole []byte) {
	joined := 0
	for i, f := range frames {
		f = withoutTags(f)
		h, ok := headerAt(f, 14)
		if !ok || h.family != flow.IPv6 || h.fragAt == 0 {
			return nil
		}
		if i == 0 {
			whole = append(append(whole, f[:h.fragAt]...), f[h.fragAt])
			whole[18], whole[19] = 0, 0 // its length
		}
		if at := int(binary.BigEndian.Uint16(f[h.fragAt+2:]) &^ 7); at != joined || h.more != (i < len(frames)-1) {
			return nil
		}
		joined += h.end - h.fragAt - 8
		whole = append(whole, f[h.fragAt+8:h.end]...)
	}
	return whole
}

// sameLinks reports whether frames have the link header of another.
func sameLinks(frames [][]byte, of []byte) bool {
	n := len(of) - len(withoutTags(of)) + 14
	return !slices.ContainsFunc(frames, func(f []byte) bool { return len(f) < n || !bytes.Equal(f[:n], of[:n]) })
}

// isFragment reports whether a frame carries a fragment of an IP datagram.
func isFragment(f []byte) bool {
	f = withoutTags(f)
	if len(f) >= 34 && f[12] == 8 && f[13] == 0 {
		return f[20]&0x3f != 0 || f[21] != 0
	}
	h, ok := headerAt(f, 14)
	return ok && h.fragAt > 0
}

// withoutTags returns a frame without its VLAN tags.
func withoutTags(f []byte) []byte {
	f = bytes.Clone(f)
	for len(f) >= 18 && (f[12] == 0x81 && f[13] == 0 || f[12] == 0x88 && f[13] == 0xa8 || f[12] == 0x91 && f[13] == 0) {
		f = append(f[:12], f[16:]...)
	}
	return f
}

func (tr *bridgeTrial) compareCounts(rules [2]string) string {
	if tr.plain {
		return ""
	}
	k, err := tr.k.save()
	if err != nil {
		return err.Error()
	}
	x, err := tr.x.save()
	if err != nil {
		return err.Error()
	}
	for i := range k {
		if all := sameCounts(k[i], x[i], rules[i]); len(all) > 0 {
			return strings.Join(all, "\n")
		}
	}
	return ""
}

// compareTables says what is different about the connections.
func (tr *bridgeTrial) compareTables() string {
	text, err := tr.k.box.ReadFile("/proc/net/nf_conntrack")
	if err != nil {
		return err.Error()
	}
	records, err := tr.x.records()
	if err != nil {
		return err.Error()
	}
	what, err := differRecords(text, records)
	if err != nil {
		return err.Error()
	}
	return what
}

// check runs a trial, and fails t with the smallest one that shows the difference.
func (tr *bridgeTrial) check(t *testing.T) {
	t.Helper()
	f, err := tr.run()
	if err != nil {
		t.Fatalf("%v\nrules:\n%s\n%s", err, tr.rules[0], tr.rules[1])
	}
	if f == nil {
		return
	}
	small, g := tr.shrink(f)
	if g == nil {
		unrepeated(t, f.String()+"\nrules:\n"+tr.rules[0]+tr.rules[1])
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v\nplain %v, %d acts", g, small.plain, len(small.acts))
	for i := range small.acts {
		fmt.Fprintf(&b, "\n%3d %s from side %d", i, small.acts[i].what, small.acts[i].from)
		if len(small.acts) <= 12 {
			fmt.Fprintf(&b, "\n       %s", dump(small.frames[i]))
		}
	}
	t.Fatalf("%s\nrules:\n%s\n%s", b.String(), small.rules[0], small.rules[1])
}

// shrink returns the smallest trial that it finds with a difference, and the difference:
// nil if it does not show again.
func (tr *bridgeTrial) shrink(f *finding) (*bridgeTrial, *finding) {
	deadline := time.Now().Add(shrinkTime)
	best, last := *tr, (*finding)(nil)
	try := func(t bridgeTrial) bool {
		if time.Now().After(deadline) && last != nil {
			return false
		}
		g, err := t.run()
		if err != nil || g == nil {
			return false
		}
		if g.act < len(t.acts) {
			t.acts, t.frames = t.acts[:g.act+1], t.frames[:g.act+1]
		}
		best, last = t, g
		return true
	}
	part := func(from, to int) bridgeTrial {
		t := best
		t.acts, t.frames = slices.Clone(best.acts[from:to]), slices.Clone(best.frames[from:to])
		return t
	}
	if f.act < len(tr.acts) {
		alone := part(f.act, f.act+1)
		alone.rules = [2]string{noRules, noRules}
		_ = try(alone) || try(part(f.act, f.act+1)) || try(part(0, f.act+1))
	}
	if last == nil && !try(*tr) && !try(*tr) {
		return tr, nil
	}
	for range 2 {
		minimise(len(best.acts), func(from, to int) bool {
			t := best
			t.acts = append(slices.Clone(best.acts[:from]), best.acts[to:]...)
			t.frames = append(slices.Clone(best.frames[:from]), best.frames[to:]...)
			return try(t)
		}, func() int { return len(best.acts) })
		for i := range best.rules {
			lines := strings.SplitAfter(best.rules[i], "\n")
			minimise(len(lines), func(from, to int) bool {
				for _, l := range lines[from:to] {
					if !strings.HasPrefix(l, "-A") || l == tracks {
						return false
					}
				}
				without := append(slices.Clone(lines[:from]), lines[to:]...)
				t := best
				t.rules[i] = strings.Join(without, "")
				if !try(t) {
					return false
				}
				lines = without
				return true
			}, func() int { return len(lines) })
		}
		closer := best
		closer.closely = true
		try(closer)
	}
	return &best, last
}
