package shard

import (
	"net/netip"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/table"
)

// connRef is the connection that tracking found for a packet (nf_ct_get).
type connRef struct {
	at    whereabouts
	entry uint32 // valid iff at is inTable or away
}

// whereabouts says where the connection of a packet is.
type whereabouts uint8

const (
	nowhere whereabouts = iota // the packet belongs to none: it is INVALID or UNTRACKED
	inTable                    // in the table, as connRef.entry
	begun                      // in the transit, and to be put into the table by confirm
	ended                      // in the transit, and out of the table: the packet has closed it
	away                       // with another shard, whose number is connRef.entry: it is to begin there
)

// unconfirmed is a connection that is not in the table: not yet, since rules may
// still drop the packet that begins it, or no longer, since the packet has closed it.
type unconfirmed struct {
	conn  flow.Conn
	extra flow.Extra // valid iff conn is Extended
	zone  Zone       // valid iff it begins
	// follow is what becomes of it since its master is translated; valid iff it begins.
	follow expect.Follow
}

// transit is a packet on its way through the shard: all that a hook may need of what
// the ones before it have found. Each step of the pipeline gets it as an argument and
// nothing of it outlives the packet.
//
// A shard has two, made once: one for the packet that it forwards, and one for the
// datagram with which it answers that packet, which passes hooks of its own.
type transit struct {
	s   *Shard
	p   *packet.Packet
	v   *Verdict
	n   int // place in the batch
	ref connRef

	tracked bool // ref is set: conntrack has seen the packet
	noTrack bool // table raw asks conntrack not to see it
	moved   bool // a helper has made it too long for where it lay

	un   unconfirmed // valid iff ref.at is begun or ended
	view policy.View // the packet as rules see it

	code *policy.Code // of its path, instead of the rules; nil: they are walked

	hop    route.Hop // what the route lookup returned; valid iff hasHop
	hasHop bool
	// noTuple says why the connection that begins has no reply tuple.
	noTuple flow.Reason
	timeout uint16    // policy that table raw has named, 0: none
	null    nat.Range // what it is mapped to without a rule, or by its master

	options packet.Options // of its IPv4 header, as far as they were read

	came   endpoints // as the packet came
	routed endpoints // as it was routed: its destination translated
}

// endpoints are the addresses and ports of a packet; ports are 0 where there are none.
type endpoints struct {
	src, dst     flow.Addr
	sport, dport uint16
}

// reset makes t the transit of packet p, n-th of the batch, before the first hook: the
// one place where anything of the packet before is forgotten. v is the verdict to be.
func (t *transit) reset(s *Shard, p *packet.Packet, n int, v *Verdict) {
	t.s, t.p, t.v, t.n = s, p, v, n
	t.ref, t.tracked, t.noTrack, t.moved = connRef{}, false, false, false
	t.code, t.hop, t.hasHop, t.noTuple, t.timeout = nil, route.Hop{}, false, flow.NoReason, 0
	t.options = packet.Options{}
	e := endpointsOf(p)
	t.came, t.routed = e, e
	t.view = policy.View{
		P: p, In: p.In, Out: -1, State: flow.Invalid,
		Src: e.src, Dst: e.dst, SrcPort: e.sport, DstPort: e.dport,
		Now: s.now, Wall: s.wall(), CPU: s.cfg.Number, Random: s.forward.rand, Env: t, Counts: s.forward.counts,
		Members: &s.forward.members,
	}
}

// conn returns the connection of the packet and its Extra, nil for none.
func (t *transit) conn() (*flow.Conn, *flow.Extra) {
	switch t.ref.at {
	case nowhere, away:
		return nil, nil
	case inTable:
		return t.s.table.Conn(t.ref.entry), t.s.table.Extra(t.ref.entry)
	}
	if !t.un.conn.Extended() {
		return &t.un.conn, nil
	}
	return &t.un.conn, &t.un.extra
}

// attach lets rules see what conntrack said of the packet. Before, they see an
// INVALID packet without a connection.
func (t *transit) attach() {
	view := &t.view
	view.State, view.Dir = t.v.State, t.v.Dir
	view.Conn, view.Extra = t.conn()
	view.Tracked = view.Conn != nil
	view.Zone = nil // the template's: the connection has its own
	if view.Extra != nil {
		view.ConnMark, view.Labels = uint32(view.Extra.Mark), view.Extra.Labels
	}
	if t.ref.at == inTable {
		t.s.forward.members.Release(view.Member) // what table raw took for the beginning of one
		view.Member = 0
		if view.Extra != nil {
			view.Member = view.Extra.Counted
		}
	}
}

// end removes the connection of the packet, which is in the table, while rules see it: the
// one place for that. What counts it, the rules that the packet has met included, is released
// with the entry, so the transit has no list of them any more.
func (t *transit) end(why table.Cause) {
	t.s.keepMembers(t)
	t.ref = t.s.end(t.ref.entry, &t.un, why)
	t.view.Member = 0
	t.view.Conn, t.view.Extra = t.conn()
}

// status returns the status of the packet's connection, 0 if it has none.
func (t *transit) status() flow.Status {
	if t.view.Conn == nil {
		return 0
	}
	return t.view.Conn.Status
}

// see lets rules see the packet with other endpoints, and leaving by an interface.
func (t *transit) see(e endpoints, out int) {
	v := &t.view
	v.Src, v.Dst, v.SrcPort, v.DstPort, v.Out = e.src, e.dst, e.sport, e.dport, out
}

// endpointsOf reads what the headers of an IP packet say now.
func endpointsOf(p *packet.Packet) (e endpoints) {
	e.src, e.dst = p.Addrs()
	if b := p.Frame[min(int(p.L4), len(p.Frame)):]; p.L4 != 0 && len(b) >= 4 {
		if p.Proto.HasPorts() {
			e.sport, e.dport = uint16(b[0])<<8|uint16(b[1]), uint16(b[2])<<8|uint16(b[3])
		}
	}
	return e
}

// The methods below are what rules ask about the machine: policy.Env.

// AddrType implements policy.Env.
func (t *transit) AddrType(a flow.Addr, f flow.Family, dev int) policy.AddrTypes {
	if f == flow.IPv6 && a.Netip(f).Is4In6() { // of no kind (ipv6_addr_type)
		return 0
	}
	if routes := t.s.forward.Routes; routes != nil {
		return 1 << routes.KindOf(a, f, dev)
	}
	return 1 << kindOfAddr(a.Netip(f))
}

// kindOfAddr is the kind that an address has wherever there are no routes, as for a bridge.
func kindOfAddr(a netip.Addr) route.Kind {
	switch {
	case a.IsMulticast():
		return route.Multicast
	case a.IsLoopback():
		return route.Local
	case a == limitedBroadcast || a.Is4() && a.IsUnspecified(): // inet_addr_type: of 0.0.0.0/8 the first only
		return route.Broadcast
	}
	return route.Unicast
}

// Connection implements policy.Env.
func (t *transit) Connection() (*flow.Conn, *flow.Extra) {
	if t.ref.at != nowhere {
		return t.conn()
	}
	i, ok := t.find()
	if !ok {
		return nil, nil
	}
	return t.s.table.Conn(i), t.s.table.Extra(i)
}

// find finds the connection in the table that the tuple of a packet belongs to, which
// conntrack has not seen yet: then in the zone that CT has named, if it has. For one that
// conntrack calls INVALID that is looked for outside of any zone.
func (t *transit) find() (entry uint32, ok bool) {
	if t.p.Key.L4 == 0 || t.p.Kind == packet.Error || t.tracked && t.p.Key.L4.Zone() != 0 {
		return 0, false
	}
	key, zone := t.p.Key, t.view.Zone
	if t.tracked || zone == nil || *zone == (flow.ZoneID{}) {
		return t.s.table.Find(&key, t.p.Flipped, key.Hash(&t.s.cfg.Secret), t.s.time())
	}
	for _, d := range directions { // nf_conntrack_find_get
		key.L4 = key.L4.WithZone(zone.In(d))
		entry, ok = t.s.table.Find(&key, t.p.Flipped, key.Hash(&t.s.cfg.Secret), t.s.time())
		if ok && zone.In(t.s.table.Direction(entry, &key, t.p.Flipped)) == key.L4.Zone() {
			return entry, true
		}
		if !zone.Directional() {
			break
		}
	}
	return 0, false
}

// Counted implements policy.Env.
func (t *transit) Counted(list uint32) {
	i, ok := t.ref.entry, t.ref.at == inTable
	if !ok {
		i, ok = t.find()
	}
	if ok {
		t.s.table.Extend(i).Counted = list
	}
}

// PathMTU implements policy.Env.
func (t *transit) PathMTU(a flow.Addr, f flow.Family) int {
	if routes := t.s.forward.Routes; routes != nil {
		if t.hasHop && a == t.routed.dst { // dst_mtu: where this packet goes, whatever made it go there
			return t.hop.MTU
		}
		if h := routes.Lookup(route.Key{Family: f, Dst: a, In: -1}); h.Kind == route.Unicast && h.MTU > 0 {
			return h.MTU
		}
	}
	return 65535
}

// InAddr implements policy.Env.
func (t *transit) InAddr(dev int, f flow.Family, to flow.Addr) (flow.Addr, bool) {
	routes := t.s.forward.Routes
	if routes == nil || dev < 0 || dev >= len(routes.Interfaces) {
		return flow.Addr{}, false
	}
	next := to.Netip(f)
	if t.hasHop && t.hop.Out == dev && t.hop.Next.IsValid() && to != (flow.Addr{}) && f == flow.IPv4 {
		next = t.hop.Next
	}
	return routes.Interfaces[dev].Source(f, next)
}

// Realms implements policy.Env. A bridge has no routes.
func (t *transit) Realms() uint32 {
	if t.s.forward.Routes == nil || !t.hasHop {
		return 0
	}
	return t.s.forward.Routes.Realms(&t.hop, t.routeKey())
}

// routeKey is what the route of the packet depends on.
func (t *transit) routeKey() route.Key {
	e, p := &t.routed, t.p
	return route.Key{
		Family: p.Family, Src: e.src, Dst: e.dst, In: p.In, Mark: t.view.Mark, TOS: p.TOS(),
		Proto: p.Proto, SrcPort: e.sport, DstPort: e.dport,
	}
}

// Group implements policy.Env. The ports of a bridge are in none.
func (t *transit) Group(dev int) uint32 {
	if routes := t.s.forward.Routes; routes != nil && dev >= 0 && dev < len(routes.Interfaces) {
		return uint32(routes.Interfaces[dev].Group)
	}
	return 0
}

// ReverseOK implements policy.Env (rpfilter_lookup_reverse). A bridge has no routes to
// ask, and lets everything be.
func (t *transit) ReverseOK(r policy.Reverse) bool {
	routes := t.s.forward.Routes
	return routes == nil || routes.ReverseOK(route.ReverseKey{
		Family: r.Family, Src: r.Src, Dst: r.Dst, In: r.In, Mark: r.Mark, TOS: r.TOS, Loose: r.Loose, AcceptLocal: r.AcceptLocal,
	})
}
