package nat

import (
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// TestNextPort: of the host's own addresses only ports are told that translation may use and
// no socket has; of others all.
func TestNextPort(t *testing.T) {
	own, other := flow.AddrFromUint32(0xc0000201), flow.AddrFromUint32(0xc0000209)
	a := NewShared(1, 10, Key{1, 2}).NewAllocator(0)
	var free, bound PortSet
	free.Add(1, 2000)
	free.Add(61000, 61003)
	bound.AddFor(flow.TCP, 61001, 61002)
	a.SetHost(NewHostPorts(&free, &bound), func(x flow.Addr, _ flow.Family) bool { return x == own })
	for _, c := range []struct {
		addr         flow.Addr
		proto        flow.Proto
		from, lowest uint16
		want         uint16
		ok           bool
	}{
		{own, flow.TCP, 1500, 1024, 1500, true},
		{own, flow.TCP, 40000, 1024, 61000, true},
		{own, flow.TCP, 61001, 1024, 61003, true},
		{own, flow.UDP, 61001, 1024, 61001, true},
		{own, flow.TCP, 61004, 1024, 1024, true}, // and around
		{own, flow.TCP, 100, 1024, 1024, true},
		{own, flow.TCP, 100, 1, 100, true},
		{other, flow.TCP, 40000, 1024, 40000, true},
		{own, flow.TCP, 61004, 61004, 0, false},
	} {
		if got, ok := a.NextPort(c.addr, flow.IPv4, c.proto, c.from, c.lowest); ok != c.ok || ok && got != c.want {
			t.Errorf("%v from %d on: %d %v, want %d", c.proto, c.from, got, ok, c.want)
		}
	}
}
