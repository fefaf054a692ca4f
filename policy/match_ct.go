package policy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// The bits of --ctstate, beyond flow.State.
const (
	ctSNAT = 1 << (flow.Untracked + 1 + iota)
	ctDNAT
)

// stateNames are in the order in which iptables-save prints them.
var stateNames = []struct {
	name string
	bit  uint16
}{
	{"INVALID", 1 << flow.Invalid}, {"NEW", 1 << flow.New}, {"RELATED", 1 << flow.Related},
	{"ESTABLISHED", 1 << flow.Established}, {"UNTRACKED", 1 << flow.Untracked},
	{"SNAT", ctSNAT}, {"DNAT", ctDNAT},
}

// stateSet is a list of states.
type stateSet struct {
	given
	bits uint16
	nat  bool // SNAT and DNAT are states, too
}

func (s *stateSet) read(args []string) error {
next:
	for name := range strings.SplitSeq(args[0], ",") {
		for _, n := range stateNames {
			if strings.EqualFold(n.name, name) && (s.nat || n.bit < ctSNAT) {
				s.bits |= n.bit
				continue next
			}
		}
		return fmt.Errorf("there is no state %q", name)
	}
	return nil
}

func (s *stateSet) text() string {
	var names []string
	for _, n := range stateNames {
		if s.bits&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

// stateMatch is the state match.
type stateMatch struct{ states stateSet }

func (m *stateMatch) name() string      { return "state" }
func (m *stateMatch) options() []option { return []option{{name: "--state", value: &m.states}} }

func (m *stateMatch) check(*Rule, *ruleParser) error {
	if !m.states.set {
		return errors.New("needs --state")
	}
	return nil
}

func (m *stateMatch) conditions(*compiler) []condition {
	return []condition{pure(func(v *View) bool { return (m.states.bits>>v.State&1 != 0) != m.states.not })}
}

// conntrackMatch is xt_conntrack.
type conntrackMatch struct {
	state                              stateSet
	proto                              ctProto
	origSrc, origDst, replSrc, replDst addrMask
	origSport, origDport               span
	replSport, replDport               span
	status                             statusSet
	expire                             span
	dir                                word
}

// ctProto is --ctproto: printed as a number.
type ctProto struct {
	given
	n flow.Proto
}

func (p *ctProto) read(args []string) (err error) {
	if p.n, err = parseProto(args[0]); err == nil && p.n == 0 {
		return errors.New("protocol 0 is not possible")
	}
	return err
}

func (p *ctProto) text() string { return fmt.Sprint(uint8(p.n)) }

// statusSet is --ctstatus.
type statusSet struct {
	given
	bits flow.Status
	none bool
}

var statusBits = []struct {
	name string
	bit  flow.Status
}{{"EXPECTED", flow.Expected}, {"SEEN_REPLY", flow.SeenReply}, {"ASSURED", flow.Assured}, {"CONFIRMED", flow.Confirmed}}

func (s *statusSet) read(args []string) error {
next:
	for name := range strings.SplitSeq(args[0], ",") {
		if strings.EqualFold(name, "NONE") {
			s.none = true
			continue
		}
		for _, n := range statusBits {
			if strings.EqualFold(n.name, name) {
				s.bits |= n.bit
				continue next
			}
		}
		return fmt.Errorf("there is no status %q: NONE, EXPECTED, SEEN_REPLY, ASSURED, CONFIRMED", name)
	}
	return nil
}

func (s *statusSet) text() string {
	if s.bits == 0 {
		return "NONE"
	}
	var names []string
	for _, n := range statusBits {
		if s.bits&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, ",")
}

func newConntrack(f flow.Family) match {
	m := &conntrackMatch{
		origSrc: addrMask{family: f}, origDst: addrMask{family: f},
		replSrc: addrMask{family: f}, replDst: addrMask{family: f},
		expire: span{max: 1<<32 - 1}, dir: word{oneOf: []string{"ORIGINAL", "REPLY"}},
	}
	m.state.nat = true
	return m
}

func (m *conntrackMatch) name() string { return "conntrack" }

func (m *conntrackMatch) options() []option {
	return []option{
		{name: "--ctstate", value: &m.state},
		{name: "--ctproto", value: &m.proto},
		{name: "--ctorigsrc", value: (*hostMask)(&m.origSrc)},
		{name: "--ctorigdst", value: (*hostMask)(&m.origDst)},
		{name: "--ctreplsrc", value: (*hostMask)(&m.replSrc)},
		{name: "--ctrepldst", value: (*hostMask)(&m.replDst)},
		{name: "--ctorigsrcport", value: &m.origSport},
		{name: "--ctorigdstport", value: &m.origDport},
		{name: "--ctreplsrcport", value: &m.replSport},
		{name: "--ctrepldstport", value: &m.replDport},
		{name: "--ctstatus", value: &m.status},
		{name: "--ctexpire", value: &m.expire},
		{name: "--ctdir", value: &m.dir, noNot: true},
	}
}

// hostMask is an addrMask that is printed without the length of a single host.
type hostMask addrMask

func (h *hostMask) read(args []string) error { return (*addrMask)(h).read(args) }

func (h *hostMask) text() string {
	if n, ok := prefixLen(h.mask, h.family); ok && n == familyBits(h.family) {
		return addrText(h.addr, h.family)
	}
	return addrMaskText(h.addr, h.mask, h.family)
}

func (m *conntrackMatch) check(*Rule, *ruleParser) error {
	for _, o := range m.options() {
		if o.value.state().set {
			return nil
		}
	}
	return errors.New("needs at least one option")
}

// tuple returns a tuple of the view's connection.
func (v *View) tuple(d flow.Direction) flow.Tuple { return v.Conn.Tuple(d, v.Extra) }

func (m *conntrackMatch) conditions(*compiler) (c []condition) {
	if m.state.set {
		c = append(c, pure(m.matchState))
	}
	if m.dir.set {
		want := flow.Original
		if m.dir.s == "REPLY" {
			want = flow.Reply
		}
		c = append(c, pure(func(v *View) bool { return v.Tracked && v.Dir == want }))
	}
	if m.proto.set {
		c = append(c, pure(func(v *View) bool {
			return v.Tracked && (v.Conn.Key.L4.Proto() == m.proto.n) != m.proto.not
		}))
	}
	for _, a := range []struct {
		want *addrMask
		dir  flow.Direction
		src  bool
	}{{&m.origSrc, 0, true}, {&m.origDst, 0, false}, {&m.replSrc, 1, true}, {&m.replDst, 1, false}} {
		if a.want.set {
			c = append(c, pure(func(v *View) bool {
				if !v.Tracked {
					return false
				}
				t := v.tuple(a.dir)
				if a.src {
					return a.want.has(t.Src)
				}
				return a.want.has(t.Dst)
			}))
		}
	}
	for _, a := range []struct {
		want *span
		dir  flow.Direction
		src  bool
	}{{&m.origSport, 0, true}, {&m.origDport, 0, false}, {&m.replSport, 1, true}, {&m.replDport, 1, false}} {
		if a.want.set {
			c = append(c, pure(func(v *View) bool {
				if !v.Tracked {
					return false
				}
				t := v.tuple(a.dir)
				if a.src {
					return a.want.has(uint64(t.L4.Src()))
				}
				return a.want.has(uint64(t.L4.Dst()))
			}))
		}
	}
	if m.status.set {
		c = append(c, varying(func(v *View) bool {
			if !v.Tracked {
				return false
			}
			return (v.Conn.PublicStatus()&m.status.bits != 0) != m.status.not // NONE: no bit, and nothing has it
		}))
	}
	if m.expire.set {
		c = append(c, varying(func(v *View) bool {
			if !v.Tracked {
				return false
			}
			left := uint64(0)
			if v.Conn.Status&flow.Confirmed != 0 {
				left = uint64(max(v.Conn.Expires.Until(flow.Millis(v.Now)), 0)) / 1000
			}
			return m.expire.has(left)
		}))
	}
	return c
}

func (m *conntrackMatch) matchState(v *View) bool {
	bit := uint16(1) << v.State
	if v.Tracked {
		if v.Conn.Status&flow.SrcNAT != 0 {
			bit |= ctSNAT
		}
		if v.Conn.Status&flow.DstNAT != 0 {
			bit |= ctDNAT
		}
	}
	return (m.state.bits&bit != 0) != m.state.not
}

// markMatch is xt_mark, and xt_connmark for the mark of the connection.
type markMatch struct {
	module string
	conn   bool
	mark   masked
}

func (m *markMatch) name() string      { return m.module }
func (m *markMatch) options() []option { return []option{{name: "--mark", value: &m.mark}} }

func (m *markMatch) check(*Rule, *ruleParser) error {
	if !m.mark.set {
		return errors.New("needs --mark")
	}
	return nil
}

func (m *markMatch) conditions(*compiler) []condition {
	return []condition{varying(func(v *View) bool {
		mark := v.Mark
		if m.conn {
			if !v.Tracked {
				return false
			}
			mark = v.ConnMark
		}
		return (mark&m.mark.mask == m.mark.v) != m.mark.not
	})}
}
