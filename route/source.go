package route

import (
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

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
	case f == flow.IPv4 && (ip.IsUnspecified() || ip.As4() == [4]byte{255, 255, 255, 255}):
		return Broadcast
	}
	if fib := t.fibs[TableLocal]; fib != nil {
		if routes, ok := fib.Lookup(ip); ok {
			for _, r := range routes {
				if dev < 0 || len(r.Hops) > 0 && t.out(&r.Hops[0]) == dev {
					return r.Kind
				}
			}
		}
	}
	return Unicast
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

// LinkLocal returns the IPv6 link-local address of the interface.
func (i *Interface) LinkLocal() (netip.Addr, bool) {
	for _, p := range i.Addrs {
		if a := p.Addr(); a.Is6() && a.IsLinkLocalUnicast() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// OnLink reports whether an address is in one of the interface's nets
// (inet_addr_onlink).
func (i *Interface) OnLink(a netip.Addr) bool {
	for _, p := range i.Addrs {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
