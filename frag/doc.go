// Package frag holds fragments of IP datagrams until a datagram is complete. It is
// virtual reassembly: the datagram is judged as one, and if it passes, its
// fragments leave in the frames that they came in, if they fit the path out.
//
// nf_defrag_ipv4 and nf_defrag_ipv6 are the models, and a datagram meets the same
// fate here as there: nothing is tracked before all of it is there, an overlap
// costs the whole datagram, a repeated fragment is dropped by itself. Where they
// let a fragment pass that they cannot place, it is dropped here (docs/parity.md).
//
// # Bounds
//
// A Table holds at most maxHeld frames of at most maxDatagrams datagrams, at most
// maxPieces to a datagram, and at most a quarter of all from one source. Whoever is
// over the bound loses the oldest datagram: of that source, or of all. A datagram
// lives 30 seconds (IPv4) or 60 (IPv6) from its first fragment on.
//
// A Table belongs to one goroutine. Fragments reach it by a hash of what names
// their datagram, so that all pieces of one meet, whatever queue they came by.
package frag
