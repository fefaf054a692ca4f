package kernel

import (
	"encoding/binary"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// TestAtomicFragmentsAgree: a fragment header that fragments nothing goes, but from a
// datagram that ends within its transport header, whatever other extension headers there are.
func TestAtomicFragmentsAgree(t *testing.T) {
	const rules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 3fff::1 -j CT --notrack\n-A PREROUTING -j ACCEPT\nCOMMIT\n*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n"
	rest := map[flow.Proto][]byte{0: {0, 1, 4, 0, 0, 0, 0}, 60: {0, 1, 4, 0, 0, 0, 0}, 43: {0, 4, 0, 0, 0, 0, 0}}
	var script []said
	for _, chain := range [][]flow.Proto{{44}, {60, 44}, {44, 60}, {0, 44}, {43, 44, 60}, {44, 44}} {
		for _, proto := range []flow.Proto{flow.TCP, flow.UDP, flow.ICMPv6, flow.SCTP, flow.UDPLite, 59, 99} {
			whole := packet.AppendIP(nil, between(A, 1, 1, flow.IPv6), proto, []byte{128, 0, 0, 80, 0, 8, 0, 0, 8, 7, 6, 5, 0x50, 2, 1, 1, 1, 1, 1, 1, 1, 1})
			for cut := 8*len(chain) + 22; cut >= 0; cut-- {
				o := oddity{}
				for _, h := range chain {
					if h == 44 { // an identification of its own: an empty fragment spoils that for others
						rest[h] = binary.BigEndian.AppendUint32([]byte{0, 0, 0}, uint32(len(script)))
					}
					o.headers = append(o.headers, exthdr{h, rest[h]})
				}
				d := o.extend(whole)
				script = append(script, said{from: A, d: finish(d[:len(d)-cut])})
			}
		}
	}
	agree(t, flow.IPv6, rules, script...)
}
