package policy

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
)

// LocalPorts returns the ports to which packets may be sent on by rules of table nat
// PREROUTING; all says that they do not only go by ports. A router has to see such
// packets even if they are addressed to itself. It may be more than the rules really
// take, never less.
func LocalPorts(rulesets ...*Ruleset) (ports *nat.PortSet, all bool) {
	ports = &nat.PortSet{}
	for _, r := range rulesets {
		t := r.Table("nat")
		if t == nil || t.Chain("PREROUTING") == nil {
			continue
		}
		for _, c := range reach(t, t.Chain("PREROUTING"), map[*Chain]bool{}) {
			for _, rule := range c.Rules {
				if _, ok := rule.target.(*natTarget); ok && !rule.addPorts(ports) {
					all = true
				}
			}
		}
	}
	return ports, all
}

// addPorts adds the destination ports that a rule is for; ok is false if it is not
// for ports.
func (r *Rule) addPorts(s *nat.PortSet) (ok bool) {
	proto, one := r.base.proto.only()
	if !one {
		return false
	}
	for _, m := range r.matches {
		var ranges [][2]uint16
		switch m := m.(type) {
		case *tcpMatch:
			ranges = m.destinations()
		case *udpMatch:
			ranges = m.destinations()
		case *sctpMatch:
			ranges = m.destinations()
		case *multiportMatch:
			if m.dst.set && !m.dst.not {
				ranges = m.dst.ranges
			}
		}
		for _, p := range ranges {
			s.AddFor(proto, p[0], p[1])
		}
		if ranges != nil {
			return true
		}
	}
	if proto == flow.ICMP || proto == flow.ICMPv6 || !s.AddFor(proto, 0, 65535) {
		return false
	}
	return true
}

func (m *portsMatch) destinations() [][2]uint16 {
	if !m.dport.set || m.dport.not {
		return nil
	}
	return [][2]uint16{{uint16(m.dport.lo), uint16(m.dport.hi)}}
}
