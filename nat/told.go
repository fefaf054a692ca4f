package nat

import "github.com/xdpct/xdpct/flow"

// NextPort returns the first port from p on and around that connections from outside may be
// told to go to at an address: of the host's own addresses, one that comes to translation
// and not to the host. None is below lowest. ok is false if there is none at all.
func (a *Allocator) NextPort(addr flow.Addr, f flow.Family, proto flow.Proto, p, lowest uint16) (port uint16, ok bool) {
	t := flow.Tuple{Src: addr, L4: flow.MakeL4(f, proto, 0, 0, 0)}
	w := window{of: every, lo: lowest, hi: 65535}
	if ports, _ := a.pools(&t); ports != nil {
		w.of = ports
	}
	return w.next(max(p, lowest), nil)
}
