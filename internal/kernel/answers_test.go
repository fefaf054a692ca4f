package kernel

import (
	"fmt"
	"net/netip"
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

// TestRejectsOfMappedAgree: what REJECT says to and about IPv6 addresses of all kinds, of
// which those mapped from IPv4 get no RST (nf_send_reset6).
func TestRejectsOfMappedAgree(t *testing.T) {
	for _, with := range []string{"tcp-reset", "icmp6-port-unreachable"} {
		t.Run(with, func(t *testing.T) {
			k, x := routers(t, &lab{remote: true}, flow.IPv6, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -j REJECT --reject-with "+with+"\nCOMMIT\n")
			s := strays{t, k, x, flow.IPv6, 0}
			for n, a := range []string{"::ffff:1.2.3.4", "::1.2.3.4", "64:ff9b::1.2.3.4", "fec0::1", "fc00::1", "3fff::1", "2001:db8:2::3"} {
				for _, turn := range []bool{false, true} {
					ip := packet.IP{Src: netip.MustParseAddr(a), Dst: A.Host(1, flow.IPv6)}
					if turn {
						ip.Src, ip.Dst = A.Host(2, flow.IPv6), ip.Src
					}
					from := B
					if turn {
						from = A
					}
					d := packet.AppendTCP(nil, ip, uint16(1000+n), 80, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 100})
					s.frame(from, a, Frame(from, d))
				}
			}
		})
	}
}
