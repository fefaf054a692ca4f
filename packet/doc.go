// Package packet turns the bytes of a frame into what a connection tracker
// needs to know of it, without allocating and without keeping state.
//
// Parse follows the order of checks of the kernel's receive path, so that a
// frame gets the same fate: ip_rcv and ipv6_rcv (a frame that is no whole IP
// packet is Malformed), then nf_conntrack_in up to the lookup (a packet that
// cannot name a connection is Invalid), then those checks of the protocol
// trackers that need no connection (lengths, checksums, TCP flags).
//
//	Ethernet ─ 802.1Q/802.1ad (at most 2) ─┬─ IPv4 ────────────┬─ TCP UDP ICMP …
//	raw IP, Linux cooked (captures) ───────┘─ IPv6 ─ ext hdrs ─┘   └─ ICMP error ─ quoted IP ─ L4
//
// What a router does to the packets that it forwards is here, too, each step by the name
// of what Linux calls it, and in its order:
//
//	Trim            ip_rcv_core: nothing is left behind the datagram
//	HopByHop        ipv6_parse_hopopts: drop, answer, or go on
//	Unfragment      nf_ct_frag6_gather: a fragment header that fragments nothing
//	CompileOptions  ip_options_compile: a parameter problem, or addresses and times filled in
//	TooBig          ip_exceeds_mtu, ip6_pkt_too_big
//	ForwardOptions  ip_forward_options: the address of the interface out
//	Fragments       ip_do_fragment, ip6_fragment; Scatter does it in place
//
// A Packet borrows the frame: it is valid until the frame's bytes are reused.
package packet
