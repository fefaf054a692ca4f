package mirror

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/route"
)

// installLinks takes links, addresses, rules and parameters.
func (m *Mirror) installLinks(s *linkState) {
	m.current = s
	for i, l := range s.links {
		if _, known := m.up[i]; !known {
			m.up[i] = l.up()
		}
	}
	for f, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		m.limit[f] = m.cfg.MaxNeighbours
		if r := s.resolution[resolutionKey{family, 0}]; m.limit[f] == 0 {
			m.limit[f] = max(r.most, 1024) // entries that are permanent do not count in the kernel
		}
	}
	fresh := m.assignSlots(s)
	interfaces := make([]route.Interface, len(m.slots))
	for n := range m.slots {
		interfaces[n] = m.describe(s, n)
	}
	same := slices.EqualFunc(interfaces, m.work.Interfaces, route.Interface.Equal)
	if !same {
		m.edit().SetInterfaces(interfaces)
	}
	next := m.work.Clone()
	if next.SetRules(s.rules); !next.SameRules(m.work) {
		m.edit().SetRules(s.rules)
	}
	for _, a := range s.unknown {
		m.say("a routing rule asks for something that is not supported, and is not followed", "attribute", a)
	}
	for _, n := range fresh {
		m.forgetNeighbours(n)
		m.dirty(Neighbours, "an interface is new", true)
	}
}

// assignSlots finds out which link is in which slot, makes slots for new VLANs, and returns
// the slots that have another link than before.
func (m *Mirror) assignSlots(s *linkState) (fresh []int) {
	put := func(n, index int) {
		if m.slots[n].index != index {
			m.slots[n].index = index
			fresh = append(fresh, n)
		}
	}
	ports := map[int]int{} // by ifindex
	for i, p := range m.cfg.Ports {
		index := m.slots[i].index
		l, there := s.links[index]
		switch {
		case there && l.name != p.Name:
			m.renamed(i, l.name)
		case !there:
			index = 0
			for _, l := range s.links {
				if l.name == p.Name {
					index = l.index
				}
			}
		}
		if index != 0 {
			ports[index] = i
		}
		put(i, index)
	}
	for n := len(m.cfg.Ports); n < len(m.slots); n++ {
		if l, there := s.links[m.slots[n].index]; !there || ports[l.parent] != m.slots[n].port || l.vlan != m.slots[n].vlan {
			put(n, 0)
		}
	}
	for _, l := range s.links {
		port, ours := ports[l.parent]
		if l.kind != "vlan" || !ours || slices.ContainsFunc(m.slots, func(s slot) bool { return s.index == l.index }) {
			continue
		}
		if l.vlanProto != 0 && l.vlanProto != unix.ETH_P_8021Q {
			m.say("a VLAN that is not of 802.1Q is left to the kernel", "interface", l.name)
			continue
		}
		n := slices.IndexFunc(m.slots, func(s slot) bool { return s.port == port && s.vlan == l.vlan })
		if n < 0 {
			if n = len(m.slots); m.cfg.MaxInterfaces != 0 && n >= m.cfg.MaxInterfaces {
				m.say("there are too many interfaces: VLANs are left to the kernel", "interface", l.name, "most", m.cfg.MaxInterfaces)
				continue
			}
			m.slots = append(m.slots, slot{port: port, vlan: l.vlan})
		}
		put(n, l.index)
	}
	return fresh
}

// renamed says, once, that a port has another name now.
func (m *Mirror) renamed(i int, name string) {
	if i < len(m.work.Interfaces) && m.work.Interfaces[i].Name != name {
		m.log.Warn("a port has a new name: rules know it by that from now on",
			"port", m.cfg.Ports[i].Name, "before", m.work.Interfaces[i].Name, "name", name)
	}
}

// describe says what is known of the interface in a slot.
func (m *Mirror) describe(s *linkState, n int) (i route.Interface) {
	at := m.slots[n]
	i = route.Interface{Port: at.port, VLAN: at.vlan, Index: at.index}
	l, there := s.links[at.index]
	if !there { // rules go on to know it by the name that it had
		i.Index = 0
		if n < len(m.work.Interfaces) {
			i.Name = m.work.Interfaces[n].Name
		}
		if n < len(m.cfg.Ports) {
			i.Name = m.cfg.Ports[n].Name
		}
		return i
	}
	i.Name, i.Up, i.MTU, i.Group = l.name, l.up(), l.mtu, l.group
	copy(i.MAC[:], l.mac)
	i.Neighbour, i.Fixed = l.fixedNeighbour()
	i.Addrs = s.addrs[at.index]
	if master, ok := s.links[l.master]; ok {
		i.VRF = master.vrf
	}
	for f, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		r, ok := s.resolution[resolutionKey{family, at.index}]
		if !ok {
			r = s.resolution[resolutionKey{family, 0}]
		}
		i.Patience[f] = r.wait
	}
	s.conf[l.name].set(&i)
	return i
}

// installNeighbours takes a list of all neighbours.
func (m *Mirror) installNeighbours(list []neighbour) {
	there := make(map[neighbourKey]bool, len(list))
	for _, n := range list {
		if n.known {
			there[neighbourKey{n.index, n.addr}] = true
		}
	}
	for k := range m.neighbours { // first those that are gone: there may be no room else
		if !there[k] {
			m.forget(k)
		}
	}
	for _, n := range list {
		m.applyNeighbour(n)
	}
}

// applyNeighbour takes what the kernel says of a neighbour.
func (m *Mirror) applyNeighbour(n neighbour) {
	number := m.work.Number(n.index)
	if number < 0 {
		return
	}
	k := neighbourKey{n.index, n.addr}
	if !n.known {
		m.forget(k)
		return
	}
	e := m.neighbours[k]
	if e == nil {
		f := flow.FamilyOf(n.addr).Index()
		if m.count[f] >= m.limit[f] {
			m.full = true
			m.refused.Add(1)
			return
		}
		m.count[f]++
		e = &entry{id: m.newID(k)}
		m.neighbours[k] = e
	} else if e.mac == n.mac {
		e.state = n.state
		return
	}
	e.state, e.mac = n.state, n.mac
	m.edit().PutNeighbour(number, n.addr, route.Neighbour{MAC: n.mac, ID: e.id})
}

func (m *Mirror) newID(k neighbourKey) uint32 {
	if n := len(m.freeIDs); n > 0 {
		id := m.freeIDs[n-1]
		m.freeIDs = m.freeIDs[:n-1]
		m.byID[id] = k
		return id
	}
	m.byID = append(m.byID, k)
	return uint32(len(m.byID) - 1)
}

// forget removes a neighbour.
func (m *Mirror) forget(k neighbourKey) {
	e := m.neighbours[k]
	if e == nil {
		return
	}
	delete(m.neighbours, k)
	m.count[flow.FamilyOf(k.addr).Index()]--
	m.byID[e.id] = neighbourKey{}
	m.freeIDs = append(m.freeIDs, e.id)
	if n := m.work.Number(k.index); n >= 0 {
		m.edit().ForgetNeighbour(n, k.addr)
	}
}

// forgetNeighbours removes the neighbours of an interface that has another link now.
func (m *Mirror) forgetNeighbours(n int) {
	for k := range m.neighbours {
		if number := m.work.Number(k.index); number < 0 || number == n {
			m.forget(k)
		}
	}
	m.edit().ForgetNeighbours(n)
}

// confirm asks the kernel to look again for neighbours that packets go to and that it
// is not sure of any more.
func (m *Mirror) confirm(ids []uint32) {
	for _, id := range ids {
		if int(id) >= len(m.byID) || id == 0 {
			continue
		}
		k := m.byID[id]
		if e := m.neighbours[k]; e != nil && e.state == unix.NUD_STALE {
			offer(m.checks, ask{index: k.index, addr: k.addr})
		}
	}
}
