// Package soak runs the program between hosts with real stacks, as a router and as a
// filtering bridge, while its rules are loaded anew and all about it changes, and then
// accounts for every byte, datagram and connection: what did not arrive must be what a
// rule or a named reason has dropped.
//
// There are only tests in it. Without flags one run takes some ten seconds; `make soak`
// takes ten minutes.
//
//	h1 h2 h3 ── lan (Linux bridge) ┐
//	h4 ──────── lab (two queues)   ├ [router] wan (DHCP) ── isp ── far (MTU 1300)
//	h5 ──────── vpn (tun)          │
//	guest ───── spare              ┘
//
//	left ── a [filtering bridge] b ── right
package soak
