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
// syntax has its case; TestEveryMatchCompiles holds that.
func (c *compiler) match(m syntax.Match) ([]condition, error) {
	switch m := m.(type) {
	case *syntax.AddrType:
		return addrType(m), nil
	case *syntax.AH:
		return ah(m), nil
	case *syntax.Cluster:
		return cluster(m), nil
	case *syntax.Comment:
		return nil, nil
	case *syntax.ConnBytes:
		return connBytes(m), nil
	case *syntax.ConnLabel:
		return connLabel(m), nil
	case *syntax.ConnLimit:
		return c.connLimit(m), nil
	case *syntax.Conntrack:
		return conntrack(m), nil
	case *syntax.CPU:
		return cpu(m), nil
	case *syntax.DCCP:
		return dccp(m), nil
	case *syntax.DSCP:
		return dscp(m), nil
	case *syntax.ECN:
		return ecn(m), nil
	case *syntax.ESP:
		return esp(m), nil
	case *syntax.EUI64:
		return eui64(m), nil
	case *syntax.Frag:
		return frag(m), nil
	case *syntax.HashLimit:
		return c.hashLimit(m), nil
	case *syntax.Helper:
		return helper(m), nil
	case *syntax.Hops:
		return hopLimit(m), nil
	case *syntax.ICMP:
		return icmp(m), nil
	case *syntax.IPComp:
		return ipComp(m), nil
	case *syntax.IPRange:
		return ipRange(m), nil
	case *syntax.IPv6Header:
		return ipv6Header(m), nil
	case *syntax.Length:
		return length(m), nil
	case *syntax.Limit:
		return c.limit(m), nil
	case *syntax.MACSource:
		return macSource(m), nil
	case *syntax.Mark:
		return mark(m), nil
	case *syntax.MH:
		return mobility(m), nil
	case *syntax.MultiPort:
		return multiPort(m, c.proto), nil
	case *syntax.Opts:
		return headerOptions(m), nil
	case *syntax.PktType:
		return pktType(m), nil
	case *syntax.Policy:
		return ipsecPolicy(m), nil
	case *syntax.Ports:
		return ports(m), nil
	case *syntax.Quota:
		return c.quota(m), nil
	case *syntax.Recent:
		return c.recent(m), nil
	case *syntax.RPFilter:
		return rpFilter(m), nil
	case *syntax.RT:
		return routingHeader(m), nil
	case *syntax.SCTP:
		return sctp(m), nil
	case *syntax.State:
		return state(m), nil
	case *syntax.Statistic:
		return c.statistic(m), nil
	case *syntax.String:
		return text(m), nil
	case *syntax.TCP:
		return tcp(m), nil
	case *syntax.TCPMSSValue:
		return tcpMSS(m), nil
	case *syntax.Time:
		return timeOf(m), nil
	case *syntax.TOS:
		return tos(m), nil
	case *syntax.U32:
		return u32(m), nil
	}
	return nil, fmt.Errorf("match %s is not compiled", m.Name())
}

// target returns what a target does, and the verdict of one that does nothing else.
// Every target of the syntax has its case; TestEveryTargetCompiles holds that.
func (c *compiler) target(t syntax.Target) (action, error) {
	switch t := t.(type) {
	case *syntax.Classify, *syntax.FillChecksum:
		// Classes are for queues of the kernel, which forwarded packets do not pass, and
		// partial checksums are completed before rules see a packet.
		return action{}, nil
	case *syntax.CT:
		return setCT(t), nil
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
