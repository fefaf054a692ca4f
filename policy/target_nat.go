package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
)

// natRange is --to-source and --to-destination: addresses, ports, or both.
type natRange struct {
	given
	family flow.Family
	r      nat.Range
	base   bool // a base port is understood (DNAT)
}

func (n *natRange) read(args []string) (err error) {
	addrs, ports := args[0], ""
	if n.family == flow.IPv4 {
		addrs, ports, _ = strings.Cut(args[0], ":")
	} else if i := strings.LastIndex(args[0], "]:"); i >= 0 {
		addrs, ports = args[0][:i+1], args[0][i+2:]
	} else if s, ok := strings.CutPrefix(args[0], ":"); ok && !strings.Contains(s, ":") {
		addrs, ports = "", s
	}
	if addrs != "" {
		if n.family == flow.IPv6 {
			addrs = strings.NewReplacer("[", "", "]", "").Replace(addrs)
		}
		r := addrRange{family: n.family}
		if err := r.read([]string{addrs}); err != nil {
			return err
		}
		n.r.Min, n.r.Max, n.r.Addrs = r.lo, r.hi, true
	}
	if ports != "" {
		return readPorts(ports, &n.r, n.base)
	}
	if addrs == "" {
		return errors.New("an address or a port is expected")
	}
	return nil
}

// readPorts reads "port[-port[/base]]".
func readPorts(s string, r *nat.Range, base bool) error {
	s, shift, shifted := strings.Cut(s, "/")
	lo, hi, ranged := strings.Cut(s, "-")
	a, err := strconv.ParseUint(lo, 10, 16)
	b := a
	if err == nil && ranged {
		b, err = strconv.ParseUint(hi, 10, 16)
	}
	switch {
	case err != nil || a == 0:
		return errors.New("ports are 1..65535, or a range of them (a-b)")
	case a > b:
		return errors.New("the range of ports is backwards")
	}
	r.MinPort, r.MaxPort, r.Ports = uint16(a), uint16(b), true
	if shifted {
		c, err := strconv.ParseUint(shift, 10, 16)
		if !base || err != nil {
			return errors.New("a base port is a number, and for DNAT only")
		}
		r.BasePort, r.Offset = uint16(c), true
	}
	return nil
}

func (n *natRange) text() string {
	var b strings.Builder
	r := &n.r
	if r.Addrs {
		bracket := n.family == flow.IPv6 && r.Ports
		one := func(a flow.Addr) string {
			if bracket {
				return "[" + addrText(a, n.family) + "]"
			}
			return addrText(a, n.family)
		}
		b.WriteString(one(r.Min))
		if r.Max != r.Min {
			b.WriteString("-" + one(r.Max))
		}
	}
	if r.Ports {
		b.WriteString(":" + portsText(r))
	}
	return b.String()
}

func portsText(r *nat.Range) string {
	s := strconv.Itoa(int(r.MinPort))
	if r.MaxPort != r.MinPort {
		s += "-" + strconv.Itoa(int(r.MaxPort))
	}
	if r.Offset {
		s += "/" + strconv.Itoa(int(r.BasePort))
	}
	return s
}

// toPorts is --to-ports.
type toPorts struct {
	given
	r nat.Range
}

func (t *toPorts) read(args []string) error { return readPorts(args[0], &t.r, false) }
func (t *toPorts) text() string             { return portsText(&t.r) }

// natTarget is SNAT, DNAT, MASQUERADE, REDIRECT or NETMAP.
type natTarget struct {
	module                    string
	source                    bool // of the source; NETMAP is by its hook
	hooks                     []string
	to                        value // natRange, toPorts or netmapTo
	toName                    string
	needTo                    bool
	random, fully, persistent flagOption
	hasFully, hasPersistent   bool
	mapping                   func(v *View, t *natTarget) (nat.Range, bool)
}

func (t *natTarget) name() string { return t.module }

func (t *natTarget) options() []option {
	o := []option{{name: t.toName, value: t.to, noNot: true}}
	if t.module != "NETMAP" {
		o = append(o, option{name: "--random", value: &t.random, noNot: true})
	}
	if t.hasFully {
		o = append(o, option{name: "--random-fully", value: &t.fully, noNot: true})
	}
	if t.hasPersistent {
		o = append(o, option{name: "--persistent", value: &t.persistent, noNot: true})
	}
	return o
}

// check verifies what the rule says; that a chain of the user's is reached from
// the right hooks is for Compile.
func (t *natTarget) check(r *Rule, p *ruleParser) error {
	if p.table != "nat" {
		return errors.New("is for table nat only")
	}
	if slices.Contains(builtin["nat"], p.chain) && !slices.Contains(t.hooks, p.chain) {
		return fmt.Errorf("is for %s only", strings.Join(t.hooks, " and "))
	}
	if t.needTo && !t.to.state().set {
		return fmt.Errorf("needs %s", t.toName)
	}
	ports := false
	switch to := t.to.(type) {
	case *natRange:
		ports = to.r.Ports
	case *toPorts:
		ports = to.set
	}
	if ports {
		proto, ok := r.base.proto.only()
		if !ok || !slices.Contains([]flow.Proto{flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP, flow.DCCP, flow.ICMP, flow.ICMPv6}, proto) {
			return errors.New("ports need -p tcp, udp, udplite, sctp, dccp or icmp")
		}
	}
	return nil
}

func (t *natTarget) act(v *View) Verdict {
	r, ok := t.mapping(v, t)
	if !ok {
		v.NoAddress = true
		return Drop
	}
	r.Random = r.Random || t.random.set
	r.RandomFully = t.fully.set
	r.Persistent = t.persistent.set
	v.NAT, v.masquerade = &r, t.module == "MASQUERADE"
	return Accept
}

func newSNAT(f flow.Family) target {
	return &natTarget{module: "SNAT", source: true, hooks: []string{"POSTROUTING", "INPUT"}, toName: "--to-source", needTo: true,
		to: &natRange{family: f}, hasFully: true, hasPersistent: true, mapping: fixedRange}
}

func newDNAT(f flow.Family) target {
	return &natTarget{module: "DNAT", hooks: []string{"PREROUTING", "OUTPUT"}, toName: "--to-destination", needTo: true,
		to: &natRange{family: f, base: true}, hasPersistent: true, mapping: fixedRange}
}

func fixedRange(_ *View, t *natTarget) (nat.Range, bool) { return t.to.(*natRange).r, true }

func newMasquerade(flow.Family) target {
	return &natTarget{module: "MASQUERADE", source: true, hooks: []string{"POSTROUTING"}, toName: "--to-ports",
		to: &toPorts{}, hasFully: true, mapping: func(v *View, t *natTarget) (nat.Range, bool) {
			r := t.to.(*toPorts).r
			a, ok := v.Env.InAddr(v.Out, v.family(), v.Dst)
			r.Min, r.Max, r.Addrs = a, a, true
			return r, ok
		}}
}

func newRedirect(flow.Family) target {
	return &natTarget{module: "REDIRECT", hooks: []string{"PREROUTING", "OUTPUT"}, toName: "--to-ports",
		to: &toPorts{}, mapping: func(v *View, t *natTarget) (nat.Range, bool) {
			r := t.to.(*toPorts).r
			a, ok := v.Env.InAddr(v.In, v.family(), flow.Addr{})
			r.Min, r.Max, r.Addrs = a, a, true
			return r, ok
		}}
}

// netmapTo is a net that another is mapped to.
type netmapTo struct{ addrMask }

func newNetmap(f flow.Family) target {
	to := &netmapTo{addrMask{family: f}}
	return &natTarget{module: "NETMAP", hooks: []string{"PREROUTING", "POSTROUTING", "OUTPUT", "INPUT"}, toName: "--to", needTo: true,
		to: to, mapping: func(v *View, _ *natTarget) (nat.Range, bool) {
			a := v.Dst
			if v.NATSrc {
				a = v.Src
			}
			a.Hi = to.addr.Hi | a.Hi&^to.mask.Hi
			a.Lo = to.addr.Lo | a.Lo&^to.mask.Lo
			return nat.Range{Min: a, Max: a, Addrs: true}, true
		}}
}

// ctTarget is CT and NOTRACK.
type ctTarget struct {
	notrack           flagOption
	helper, timeout   word
	events, expEvents word
	zone, orig, reply zoneOption
	old               bool // NOTRACK
}

// zoneOption is a zone, or the mark of the packet as one.
type zoneOption struct {
	given
	zone flow.Zone
	mark bool
}

func (z *zoneOption) read(args []string) error {
	if args[0] == "mark" {
		z.mark = true
		return nil
	}
	n, err := parseNumber(args[0], 65535)
	z.zone = flow.Zone(n)
	return err
}

func (z *zoneOption) text() string {
	if z.mark {
		return "mark"
	}
	return strconv.Itoa(int(z.zone))
}

// template is what the later rules of table raw see of a connection once CT has said
// what it is to be (nf_ct_tmpl_alloc).
var template = flow.Conn{Status: flow.Confirmed}

func newCT(flow.Family) target {
	return &ctTarget{helper: word{most: 16}, timeout: word{most: 32}}
}

func (t *ctTarget) name() string {
	if t.old {
		return "NOTRACK"
	}
	return "CT"
}

func (t *ctTarget) options() []option {
	if t.old {
		return nil
	}
	return []option{
		{name: "--notrack", value: &t.notrack, noNot: true}, {name: "--helper", value: &t.helper, noNot: true},
		{name: "--timeout", value: &t.timeout, noNot: true}, {name: "--ctevents", value: &t.events, noNot: true},
		{name: "--expevents", value: &t.expEvents, noNot: true}, {name: "--zone-orig", value: &t.orig, noNot: true},
		{name: "--zone-reply", value: &t.reply, noNot: true}, {name: "--zone", value: &t.zone, noNot: true},
	}
}

func (t *ctTarget) check(_ *Rule, p *ruleParser) error {
	if p.table != "raw" {
		return errors.New("is for table raw only")
	}
	if t.events.set || t.expEvents.set {
		return errors.New("--ctevents and --expevents are not supported: subscribers choose their events (xdpct events, conntrack -E -e)")
	}
	if t.helper.set {
		if _, ok := flow.HelperByName(t.helper.s); !ok {
			return fmt.Errorf("there is no helper %q", t.helper.s)
		}
	}
	n := 0
	for _, z := range []*zoneOption{&t.zone, &t.orig, &t.reply} {
		if z.set {
			n++
		}
	}
	switch {
	case n > 1:
		return errors.New("one of --zone, --zone-orig and --zone-reply")
	case !t.old && n == 0 && !t.notrack.set && !t.helper.set && !t.timeout.set:
		return errors.New("needs --notrack, --zone, --helper or --timeout")
	}
	return nil
}

func (t *ctTarget) act(v *View) Verdict {
	if v.NoTrack || v.Zone != nil { // what an earlier rule said stays (xt_ct_target)
		return Continue
	}
	if t.old || t.notrack.set {
		v.NoTrack, v.State = true, flow.Untracked
		return Continue
	}
	z := flow.ZoneID{}
	for _, o := range []struct {
		z    *zoneOption
		dirs flow.ZoneDirs
	}{{&t.zone, 0}, {&t.orig, flow.ZoneOriginal}, {&t.reply, flow.ZoneReply}} {
		if o.z.set {
			z = flow.ZoneID{Zone: o.z.zone, Dirs: o.dirs}
			if o.z.mark {
				z.Zone = flow.Zone(v.Mark)
			}
		}
	}
	v.Zone = &z
	v.State, v.Dir, v.Tracked, v.Conn, v.Extra = flow.New, flow.Original, true, &template, nil
	if t.helper.set {
		v.Helper, _ = flow.HelperByName(t.helper.s)
	}
	v.Timeout = t.timeout.s
	return Continue
}
