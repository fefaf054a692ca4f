package policy

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// Run asks the rules at a hook what becomes of a packet (ipt_do_table).
func (p *Program) Run(h Hook, v *View) Verdict {
	c := p.hooks[v.P.Family.Index()][h]
	if c == nil {
		return Accept
	}
	v.NATSrc, v.dropped = h == NATPostrouting, false
	v.cut = v.P.Kind == packet.Invalid && v.chainCut()
	if r := c.run(v); r != Continue {
		return r
	}
	if v.traced {
		c.traceOf(v, len(c.rules))
	}
	v.count(c.count)
	return c.policy
}

// run asks the rules of a chain. Continue means that they came to their end.
func (c *chain) run(v *View) Verdict {
	for i := range c.rules {
		r := &c.rules[i]
		if !r.base(v) {
			continue
		}
		if v.cut && !r.anyProto { // ip6_packet_match
			return Drop
		}
		if !r.matches(v) {
			if v.dropped {
				return Drop
			}
			continue
		}
		v.count(r.count)
		if v.dropped { // an inverted match holds of a packet that it drops
			return Drop
		}
		if v.traced {
			c.traceOf(v, i)
		}
		var verdict Verdict
		switch {
		case r.jump != nil:
			if verdict = r.jump.run(v); verdict == Continue && r.isGoto {
				return Continue
			}
		default:
			if verdict = r.act(v); verdict == returned {
				return Continue
			}
		}
		if verdict != Continue {
			return verdict
		}
	}
	if v.traced && c.count < 0 {
		c.traceOf(v, len(c.rules))
	}
	return Continue
}

func (v *View) count(i int) {
	n := &v.Counts[i]
	n.Packets++
	n.Bytes += uint64(v.P.Len)
}

// act does what the rule's target says.
func (r *rule) act(v *View) Verdict {
	if r.action.do == nil {
		return r.action.verdict
	}
	return r.action.do(v)
}

// base reports whether a packet has the rule's addresses, interfaces and protocol; any
// protocol may be that of a packet whose own is cut off.
func (r *rule) base(v *View) bool {
	return differs(&v.Src, &r.src, &r.srcMask) == r.notSrc &&
		differs(&v.Dst, &r.dst, &r.dstMask) == r.notDst &&
		r.in>>(v.In&63)&1 != 0 && r.out>>(v.Out&63)&1 != 0 &&
		(r.anyProto || v.cut || (v.P.Proto == r.proto) != r.notProto) && !r.never
}

func differs(a, b, mask *flow.Addr) bool {
	return (a.Hi^b.Hi)&mask.Hi|(a.Lo^b.Lo)&mask.Lo != 0
}

// matches reports whether a packet meets all conditions, asked in their order.
func (r *rule) matches(v *View) bool {
	for _, c := range r.conds {
		if !c.holds(v) {
			return false
		}
	}
	return true
}
