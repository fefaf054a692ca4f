package nat_test

import (
	"fmt"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
)

// used is a Space that remembers what was taken.
type used map[flow.Tuple]bool

func (u used) Take(reply *flow.Tuple, _ bool) bool {
	if u[*reply] {
		return false
	}
	u[*reply] = true
	return true
}

// Two hosts behind one address ask one server from the same port: the first keeps it.
func ExampleAllocator_Choose() {
	addr := func(s string) flow.Addr { return flow.AddrFrom(netip.MustParseAddr(s)) }
	a := nat.NewShared(1, 1000, nat.Key{1, 2}).NewAllocator(0)
	taken := used{}
	for _, host := range []string{"10.0.0.1", "10.0.0.2"} {
		out, ok := a.Choose(&nat.Query{
			Tuple:  flow.Tuple{Src: addr(host), Dst: addr("198.51.100.1"), L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, 5353, 53)},
			Range:  &nat.Range{Min: addr("192.0.2.1"), Max: addr("192.0.2.1"), Addrs: true},
			Source: true,
			Space:  taken,
		})
		fmt.Println(host, "leaves from", out.Src.Netip(flow.IPv4), out.L4.Src() == 5353, ok)
	}
	// Output:
	// 10.0.0.1 leaves from 192.0.2.1 true true
	// 10.0.0.2 leaves from 192.0.2.1 false true
}
