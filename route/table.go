package route

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/gaissmai/bart"

	"github.com/xdpct/xdpct/flow"
)

// Kind is the type of a route (RTN_*).
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

// Interface is an interface by which packets come and go: a port, or a VLAN of one.
type Interface struct {
	Name  string // as rules have it
	Index int    // the kernel's ifindex; 0 while the interface does not exist
	Port  int    // the port that its frames use
	Up    bool   // IFF_UP; without a carrier routes stay, as in the kernel
	MTU   int
	MAC   [6]byte        // all zero: it has none, and takes every frame
	VLAN  uint16         // tag of its frames, 0 for none
	Addrs []netip.Prefix // in the kernel's order: primary addresses first
	Group int            // IFLA_GROUP
	VRF   int            // the table of the VRF that it is a member of; 0: none
	// ReversePath is the rp_filter in force: 0 off, 1 strict, 2 loose.
	ReversePath int
	// Fixed says that the device resolves no neighbours: all have the Ethernet address
	// Neighbour, which means nothing on a link without a link header.
	Fixed     bool
	Neighbour [6]byte
	// AcceptLocal, SrcValidMark, SendRedirects, SharedMedia are the sysctls of
	// net.ipv4.conf in force.
	AcceptLocal, SrcValidMark, SendRedirects, SharedMedia bool
	// Patience is how long the kernel tries to resolve a neighbour before it is
	// unreachable, in milliseconds, by family (IPv4 first): mcast_solicit times
	// retrans_time.
	Patience [2]int64
}

// Equal reports whether two interfaces are equal in everything.
func (i Interface) Equal(o Interface) bool {
	addrs := slices.Equal(i.Addrs, o.Addrs)
	i.Addrs, o.Addrs = nil, nil
	return addrs && reflect.DeepEqual(i, o)
}

// NextHop is a next hop of a route.
type NextHop struct {
	Index   int        // ifindex; 0: Out says which interface
	Out     int        // interface by its number here; -1: none of ours
	Gateway netip.Addr // the zero Addr: the destination is on the link
	Weight  int        // at least 1
	Dead    bool       // RTNH_F_DEAD: its interface is down
	Realms  uint32     // RTA_FLOW of IPv4: the destination's in the lower 16 bits, the source's in the upper
}

// same reports whether two next hops are the same one, whatever their state.
func (h NextHop) same(o NextHop) bool {
	h.Dead, o.Dead, h.Weight, o.Weight = false, false, 0, 0
	return h == o
}

// Route is a route. Routes that are in a Table are not changed.
type Route struct {
	Table    int
	Dst      netip.Prefix
	From     netip.Prefix // IPv6: only for these sources; the zero Prefix: for all
	TOS      uint8        // IPv4: only for packets of this TOS (its bits 0x1c); 0: for all
	Kind     Kind
	Hops     []NextHop
	Src      netip.Addr // preferred source, or the zero Addr
	MTU      int        // 0: that of the interface
	Priority int        // metric; the lowest counts
	// Protocol, Scope and Metrics (RTA_METRICS as it came) decide nothing, but tell
	// routes apart.
	Protocol, Scope uint8
	Metrics         string

	alone []*Route // the list of this route alone, once there is one
}

// The kernel's tables.
const (
	TableMain    = 254
	TableDefault = 253
	TableLocal   = 255
)

// Neighbour is the link-layer address of a neighbour.
type Neighbour struct {
	MAC [6]byte
	// ID is a small number of its own, by which the use of a neighbour can be
	// noted; 0: it has none.
	ID uint32
}

// fib is a routing table: for each destination its routes, those that a lookup tries
// first at the front. A list is not changed once it is in a fib.
type fib = bart.Table[[]*Route]

// Table is the state of routing at one moment.
type Table struct {
	Interfaces []Interface // by number
	rules      [2][]Rule   // by family, by priority
	custom     [2]bool     // there are others than standardRules
	fibs       map[int]*fib
	neighbours []*bart.Table[Neighbour] // by interface; nil: it has none
	byIndex    map[int]int              // numbers of interfaces by ifindex
	// shared: other Tables have parts of this one, which are therefore copied
	// before they are changed.
	shared bool
}

// New returns a Table of these interfaces with the kernel's default rules and no
// routes. Its changes are made in place: finish them before the first Clone.
func New(interfaces []Interface) *Table {
	t := &Table{fibs: map[int]*fib{}}
	var rules []Rule
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		rules = append(rules, NewRule(f, 0, TableLocal), NewRule(f, 32766, TableMain), NewRule(f, 32767, TableDefault))
	}
	t.SetRules(rules)
	t.SetInterfaces(interfaces)
	return t
}

// Clone returns a Table that can be changed without changing t. t must not be changed
// any more.
func (t *Table) Clone() *Table {
	n := *t
	n.Interfaces = slices.Clone(t.Interfaces)
	n.fibs = maps.Clone(t.fibs)
	n.neighbours = slices.Clone(t.neighbours)
	n.shared = true
	return &n
}

// SetInterfaces replaces the interfaces. Neighbours stay with their numbers.
func (t *Table) SetInterfaces(interfaces []Interface) {
	t.Interfaces = interfaces
	t.byIndex = make(map[int]int, len(interfaces))
	for n, i := range interfaces {
		if i.Index != 0 {
			t.byIndex[i.Index] = n
		}
	}
	neighbours := make([]*bart.Table[Neighbour], len(interfaces))
	copy(neighbours, t.neighbours)
	t.neighbours = neighbours
	t.SetRules(slices.Concat(t.rules[0], t.rules[1]))
}

// Number returns the number of the interface with this ifindex, -1 if it is none of
// ours.
func (t *Table) Number(index int) int {
	if n, ok := t.byIndex[index]; ok {
		return n
	}
	return -1
}

// out returns the number of the interface that a next hop is on, -1 if it is none of
// ours.
func (t *Table) out(h *NextHop) int {
	if h.Index != 0 {
		return t.Number(h.Index)
	}
	return h.Out
}

// SetRoutes takes the routes of another Table over.
func (t *Table) SetRoutes(of *Table) { t.fibs, t.shared = maps.Clone(of.fibs), true }

// Add adds a route; those of the same destination, metric, TOS and table are replaced.
func (t *Table) Add(r *Route) { t.Put(r.Dst, r, Replace) }

// Put adds a route to dst, whatever r.Dst says: routes to many destinations that are
// otherwise alike can share one Route. where is what the kernel did with it.
func (t *Table) Put(dst netip.Prefix, r *Route, where Placement) {
	t.edit(r.Table, dst, func(list []*Route) []*Route {
		if len(list) == 0 {
			if r.alone == nil {
				r.alone = []*Route{r}
			}
			return r.alone
		}
		if dst.Addr().Is4() {
			return put4(list, r, where)
		}
		return put6(list, r, where)
	})
}

// Remove removes a route, or, of an IPv6 route with several next hops, those that r
// has. It reports whether there was one.
func (t *Table) Remove(r *Route) bool { return t.Cut(r.Dst, r) }

// Cut removes the route r to dst, whatever r.Dst says. It reports whether there was one.
func (t *Table) Cut(dst netip.Prefix, r *Route) (found bool) {
	t.edit(r.Table, dst, func(list []*Route) []*Route {
		if dst.Addr().Is4() {
			list, found = cut4(list, r)
		} else {
			list, found = cut6(list, r)
		}
		return list
	})
	return found
}

// edit replaces the routes to a destination. change must not change what it gets.
func (t *Table) edit(table int, dst netip.Prefix, change func([]*Route) []*Route) {
	f := t.fibs[table]
	if f == nil {
		f = &fib{}
		t.fibs[table] = f
	}
	old, had := f.Get(dst)
	list := change(old)
	switch {
	case len(list) == 0 && !had:
	case len(list) == 0 && t.shared:
		t.fibs[table] = f.DeletePersist(dst)
	case len(list) == 0:
		f.Delete(dst)
	case t.shared:
		t.fibs[table] = f.InsertPersist(dst, list)
	default:
		f.Insert(dst, list)
	}
}

// Routes calls yield for each route with its destination, in no order.
func (t *Table) Routes(yield func(netip.Prefix, *Route) bool) {
	for _, f := range t.fibs {
		for p, list := range f.All() {
			for _, r := range list {
				if !yield(p, r) {
					return
				}
			}
		}
	}
}

// NumRoutes returns the number of destinations that there are routes to, over all
// tables.
func (t *Table) NumRoutes() (n int) {
	for _, f := range t.fibs {
		n += f.Size()
	}
	return n
}

// PutNeighbour says what a neighbour is.
func (t *Table) PutNeighbour(out int, addr netip.Addr, n Neighbour) {
	p := netip.PrefixFrom(addr, addr.BitLen())
	old := t.neighbours[out]
	if old == nil {
		old = &bart.Table[Neighbour]{}
	}
	t.neighbours[out] = old.InsertPersist(p, n)
}

// ForgetNeighbour says that the Ethernet address of a neighbour is not known any more.
func (t *Table) ForgetNeighbour(out int, addr netip.Addr) {
	if old := t.neighbours[out]; old != nil {
		t.neighbours[out] = old.DeletePersist(netip.PrefixFrom(addr, addr.BitLen()))
	}
}

// ForgetNeighbours forgets the neighbours on an interface.
func (t *Table) ForgetNeighbours(out int) { t.neighbours[out] = nil }

// Neighbour returns the Ethernet address of a neighbour.
func (t *Table) Neighbour(out int, addr netip.Addr) (n Neighbour, ok bool) {
	if out >= 0 && out < len(t.Interfaces) && t.Interfaces[out].Fixed {
		return Neighbour{MAC: t.Interfaces[out].Neighbour}, true
	}
	if out < 0 || out >= len(t.neighbours) || t.neighbours[out] == nil || !addr.IsValid() {
		return n, false
	}
	return t.neighbours[out].Lookup(addr) // all prefixes are whole addresses
}

// NumNeighbours returns the number of neighbours.
func (t *Table) NumNeighbours() (n int) {
	for _, b := range t.neighbours {
		if b != nil {
			n += b.Size()
		}
	}
	return n
}

// SameRouting reports whether t and u differ in their neighbours alone. One has to be made from the other, by Clone or SetRoutes: routes are the same then if
// nobody has changed them.
func (t *Table) SameRouting(u *Table) bool {
	return maps.Equal(t.fibs, u.fibs) && t.SameRules(u) && slices.EqualFunc(t.Interfaces, u.Interfaces, Interface.Equal)
}

// Diff returns what differs between two Tables, in words, at most limit lines. The
// IDs of neighbours do not count.
func (t *Table) Diff(u *Table, limit int) (diff []string) {
	note := func(format string, args ...any) bool {
		diff = append(diff, fmt.Sprintf(format, args...))
		return len(diff) < limit
	}
	for n := range max(len(t.Interfaces), len(u.Interfaces)) {
		if n >= len(t.Interfaces) || n >= len(u.Interfaces) {
			note("%d interfaces, %d", len(t.Interfaces), len(u.Interfaces))
			break
		}
		if a, b := t.Interfaces[n], u.Interfaces[n]; !a.Equal(b) && !note("interface %v, %v", a, b) {
			return diff
		}
	}
	if !t.SameRules(u) && !note("rules %+v, %+v", t.rules, u.rules) {
		return diff
	}
	for table := range u.fibs {
		if t.fibs[table] == nil {
			t = t.Clone()
			t.fibs[table] = &fib{}
		}
	}
	for table, f := range t.fibs {
		g := u.fibs[table]
		if g == nil {
			g = &fib{}
		}
		for p, list := range f.All() {
			other, _ := g.Get(p)
			if !sameList(list, other) && !note("table %d: %v: %s, %s", table, p, show(list), show(other)) {
				return diff
			}
		}
		for p, list := range g.All() {
			if _, ok := f.Get(p); !ok && !note("table %d: %v: none, %s", table, p, show(list)) {
				return diff
			}
		}
	}
	return append(diff, t.diffNeighbours(u, limit-len(diff))...)
}

func (t *Table) diffNeighbours(u *Table, limit int) (diff []string) {
	one := func(a, b *Table, swapped bool) {
		for n, neighbours := range a.neighbours {
			if neighbours == nil {
				continue
			}
			for p, x := range neighbours.All() {
				y, ok := b.Neighbour(n, p.Addr())
				if (ok && x.MAC == y.MAC) || (ok && swapped) || len(diff) >= limit {
					continue
				}
				diff = append(diff, fmt.Sprintf("neighbour %v on %d: %x, %x (%v)", p.Addr(), n, x.MAC, y.MAC, swapped))
			}
		}
	}
	one(t, u, false)
	one(u, t, true)
	return diff
}

func show(list []*Route) (s string) {
	for _, r := range list {
		s += fmt.Sprintf("{from %v tos %#x kind %d hops %v src %v mtu %d metric %d}", r.From, r.TOS, r.Kind, r.Hops, r.Src, r.MTU, r.Priority)
	}
	return s
}
