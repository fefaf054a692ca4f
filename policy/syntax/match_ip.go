package syntax

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// IPRange is xt_iprange.
type IPRange struct{ Src, Dst AddrRange }

func newIPRange(f flow.Family) *IPRange {
	return &IPRange{AddrRange{Family: f}, AddrRange{Family: f}}
}

// Name returns the name of the match.
func (m *IPRange) Name() string { return "iprange" }

func (m *IPRange) options() []option {
	return []option{{name: "--src-range", value: &m.Src}, {name: "--dst-range", value: &m.Dst}}
}

func (m *IPRange) check(*Rule, place) error { return atLeastOne(m.options()) }

// MACSource is xt_mac.
type MACSource struct{ MAC MAC }

// MAC is an Ethernet address.
type MAC struct {
	Given
	Addr packet.MAC
}

func (m *MAC) read(args []string) error {
	hw, err := net.ParseMAC(args[0])
	if err != nil || len(hw) != 6 {
		return errors.New("an Ethernet address is expected")
	}
	m.Addr = packet.MAC(hw)
	return nil
}

func (m *MAC) text() string { return net.HardwareAddr(m.Addr[:]).String() }

// Name returns the name of the match.
func (m *MACSource) Name() string { return "mac" }

func (m *MACSource) options() []option { return []option{{name: "--mac-source", value: &m.MAC}} }

func (m *MACSource) check(_ *Rule, at place) error {
	if err := comesIn(at); err != nil {
		return err
	}
	return atLeastOne(m.options())
}

// comesIn is the check of a match that asks for the link that a packet came by.
func comesIn(at place) error {
	if at.chain == "POSTROUTING" || at.chain == "OUTPUT" {
		return fmt.Errorf("has no meaning in %s", at.chain)
	}
	return nil
}

// TOSValue is value[/mask], a byte each, or the name of a TOS.
type TOSValue struct{ Masked }

var tosNames = map[string]uint32{
	"Minimize-Delay": 0x10, "Maximize-Throughput": 0x08, "Maximize-Reliability": 0x04, "Minimize-Cost": 0x02, "Normal-Service": 0,
}

func newTOSValue() TOSValue {
	return TOSValue{Masked{most: 255, always: true, width: 2, full: 255}}
}

func (t *TOSValue) read(args []string) error {
	if v, ok := tosNames[args[0]]; ok {
		t.V, t.Mask = v, 0x3f
		return nil
	}
	return t.Masked.read(args)
}

// TOS is xt_tos.
type TOS struct{ TOS TOSValue }

func newTOS() *TOS { return &TOS{newTOSValue()} }

// Name returns the name of the match.
func (m *TOS) Name() string { return "tos" }

func (m *TOS) options() []option { return []option{{name: "--tos", value: &m.TOS}} }

func (m *TOS) check(*Rule, place) error { return atLeastOne(m.options()) }

// dscpClass reads a name of --dscp-class.
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
func dscpOptions(value, class string, n *Number) []option {
	n.max, n.hex = 63, true
	by := &setBy{n: 1}
	by.apply = func(args []string) error {
		c, ok := dscpClass(args[0])
		if !ok {
			return errors.New("a class is expected: BE, EF, CS0-CS7, AF11-AF43")
		}
		n.N, n.Given = c, Given{true, by.Not}
		return nil
	}
	return []option{{name: value, value: n}, {name: class, value: by}}
}

// DSCP is xt_dscp.
type DSCP struct{ DSCP Number }

// Name returns the name of the match.
func (m *DSCP) Name() string { return "dscp" }

func (m *DSCP) options() []option { return dscpOptions("--dscp", "--dscp-class", &m.DSCP) }

func (m *DSCP) check(*Rule, place) error { return atLeastOne(m.options()) }

// Hops is xt_hl, for TTL and hop limit: one of its options is given.
type Hops struct {
	module     string
	Eq, Lt, Gt Number
}

func newHops(module string) *Hops {
	n := Number{max: 255}
	return &Hops{module, n, n, n}
}

// Name returns the name of the match.
func (m *Hops) Name() string { return m.module }

func (m *Hops) options() []option {
	prefix := "--" + m.module
	return []option{
		{name: prefix + "-eq", value: &m.Eq, aliases: []string{prefix}},
		{name: prefix + "-lt", value: &m.Lt, noNot: true},
		{name: prefix + "-gt", value: &m.Gt, noNot: true},
	}
}

func (m *Hops) check(*Rule, place) error { return exactlyOne(m.options()) }

// Length is xt_length: of the IP datagram, in bytes.
type Length struct{ Length Span }

// Name returns the name of the match.
func (m *Length) Name() string { return "length" }

func (m *Length) options() []option { return []option{{name: "--length", value: &m.Length}} }

func (m *Length) check(*Rule, place) error { return atLeastOne(m.options()) }

// TCPMSSValue is xt_tcpmss.
type TCPMSSValue struct{ MSS Span }

// Name returns the name of the match.
func (m *TCPMSSValue) Name() string { return "tcpmss" }

func (m *TCPMSSValue) options() []option { return []option{{name: "--mss", value: &m.MSS}} }

func (m *TCPMSSValue) check(r *Rule, _ place) error {
	if err := needsProto(r, flow.TCP); err != nil {
		return err
	}
	return atLeastOne(m.options())
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
	AddrThrow                 // RTN_THROW
	AddrNAT                   // RTN_NAT
	AddrXResolve              // RTN_XRESOLVE
)

var addrTypeNames = []string{"UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT",
	"THROW", "NAT", "XRESOLVE"}

// AddrTypeSet is a list of types of addresses.
type AddrTypeSet struct {
	Given
	Types AddrTypes
}

func (a *AddrTypeSet) read(args []string) error {
	for name := range strings.SplitSeq(args[0], ",") {
		i := slices.Index(addrTypeNames, strings.ToUpper(name))
		if i < 0 {
			return fmt.Errorf("there is no type %q: %s", name, strings.Join(addrTypeNames, ", "))
		}
		a.Types |= 1 << i
	}
	return nil
}

func (a *AddrTypeSet) text() string {
	var names []string
	for i, n := range addrTypeNames {
		if a.Types>>i&1 != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

// AddrType is xt_addrtype.
type AddrType struct {
	Src, Dst                    AddrTypeSet
	LimitIfaceIn, LimitIfaceOut Flag
}

// Name returns the name of the match.
func (m *AddrType) Name() string { return "addrtype" }

func (m *AddrType) options() []option {
	return []option{
		{name: "--src-type", value: &m.Src}, {name: "--dst-type", value: &m.Dst},
		{name: "--limit-iface-in", value: &m.LimitIfaceIn, noNot: true},
		{name: "--limit-iface-out", value: &m.LimitIfaceOut, noNot: true},
	}
}

func (m *AddrType) check(_ *Rule, at place) error {
	if all := m.Src.Types | m.Dst.Types; at.family == flow.IPv6 && (all >= AddrProhibit || all&AddrBroadcast != 0) {
		return errors.New("IPv6 has no BROADCAST, and PROHIBIT, THROW, NAT and XRESOLVE are not for it")
	}
	return atLeastOne(m.options())
}

// PktType is xt_pkttype.
type PktType struct{ Type Word }

func newPktType() *PktType {
	return &PktType{Word{oneOf: []string{"unicast", "broadcast", "multicast"}}}
}

// Name returns the name of the match.
func (m *PktType) Name() string { return "pkttype" }

func (m *PktType) options() []option { return []option{{name: "--pkt-type", value: &m.Type}} }

func (m *PktType) check(*Rule, place) error { return atLeastOne(m.options()) }

// Comment is xt_comment.
type Comment struct{ Text Word }

func newComment() *Comment { return &Comment{Word{most: 255}} }

// Name returns the name of the match.
func (m *Comment) Name() string { return "comment" }

func (m *Comment) options() []option {
	return []option{{name: "--comment", value: &m.Text, noNot: true}}
}

func (m *Comment) check(*Rule, place) error { return atLeastOne(m.options()) }

// Frag is ip6t_frag.
type Frag struct {
	ID                     Span
	Len                    Number
	Res, First, More, Last Flag
}

func newFrag() *Frag { return &Frag{ID: Span{max: 1<<32 - 1}} }

// Name returns the name of the match.
func (m *Frag) Name() string { return "frag" }

func (m *Frag) options() []option {
	return []option{
		{name: "--fragid", value: &m.ID}, {name: "--fraglen", value: &m.Len}, {name: "--fragres", value: &m.Res},
		{name: "--fragfirst", value: &m.First}, {name: "--fragmore", value: &m.More}, {name: "--fraglast", value: &m.Last},
	}
}

func (m *Frag) check(*Rule, place) error { return nil }

// RPFilter is xt_rpfilter: whether an answer would leave by the interface that the
// packet came by.
type RPFilter struct{ Loose, ValidMark, AcceptLocal, Invert Flag }

// Name returns the name of the match.
func (m *RPFilter) Name() string { return "rpfilter" }

func (m *RPFilter) options() []option {
	return []option{
		{name: "--loose", value: &m.Loose, noNot: true}, {name: "--validmark", value: &m.ValidMark, noNot: true},
		{name: "--accept-local", value: &m.AcceptLocal, noNot: true}, {name: "--invert", value: &m.Invert, noNot: true},
	}
}

func (m *RPFilter) check(*Rule, place) error { return nil }
