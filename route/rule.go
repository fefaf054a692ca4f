package route

import (
	"net/netip"
	"slices"

	"github.com/xdpct/xdpct/flow"
)

// Action is what a rule does with the packets that it matches (FR_ACT_*).
type Action uint8

// The actions, with the kernel's values.
const (
	ToTable           Action = 1
	Goto              Action = 2
	Nop               Action = 3
	ActionBlackhole   Action = 6
	ActionUnreachable Action = 7
	ActionProhibit    Action = 8
)

// PortRange is the ports from Lo to Hi; the zero PortRange is all.
type PortRange struct{ Lo, Hi uint16 }

func (r PortRange) has(p uint16) bool { return r == PortRange{} || r.Lo <= p && p <= r.Hi }

// Rule is a routing rule (ip rule). The zero value of a field that selects packets
// selects all.
type Rule struct {
	Family             flow.Family
	Priority           int
	Src, Dst           netip.Prefix
	In, Out            string // names of interfaces; lo: packets of the host itself
	Mark, Mask         uint32
	TOS                uint8 // the bits 0x1c of TOS or traffic class (FRA_DSCP: all six bits of the code point)
	TOSMask            uint8 // which bits count; 0: none
	Proto              flow.Proto
	SrcPorts, DstPorts PortRange
	L3Mdev             bool // packets from members of a VRF, and its table
	// Never: it asks for what no forwarded packet has: a tunnel key, or another
	// user than root.
	Never  bool
	Invert bool

	Action Action
	Table  int
	Target int // of Goto: the priority of the rule to go on with
	// SuppressLen: routes found with prefixes no longer than that do not count; -1:
	// all do.
	SuppressLen int
	// SuppressGroup: routes by interfaces of this group do not count; -1: all do.
	SuppressGroup int
	Realms        uint32 // FRA_FLOW of IPv4, as NextHop.Realms

	in int // number of In: one of those below, or an interface
}

// What Rule.in can be besides an interface.
const (
	inAny   = -1
	inHost  = -2 // a packet of our own: its interface is lo
	inOther = -3 // an interface that is not ours
)

// NewRule returns the rule that sends all packets to a table.
func NewRule(f flow.Family, priority, table int) Rule {
	return Rule{Family: f, Priority: priority, Action: ToTable, Table: table, SuppressLen: -1, SuppressGroup: -1}
}

// SetRules replaces the rules. Those of one priority are in the order given.
func (t *Table) SetRules(rules []Rule) {
	t.rules = [2][]Rule{}
	for _, r := range rules {
		r.in = inOther
		switch r.In {
		case "":
			r.in = inAny
		case "lo":
			r.in = inHost
		default:
			for n, i := range t.Interfaces {
				if i.Name == r.In && i.Index != 0 {
					r.in = n
				}
			}
		}
		i := r.Family.Index()
		t.rules[i] = append(t.rules[i], r)
	}
	for i := range t.rules {
		slices.SortStableFunc(t.rules[i], func(a, b Rule) int { return a.Priority - b.Priority })
		t.custom[i] = !slices.Equal(t.rules[i], standardRules([]flow.Family{flow.IPv4, flow.IPv6}[i]))
	}
}

// CustomRules reports whether there are other rules than the kernel's default ones
// (fib4_has_custom_rules): then it looks the source of every packet up.
func (t *Table) CustomRules(f flow.Family) bool { return t.custom[f.Index()] }

// standardRules are the rules that the kernel has by itself.
func standardRules(f flow.Family) []Rule {
	rules := []Rule{NewRule(f, 0, TableLocal), NewRule(f, 32766, TableMain), NewRule(f, 32767, TableDefault)}
	for i := range rules {
		rules[i].in = inAny
	}
	return rules
}

// SameRules reports whether t and u have the same routing rules.
func (t *Table) SameRules(u *Table) bool {
	return slices.Equal(t.rules[0], u.rules[0]) && slices.Equal(t.rules[1], u.rules[1])
}

// matches reports whether the rule selects a packet (fib_rule_match); vrf is the table
// of the VRF that it came in by, 0 for none.
func (r *Rule) matches(src, dst netip.Addr, k *Key, vrf int) bool {
	ok := !r.Never && r.Out == "" && // a packet that is to be forwarded has no output interface yet
		(r.in == inAny || r.in == k.In || r.in == inHost && k.In < 0) &&
		(k.Mark^r.Mark)&r.Mask == 0 &&
		(!r.L3Mdev || vrf != 0) &&
		(!r.Src.IsValid() || r.Src.Contains(src)) && (!r.Dst.IsValid() || r.Dst.Contains(dst)) &&
		(k.TOS^r.TOS)&r.TOSMask == 0 &&
		(r.Proto == 0 || r.Proto == k.Proto) && r.SrcPorts.has(k.SrcPort) && r.DstPorts.has(k.DstPort)
	return ok != r.Invert
}
