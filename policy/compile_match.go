package policy

import (
	"fmt"

	"github.com/xdpct/xdpct/policy/syntax"
)

// condition is one thing that a match asks.
type condition interface {
	// constant reports whether the answer is the same for all packets of a
	// connection in one direction and state, and by one pair of interfaces.
	constant() bool
	holds(v *View) bool
}

// stateful is a condition that remembers: to ask it changes what it answers next.
type stateful interface {
	condition
	remembers()
}

// pure is a constant condition.
type pure func(v *View) bool

func (pure) constant() bool       { return true }
func (f pure) holds(v *View) bool { return f(v) }

// varying is a condition that may differ from packet to packet.
type varying func(v *View) bool

func (varying) constant() bool       { return false }
func (f varying) holds(v *View) bool { return f(v) }

// remember is a condition that remembers.
type remember func(v *View) bool

func (remember) constant() bool       { return false }
func (remember) remembers()           {}
func (f remember) holds(v *View) bool { return f(v) }

// match returns what a match asks, in the order in which it does. Every match of the
// syntax has its case in one of the functions below; TestEveryMatchCompiles holds that.
func (c *compiler) match(m syntax.Match) ([]condition, error) {
	for _, compile := range []func(*compiler, syntax.Match) ([]condition, bool){
		(*compiler).stateMatch, (*compiler).connMatch, (*compiler).transportMatch, (*compiler).otherMatch,
	} {
		if conds, ok := compile(c, m); ok {
			return conds, nil
		}
	}
	return nil, fmt.Errorf("match %s is not compiled", m.Name())
}

// stateMatch compiles the matches that remember.
func (c *compiler) stateMatch(m syntax.Match) (conds []condition, ok bool) {
	switch m := m.(type) {
	case *syntax.ConnLimit:
		return c.connLimit(m), true
	case *syntax.HashLimit:
		return c.hashLimit(m), true
	case *syntax.Limit:
		return c.limit(m), true
	case *syntax.Quota:
		return c.quota(m), true
	case *syntax.Recent:
		return c.recent(m), true
	case *syntax.Statistic:
		return c.statistic(m), true
	}
	return nil, false
}

// connMatch compiles the matches of what conntrack knows.
func (*compiler) connMatch(m syntax.Match) (conds []condition, ok bool) {
	switch m := m.(type) {
	case *syntax.Cluster:
		return cluster(m), true
	case *syntax.ConnBytes:
		return connBytes(m), true
	case *syntax.ConnLabel:
		return connLabel(m), true
	case *syntax.Conntrack:
		return conntrack(m), true
	case *syntax.Helper:
		return helper(m), true
	case *syntax.Mark:
		return mark(m), true
	case *syntax.State:
		return state(m), true
	}
	return nil, false
}

// transportMatch compiles the matches of transport headers.
func (c *compiler) transportMatch(m syntax.Match) (conds []condition, ok bool) {
	switch m := m.(type) {
	case *syntax.AH:
		return ah(m), true
	case *syntax.DCCP:
		return dccp(m), true
	case *syntax.ESP:
		return esp(m), true
	case *syntax.ICMP:
		return icmp(m), true
	case *syntax.IPComp:
		return ipComp(m), true
	case *syntax.MH:
		return mobility(m), true
	case *syntax.MultiPort:
		return multiPort(m, c.proto), true
	case *syntax.Ports:
		return ports(m), true
	case *syntax.SCTP:
		return sctp(m), true
	case *syntax.TCP:
		return tcp(m), true
	case *syntax.TCPMSSValue:
		return tcpMSS(m), true
	}
	return nil, false
}

// otherMatch compiles the matches of IP headers, of links and of content.
func (*compiler) otherMatch(m syntax.Match) (conds []condition, ok bool) {
	switch m := m.(type) {
	case *syntax.AddrType:
		return addrType(m), true
	case *syntax.Comment:
		return nil, true
	case *syntax.CPU:
		return cpu(m), true
	case *syntax.DevGroup:
		return devGroup(m), true
	case *syntax.DSCP:
		return dscp(m), true
	case *syntax.ECN:
		return ecn(m), true
	case *syntax.EUI64:
		return eui64(m), true
	case *syntax.Frag:
		return frag(m), true
	case *syntax.Hops:
		return hopLimit(m), true
	case *syntax.IPRange:
		return ipRange(m), true
	case *syntax.IPv6Header:
		return ipv6Header(m), true
	case *syntax.Length:
		return length(m), true
	case *syntax.MACSource:
		return macSource(m), true
	case *syntax.Opts:
		return headerOptions(m), true
	case *syntax.PktType:
		return pktType(m), true
	case *syntax.Policy:
		return ipsecPolicy(m), true
	case *syntax.Realm:
		return realm(m), true
	case *syntax.RPFilter:
		return rpFilter(m), true
	case *syntax.RT:
		return routingHeader(m), true
	case *syntax.String:
		return text(m), true
	case *syntax.Time:
		return timeOf(m), true
	case *syntax.TOS:
		return tos(m), true
	case *syntax.U32:
		return u32(m), true
	}
	return nil, false
}

// target returns what a target does, and the verdict of one that does nothing else.
// Every target of the syntax has its case; TestEveryTargetCompiles holds that.
func (c *compiler) target(t syntax.Target) (action, error) {
	switch t := t.(type) {
	case *syntax.Audit:
		return audit(t), nil
	case *syntax.Classify, *syntax.FillChecksum:
		// Classes are for queues of the kernel, which forwarded packets do not pass, and
		// partial checksums are completed before rules see a packet.
		return action{}, nil
	case *syntax.CT:
		return setCT(t), nil
	case *syntax.HMark:
		return hmark(t), nil
	case *syntax.Log:
		return logPacket(t), nil
	case *syntax.NAT:
		return setNAT(t), nil
	case *syntax.NFLog:
		return nfLog(t), nil
	case *syntax.NPT:
		return npt(t), nil
	case *syntax.Reject:
		return reject(t), nil
	case *syntax.SetConnMark:
		return setConnMark(t), nil
	case *syntax.SetDSCP:
		return setDSCP(t), nil
	case *syntax.SetECN:
		return setECN(t), nil
	case *syntax.SetHops:
		return setHops(t), nil
	case *syntax.SetMark:
		return setMark(t), nil
	case *syntax.SetMSS:
		return setMSS(t), nil
	case *syntax.SetTOS:
		return setTOS(t), nil
	case *syntax.StripTCPOptions:
		return stripTCPOptions(t), nil
	case *syntax.Trace:
		return c.trace(), nil
	case *syntax.Verdict:
		return action{verdict: verdictOf(t.Name())}, nil
	}
	return action{}, fmt.Errorf("target %s is not compiled", t.Name())
}

// action is what a target does with a packet.
type action struct {
	verdict Verdict // of a target that is nothing else; Continue: do says
	do      func(v *View) Verdict
	log     *Log // of LOG and NFLOG; nil: none
}

func verdictOf(name string) Verdict {
	switch name {
	case "ACCEPT":
		return Accept
	case "DROP":
		return Drop
	}
	return returned // RETURN
}
