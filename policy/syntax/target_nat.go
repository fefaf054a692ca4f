package syntax

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// Range is addresses, ports, or both, to which a mapping is bound.
type Range struct {
	Min, Max         flow.Addr // valid iff Addrs
	MinPort, MaxPort uint16    // valid iff Ports
	BasePort         uint16    // valid iff Offset: ports shift by the distance to it
	Addrs            bool
	Ports            bool
	Offset           bool
}

// NATRange is --to-source and --to-destination: addresses, ports, or both.
type NATRange struct {
	Given
	Range
	family flow.Family
	base   bool // a base port is understood (DNAT)
}

func (n *NATRange) read(args []string) (err error) {
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
		r := AddrRange{Family: n.family}
		if err := r.read([]string{addrs}); err != nil {
			return err
		}
		n.Min, n.Max, n.Addrs = r.Lo, r.Hi, true
	}
	if ports != "" {
		return readPorts(ports, &n.Range, n.base)
	}
	if addrs == "" {
		return errors.New("an address or a port is expected")
	}
	return nil
}

// readPorts reads "port[-port[/base]]".
func readPorts(s string, r *Range, base bool) error {
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

func (n *NATRange) text() string {
	var b strings.Builder
	r := &n.Range
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

func portsText(r *Range) string {
	s := strconv.Itoa(int(r.MinPort))
	if r.MaxPort != r.MinPort {
		s += "-" + strconv.Itoa(int(r.MaxPort))
	}
	if r.Offset {
		s += "/" + strconv.Itoa(int(r.BasePort))
	}
	return s
}

// ToPorts is --to-ports.
type ToPorts struct {
	Given
	Range
}

func (t *ToPorts) read(args []string) error { return readPorts(args[0], &t.Range, false) }
func (t *ToPorts) text() string             { return portsText(&t.Range) }

// NATKind is which of the targets of table nat it is.
type NATKind uint8

// The targets of table nat.
const (
	SNAT NATKind = iota
	DNAT
	Masquerade
	Redirect
	Netmap
)

var natKinds = [...]struct {
	name, to string
	hooks    []string
	needTo   bool
}{
	SNAT:       {"SNAT", "--to-source", []string{"POSTROUTING", "INPUT"}, true},
	DNAT:       {"DNAT", "--to-destination", []string{"PREROUTING", "OUTPUT"}, true},
	Masquerade: {"MASQUERADE", "--to-ports", []string{"POSTROUTING"}, false},
	Redirect:   {"REDIRECT", "--to-ports", []string{"PREROUTING", "OUTPUT"}, false},
	Netmap:     {"NETMAP", "--to", []string{"PREROUTING", "POSTROUTING", "OUTPUT", "INPUT"}, true},
}

// NAT is SNAT, DNAT, MASQUERADE, REDIRECT or NETMAP.
type NAT struct {
	Kind                            NATKind
	To                              NATRange // of SNAT and DNAT
	Ports                           ToPorts  // of MASQUERADE and REDIRECT
	Net                             AddrMask // of NETMAP
	Random, RandomFully, Persistent Flag
}

func newSNAT(f flow.Family) *NAT { return &NAT{Kind: SNAT, To: NATRange{family: f}} }

func newDNAT(f flow.Family) *NAT { return &NAT{Kind: DNAT, To: NATRange{family: f, base: true}} }

func newMasquerade(flow.Family) *NAT { return &NAT{Kind: Masquerade} }

func newRedirect(flow.Family) *NAT { return &NAT{Kind: Redirect} }

func newNetmap(f flow.Family) *NAT { return &NAT{Kind: Netmap, Net: AddrMask{Family: f}} }

// Name returns which of the targets it is.
func (t *NAT) Name() string { return natKinds[t.Kind].name }

// Hooks returns the chains of table nat that the target may be reached from.
func (t *NAT) Hooks() []string { return natKinds[t.Kind].hooks }

// to is the option that says what is mapped to.
func (t *NAT) to() value {
	switch t.Kind {
	case SNAT, DNAT:
		return &t.To
	case Netmap:
		return &t.Net
	}
	return &t.Ports
}

func (t *NAT) options() []option {
	o := []option{{name: natKinds[t.Kind].to, value: t.to(), noNot: true}}
	if t.Kind != Netmap {
		o = append(o, option{name: "--random", value: &t.Random, noNot: true})
	}
	if t.Kind == SNAT || t.Kind == Masquerade {
		o = append(o, option{name: "--random-fully", value: &t.RandomFully, noNot: true})
	}
	if t.Kind == SNAT || t.Kind == DNAT {
		o = append(o, option{name: "--persistent", value: &t.Persistent, noNot: true})
	}
	return o
}

// check verifies what the rule says; that a chain of the user's is reached from the
// right hooks only the compiler knows.
func (t *NAT) check(r *Rule, at place) error {
	if err := needsTable(at, "nat"); err != nil {
		return err
	}
	if slices.Contains(builtin["nat"], at.chain) && !slices.Contains(t.Hooks(), at.chain) {
		return fmt.Errorf("is for %s only", strings.Join(t.Hooks(), " and "))
	}
	if natKinds[t.Kind].needTo && !t.to().state().Set {
		return fmt.Errorf("needs %s", natKinds[t.Kind].to)
	}
	if t.To.Ports || t.Ports.Set {
		if proto, ok := r.Base.Proto.Only(); !ok || !proto.HasPorts() && proto != flow.ICMP && proto != flow.ICMPv6 {
			return errors.New("ports need -p tcp, udp, udplite, sctp, dccp or icmp")
		}
	}
	return nil
}

// CT is CT and NOTRACK.
type CT struct {
	NoTrack           Flag
	Helper, Timeout   Word
	events, expEvents Word
	Zone, Orig, Reply ZoneOption // at most one of them is given
	Old               bool       // NOTRACK
}

// ZoneOption is a zone, or the mark of the packet as one.
type ZoneOption struct {
	Given
	Zone flow.Zone // unless Mark
	Mark bool
}

func (z *ZoneOption) read(args []string) error {
	if args[0] == "mark" {
		z.Mark = true
		return nil
	}
	n, err := parseNumber(args[0], 65535)
	z.Zone = flow.Zone(n)
	return err
}

func (z *ZoneOption) text() string {
	if z.Mark {
		return "mark"
	}
	return strconv.Itoa(int(z.Zone))
}

func newCT() *CT { return &CT{Helper: Word{most: 16}, Timeout: Word{most: 32}} }

// Name returns the name of the target.
func (t *CT) Name() string {
	if t.Old {
		return "NOTRACK"
	}
	return "CT"
}

func (t *CT) options() []option {
	if t.Old {
		return nil
	}
	return []option{
		{name: "--notrack", value: &t.NoTrack, noNot: true}, {name: "--helper", value: &t.Helper, noNot: true},
		{name: "--timeout", value: &t.Timeout, noNot: true}, {name: "--ctevents", value: &t.events, noNot: true},
		{name: "--expevents", value: &t.expEvents, noNot: true}, {name: "--zone-orig", value: &t.Orig, noNot: true},
		{name: "--zone-reply", value: &t.Reply, noNot: true}, {name: "--zone", value: &t.Zone, noNot: true},
	}
}

func (t *CT) check(r *Rule, at place) error {
	if err := needsTable(at, "raw"); err != nil {
		return err
	}
	if t.events.Set || t.expEvents.Set {
		return errors.New("--ctevents and --expevents are not supported: subscribers choose their events (xdpct events, conntrack -E -e)")
	}
	if t.Helper.Set {
		if err := t.checkHelper(r, at.family); err != nil {
			return err
		}
	}
	n := 0
	for _, z := range []*ZoneOption{&t.Zone, &t.Orig, &t.Reply} {
		if z.Set {
			n++
		}
	}
	switch {
	case n > 1:
		return errors.New("one of --zone, --zone-orig and --zone-reply")
	case !t.Old && n == 0 && !t.NoTrack.Set && !t.Helper.Set && !t.Timeout.Set:
		return errors.New("needs --notrack, --zone, --helper or --timeout")
	}
	return nil
}

// checkHelper refuses a helper that reads none of the connections that the rule is of
// (xt_ct_set_helper, __nf_conntrack_helper_find).
func (t *CT) checkHelper(r *Rule, f flow.Family) error {
	if _, err := HelperByName(t.Helper.S); err != nil {
		return err
	}
	of := helperProtos(t.Helper.S, f)
	if p, ok := r.Base.Proto.Only(); ok && slices.Contains(of, p) {
		return nil
	}
	if len(of) == 0 {
		return fmt.Errorf("helper %s is for IPv4 only", t.Helper.S)
	}
	which := "-p " + of[0].String()
	if len(of) > 1 {
		which += " or -p " + of[1].String()
	}
	return fmt.Errorf("helper %s needs %s", t.Helper.S, which)
}

// helperProtos returns the protocols of the connections that a helper reads, none if it does
// not read those of a family.
func helperProtos(name string, f flow.Family) (of []flow.Proto) {
	h, _ := flow.HelperByName(name)
	for _, p := range []flow.Proto{flow.TCP, flow.UDP} {
		if h.Reads(p, f) {
			of = append(of, p)
		}
	}
	return of
}

// HelperByName returns the helper of that name that rules may attach. The error says which
// there are.
func HelperByName(name string) (flow.HelperID, error) {
	all := slices.DeleteFunc(flow.HelperNames(), func(n string) bool { return n == inCalls })
	if name == inCalls {
		return 0, fmt.Errorf("helper %s has no port: it comes with the calls that Q.931 reads", name)
	}
	if h, ok := flow.HelperByName(name); ok {
		return h, nil
	}
	for _, n := range all {
		if strings.EqualFold(n, name) {
			return 0, fmt.Errorf("there is no helper %q, but %s: case counts", name, n)
		}
	}
	if s := similar(name, all); s != "" {
		return 0, fmt.Errorf("there is no helper %q; %s? There are %s", name, s, strings.Join(all, ", "))
	}
	return 0, fmt.Errorf("there is no helper %q; there are %s", name, strings.Join(all, ", "))
}

// inCalls is the one helper that no rule attaches: no port is known for it.
const inCalls = "H.245"
