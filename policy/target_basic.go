package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// verdictTarget is ACCEPT, DROP or RETURN.
type verdictTarget struct {
	module  string
	verdict Verdict
}

func (t *verdictTarget) name() string                   { return t.module }
func (t *verdictTarget) options() []option              { return nil }
func (t *verdictTarget) check(*Rule, *ruleParser) error { return nil }
func (t *verdictTarget) act(*View) Verdict              { return t.verdict }

// action is a target of a few options that is one function.
type action struct {
	module string
	tables []string // nil: any
	opts   []option
	one    bool // exactly one option
	verify func(r *Rule, p *ruleParser) error
	do     func(v *View) Verdict
}

func (t *action) name() string        { return t.module }
func (t *action) options() []option   { return t.opts }
func (t *action) act(v *View) Verdict { return t.do(v) }

func (t *action) check(r *Rule, p *ruleParser) error {
	if t.tables != nil && !slices.Contains(t.tables, p.table) {
		return fmt.Errorf("is for table %s only", strings.Join(t.tables, ", "))
	}
	n := 0
	var names []string
	for _, o := range t.opts {
		if _, alias := o.value.(*setBy); !alias {
			names = append(names, o.name)
		}
		if o.value.state().set {
			n++
		}
	}
	if t.one && n != 1 {
		return fmt.Errorf("needs one of %s", strings.Join(names, ", "))
	}
	if t.verify != nil {
		return t.verify(r, p)
	}
	return nil
}

// reject is how REJECT answers.
type reject struct {
	Name  string
	Reset bool
	Type  uint8
	Code  uint8
}

var rejects4 = []reject{
	{"icmp-net-unreachable", false, 3, 0}, {"icmp-host-unreachable", false, 3, 1}, {"icmp-proto-unreachable", false, 3, 2},
	{"icmp-port-unreachable", false, 3, 3}, {"icmp-net-prohibited", false, 3, 9}, {"icmp-host-prohibited", false, 3, 10},
	{"icmp-admin-prohibited", false, 3, 13}, {"tcp-reset", true, 0, 0},
}

var rejects6 = []reject{
	{"icmp6-no-route", false, 1, 0}, {"icmp6-adm-prohibited", false, 1, 1}, {"icmp6-addr-unreachable", false, 1, 3},
	{"icmp6-port-unreachable", false, 1, 4}, {"icmp6-policy-fail", false, 1, 5}, {"icmp6-reject-route", false, 1, 6},
	{"tcp-reset", true, 0, 0},
}

// rejectAliases are the short names that iptables takes.
var rejectAliases = map[string]string{
	"net-unreach": "icmp-net-unreachable", "host-unreach": "icmp-host-unreachable", "proto-unreach": "icmp-proto-unreachable",
	"port-unreach": "icmp-port-unreachable", "net-prohib": "icmp-net-prohibited", "host-prohib": "icmp-host-prohibited",
	"admin-prohib": "icmp-admin-prohibited", "tcp-rst": "tcp-reset", "no-route": "icmp6-no-route",
	"adm-prohibited": "icmp6-adm-prohibited", "addr-unreach": "icmp6-addr-unreachable",
	"policy-fail": "icmp6-policy-fail", "reject-route": "icmp6-reject-route",
}

// rejectWith is --reject-with.
type rejectWith struct {
	given
	v6   bool
	with reject
}

func (w *rejectWith) read(args []string) error {
	all, s := rejects4, args[0]
	if w.v6 {
		all = rejects6
	}
	if full, ok := rejectAliases[s]; ok {
		s = full
		if w.v6 && s == "icmp-port-unreachable" {
			s = "icmp6-port-unreachable"
		}
	}
	var names []string
	for _, r := range all {
		if r.Name == s {
			w.with = r
			return nil
		}
		names = append(names, r.Name)
	}
	return fmt.Errorf("must be one of %s", strings.Join(names, ", "))
}

func (w *rejectWith) text() string { return w.with.Name }

func newReject(f flow.Family) target {
	w := &rejectWith{v6: f == flow.IPv6, with: rejects4[3]}
	if w.v6 {
		w.with = rejects6[3]
	}
	t := &action{module: "REJECT", tables: []string{"filter"}, opts: []option{{name: "--reject-with", value: w, noNot: true}}}
	t.verify = func(r *Rule, _ *ruleParser) error {
		w.set = true // printed, as iptables-save does
		if p, ok := r.base.proto.only(); w.with.Reset && (!ok || p != flow.TCP) {
			return errors.New("--reject-with tcp-reset needs -p tcp")
		}
		return nil
	}
	t.do = func(v *View) Verdict {
		v.Reject = &w.with
		return Drop
	}
	return t
}

// logLevels are the syslog levels by name.
var logLevels = []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}

// logLevel is --log-level, printed as a number.
type logLevel struct{ number }

func (l *logLevel) read(args []string) error {
	for i, n := range logLevels {
		if args[0] == n || args[0] == "error" && n == "err" || args[0] == "warn" && n == "warning" || args[0] == "panic" && i == 0 {
			l.n = uint64(i)
			return nil
		}
	}
	l.max = 7
	return l.number.read(args)
}

func newLog(flow.Family) target {
	level, prefix := &logLevel{number{n: 4}}, &word{most: 29}
	flags := []option{
		{name: "--log-tcp-sequence", value: &flagOption{}}, {name: "--log-tcp-options", value: &flagOption{}},
		{name: "--log-ip-options", value: &flagOption{}}, {name: "--log-uid", value: &flagOption{}}, {name: "--log-macdecode", value: &flagOption{}},
	}
	t := &action{module: "LOG", opts: append([]option{{name: "--log-prefix", value: prefix}, {name: "--log-level", value: level}}, flags...)}
	t.verify = func(*Rule, *ruleParser) error {
		if level.n == 4 {
			level.set = false
		}
		return nil
	}
	t.do = func(v *View) Verdict {
		v.Logs = append(v.Logs, Log{Prefix: prefix.s, Group: -1, Level: int(level.n)})
		return Continue
	}
	return t
}

func newNFLog(flow.Family) target {
	group, prefix := &number{max: 65535}, &word{most: 63}
	t := &action{module: "NFLOG", opts: []option{
		{name: "--nflog-prefix", value: prefix}, {name: "--nflog-group", value: group},
		{name: "--nflog-range", value: &number{}}, {name: "--nflog-size", value: &number{}}, {name: "--nflog-threshold", value: &number{max: 65535}},
	}}
	t.do = func(v *View) Verdict {
		v.Logs = append(v.Logs, Log{Prefix: prefix.s, Group: int(group.n), Level: 6})
		return Continue
	}
	return t
}

// markOptions are the ways to say --set-xmark.
func markOptions(x *masked) []option {
	by := func(f func(v, mask uint32) (uint32, uint32)) *setBy {
		return &setBy{n: 1, set: func(args []string) error {
			m := &masked{}
			if err := m.read(args); err != nil {
				return err
			}
			x.v, x.mask = f(m.v, m.mask)
			x.set = true
			return nil
		}}
	}
	x.always = true
	return []option{
		{name: "--set-xmark", value: x, noNot: true},
		{name: "--set-mark", noNot: true, value: by(func(v, m uint32) (uint32, uint32) { return v, v | m })},
		{name: "--and-mark", noNot: true, value: by(func(v, _ uint32) (uint32, uint32) { return 0, ^v })},
		{name: "--or-mark", noNot: true, value: by(func(v, _ uint32) (uint32, uint32) { return v, v })},
		{name: "--xor-mark", noNot: true, value: by(func(v, _ uint32) (uint32, uint32) { return v, 0 })},
	}
}

func newMark(flow.Family) target {
	x := &masked{}
	return &action{module: "MARK", opts: markOptions(x), one: true,
		do: func(v *View) Verdict {
			v.Mark = v.Mark&^x.mask ^ x.v
			return Continue
		}}
}

func newConnMark(flow.Family) target {
	x, save, restore := &masked{}, &flagOption{}, &flagOption{}
	nf, ct := &masked{v: 1<<32 - 1}, &masked{v: 1<<32 - 1}
	both := &setBy{n: 1}
	both.set = func(args []string) error {
		if err := nf.read(args); err != nil {
			return err
		}
		ct.v, ct.set, nf.set = nf.v, true, true
		return nil
	}
	t := &action{module: "CONNMARK"}
	t.opts = append(markOptions(x),
		option{name: "--save-mark", value: save, noNot: true}, option{name: "--restore-mark", value: restore, noNot: true},
		option{name: "--nfmask", value: nf, noNot: true}, option{name: "--ctmask", value: ct, noNot: true},
		option{name: "--mask", value: both, noNot: true})
	t.verify = func(*Rule, *ruleParser) error {
		n := 0
		for _, on := range []bool{x.set, save.set, restore.set} {
			if on {
				n++
			}
		}
		if n != 1 {
			return errors.New("needs one of --set-xmark, --save-mark and --restore-mark")
		}
		if x.set && (nf.set || ct.set) {
			return errors.New("masks go with --save-mark and --restore-mark")
		}
		nf.mask, ct.mask = 1<<32-1, 1<<32-1
		nf.set, ct.set = !x.set, !x.set
		return nil
	}
	t.do = func(v *View) Verdict {
		switch {
		case !v.Tracked:
		case x.set:
			v.ConnMark = v.ConnMark&^x.mask ^ x.v
		case save.set:
			v.ConnMark = v.ConnMark&^ct.v ^ v.Mark&nf.v
		default:
			v.Mark = v.Mark&^nf.v ^ v.ConnMark&ct.v
		}
		return Continue
	}
	return t
}

func newSetTOS(flow.Family) target {
	x := newTOSValue(255)
	with := func(f func(v uint32) (uint32, uint32)) *setBy {
		return &setBy{n: 1, set: func(args []string) error {
			n, err := parseNumber(args[0], 255)
			if err == nil {
				x.v, x.mask = f(uint32(n))
				x.set = true
			}
			return err
		}}
	}
	return &action{module: "TOS", tables: []string{"mangle"}, one: true, opts: []option{
		{name: "--set-tos", value: &x, noNot: true},
		{name: "--and-tos", noNot: true, value: with(func(v uint32) (uint32, uint32) { return 0, ^v & 0xff })},
		{name: "--or-tos", noNot: true, value: with(func(v uint32) (uint32, uint32) { return v, v })},
		{name: "--xor-tos", noNot: true, value: with(func(v uint32) (uint32, uint32) { return v, 0 })},
	}, do: func(v *View) Verdict {
		old := tosOf(v)
		v.setTOS(old&^uint8(x.mask) ^ uint8(x.v))
		return Continue
	}}
}

func (v *View) setTOS(tos uint8) {
	if tos != tosOf(v) {
		v.P.SetTOS(tos)
		v.Modified = true
	}
}

func newSetDSCP(flow.Family) target {
	n := &number{}
	return &action{module: "DSCP", tables: []string{"mangle"}, one: true, opts: dscpOptions("--set-dscp", "--set-dscp-class", n),
		do: func(v *View) Verdict {
			v.setTOS(uint8(n.n)<<2 | tosOf(v)&3)
			return Continue
		}}
}

func newSetTTL(module, prefix string) target {
	set, inc, dec := &number{max: 255}, &number{max: 255}, &number{max: 255}
	return &action{module: module, tables: []string{"mangle"}, one: true, opts: []option{
		{name: prefix + "-set", value: set, noNot: true}, {name: prefix + "-inc", value: inc, noNot: true}, {name: prefix + "-dec", value: dec, noNot: true},
	}, do: func(v *View) Verdict {
		n := hops(v)
		switch {
		case set.set:
			n = set.n
		case inc.set:
			n = min(n+inc.n, 255)
		default:
			n -= min(n, dec.n)
		}
		if n != hops(v) {
			v.P.SetHops(uint8(n))
			v.Modified = true
		}
		return Continue
	}}
}

func newSetMSS(flow.Family) target {
	set, clamp := &number{max: 65535}, &flagOption{}
	t := &action{module: "TCPMSS", one: true, opts: []option{
		{name: "--set-mss", value: set, noNot: true}, {name: "--clamp-mss-to-pmtu", value: clamp, noNot: true},
	}}
	t.verify = func(r *Rule, p *ruleParser) error {
		if proto, ok := r.base.proto.only(); !ok || proto != flow.TCP {
			return errors.New("needs -p tcp")
		}
		for _, m := range r.matches {
			if tcp, ok := m.(*tcpMatch); ok && tcp.flags.set && !tcp.flags.not && tcp.flags.comp&2 != 0 {
				return nil
			}
		}
		return errors.New("works on SYN packets only: needs --tcp-flags SYN,RST SYN, or --syn")
	}
	t.do = func(v *View) Verdict {
		mss, headers := set.n, uint64(40)
		if v.family() == flow.IPv6 {
			headers = 60
		}
		if clamp.set {
			mtu := min(v.Env.PathMTU(v.Dst, v.family()), v.Env.PathMTU(v.Src, v.family()))
			if uint64(mtu) <= headers {
				return Drop
			}
			mss = uint64(mtu) - headers
		}
		v.clampMSS(uint16(min(mss, 65535)))
		return Continue
	}
	return t
}

// clampMSS lowers the MSS option of a SYN; one without gets it, if it carries no
// data (tcpmss_mangle_packet).
func (v *View) clampMSS(mss uint16) {
	if v.P.Proto != flow.TCP {
		return
	}
	b := v.l4()
	if o := tcpOption(b, 2); len(o) == 4 {
		if old := binary.BigEndian.Uint16(o[2:]); old > mss {
			v.P.SetMSS(o, mss)
			v.Modified = true
		}
		return
	}
	most := uint16(536)
	if v.family() == flow.IPv6 {
		most = 1220
	}
	if v.P.AddMSS(min(mss, most)) {
		v.Modified = true
	}
}
