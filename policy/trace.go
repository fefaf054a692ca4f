package policy

import (
	"fmt"

	"github.com/xdpct/xdpct/flow"
)

// trace compiles TRACE, and lets all rules have what is logged of packets that are traced.
func (c *compiler) trace() action {
	c.p.traces = true
	return action{do: func(v *View) Verdict {
		v.Trace()
		return Continue
	}}
}

// Trace makes the packet one that is traced, by the rules from here on.
func (v *View) Trace() { v.traced = true }

// Traced reports whether a rule with TRACE has matched the packet: then the rules are
// to be walked, one by one, since code that was made of them knows nothing of those
// that it left out.
func (v *View) Traced() bool { return v.traced }

// traceAll says what is logged of a packet that is traced, of each rule of a chain and
// those that it leads to, and at the chain's end (trace_packet).
func traceAll(c *chain) {
	if c == nil || c.trace != nil {
		return
	}
	c.trace = make([]Log, len(c.rules)+1)
	for i := range c.trace {
		what, line, last := "rule", 0, i == len(c.rules)
		if !last {
			line, last = c.rules[i].line, c.rules[i].alwaysEnds()
		}
		switch {
		case last && c.count >= 0:
			what = "policy"
		case last:
			what = "return"
		}
		c.trace[i] = Log{
			Table: c.table, Chain: c.name, Line: line, Group: -1, Level: 4, Prefix: fmt.Sprintf("TRACE: %s:%s:%s:%d ", c.table, c.name, what, i+1),
			TCPSequence: true, TCPOptions: true, IPOptions: true,
		}
	}
	for i := range c.rules {
		if next := c.rules[i].jump; next != nil {
			traceAll(next)
		}
	}
}

// alwaysEnds reports whether a rule is nothing but ACCEPT, DROP or RETURN, which the kernel
// takes for the end of the chain (get_chainname_rulenum).
func (r *rule) alwaysEnds() bool {
	none := flow.Addr{}
	return r.srcMask == none && r.dstMask == none && r.in == ^uint64(0) && r.out == ^uint64(0) && r.anyProto && !r.never &&
		len(r.conds) == 0 && r.jump == nil && r.action.do == nil && r.action.verdict != Continue
}

// traceOf logs that a traced packet has met rule i of a chain, or its end.
func (c *chain) traceOf(v *View, i int) {
	if c.trace != nil {
		v.Env.Log(&c.trace[i])
	}
}
