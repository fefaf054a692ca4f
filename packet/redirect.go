package packet

import "net/netip"

// Options of neighbour discovery (RFC 4861, 4.6).
const (
	ndTargetLinkLayer = 2 // ND_OPT_TARGET_LL_ADDR
	ndRedirected      = 4 // ND_OPT_REDIRECT_HDR
)

// AppendRedirect appends an ICMPv6 redirect (RFC 4861, 4.5): packets to dst are to be
// sent to target, which is dst itself or a router with a link-local address. mac is its
// Ethernet address, nil if that is not known, and quote the packet that came.
func AppendRedirect(b []byte, src, to, target, dst netip.Addr, mac *[6]byte, quote []byte) []byte {
	const redirect = 137 // NDISC_REDIRECT
	var room [maxErrorV6]byte
	t, d := target.As16(), dst.As16()
	body := append(append(room[:0], t[:]...), d[:]...)
	if mac != nil {
		body = append(append(body, ndTargetLinkLayer, 1), mac[:]...)
	}
	const header = 8
	quote = clip(quote, maxErrorV6-ipv6Len-icmpLen-len(body)-header)
	quote = quote[:len(quote)&^7]
	body = append(body, ndRedirected, uint8((header+len(quote))/8), 0, 0, 0, 0, 0, 0)
	return AppendICMP(b, IP{Src: src, Dst: to, TTL: 255}, redirect, 0, 0, append(body, quote...))
}
