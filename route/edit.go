package route

import "slices"

// Placement is where a new route goes among those of the same destination, metric and
// TOS: what the flags of the request that made it say (NLM_F_*).
type Placement uint8

// The placements.
const (
	First   Placement = iota // neither of the flags: before the others
	Replace                  // NLM_F_REPLACE: in place of the first
	Last                     // NLM_F_APPEND: after the others
)

// order says in which order a lookup tries the routes to one destination
// (fib_insert_alias, fib6_add_rt2node).
func order(a, b *Route) int {
	switch {
	case a.TOS != b.TOS:
		return int(b.TOS) - int(a.TOS)
	case a.From != b.From:
		return b.From.Bits() - a.From.Bits()
	default:
		return a.Priority - b.Priority
	}
}

// sameInfo reports whether two IPv4 routes to one destination are the same one
// (fib_find_info): those that differ in a metric alone are two.
func sameInfo(a, b *Route) bool {
	return sameRoute(a, b) && a.Src == b.Src && a.Protocol == b.Protocol && a.Scope == b.Scope && a.Metrics == b.Metrics
}

// sameRoute reports whether two IPv6 routes to one destination are the same one
// (rt6_duplicate_nexthop).
func sameRoute(a, b *Route) bool {
	return order(a, b) == 0 && a.From == b.From && a.Kind == b.Kind && sameHops(a.Hops, b.Hops)
}

func sameHops(a, b []NextHop) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(h NextHop) bool { return !slices.ContainsFunc(b, h.same) })
}

func sameList(a, b []*Route) bool {
	return slices.EqualFunc(a, b, func(x, y *Route) bool {
		dead := func(h NextHop) bool { return h.Dead }
		return sameInfo(x, y) && slices.ContainsFunc(x.Hops, dead) == slices.ContainsFunc(y.Hops, dead)
	})
}

// group returns where the routes that are in the same place as r begin and end.
func group(list []*Route, r *Route) (lo, hi int) {
	lo, _ = slices.BinarySearchFunc(list, r, order)
	for hi = lo; hi < len(list) && order(list[hi], r) == 0; hi++ {
	}
	return lo, hi
}

// at returns list with r in place of list[i:j].
func at(list []*Route, i, j int, r ...*Route) []*Route {
	return slices.Concat(list[:i], r, list[j:])
}

// put4 adds an IPv4 route (fib_table_insert).
func put4(list []*Route, r *Route, where Placement) []*Route {
	lo, hi := group(list, r)
	if i := slices.IndexFunc(list[lo:hi], func(o *Route) bool { return sameInfo(o, r) }); i >= 0 {
		return at(list, lo+i, lo+i+1, r) // it is told of again
	}
	switch {
	case where == Replace && hi > lo:
		return at(list, lo, lo+1, r)
	case where == Last:
		return at(list, hi, hi, r)
	default:
		return at(list, lo, lo, r)
	}
}

// cut4 removes an IPv4 route (fib_table_delete).
func cut4(list []*Route, r *Route) ([]*Route, bool) {
	lo, hi := group(list, r)
	if i := slices.IndexFunc(list[lo:hi], func(o *Route) bool { return sameInfo(o, r) }); i >= 0 {
		return at(list, lo+i, lo+i+1), true
	}
	return list, false
}

// ecmp reports whether routes like r join into one with several next hops
// (rt6_qualify_for_ecmp).
func ecmp(r *Route) bool {
	return r.Kind == Unicast && !slices.ContainsFunc(r.Hops, func(h NextHop) bool { return !h.Gateway.IsValid() })
}

// put6 adds an IPv6 route (fib6_add_rt2node). r has all next hops of the route that it
// is, or has become a part of.
func put6(list []*Route, r *Route, where Placement) []*Route {
	lo, hi := group(list, r)
	same := list[lo:hi]
	i := slices.IndexFunc(same, func(o *Route) bool { return sameRoute(o, r) })
	if i < 0 && (ecmp(r) || where == Replace) {
		i = slices.IndexFunc(same, func(o *Route) bool { return ecmp(o) == ecmp(r) })
	}
	if i < 0 && where == Replace && len(same) > 0 {
		i = 0
	}
	if i >= 0 {
		return at(list, lo+i, lo+i+1, r)
	}
	return at(list, hi, hi, r)
}

// cut6 removes an IPv6 route, or some of the next hops of one (fib6_del_route).
func cut6(list []*Route, r *Route) ([]*Route, bool) {
	lo, hi := group(list, r)
	gone := func(h NextHop) bool { return slices.ContainsFunc(r.Hops, h.same) }
	for i := lo; i < hi; i++ {
		o := list[i]
		if o.Kind != r.Kind || !slices.ContainsFunc(o.Hops, gone) {
			continue
		}
		rest := *o
		rest.alone = nil
		rest.Hops = slices.DeleteFunc(slices.Clone(o.Hops), gone)
		if len(rest.Hops) == 0 {
			return at(list, i, i+1), true
		}
		return at(list, i, i+1, &rest), true
	}
	return list, false
}
