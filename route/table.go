package route

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
)

// Kind is what a route does (RTN_*).
type Kind uint8

// The kinds, with the kernel's values.
const (
	None        Kind = 0 // no route
	Unicast     Kind = 1
	Local       Kind = 2
	Broadcast   Kind = 3
	Anycast     Kind = 4
	Multicast   Kind = 5
	Blackhole   Kind = 6
	Unreachable Kind = 7
	Prohibit    Kind = 8
	Throw       Kind = 9
)

// Interface is one by which packets come and go.
type Interface struct {
	Name  string
	Index int // the kernel's number
	Up    bool
	MTU   int
	MAC   [6]byte
	VLAN  uint16         // tag of its frames, 0 for none
	Addrs []netip.Prefix // in the kernel's order, the first of each net first
	// ReversePath is rp_filter: 0 off, 1 strict, 2 loose.
	ReversePath int
	// Fixed says that the device resolves no neighbours: all have the Ethernet address
	// Neighbour, which means nothing on a link without a link header.
	Fixed     bool
	Neighbour [6]byte
}

// NextHop is one way of a route.
type NextHop struct {
	Out     int        // interface by its number here, -1: one that is not ours
	Gateway netip.Addr // the zero Addr: on the link
	Weight  int        // at least 1
}

// Route is a route.
type Route struct {
	Table    int
	Dst      netip.Prefix
	Kind     Kind
	Hops     []NextHop
	Src      netip.Addr // preferred source, or the zero Addr
	MTU      int        // 0: that of the interface
	Priority int        // metric; the lowest counts
}

// Rule is a routing rule (ip rule).
type Rule struct {
	Family     flow.Family
	Priority   int
	Src, Dst   netip.Prefix // invalid: any
	In         int          // interface by its number here; -1: any
	Mark, Mask uint32
	Kind       Kind // Unicast: look into Table
	Table      int
	Invert     bool
	// SuppressLen: routes with prefixes no longer than that do not count; -1: all do.
	SuppressLen int
}

// The kernel's tables.
const (
	TableMain    = 254
	TableDefault = 253
	TableLocal   = 255
)

// Table is the state of routing at one moment.
type Table struct {
	Interfaces []Interface // by number
	rules      [2][]Rule   // by family, by priority
	fibs       map[int]*bart.Table[[]*Route]
	neighbours map[neighbour][6]byte
	// Ports says which ports of the host's own addresses connections may be mapped
	// to; nil: all.
	Ports *nat.PortSet
}

type neighbour struct {
	out  int
	addr netip.Addr
}

// New returns a Table of these interfaces with the kernel's default rules and no
// routes.
func New(interfaces []Interface) *Table {
	t := &Table{Interfaces: interfaces, fibs: map[int]*bart.Table[[]*Route]{}, neighbours: map[neighbour][6]byte{}}
	for i, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		t.rules[i] = []Rule{
			{Family: f, Priority: 0, In: -1, Kind: Unicast, Table: TableLocal, SuppressLen: -1},
			{Family: f, Priority: 32766, In: -1, Kind: Unicast, Table: TableMain, SuppressLen: -1},
			{Family: f, Priority: 32767, In: -1, Kind: Unicast, Table: TableDefault, SuppressLen: -1},
		}
	}
	return t
}

// Clone returns a Table that can be changed without changing t. Routes are shared.
func (t *Table) Clone() *Table {
	n := *t
	n.Interfaces = slices.Clone(t.Interfaces)
	n.fibs = maps.Clone(t.fibs)
	n.neighbours = maps.Clone(t.neighbours)
	return &n
}

// Change tells what is new of a Table that nobody else has yet.

// SameRules reports whether t and u have the same routing rules.
func (t *Table) SameRules(u *Table) bool {
	return slices.Equal(t.rules[0], u.rules[0]) && slices.Equal(t.rules[1], u.rules[1])
}

// SetRules replaces the rules.
func (t *Table) SetRules(rules []Rule) {
	t.rules = [2][]Rule{}
	for _, r := range rules {
		i := index(r.Family)
		t.rules[i] = append(t.rules[i], r)
	}
	for i := range t.rules {
		slices.SortStableFunc(t.rules[i], func(a, b Rule) int { return a.Priority - b.Priority })
	}
}

// Add adds a route; one of the same destination, priority and table is replaced.
func (t *Table) Add(r *Route) { t.edit(r, true) }

// Remove removes a route.
func (t *Table) Remove(r *Route) { t.edit(r, false) }

func (t *Table) edit(r *Route, add bool) {
	fib := t.fibs[r.Table]
	if fib == nil {
		fib = &bart.Table[[]*Route]{}
	}
	old, _ := fib.Get(r.Dst)
	all := slices.DeleteFunc(slices.Clone(old), func(o *Route) bool { return o.Priority == r.Priority && o.Kind == r.Kind })
	if add {
		all = append(all, r)
		slices.SortStableFunc(all, func(a, b *Route) int { return a.Priority - b.Priority })
	}
	if len(all) == 0 {
		fib = fib.DeletePersist(r.Dst)
	} else {
		fib = fib.InsertPersist(r.Dst, all)
	}
	t.fibs[r.Table] = fib
}

// SetNeighbour says which Ethernet address a neighbour has; known is false if that
// is not known any more. It reports whether that is new.
func (t *Table) SetNeighbour(out int, addr netip.Addr, mac [6]byte, known bool) bool {
	k := neighbour{out, addr}
	old, had := t.neighbours[k]
	if known {
		t.neighbours[k] = mac
		return !had || old != mac
	}
	delete(t.neighbours, k)
	return had
}

// Neighbour returns the Ethernet address of a neighbour.
func (t *Table) Neighbour(out int, addr netip.Addr) (mac [6]byte, ok bool) {
	if i := &t.Interfaces[out]; i.Fixed {
		return i.Neighbour, true
	}
	mac, ok = t.neighbours[neighbour{out, addr}]
	return mac, ok
}

func index(f flow.Family) int {
	if f == flow.IPv4 {
		return 0
	}
	return 1
}

// Key is what the way of a packet depends on.
type Key struct {
	Family   flow.Family
	Src, Dst flow.Addr
	In       int // interface; -1: a packet of our own
	Mark     uint32
}

// Hop is the way of a packet.
type Hop struct {
	Kind   Kind
	Out    int // interface; -1: one that is not ours. Valid iff Unicast
	MTU    int
	Next   netip.Addr // gateway, or the destination itself
	Src    flow.Addr  // what a packet of our own would have for its source
	Known  bool       // the neighbour's address is known
	DstMAC [6]byte    // valid iff Known
	SrcMAC [6]byte
	VLAN   uint16
	Marked bool // the mark of the packet had a part in it
}

// Lookup finds the way of a packet.
func (t *Table) Lookup(k Key) (h Hop) {
	dst, src := k.Dst.Netip(k.Family), k.Src.Netip(k.Family)
	for i := range t.rules[index(k.Family)] {
		r := &t.rules[index(k.Family)][i]
		h.Marked = h.Marked || r.Mask != 0
		if r.matches(src, dst, k) == r.Invert {
			continue
		}
		if r.Kind != Unicast {
			return Hop{Kind: r.Kind, Marked: h.Marked}
		}
		fib := t.fibs[r.Table]
		if fib == nil {
			continue
		}
		routes, ok := fib.Lookup(dst)
		if !ok || len(routes) == 0 {
			continue
		}
		if r.SuppressLen >= 0 && routes[0].Dst.Bits() <= r.SuppressLen {
			continue
		}
		for _, route := range routes {
			if route.Kind == Throw {
				break
			}
			if t.follow(&h, route, k, dst) {
				return h
			}
		}
	}
	return Hop{Kind: None, Marked: h.Marked}
}

func (r *Rule) matches(src, dst netip.Addr, k Key) bool {
	return (!r.Src.IsValid() || r.Src.Contains(src)) && (!r.Dst.IsValid() || r.Dst.Contains(dst)) &&
		(r.In < 0 || r.In == k.In) && (k.Mark^r.Mark)&r.Mask == 0
}

// follow fills in the way by a route. It reports false if none of its hops is up.
func (t *Table) follow(h *Hop, r *Route, k Key, dst netip.Addr) bool {
	h.Kind, h.Out, h.MTU = r.Kind, -1, r.MTU
	if r.Src.IsValid() {
		h.Src = flow.AddrFrom(r.Src)
	}
	if r.Kind == Local && len(r.Hops) > 0 {
		h.Out = r.Hops[0].Out
	}
	if r.Kind != Unicast {
		return true
	}
	n, ok := t.pick(r.Hops, k)
	if !ok {
		return false
	}
	h.Next = dst
	if n.Gateway.IsValid() {
		h.Next = n.Gateway
	}
	if h.Out = n.Out; n.Out < 0 {
		return true
	}
	i := &t.Interfaces[n.Out]
	if h.MTU == 0 || h.MTU > i.MTU {
		h.MTU = i.MTU
	}
	h.SrcMAC, h.VLAN = i.MAC, i.VLAN
	h.DstMAC, h.Known = t.Neighbour(n.Out, h.Next)
	if !r.Src.IsValid() {
		h.Src, _ = i.Source(k.Family, h.Next)
	}
	return true
}

// pick chooses a hop by source and destination, so that a connection keeps its way
// (fib_multipath_hash_policy 0), among those that are up.
func (t *Table) pick(hops []NextHop, k Key) (NextHop, bool) {
	up := func(n *NextHop) bool { return n.Out < 0 || t.Interfaces[n.Out].Up }
	if len(hops) == 1 {
		return hops[0], up(&hops[0])
	}
	total := 0
	for i := range hops {
		if up(&hops[i]) {
			total += max(hops[i].Weight, 1)
		}
	}
	if total == 0 {
		return NextHop{}, false
	}
	x := (k.Src.Lo ^ k.Src.Hi ^ (k.Dst.Lo^k.Dst.Hi)*0x9e3779b97f4a7c15) * 0xd6e8feb86659fd93
	at := int((x >> 33) % uint64(total))
	for i := range hops {
		if !up(&hops[i]) {
			continue
		}
		if at -= max(hops[i].Weight, 1); at < 0 {
			return hops[i], true
		}
	}
	return NextHop{}, false
}

// Source returns the address of the interface that packets to a neighbour have
// (inet_select_addr, and for IPv6 the longest match of its global addresses).
func (i *Interface) Source(f flow.Family, to netip.Addr) (flow.Addr, bool) {
	best, bits := netip.Addr{}, -1
	for _, p := range i.Addrs {
		a := p.Addr()
		if a.Is4() != (f == flow.IPv4) {
			continue
		}
		n := 0
		switch {
		case f == flow.IPv4 && to.IsValid() && p.Contains(to):
			n = 1
		case f == flow.IPv6 && a.IsLinkLocalUnicast() != to.IsLinkLocalUnicast():
			n = -1
			if !best.IsValid() {
				best = a
			}
		case f == flow.IPv6 && to.IsValid():
			n = common(a, to)
		}
		if n > bits {
			best, bits = a, n
		}
	}
	return flow.AddrFrom(best), best.IsValid()
}

// common returns how many leading bits two addresses share.
func common(a, b netip.Addr) (n int) {
	x, y := a.As16(), b.As16()
	for i := range x {
		for m := byte(0x80); m != 0; m >>= 1 {
			if (x[i]^y[i])&m != 0 {
				return n
			}
			n++
		}
	}
	return n
}

// KindOf returns the kind of an address by the local table (inet_addr_type): Local,
// Broadcast, Anycast, Multicast or Unicast. dev is an interface that it has to be
// of, -1 for any.
func (t *Table) KindOf(a flow.Addr, f flow.Family, dev int) Kind {
	ip := a.Netip(f)
	switch {
	case ip.IsMulticast():
		return Multicast
	case f == flow.IPv4 && (ip.As4()[0] == 0 || ip.As4() == [4]byte{255, 255, 255, 255}):
		return Broadcast
	}
	if fib := t.fibs[TableLocal]; fib != nil {
		if routes, ok := fib.Lookup(ip); ok {
			for _, r := range routes {
				if dev < 0 || len(r.Hops) > 0 && r.Hops[0].Out == dev {
					return r.Kind
				}
			}
		}
	}
	return Unicast
}

// Reverse reports whether a packet to src would leave by dev, or, if loose, whether
// there is a way to it at all (rp_filter).
func (t *Table) Reverse(src, dst flow.Addr, f flow.Family, dev int, loose bool) bool {
	h := t.Lookup(Key{Family: f, Dst: src, Src: dst, In: dev})
	return h.Kind == Unicast && (loose || h.Out == dev)
}

// LocalAddrs calls yield for each address of the host itself.
func (t *Table) LocalAddrs(yield func(netip.Addr, Kind) bool) {
	fib := t.fibs[TableLocal]
	if fib == nil {
		return
	}
	for p, routes := range fib.All() {
		if len(routes) > 0 && p.IsSingleIP() && !yield(p.Addr(), routes[0].Kind) {
			return
		}
	}
}
