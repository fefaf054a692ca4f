package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// Trim leaves away what the frame has behind its IP datagram: the padding of Ethernet,
// or a trailer (pskb_trim_rcsum in ip_rcv_core and ip6_rcv_core). Frames without an IP
// datagram that could be read stay as they are.
func (p *Packet) Trim() {
	if end := int(p.L3) + int(p.Len); end < len(p.Frame) && p.Len != 0 {
		p.Frame = p.Frame[:end]
	}
}

// Unfragment takes the fragment header out of a datagram that is whole in spite of it
// (RFC 6946; nf_ct_frag6_gather), and reports whether there was one. The frame becomes
// eight bytes shorter. It stays where the transport header is not whole, though not if that
// is because the chain of headers is not (ipv6frag_thdr_truncated). Valid iff the frame is whole.
func (p *Packet) Unfragment() bool {
	if p.Family != flow.IPv6 || p.L4 != 0 && int(p.L4) <= int(p.L3)+ipv6Len || p.Kind == Fragmented {
		return false
	}
	end := int(p.L3) + int(p.Len)
	if end > len(p.Frame) {
		return false
	}
	b := p.Frame[p.L3:end]
	x := skipExtensions(b, flow.Proto(b[6]), ipv6Len)
	if x.fragAt == 0 || x.fragment || len(b) < x.fragAt+fragmentLen || !x.cut && len(b) < x.at+leastHeader(x.proto) {
		return false
	}
	b[x.fragNext] = b[x.fragAt]
	copy(b[x.fragAt:], b[x.fragAt+fragmentLen:])
	if n := binary.BigEndian.Uint16(b[4:]); n != 0 { // 0: a jumbogram
		binary.BigEndian.PutUint16(b[4:], n-fragmentLen)
	}
	if p.L4 != 0 {
		p.L4 -= fragmentLen
	}
	p.Len -= fragmentLen
	p.Frame = p.Frame[:end-fragmentLen]
	return true
}

// leastHeader is how many bytes of a transport header the first fragment of an IPv6
// datagram has to have (ipv6frag_thdr_truncated).
func leastHeader(proto flow.Proto) int {
	switch proto {
	case flow.TCP:
		return 20
	case flow.UDP, flow.ICMPv6:
		return 8
	}
	return 1
}
