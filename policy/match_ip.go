package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// simple is a match that is one comparison, or a few that are independent.
type simple struct {
	module string
	opts   []option
	asks   []condition // by option; nil for those that another one stands for
	proto  flow.Proto  // 0: any
	proto6 flow.Proto
	one    bool // exactly one option, not at least one
	none   bool // no option is needed
	also   []condition
	inside bool // for packets that come in: not in POSTROUTING or OUTPUT
}

func (m *simple) name() string      { return m.module }
func (m *simple) options() []option { return m.opts }

func (m *simple) check(r *Rule, p *ruleParser) error {
	n := 0
	var names []string
	for _, o := range m.opts {
		names = append(names, o.name)
		if o.value.state().set {
			n++
		}
	}
	if want := m.proto; want != 0 {
		if p.family == flow.IPv6 && m.proto6 != 0 {
			want = m.proto6
		}
		if got, ok := r.base.proto.only(); !ok || got != want {
			return fmt.Errorf("needs -p %v", want)
		}
	}
	switch {
	case m.inside && (p.chain == "POSTROUTING" || p.chain == "OUTPUT"):
		return fmt.Errorf("has no meaning in %s", p.chain)
	case n == 0 && !m.none:
		return fmt.Errorf("needs %s", strings.Join(names, " or "))
	case n > 1 && m.one:
		return fmt.Errorf("%s exclude each other", strings.Join(names, ", "))
	}
	return nil
}

func (m *simple) conditions(*compiler) (c []condition) {
	for i, o := range m.opts {
		if o.value.state().set && i < len(m.asks) && m.asks[i] != nil {
			c = append(c, m.asks[i])
		}
	}
	return append(c, m.also...)
}

func newIPRange(f flow.Family) match {
	src, dst := &addrRange{family: f}, &addrRange{family: f}
	return &simple{module: "iprange",
		opts: []option{{name: "--src-range", value: src}, {name: "--dst-range", value: dst}},
		asks: []condition{
			pure(func(v *View) bool { return src.has(v.Src) }),
			pure(func(v *View) bool { return dst.has(v.Dst) }),
		}}
}

// macAddr is an Ethernet address.
type macAddr struct {
	given
	mac packet.MAC
}

func (m *macAddr) read(args []string) error {
	hw, err := net.ParseMAC(args[0])
	if err != nil || len(hw) != 6 {
		return errors.New("an Ethernet address is expected")
	}
	m.mac = packet.MAC(hw)
	return nil
}

func (m *macAddr) text() string { return net.HardwareAddr(m.mac[:]).String() }

func newMAC(flow.Family) match {
	mac := &macAddr{}
	return &simple{module: "mac", inside: true, opts: []option{{name: "--mac-source", value: mac}},
		asks: []condition{varying(func(v *View) bool {
			return len(v.P.Frame) >= 14 && (packet.MAC(v.P.Frame[6:12]) == mac.mac) != mac.not
		})}}
}

// tosOf returns the TOS or traffic class byte.
func tosOf(v *View) uint8 {
	h := v.P.Frame[v.P.L3:]
	if v.family() == flow.IPv4 {
		return h[1]
	}
	return h[0]<<4 | h[1]>>4
}

// tosValue is value[/mask], a byte each, or the name of a TOS.
type tosValue struct{ masked }

var tosNames = map[string]uint32{
	"Minimize-Delay": 0x10, "Maximize-Throughput": 0x08, "Maximize-Reliability": 0x04, "Minimize-Cost": 0x02, "Normal-Service": 0,
}

func newTOSValue(mask uint32) tosValue {
	return tosValue{masked{most: 255, always: true, width: 2, full: mask}}
}

func (t *tosValue) read(args []string) error {
	if v, ok := tosNames[args[0]]; ok {
		t.v, t.mask = v, 0x3f
		return nil
	}
	return t.masked.read(args)
}

func newTOS(flow.Family) match {
	tos := newTOSValue(255)
	return &simple{module: "tos", opts: []option{{name: "--tos", value: &tos}},
		asks: []condition{varying(func(v *View) bool { return (uint32(tosOf(v))&tos.mask == tos.v) != tos.not })}}
}

// dscpClasses are the names of --dscp-class.
func dscpClass(s string) (uint64, bool) {
	s = strings.ToUpper(s)
	var class, drop uint64
	switch {
	case s == "BE":
		return 0, true
	case s == "EF":
		return 46, true
	case len(s) == 3 && s[:2] == "CS" && s[2] >= '0' && s[2] <= '7':
		return uint64(s[2]-'0') << 3, true
	case len(s) == 4 && s[:2] == "AF" && s[2] >= '1' && s[2] <= '4' && s[3] >= '1' && s[3] <= '3':
		class, drop = uint64(s[2]-'0'), uint64(s[3]-'0')
		return class<<3 | drop<<1, true
	}
	return 0, false
}

// dscpOptions are a value and the option that names its class.
func dscpOptions(value, class string, n *number) []option {
	n.max, n.hex = 63, true
	by := &setBy{n: 1}
	by.set = func(args []string) error {
		c, ok := dscpClass(args[0])
		if !ok {
			return errors.New("a class is expected: BE, EF, CS0-CS7, AF11-AF43")
		}
		n.n, n.given = c, given{true, by.not}
		return nil
	}
	return []option{{name: value, value: n}, {name: class, value: by}}
}

func newDSCP(flow.Family) match {
	n := &number{}
	return &simple{module: "dscp", opts: dscpOptions("--dscp", "--dscp-class", n),
		asks: []condition{varying(func(v *View) bool { return (uint64(tosOf(v)>>2) == n.n) != n.not })}}
}

// hops returns the TTL or hop limit.
func hops(v *View) uint64 {
	if v.family() == flow.IPv4 {
		return uint64(v.P.Frame[v.P.L3+8])
	}
	return uint64(v.P.Frame[v.P.L3+7])
}

func newTTL(module, prefix string) match {
	eq, lt, gt := &number{max: 255}, &number{max: 255}, &number{max: 255}
	return &simple{module: module, one: true,
		opts: []option{{name: prefix + "-eq", value: eq, aliases: []string{prefix}},
			{name: prefix + "-lt", value: lt, noNot: true}, {name: prefix + "-gt", value: gt, noNot: true}},
		asks: []condition{
			varying(func(v *View) bool { return (hops(v) == eq.n) != eq.not }),
			varying(func(v *View) bool { return hops(v) < lt.n }),
			varying(func(v *View) bool { return hops(v) > gt.n }),
		}}
}

func newLength(flow.Family) match {
	s := &span{}
	return &simple{module: "length", opts: []option{{name: "--length", value: s}},
		asks: []condition{varying(func(v *View) bool { return s.has(uint64(v.P.Len)) })}}
}

func newTCPMSS(flow.Family) match {
	s := &span{}
	return &simple{module: "tcpmss", proto: flow.TCP, opts: []option{{name: "--mss", value: s}},
		asks: []condition{varying(func(v *View) bool {
			o := tcpOption(v.l4(), 2)
			if len(o) != 4 {
				return s.not
			}
			return s.has(uint64(binary.BigEndian.Uint16(o[2:])))
		})}}
}

// AddrTypes is a set of kinds of addresses (enum of xt_addrtype.h).
type AddrTypes uint16

// The kinds, by the bits of RTN_*.
const (
	AddrUnspec      AddrTypes = 1 << iota
	AddrUnicast               // RTN_UNICAST
	AddrLocal                 // RTN_LOCAL
	AddrBroadcast             // RTN_BROADCAST
	AddrAnycast               // RTN_ANYCAST
	AddrMulticast             // RTN_MULTICAST
	AddrBlackhole             // RTN_BLACKHOLE
	AddrUnreachable           // RTN_UNREACHABLE
	AddrProhibit              // RTN_PROHIBIT
)

var addrTypeNames = []string{"UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT"}

type addrTypeSet struct {
	given
	bits AddrTypes
}

func (a *addrTypeSet) read(args []string) error {
	for name := range strings.SplitSeq(args[0], ",") {
		i := slices.Index(addrTypeNames, strings.ToUpper(name))
		if i < 0 {
			return fmt.Errorf("there is no type %q: %s", name, strings.Join(addrTypeNames, ", "))
		}
		a.bits |= 1 << i
	}
	return nil
}

func (a *addrTypeSet) text() string {
	var names []string
	for i, n := range addrTypeNames {
		if a.bits>>i&1 != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

func newAddrType(flow.Family) match {
	src, dst, in, out := &addrTypeSet{}, &addrTypeSet{}, &flagOption{}, &flagOption{}
	dev := func(v *View) int {
		switch {
		case in.set:
			return v.In
		case out.set:
			return v.Out
		}
		return -1
	}
	// Routes change, so the answers are not the flow's.
	return &simple{module: "addrtype",
		opts: []option{{name: "--src-type", value: src}, {name: "--dst-type", value: dst},
			{name: "--limit-iface-in", value: in, noNot: true}, {name: "--limit-iface-out", value: out, noNot: true}},
		asks: []condition{
			varying(func(v *View) bool { return v.addrIs(v.Src, src.bits, dev(v)) != src.not }),
			varying(func(v *View) bool { return v.addrIs(v.Dst, dst.bits, dev(v)) != dst.not }),
		}}
}

// addrIs reports whether an address is of one of the kinds. For IPv6 a local address
// is unicast, too, and all of some kinds have to hold (match_type6).
func (v *View) addrIs(a flow.Addr, kinds AddrTypes, dev int) bool {
	is := v.Env.AddrType(a, v.family(), dev)
	if v.family() == flow.IPv4 {
		return is&kinds != 0
	}
	multicast := a.Hi>>56 == 0xff
	switch {
	case kinds&AddrMulticast != 0 && !multicast,
		kinds&AddrUnicast != 0 && (multicast || a == flow.Addr{}),
		kinds&AddrUnspec != 0 && a != flow.Addr{}:
		return false
	}
	if looked := kinds & (AddrLocal | AddrAnycast | AddrUnreachable); looked != 0 {
		return is&looked != 0
	}
	return true
}

func newPktType(flow.Family) match {
	t := &word{oneOf: []string{"unicast", "broadcast", "multicast"}}
	return &simple{module: "pkttype", opts: []option{{name: "--pkt-type", value: t}},
		asks: []condition{varying(func(v *View) bool { return (pktType(v.P) == t.s) != t.not })}}
}

// pktType returns how a frame was addressed on its link.
func pktType(p *packet.Packet) string {
	if len(p.Frame) < 6 || p.L3 < 14 || p.Frame[0]&1 == 0 {
		return "unicast"
	}
	for _, b := range p.Frame[:6] {
		if b != 0xff {
			return "multicast"
		}
	}
	return "broadcast"
}

func newComment(flow.Family) match {
	return &simple{module: "comment", opts: []option{{name: "--comment", value: &word{most: 255}, noNot: true}}}
}

// newFrag is ip6t_frag: datagrams are whole when rules see them, so it never holds.
func newFrag(flow.Family) match {
	id, length := &span{max: 1<<32 - 1}, &number{}
	flags := []*flagOption{{}, {}, {}, {}}
	return &simple{module: "frag", none: true,
		opts: []option{{name: "--fragid", value: id}, {name: "--fraglen", value: length}, {name: "--fragres", value: flags[0]},
			{name: "--fragfirst", value: flags[1]}, {name: "--fragmore", value: flags[2]}, {name: "--fraglast", value: flags[3]}},
		also: []condition{pure(func(*View) bool { return false })},
	}
}

// newRT is ip6t_rt, for type and segments left of a routing header.
func newRT(flow.Family) match {
	typ, segs := &number{max: 255}, &span{max: 1<<32 - 1}
	return &simple{module: "rt", none: true,
		opts: []option{{name: "--rt-type", value: typ}, {name: "--rt-segsleft", value: segs}},
		also: []condition{varying(func(v *View) bool {
			h := v.P.RoutingHeader()
			return h != nil && (!typ.set || (uint64(h[2]) == typ.n) != typ.not) && (!segs.set || segs.has(uint64(h[3])))
		})},
	}
}

// newRPFilter is xt_rpfilter: whether an answer would leave by the interface that
// the packet came by.
func newRPFilter(flow.Family) match {
	loose, valid, local, invert := &flagOption{}, &flagOption{}, &flagOption{}, &flagOption{}
	return &simple{module: "rpfilter", none: true,
		opts: []option{{name: "--loose", value: loose, noNot: true}, {name: "--validmark", value: valid, noNot: true},
			{name: "--accept-local", value: local, noNot: true}, {name: "--invert", value: invert, noNot: true}},
		also: []condition{varying(func(v *View) bool { // routes change
			if !local.set && v.Env.AddrType(v.Src, v.family(), -1)&AddrLocal != 0 {
				return invert.set
			}
			return v.Env.ReverseOK(v.Src, v.family(), v.In, loose.set) != invert.set
		})},
	}
}
