package policy

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy/syntax"
)

// LocalPorts returns the ports to which packets may be sent on by rules of table nat
// PREROUTING; all says that they do not only go by ports. A router has to see such
// packets even if they are addressed to itself. It may be more than the rules really
// take, never less.
func LocalPorts(rulesets ...*syntax.Ruleset) (ports *nat.PortSet, all bool) {
	ports = &nat.PortSet{}
	for _, r := range rulesets {
		t := r.Table("nat")
		if t == nil || t.Chain("PREROUTING") == nil {
			continue
		}
		for _, c := range reach(t, t.Chain("PREROUTING")) {
			for _, rule := range c.Rules {
				if _, ok := rule.Target.(*syntax.NAT); ok && !addPorts(rule, ports) {
					all = true
				}
			}
		}
	}
	return ports, all
}

// addPorts adds the destination ports that a rule is for; ok is false if it is not
// for ports.
func addPorts(r *syntax.Rule, s *nat.PortSet) (ok bool) {
	proto, one := r.Base.Proto.Only()
	if !one {
		return false
	}
	for _, m := range r.Matches {
		var ranges [][2]uint16
		switch m := m.(type) {
		case *syntax.TCP:
			ranges = destinations(&m.Ports)
		case *syntax.Ports:
			ranges = destinations(m)
		case *syntax.MultiPort:
			if m.Dst.Set && !m.Dst.Not {
				ranges = m.Dst.Ranges
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

func destinations(m *syntax.Ports) [][2]uint16 {
	if !m.Dport.Set || m.Dport.Not {
		return nil
	}
	return [][2]uint16{{uint16(m.Dport.Lo), uint16(m.Dport.Hi)}}
}
