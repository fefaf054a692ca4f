package syntax

import (
	"errors"
	"fmt"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// The bits of --ctstate beyond those of flow.State.
const (
	StateSNAT = 1 << (flow.Untracked + 1 + iota) // XT_CONNTRACK_STATE_SNAT
	StateDNAT                                    // XT_CONNTRACK_STATE_DNAT
)

// stateNames are in the order in which iptables-save prints them.
var stateNames = []struct {
	name string
	bit  uint16
}{
	{"INVALID", 1 << flow.Invalid}, {"NEW", 1 << flow.New}, {"RELATED", 1 << flow.Related},
	{"ESTABLISHED", 1 << flow.Established}, {"UNTRACKED", 1 << flow.Untracked},
	{"SNAT", StateSNAT}, {"DNAT", StateDNAT},
}

// States is a list of states.
type States struct {
	Given
	Bits uint16 // 1 << flow.State, StateSNAT, StateDNAT
	nat  bool   // SNAT and DNAT are states, too
}

func (s *States) read(args []string) error {
next:
	for name := range strings.SplitSeq(args[0], ",") {
		for _, n := range stateNames {
			if strings.EqualFold(n.name, name) && (s.nat || n.bit < StateSNAT) {
				s.Bits |= n.bit
				continue next
			}
		}
		return fmt.Errorf("there is no state %q", name)
	}
	return nil
}

func (s *States) text() string {
	var names []string
	for _, n := range stateNames {
		if s.Bits&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

// State is the state match.
type State struct{ States States }

// Name returns the name of the match.
func (m *State) Name() string { return "state" }

func (m *State) options() []option { return []option{{name: "--state", value: &m.States}} }

func (m *State) check(*Rule, place) error { return atLeastOne(m.options()) }

// Conntrack is xt_conntrack.
type Conntrack struct {
	State                              States
	Proto                              CTProto
	OrigSrc, OrigDst, ReplSrc, ReplDst HostMask
	OrigSport, OrigDport               Span
	ReplSport, ReplDport               Span
	Status                             Statuses
	Expire                             Span // seconds
	Dir                                Word // ORIGINAL or REPLY
}

// CTProto is --ctproto: printed as a number.
type CTProto struct {
	Given
	N flow.Proto
}

func (p *CTProto) read(args []string) (err error) {
	if p.N, err = parseProto(args[0]); err == nil && p.N == 0 {
		return errors.New("protocol 0 is not possible")
	}
	return err
}

func (p *CTProto) text() string { return fmt.Sprint(uint8(p.N)) }

// Statuses is --ctstatus.
type Statuses struct {
	Given
	Bits flow.Status
}

var statusBits = []struct {
	name string
	bit  flow.Status
}{{"EXPECTED", flow.Expected}, {"SEEN_REPLY", flow.SeenReply}, {"ASSURED", flow.Assured}, {"CONFIRMED", flow.Confirmed}}

func (s *Statuses) read(args []string) error {
next:
	for name := range strings.SplitSeq(args[0], ",") {
		if strings.EqualFold(name, "NONE") {
			continue
		}
		for _, n := range statusBits {
			if strings.EqualFold(n.name, name) {
				s.Bits |= n.bit
				continue next
			}
		}
		return fmt.Errorf("there is no status %q: NONE, EXPECTED, SEEN_REPLY, ASSURED, CONFIRMED", name)
	}
	return nil
}

func (s *Statuses) text() string {
	if s.Bits == 0 {
		return "NONE"
	}
	var names []string
	for _, n := range statusBits {
		if s.Bits&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

// HostMask is an AddrMask that is printed without the length of a single host.
type HostMask struct{ AddrMask }

func hostMask(f flow.Family) HostMask { return HostMask{AddrMask{Family: f}} }

func (h *HostMask) text() string {
	if n, ok := PrefixLen(h.Mask, h.Family); ok && n == familyBits(h.Family) {
		return addrText(h.Addr, h.Family)
	}
	return addrMaskText(h.Addr, h.Mask, h.Family)
}

func newConntrack(f flow.Family) *Conntrack {
	h := hostMask(f)
	return &Conntrack{
		State: States{nat: true}, OrigSrc: h, OrigDst: h, ReplSrc: h, ReplDst: h,
		Expire: Span{max: 1<<32 - 1}, Dir: Word{oneOf: []string{"ORIGINAL", "REPLY"}},
	}
}

// Name returns the name of the match.
func (m *Conntrack) Name() string { return "conntrack" }

func (m *Conntrack) options() []option {
	return []option{
		{name: "--ctstate", value: &m.State},
		{name: "--ctproto", value: &m.Proto},
		{name: "--ctorigsrc", value: &m.OrigSrc},
		{name: "--ctorigdst", value: &m.OrigDst},
		{name: "--ctreplsrc", value: &m.ReplSrc},
		{name: "--ctrepldst", value: &m.ReplDst},
		{name: "--ctorigsrcport", value: &m.OrigSport},
		{name: "--ctorigdstport", value: &m.OrigDport},
		{name: "--ctreplsrcport", value: &m.ReplSport},
		{name: "--ctrepldstport", value: &m.ReplDport},
		{name: "--ctstatus", value: &m.Status},
		{name: "--ctexpire", value: &m.Expire},
		{name: "--ctdir", value: &m.Dir, noNot: true},
	}
}

func (m *Conntrack) check(*Rule, place) error { return atLeastOne(m.options()) }

// Mark is xt_mark, and xt_connmark for the mark of the connection.
type Mark struct {
	Conn bool
	Mark Masked
}

// Name returns the name of the match.
func (m *Mark) Name() string {
	if m.Conn {
		return "connmark"
	}
	return "mark"
}

func (m *Mark) options() []option { return []option{{name: "--mark", value: &m.Mark}} }

func (m *Mark) check(*Rule, place) error { return atLeastOne(m.options()) }
