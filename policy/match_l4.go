package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// portsMatch is what tcp, udp and sctp share.
type portsMatch struct {
	module       string
	proto        flow.Proto
	sport, dport span
}

func newPorts(module string, p flow.Proto) portsMatch {
	return portsMatch{module, p, span{port: true}, span{port: true}}
}

func (m *portsMatch) name() string { return m.module }

func (m *portsMatch) options() []option {
	return []option{
		{name: "--sport", value: &m.sport, aliases: []string{"--source-port"}},
		{name: "--dport", value: &m.dport, aliases: []string{"--destination-port"}},
	}
}

func (m *portsMatch) check(r *Rule, _ *ruleParser) error {
	if p, ok := r.base.proto.only(); !ok || p != m.proto {
		return fmt.Errorf("needs -p %v", m.proto)
	}
	return nil
}

func (m *portsMatch) conditions(*compiler) (c []condition) {
	if m.sport.set {
		c = append(c, pure(func(v *View) bool { return m.sport.has(uint64(v.SrcPort)) }))
	}
	if m.dport.set {
		c = append(c, pure(func(v *View) bool { return m.dport.has(uint64(v.DstPort)) }))
	}
	return c
}

// udpMatch is xt_udp.
type udpMatch struct{ portsMatch }

// tcpMatch is xt_tcp.
type tcpMatch struct {
	portsMatch
	flags  tcpFlags
	syn    setBy
	option number
}

// tcpFlags is "mask comp", both lists of flags.
type tcpFlags struct {
	given
	mask, comp packet.TCPFlags
}

var tcpFlagNames = []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG"}

func (*tcpFlags) want() int { return 2 }

func (f *tcpFlags) read(args []string) (err error) {
	if f.mask, err = parseFlags(args[0]); err == nil {
		f.comp, err = parseFlags(args[1])
	}
	return err
}

func parseFlags(s string) (f packet.TCPFlags, err error) {
	for name := range strings.SplitSeq(s, ",") {
		switch name {
		case "ALL":
			f |= 0x3f
			continue
		case "NONE":
			continue
		}
		i := slices.Index(tcpFlagNames, name)
		if i < 0 {
			return 0, fmt.Errorf("there is no TCP flag %s: %s, ALL, NONE", name, strings.Join(tcpFlagNames, ", "))
		}
		f |= 1 << i
	}
	return f, nil
}

func (f *tcpFlags) text() string { return flagsText(f.mask) + " " + flagsText(f.comp) }

func flagsText(f packet.TCPFlags) string {
	if f == 0 {
		return "NONE"
	}
	var names []string
	for i, n := range tcpFlagNames {
		if f>>i&1 != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

func newTCP() match {
	m := &tcpMatch{portsMatch: newPorts("tcp", flow.TCP)}
	m.option.max = 255
	m.syn.set = func([]string) error {
		m.flags = tcpFlags{given{true, m.syn.not}, packet.SYN | packet.RST | packet.ACK | packet.FIN, packet.SYN}
		return nil
	}
	return m
}

func (m *tcpMatch) options() []option {
	return append(m.portsMatch.options(),
		option{name: "--tcp-option", value: &m.option},
		option{name: "--tcp-flags", value: &m.flags},
		option{name: "--syn", value: &m.syn})
}

func (m *tcpMatch) conditions(c *compiler) []condition {
	conds := m.portsMatch.conditions(c)
	if m.flags.set {
		conds = append(conds, varying(func(v *View) bool {
			b := v.l4()
			return len(b) >= 20 && (packet.TCPFlags(b[13])&m.flags.mask == m.flags.comp) != m.flags.not
		}))
	}
	if m.option.set {
		conds = append(conds, varying(func(v *View) bool {
			return (tcpOption(v.l4(), uint8(m.option.n)) != nil) != m.option.not
		}))
	}
	return conds
}

// tcpOption returns the option of that kind with its kind and length, nil if there
// is none. The slice is part of b.
func tcpOption(b []byte, kind uint8) []byte {
	if len(b) < 20 {
		return nil
	}
	end := min(int(b[12]>>4)*4, len(b))
	for i := 20; i < end; {
		switch n := 1; {
		case b[i] == kind && kind < 2:
			return b[i : i+1]
		case b[i] == 0:
			return nil
		case b[i] > 1:
			if i+1 >= end || b[i+1] < 2 || i+int(b[i+1]) > end {
				return nil
			}
			n = int(b[i+1])
			if b[i] == kind {
				return b[i : i+n]
			}
			i += n
		default:
			i += n
		}
	}
	return nil
}

// multiportMatch is xt_multiport.
type multiportMatch struct{ src, dst, both portList }

// portList is up to 15 ports, a range counting for two.
type portList struct {
	given
	ranges [][2]uint16
}

func (l *portList) read(args []string) error {
	slots := 0
	for part := range strings.SplitSeq(args[0], ",") {
		lo, hi, ranged := strings.Cut(part, ":")
		a, err := servicePort(lo)
		if err != nil {
			return err
		}
		b := a
		slots++
		if ranged {
			if b, err = servicePort(hi); err != nil {
				return err
			}
			slots++
		}
		if a > b {
			return errors.New("a range is backwards")
		}
		l.ranges = append(l.ranges, [2]uint16{a, b})
	}
	if slots > 15 {
		return errors.New("more than 15 ports (a range counts for two)")
	}
	return nil
}

func (l *portList) text() string {
	parts := make([]string, len(l.ranges))
	for i, r := range l.ranges {
		parts[i] = strconv.Itoa(int(r[0]))
		if r[1] != r[0] {
			parts[i] += ":" + strconv.Itoa(int(r[1]))
		}
	}
	return strings.Join(parts, ",")
}

func (l *portList) has(p uint16) bool {
	for _, r := range l.ranges {
		if p >= r[0] && p <= r[1] {
			return true
		}
	}
	return false
}

func (m *multiportMatch) name() string { return "multiport" }

func (m *multiportMatch) options() []option {
	return []option{
		{name: "--sports", value: &m.src, aliases: []string{"--source-ports"}},
		{name: "--dports", value: &m.dst, aliases: []string{"--destination-ports"}},
		{name: "--ports", value: &m.both},
	}
}

func (m *multiportMatch) check(r *Rule, _ *ruleParser) error {
	switch p, ok := r.base.proto.only(); {
	case !ok || !slices.Contains([]flow.Proto{flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP, flow.DCCP}, p):
		return errors.New("needs -p tcp, udp, udplite, sctp or dccp")
	}
	n := 0
	for _, o := range m.options() {
		if o.value.state().set {
			n++
		}
	}
	if n != 1 {
		return errors.New("needs one of --sports, --dports and --ports")
	}
	return nil
}

func (m *multiportMatch) conditions(*compiler) []condition {
	return []condition{pure(func(v *View) bool {
		switch {
		case m.src.set:
			return m.src.has(v.SrcPort) != m.src.not
		case m.dst.set:
			return m.dst.has(v.DstPort) != m.dst.not
		}
		return (m.both.has(v.SrcPort) || m.both.has(v.DstPort)) != m.both.not
	})}
}

// icmpMatch is the icmp and icmp6 match: a type, perhaps with a code.
type icmpMatch struct {
	module, flag string
	typ          icmpType
}

type icmpType struct {
	given
	v6       bool
	any      bool
	typ      uint8
	lo, hi   uint8 // codes
	withCode bool
}

var icmpNames = map[string][3]uint8{ // type, first and last code
	"echo-reply": {0, 0, 255}, "pong": {0, 0, 255},
	"destination-unreachable": {3, 0, 255}, "network-unreachable": {3, 0, 0}, "host-unreachable": {3, 1, 1},
	"protocol-unreachable": {3, 2, 2}, "port-unreachable": {3, 3, 3}, "fragmentation-needed": {3, 4, 4},
	"source-route-failed": {3, 5, 5}, "network-unknown": {3, 6, 6}, "host-unknown": {3, 7, 7},
	"network-prohibited": {3, 9, 9}, "host-prohibited": {3, 10, 10}, "TOS-network-unreachable": {3, 11, 11},
	"TOS-host-unreachable": {3, 12, 12}, "communication-prohibited": {3, 13, 13},
	"host-precedence-violation": {3, 14, 14}, "precedence-cutoff": {3, 15, 15},
	"source-quench": {4, 0, 255}, "redirect": {5, 0, 255}, "network-redirect": {5, 0, 0}, "host-redirect": {5, 1, 1},
	"TOS-network-redirect": {5, 2, 2}, "TOS-host-redirect": {5, 3, 3},
	"echo-request": {8, 0, 255}, "ping": {8, 0, 255},
	"router-advertisement": {9, 0, 255}, "router-solicitation": {10, 0, 255},
	"time-exceeded": {11, 0, 255}, "ttl-exceeded": {11, 0, 255},
	"ttl-zero-during-transit": {11, 0, 0}, "ttl-zero-during-reassembly": {11, 1, 1},
	"parameter-problem": {12, 0, 255}, "ip-header-bad": {12, 0, 0}, "required-option-missing": {12, 1, 1},
	"timestamp-request": {13, 0, 255}, "timestamp-reply": {14, 0, 255},
	"address-mask-request": {17, 0, 255}, "address-mask-reply": {18, 0, 255},
}

var icmp6Names = map[string][3]uint8{
	"destination-unreachable": {1, 0, 255}, "no-route": {1, 0, 0}, "communication-prohibited": {1, 1, 1},
	"beyond-scope": {1, 2, 2}, "address-unreachable": {1, 3, 3}, "port-unreachable": {1, 4, 4},
	"failed-policy": {1, 5, 5}, "reject-route": {1, 6, 6},
	"packet-too-big": {2, 0, 255}, "time-exceeded": {3, 0, 255}, "ttl-exceeded": {3, 0, 255},
	"ttl-zero-during-transit": {3, 0, 0}, "ttl-zero-during-reassembly": {3, 1, 1},
	"parameter-problem": {4, 0, 255}, "bad-header": {4, 0, 0}, "unknown-header-type": {4, 1, 1}, "unknown-option": {4, 2, 2},
	"echo-request": {128, 0, 255}, "ping": {128, 0, 255}, "echo-reply": {129, 0, 255}, "pong": {129, 0, 255},
	"mld-listener-query": {130, 0, 255}, "mld-listener-report": {131, 0, 255}, "mld-listener-done": {132, 0, 255},
	"mld-listener-reduction": {132, 0, 255},
	"router-solicitation":    {133, 0, 255}, "router-advertisement": {134, 0, 255},
	"neighbour-solicitation": {135, 0, 255}, "neighbor-solicitation": {135, 0, 255},
	"neighbour-advertisement": {136, 0, 255}, "neighbor-advertisement": {136, 0, 255}, "redirect": {137, 0, 255},
}

func (t *icmpType) read(args []string) error {
	s := args[0]
	names := icmpNames
	if t.v6 {
		names = icmp6Names
	}
	if s == "any" && !t.v6 {
		t.any, t.typ, t.hi = true, 255, 255
		return nil
	}
	if n, ok := names[s]; ok {
		t.typ, t.lo, t.hi, t.withCode = n[0], n[1], n[2], n[1] == n[2]
		return nil
	}
	typ, code, has := strings.Cut(s, "/")
	n, err := parseNumber(typ, 255)
	if err != nil {
		return errors.New("an ICMP type is expected: a name, a number, or number/code")
	}
	t.typ, t.lo, t.hi = uint8(n), 0, 255
	if has {
		c, err := parseNumber(code, 255)
		if err != nil {
			return fmt.Errorf("the code: %w", err)
		}
		t.lo, t.hi, t.withCode = uint8(c), uint8(c), true
	}
	return nil
}

func (t *icmpType) text() string {
	switch {
	case t.any:
		return "any"
	case t.withCode:
		return fmt.Sprintf("%d/%d", t.typ, t.lo)
	}
	return strconv.Itoa(int(t.typ))
}

func (m *icmpMatch) name() string { return m.module }

func (m *icmpMatch) options() []option {
	return []option{{name: m.flag, value: &m.typ}}
}

func (m *icmpMatch) check(r *Rule, _ *ruleParser) error {
	want := flow.ICMP
	if m.typ.v6 {
		want = flow.ICMPv6
	}
	if p, ok := r.base.proto.only(); !ok || p != want {
		return fmt.Errorf("needs -p %v", want)
	}
	if !m.typ.set {
		return fmt.Errorf("needs %s", m.flag)
	}
	return nil
}

func (m *icmpMatch) conditions(*compiler) []condition {
	return []condition{varying(func(v *View) bool { // errors of many types belong to one connection
		b := v.l4()
		if len(b) < 4 {
			return false
		}
		t := &m.typ
		return (t.any || b[0] == t.typ && b[1] >= t.lo && b[1] <= t.hi) != t.not
	})}
}
