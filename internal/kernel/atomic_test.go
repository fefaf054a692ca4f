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

// TestFragAgrees: the first fragment header goes, and -m frag reads the next one there is;
// it drops a packet whose headers are cut off before one could be found.
func TestFragAgrees(t *testing.T) {
	rules := "*mangle\n:PREROUTING ACCEPT [0:0]\n"
	for _, options := range []string{"", " --fragid 7", " ! --fragid 7", " --fragres", " --fragfirst", " --fragmore", " --fraglast", " --fraglen 9", " --fragfirst --fraglast --fragres --fragid 5:7"} {
		rules += "-A PREROUTING -m frag" + options + "\n"
	}
	rules += "-A PREROUTING -m conntrack --ctstate NEW\nCOMMIT\n" // or nothing would be assembled
	header := func(reserved, field byte, id uint32) exthdr {
		return exthdr{44, binary.BigEndian.AppendUint32([]byte{reserved, 0, field}, id)}
	}
	options := exthdr{60, []byte{0, 1, 4, 0, 0, 0, 0}}
	var script []said
	for i, behind := range [][]exthdr{
		nil, {header(0, 0, 7)}, {header(1, 0, 5)}, {header(0, 2, 6)}, {header(0, 4, 8)}, {header(0, 6, 7)}, {options, header(0, 0, 7)}, {header(0, 0, 7), header(0, 0, 9)},
	} {
		for cut := range 40 { // down to within the first of those headers
			if cut > 0 && (cut < 12 || i != 1 && i != 6) {
				continue
			}
			first := header(0, 0, uint32(100+len(script))) // an empty fragment spoils an identification for others
			o := oddity{headers: append([]exthdr{first}, behind...)}
			d := o.extend(udpDatagram(A, 1, 1, flow.IPv6, uint16(1000+i), 9, 8).d)
			script = append(script, said{from: A, d: finish(d[:len(d)-min(cut, len(d)-48)])})
		}
	}
	agreeLegacy(t, flow.IPv6, rules, script...)
}
