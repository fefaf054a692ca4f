package kernel

import (
	"fmt"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// TestUnknownOptionsAgree: unknown hop-by-hop options of each kind (RFC 8200, 4.2), in frames
// to each kind of Ethernet destination: the sender is told of those whose highest bits are
// 10 even if the frame went to a group (opt_unrec).
func TestUnknownOptionsAgree(t *testing.T) {
	var acts []act
	for link, mac := range map[string]packet.MAC{
		"the router": RouterMAC(A), "all": {255, 255, 255, 255, 255, 255}, "a group": {0x33, 0x33, 0, 0, 0, 1}, "another host": {2, 0, 0, 0, 9, 9},
	} {
		for _, typ := range []byte{0x1e, 0x5e, 0x9e, 0xde} {
			for _, src := range []string{"2001:db8:1::1", "::"} {
				udp := packet.AppendUDP(nil, between(A, 1, 1, flow.IPv6), 1000, 53, make([]byte, 10))
				if src == "::" {
					clear(udp[8:24])
				}
				o := oddity{headers: []exthdr{{0, []byte{0, typ, 4, 1, 2, 3, 4}}}}
				frame := packet.AppendEthernet(nil, mac, HostMAC(), finish(o.extend(udp)))
				acts = append(acts, sent(A, fmt.Sprintf("option %#x to %s", typ, link), frame))
			}
		}
	}
	scripted(t, flow.IPv6, "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m conntrack --ctstate NEW\nCOMMIT\n", acts...)
}
