package policy

import (
	"fmt"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy/syntax"
)

// LocalPorts returns the ports to which packets may be sent on by rules of table nat
// PREROUTING, and the rules that go not by ports. A router has to see such packets even if
// they are addressed to itself. It may be more than the rules really take, never less.
//
// Rules for one protocol without ports, but for ICMP, are not among them: of such packets
// a router sees all in any case.
func LocalPorts(rulesets ...*syntax.Ruleset) (ports *nat.PortSet, portless []*syntax.Rule) {
	ports = &nat.PortSet{}
	for r := range mappings("PREROUTING", rulesets) {
		if !addPorts(r, ports) {
			portless = append(portless, r)
		}
	}
	return ports, portless
}

// ForAddr reports whether packets to an address may match a rule by their destination.
func ForAddr(r *syntax.Rule, a netip.Addr) bool {
	d := &r.Base.Dst
	return a.Is4() == (d.Family == flow.IPv4) && d.Has(flow.AddrFrom(a))
}

// HostNotes says which rules make a router take what is addressed to itself, whatever its
// port, unless the address is none of the router's: what the host's own rules see of it
// comes in by another interface then.
func HostNotes(rulesets ...*syntax.Ruleset) (notes []string) {
	_, portless := LocalPorts(rulesets...)
	for _, r := range portless {
		notes = append(notes, fmt.Sprintf("line %d: goes not by ports of one protocol: if what it takes may be addressed to this host, all of that comes to the host by xdpct0, "+
			"and INPUT rules with -i of a port do not match it: they must match -i xdpct0 as well; -p with --dport, or -d of another host's address, avoids that", r.Line))
	}
	return notes
}

// mappings calls yield for each rule with a target of table nat that packets reach from
// a chain.
func mappings(chain string, rulesets []*syntax.Ruleset) func(yield func(*syntax.Rule, *syntax.NAT) bool) {
	return func(yield func(*syntax.Rule, *syntax.NAT) bool) {
		for _, r := range rulesets {
			t := r.Table("nat")
			if t == nil || t.Chain(chain) == nil {
				continue
			}
			for _, c := range reach(t, t.Chain(chain)) {
				for _, rule := range c.Rules {
					if to, ok := rule.Target.(*syntax.NAT); ok && !yield(rule, to) {
						return
					}
				}
			}
		}
	}
}

// NATPorts returns the ports that rules name for sources to be mapped to, and which of
// them are the only one that a rule names: they are translation's although the host
// may keep them for itself otherwise.
func NATPorts(rulesets ...*syntax.Ruleset) (ranges, single *nat.PortSet) {
	ranges, single = &nat.PortSet{}, &nat.PortSet{}
	for r, t := range mappings("POSTROUTING", rulesets) {
		to := &t.To.Range
		if t.Kind == syntax.Masquerade {
			to = &t.Ports.Range
		}
		proto, one := r.Base.Proto.Only()
		if !to.Ports || !one {
			continue
		}
		s := ranges
		if to.MinPort == to.MaxPort {
			s = single
		}
		s.AddFor(proto, to.MinPort, to.MaxPort)
	}
	return ranges, single
}

// NATAddrs returns the addresses that rules map sources and destinations to. own says
// that those of the router's interfaces belong to them, all that any address may: where
// only a port is mapped.
func NATAddrs(rulesets ...*syntax.Ruleset) (ranges []nat.AddrRange, own, all bool) {
	for _, chain := range []string{"PREROUTING", "POSTROUTING"} {
		for _, t := range mappings(chain, rulesets) {
			switch t.Kind {
			case syntax.Masquerade, syntax.Redirect:
				own = true
			case syntax.Netmap:
				n := &t.Net
				last := flow.Addr{Hi: n.Addr.Hi | ^n.Mask.Hi, Lo: n.Addr.Lo | ^n.Mask.Lo}
				ranges = append(ranges, nat.AddrRange{Lo: n.Addr, Hi: last})
			default:
				if !t.To.Addrs {
					all = true
				}
				ranges = append(ranges, nat.AddrRange{Lo: t.To.Min, Hi: t.To.Max})
			}
		}
	}
	return ranges, own, all
}

// addPorts adds the destination ports that a rule is for; ok is false if it may be for
// others, or for pings.
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
	s.AddFor(proto, 0, 65535) // of protocols without ports a router sees all anyway, but for pings
	return proto != flow.ICMP && proto != flow.ICMPv6
}

func destinations(m *syntax.Ports) [][2]uint16 {
	if !m.Dport.Set || m.Dport.Not {
		return nil
	}
	return [][2]uint16{{uint16(m.Dport.Lo), uint16(m.Dport.Hi)}}
}
