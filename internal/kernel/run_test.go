package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/shard"
)

// shardCounts are how many shards the devices have that are compared with the kernel.
// Router 0 of a trial is the kernel, the others are devices in this order.
var shardCounts = []int{1, 2, 4}

// maxRouters bounds the routers of a trial.
const maxRouters = 4

// act is something that a host does: the frames that it sends, which may depend on what
// it has received through the router in question.
type act struct {
	talk   *talk
	from   Side
	client bool   // the client of the talk acts: what comes out is seen by the server
	plain  bool   // an ordinary packet of the talk, to be seen
	what   string // for reports
	frames func(router int) [][]byte
}

// trial is rules and traffic. The same trial may be run again, and parts of it.
type trial struct {
	lab     lab
	family  flow.Family
	sysctls map[string]string
	rules   string
	shards  []int
	acts    []act
	// jiffies is how many ticks of the kernel's clock pass before each act.
	jiffies int
	// legacy has the kernel's rules by ip_tables, whose matches xdpct's are; otherwise
	// nf_tables, for which iptables makes expressions of its own of some.
	legacy bool
	// closely compares counters after each act, to find the one that is to blame.
	closely bool
}

// finding is a difference between the kernel and a device.
type finding struct {
	act    int // its number; that of the acts if only counters differ
	shards int
	what   string
	sent   string
}

func (f *finding) String() string {
	return fmt.Sprintf("%d shards, act %d: %s\n%s", f.shards, f.act, f.what, f.sent)
}

// jiffy is a tick of the kernel's clock, or longer (CONFIG_HZ of 100 or more).
const jiffy = 10 * time.Millisecond

// stats are what happened in a trial, so that a test can tell whether it tested anything.
type stats struct {
	Acts, Forwarded, Answered int
	Drawn, Evaded             int
}

// run runs a trial and returns the first difference, nil if there is none.
func (tr *trial) run() (f *finding, st stats, err error) {
	for range 3 {
		var disturbed bool
		if f, st, disturbed, err = tr.runOnce(); !disturbed {
			break
		}
	}
	return f, st, err
}

// runOnce runs a trial. disturbed says that rules of the kernel's router have seen what it
// sent of its own accord, which they have counted, and which may have been the turn of one
// that takes every third packet.
func (tr *trial) runOnce() (f *finding, st stats, disturbed bool, err error) {
	for i := range tr.acts {
		if t := tr.acts[i].talk; t != nil {
			*t.sights = sights{}
		}
	}
	rules := renamed(tr.rules)
	k, err := newLinux(&tr.lab, tr.family, rules, tr.sysctls, tr.legacy)
	if err != nil {
		return nil, st, false, fmt.Errorf("the kernel: %w", err)
	}
	defer k.close()
	own, routers := k.o.Own, []router{k}
	for _, n := range tr.shards {
		d, err := newDevice(n, &tr.lab, tr.family, rules)
		if err != nil {
			return nil, st, false, fmt.Errorf("xdpct: %w", err)
		}
		defer d.close()
		routers = append(routers, d)
	}
	translated := make([]*translations, len(routers))
	for i := range translated {
		translated[i] = newTranslations(tr.rules)
	}
	for n := range tr.acts {
		a := &tr.acts[n]
		if tr.jiffies > 0 {
			time.Sleep(time.Duration(tr.jiffies) * jiffy)
		}
		var out [maxRouters][2][][]byte
		var sent [maxRouters][][]byte
		for i, r := range routers {
			if sent[i] = a.frames(i); len(sent[i]) == 0 {
				continue
			}
			if out[i], err = r.exchange(a.from, sent[i]...); err != nil {
				return nil, st, false, err
			}
		}
		if len(sent[0]) == 0 {
			continue
		}
		st.Acts++
		st.Forwarded += len(out[0][a.from^1])
		st.Answered += len(out[0][a.from])
		for i := 1; i < len(routers); i++ {
			if routers[i].(*device).last.Action == shard.Host { // what its host makes of it
				continue
			}
			what := translated[i].compare(&out[0], &out[i], sent[0], sent[i], routers[i].(*device))
			if what == "" && tr.closely {
				what = tr.compareCounts(k, routers[i])
			}
			if what != "" && tr.apart(sent[0], sent[i], routers[i].(*device)) || tr.readApart(sent[0], sent[i]) {
				return nil, st, false, nil
			}
			if what != "" {
				return &finding{n, tr.shards[i-1], what, tr.describe(a, sent[0], sent[i], routers[i].(*device))}, st, k.o.Own > own, nil
			}
		}
		if a.plain {
			a.see(&out)
		}
	}
	for i := 1; i < len(routers); i++ {
		st.Drawn += translated[i].Drawn
		st.Evaded += translated[i].Evaded
		if what := tr.compareCounts(k, routers[i]); what != "" {
			return &finding{len(tr.acts), tr.shards[i-1], what, ""}, st, k.o.Own > own, nil
		}
	}
	return nil, st, false, nil
}

// apart reports whether rules may have come to different ends for good reason: the routers
// were sent different packets, since each had drawn a port, and these begin a connection,
// for rules put them into another zone than the one that they answer. Then a port that was
// drawn is matched as any other.
func (tr *trial) apart(k, x [][]byte, d *device) bool {
	return !slices.EqualFunc(k, x, slices.Equal[[]byte]) && d.last.State == flow.New &&
		strings.Contains(tr.rules, "CT --zone") && strings.Contains(tr.rules, "--random")
}

// What rules read of packets where there may be a port that was drawn.
var (
	searchedFor = regexp.MustCompile(`--from (\d+) --to (\d+) --hex-string "\|([0-9a-f]+)\|"`)
	namedPorts  = regexp.MustCompile(`--[a-z-]*ports? ([0-9:,]+)(?:\s|$)`)
)

// readApart reports whether rules may rightly read different things in what two routers
// were sent, since each had drawn a port, or an identifier of pings: a string, or a port
// that a rule names.
func (tr *trial) readApart(k, x [][]byte) bool {
	for i := range min(len(k), len(x)) {
		if slices.Equal(k[i], x[i]) {
			continue
		}
		for _, m := range searchedFor.FindAllStringSubmatch(tr.rules, -1) {
			if finds(m, k[i]) != finds(m, x[i]) {
				return true
			}
		}
		for _, source := range []bool{true, false} {
			if kp, xp := portIn(k[i], source), portIn(x[i], source); kp != xp && tr.names(kp) != tr.names(xp) {
				return true
			}
		}
	}
	return false
}

// finds reports whether a rule that searchedFor has found finds its string in a packet.
func finds(m []string, frame []byte) bool {
	from, err1 := strconv.Atoi(m[1])
	to, err2 := strconv.Atoi(m[2])
	s, err3 := hex.DecodeString(m[3])
	if err1 != nil || err2 != nil || err3 != nil {
		return false
	}
	d := untagged(frame)[14:]
	return bytes.Contains(d[min(from, len(d)):min(to+len(s), len(d))], s)
}

// portIn returns the source (or destination) port of a frame, 0 if there is none.
func portIn(frame []byte, source bool) uint16 {
	if h, ok := headerAt(untagged(frame), 14); ok {
		if at, ok := h.port(untagged(frame), source); ok {
			return binary.BigEndian.Uint16(untagged(frame)[at:])
		}
	}
	return 0
}

// names lists the ranges of ports in the rules' text that have a port, by their places.
func (tr *trial) names(port uint16) (all string) {
	for n, m := range namedPorts.FindAllStringSubmatch(tr.rules, -1) {
		for part := range strings.SplitSeq(m[1], ",") {
			lo, hi, ranged := strings.Cut(part, ":")
			if !ranged {
				hi = lo
			}
			if within(portsOf([]string{"", lo, hi}), port) {
				all += fmt.Sprintf("%d:%s ", n, part)
			}
		}
	}
	if port == 53 && strings.Contains(tr.rules, "--u32") {
		all += "u32"
	}
	return all
}

// see lets the hosts of a talk have what came out.
func (a *act) see(out *[maxRouters][2][][]byte) {
	for i := range out {
		for _, frame := range out[i][a.from^1] {
			e := seen(frame)
			if e == nil || e.proto != a.talk.proto {
				continue // a fragment, or an error
			}
			if a.client {
				a.talk.far[i] = e
			} else {
				a.talk.near[i] = e
			}
		}
	}
}

// compare compares what came out of the kernel and of a device.
func (t *translations) compare(kernel, device *[2][][]byte, sentK, sentX [][]byte, d *device) string {
	for side := range kernel {
		k, x := kernel[side], device[side]
		if len(k) != len(x) {
			return fmt.Sprintf("to side %d: the kernel sent %d frames, xdpct %d\nkernel %s\nxdpct  %s", side, len(k), len(x), dump(k), dump(x))
		}
		for i := range k {
			sent := [2][]byte{untagged(sentK[min(i, len(sentK)-1)]), untagged(sentX[min(i, len(sentX)-1)])}
			if what := t.sameFrame(k[i], x[i], sent, d.last.State == flow.New); what != "" {
				return fmt.Sprintf("to side %d: %s", side, what)
			}
		}
	}
	return ""
}

// untagged returns a frame without its VLAN tag.
func untagged(f []byte) []byte {
	if len(f) < 18 || f[12] != 0x81 || f[13] != 0 {
		return f
	}
	return append(slices.Clone(f[:12]), f[16:]...)
}

func (tr *trial) compareCounts(k, x router) string {
	kc, err := k.save()
	if err != nil {
		return err.Error()
	}
	xc, err := x.save()
	if err != nil {
		return err.Error()
	}
	if all := sameCounts(kc, xc, tr.rules); len(all) > 0 {
		return all[0]
	}
	return ""
}

func (tr *trial) describe(a *act, k, x [][]byte, d *device) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s from side %d\nsent to kernel %s", a.what, a.from, dump(k))
	if !slices.EqualFunc(k, x, slices.Equal[[]byte]) {
		fmt.Fprintf(&b, "\nsent to xdpct  %s", dump(x))
	}
	v := &d.last
	fmt.Fprintf(&b, "\nxdpct: %v %v %v", v.Action, v.State, v.Reason)
	if v.Action == shard.Accept && v.Conn {
		fmt.Fprintf(&b, " %v", v.Dir)
	}
	for i := range k {
		if h, ok := headerAt(k[i], 14); ok {
			fmt.Fprintf(&b, "\n%v > %v proto %d, %d bytes", h.src, h.dst, h.proto, len(k[i])-14)
		}
	}
	return b.String()
}

// check runs a trial, and fails t with the smallest one that shows the difference, if
// there is any.
func (tr *trial) check(t *testing.T) stats {
	t.Helper()
	f, st, err := tr.run()
	if err != nil {
		t.Fatalf("%v\nrules:\n%s", err, tr.rules)
	}
	if f == nil {
		return st
	}
	small, g := tr.shrink(f)
	if g == nil {
		unrepeated(t, f.String()+"\nrules:\n"+tr.rules)
		return st
	}
	t.Fatal(small.report(g))
	return st
}

func (tr *trial) report(f *finding) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n%d acts", f, len(tr.acts))
	if tr.legacy {
		b.WriteString(", by ip_tables")
	}
	if tr.lab != (lab{}) {
		fmt.Fprintf(&b, ", lab %+v", tr.lab)
	}
	for i := range tr.acts {
		a := &tr.acts[i]
		fmt.Fprintf(&b, "\n%3d %s from side %d", i, a.what, a.from)
		if len(tr.acts) <= 12 {
			if frames := a.frames(0); len(frames) > 0 {
				fmt.Fprintf(&b, "\n       %s", dump(frames))
			}
		}
	}
	fmt.Fprintf(&b, "\nrules:\n%s", tr.rules)
	return b.String()
}

// noRules keeps the router from answering, and lets it track, and no more.
const noRules = "*filter\n:INPUT DROP [0:0]\n" + tracks + "COMMIT\n"

// tracks is a rule of table filter without which the kernel need not track.
const tracks = "-A INPUT -m conntrack --ctstate INVALID -j DROP\n"

// shrinkTime bounds the time that is spent on making a trial small.
const shrinkTime = 40 * time.Second

// shrink returns the smallest trial that it finds with a difference, and the
// difference: nil if it does not show again.
func (tr *trial) shrink(f *finding) (*trial, *finding) {
	deadline := time.Now().Add(shrinkTime)
	best, last := *tr, (*finding)(nil)
	try := func(t trial) bool {
		if time.Now().After(deadline) && last != nil {
			return false
		}
		g, _, err := t.run()
		if err != nil || g == nil {
			return false
		}
		best, last = t, g
		if g.act < len(t.acts) {
			best.acts = t.acts[:g.act+1]
		}
		return true
	}
	with := func(acts []act) trial { t := best; t.acts = acts; return t }
	ruled := func(lines []string) trial { t := best; t.rules = strings.Join(lines, ""); return t }
	if f.act < len(tr.acts) { // most often it is the one packet, and often without any rule
		alone := with(tr.acts[f.act : f.act+1])
		alone.shards = []int{f.shards}
		bare := alone
		bare.rules = noRules
		if try(bare) {
			return &best, last
		}
		if !try(alone) {
			who := tr.acts[f.act].talk
			talk := with(slices.DeleteFunc(slices.Clone(tr.acts[:f.act+1]), func(a act) bool { return a.talk != who }))
			bare = talk
			bare.rules = noRules
			_ = try(bare) || try(talk)
		}
	}
	if last == nil {
		if f.act >= len(tr.acts) || !try(with(tr.acts[:f.act+1])) {
			again := false
			for n := 0; n < 2 && !again; n++ { // it may depend on the clock a little
				again = try(*tr)
			}
			if !again {
				return tr, nil
			}
		}
	}
	if only := best; len(only.shards) > 1 {
		only.shards = []int{last.shards}
		try(only)
	}
	closer := best
	closer.closely = true
	for range 2 {
		minimise(len(best.acts), func(from, to int) bool {
			return try(with(append(slices.Clone(best.acts[:from]), best.acts[to:]...)))
		}, func() int { return len(best.acts) })
		lines := strings.SplitAfter(best.rules, "\n")
		minimise(len(lines), func(from, to int) bool {
			for _, l := range lines[from:to] {
				if !strings.HasPrefix(l, "-A") || l == tracks {
					return false
				}
			}
			without := append(slices.Clone(lines[:from]), lines[to:]...)
			if !try(ruled(without)) {
				return false
			}
			lines = without
			return true
		}, func() int { return len(lines) })
	}
	closer.acts, closer.rules = best.acts, best.rules
	try(closer)
	return &best, last
}

// minimise tries to leave out parts of a list of n, large ones first. without leaves out
// the elements from one index up to another and reports whether that was possible; size
// is how many there are then.
func minimise(n int, without func(from, to int) bool, size func() int) {
	for chunk := max(n/2, 1); chunk >= 1; {
		smaller := false
		for at := 0; at+chunk <= size(); {
			if without(at, at+chunk) {
				smaller = true
			} else {
				at += chunk
			}
		}
		if !smaller || chunk > size()/2 {
			chunk /= 2
		}
	}
}

// Differences that do not show again. Two things may make one: the kernel's clock runs
// while a busy machine holds the test up, and ports that are drawn at random may meet
// in one router only. Both are rare, so that a few in a run say that something is wrong
// that depends on neither.
const maxUnrepeated = 2

var unrepeatedSoFar int

// unrepeated reports a difference that did not show again, and fails t if there were
// more than may be.
func unrepeated(t *testing.T, what string) {
	t.Helper()
	unrepeatedSoFar++
	t.Logf("a difference that does not show again, number %d: %s", unrepeatedSoFar, what)
	if unrepeatedSoFar > maxUnrepeated {
		t.Errorf("%d differences did not show again: at most %d may", unrepeatedSoFar, maxUnrepeated)
	}
}
