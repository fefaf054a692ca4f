package policy

import (
	"encoding/binary"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy/syntax"
)

// ipRange compiles xt_iprange.
func ipRange(m *syntax.IPRange) (c []condition) {
	if m.Src.Set {
		c = append(c, pure(func(v *View) bool { return m.Src.Has(v.Src) }))
	}
	if m.Dst.Set {
		c = append(c, pure(func(v *View) bool { return m.Dst.Has(v.Dst) }))
	}
	return c
}

// macSource compiles xt_mac, which never holds, nor does its negation, for a packet that
// came without an Ethernet header.
func macSource(m *syntax.MACSource) []condition {
	return []condition{varying(func(v *View) bool {
		return v.P.L3 >= 14 && (packet.MAC(v.P.Frame[6:12]) == m.MAC.Addr) != m.MAC.Not
	})}
}

// tosOf returns the TOS or traffic class byte.
func tosOf(v *View) uint8 {
	h := v.P.Frame[v.P.L3:]
	if v.family() == flow.IPv4 {
		return h[1]
	}
	return h[0]<<4 | h[1]>>4
}

// tos compiles xt_tos.
func tos(m *syntax.TOS) []condition {
	return []condition{varying(func(v *View) bool { return (uint32(tosOf(v))&m.TOS.Mask == m.TOS.V) != m.TOS.Not })}
}

// dscp compiles xt_dscp.
func dscp(m *syntax.DSCP) []condition {
	return []condition{varying(func(v *View) bool { return (uint64(tosOf(v)>>2) == m.DSCP.N) != m.DSCP.Not })}
}

// hops returns the TTL or hop limit.
func hops(v *View) uint64 {
	if v.family() == flow.IPv4 {
		return uint64(v.P.Frame[v.P.L3+8])
	}
	return uint64(v.P.Frame[v.P.L3+7])
}

// hopLimit compiles xt_hl.
func hopLimit(m *syntax.Hops) []condition {
	return []condition{varying(func(v *View) bool {
		switch n := hops(v); {
		case m.Lt.Set:
			return n < m.Lt.N
		case m.Gt.Set:
			return n > m.Gt.N
		default:
			return (n == m.Eq.N) != m.Eq.Not
		}
	})}
}

// length compiles xt_length.
func length(m *syntax.Length) []condition {
	return []condition{varying(func(v *View) bool { return m.Length.Has(uint64(v.P.Len)) })}
}

// AddrTypes is a set of types of addresses.
type AddrTypes = syntax.AddrTypes

// addrType compiles xt_addrtype. Routes change, so the answers vary.
func addrType(m *syntax.AddrType) (c []condition) {
	dev := func(v *View) int {
		switch {
		case m.LimitIfaceIn.Set:
			return v.In
		case m.LimitIfaceOut.Set:
			return v.Out
		}
		return -1
	}
	if m.Src.Set {
		c = append(c, varying(func(v *View) bool { return v.addrIs(v.Src, m.Src.Types, dev(v)) != m.Src.Not }))
	}
	if m.Dst.Set {
		c = append(c, varying(func(v *View) bool { return v.addrIs(v.Dst, m.Dst.Types, dev(v)) != m.Dst.Not }))
	}
	return c
}

// addrIs reports whether an address is of one of the kinds. For IPv6 a local address
// is unicast, too, and all of some kinds have to hold (match_type6).
func (v *View) addrIs(a flow.Addr, kinds AddrTypes, dev int) bool {
	is := v.Env.AddrType(a, v.family(), dev)
	if v.family() == flow.IPv4 {
		return is&kinds != 0
	}
	multicast := a.Hi>>56 == 0xff
	mapped := a.Hi == 0 && a.Lo>>32 == 0xffff // IPv4-mapped is no type (ipv6_addr_type)
	switch {
	case kinds&syntax.AddrMulticast != 0 && !multicast,
		kinds&syntax.AddrUnicast != 0 && (multicast || mapped || a == flow.Addr{}),
		kinds&syntax.AddrUnspec != 0 && a != flow.Addr{}:
		return false
	}
	if looked := kinds & (syntax.AddrLocal | syntax.AddrAnycast | syntax.AddrUnreachable); looked != 0 {
		return is&looked != 0
	}
	return true
}

// pktType compiles xt_pkttype.
func pktType(m *syntax.PktType) []condition {
	return []condition{varying(func(v *View) bool { return (linkType(v.P) == m.Type.S) != m.Type.Not })}
}

// linkType returns how a frame was addressed on its link.
func linkType(p *packet.Packet) string {
	if len(p.Frame) < 6 || p.L3 < 14 || p.Frame[0]&1 == 0 {
		return "unicast"
	}
	for _, b := range p.Frame[:6] {
		if b != 0xff {
			return "multicast"
		}
	}
	return "broadcast"
}

// devGroup compiles xt_devgroup. Groups may change while a connection lives.
func devGroup(m *syntax.DevGroup) []condition {
	holds := func(g *syntax.GroupMask, v *View, dev int) bool {
		return !g.Set || ((v.Env.Group(dev)^g.V)&g.Mask == 0) != g.Not
	}
	return []condition{varying(func(v *View) bool { return holds(&m.Src, v, v.In) && holds(&m.Dst, v, v.Out) })}
}

// realm compiles xt_realm. Routes may change while a connection lives.
func realm(m *syntax.Realm) []condition {
	return []condition{varying(func(v *View) bool { return (m.Realm.V == v.Env.Realms()&m.Realm.Mask) != m.Realm.Not })}
}

// frag compiles ip6t_frag. Datagrams are whole when rules see them, but one may carry a
// fragment header behind the one that went: an atomic one. --fraglen is no test of the
// kernel's.
func frag(m *syntax.Frag) []condition {
	return []condition{varying(func(v *View) bool {
		h, _, ok := v.extension(protoFragment, 8)
		if !ok {
			return false
		}
		field, id := binary.BigEndian.Uint16(h[2:]), binary.BigEndian.Uint32(h[4:])
		return (!m.ID.Set || m.ID.Has(uint64(id))) && (!m.Res.Set || h[1] == 0 && field&6 == 0) &&
			(!m.First.Set || field&^7 == 0) && (!m.More.Set || field&1 != 0) && (!m.Last.Set || field&1 == 0)
	})}
}

// sourceless reports whether a packet has a source that rpfilter lets be, since there is
// no route back to it: one that has no address yet.
func (v *View) sourceless() bool {
	f := v.family()
	if !v.Src.Netip(f).IsUnspecified() {
		return false
	}
	to := v.Dst.Netip(f) // ipv4_is_lbcast, ipv4_is_local_multicast
	return f == flow.IPv6 || to.IsLinkLocalMulticast() || to == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// rpFilter compiles xt_rpfilter. Routes change, so the answer varies.
func rpFilter(m *syntax.RPFilter) []condition {
	return []condition{varying(func(v *View) bool {
		if v.sourceless() {
			return !m.Invert.Set
		}
		r := Reverse{
			Family: v.family(), Src: v.Src, Dst: v.Dst, In: v.In, TOS: v.P.TOS(),
			Loose: m.Loose.Set, AcceptLocal: m.AcceptLocal.Set,
		}
		if m.ValidMark.Set {
			r.Mark = v.Mark
		}
		return v.Env.ReverseOK(r) != m.Invert.Set
	})}
}
