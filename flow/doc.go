// Package flow is the vocabulary of connection tracking: what a connection is
// called (Tuple), in which direction a packet runs (Direction), what is known of the
// connection (Status, TCPState), why a packet was refused (Reason), and the
// 128 bytes in which one live connection is kept (Conn).
//
// Names follow Linux: a Tuple is struct nf_conntrack_tuple, Status holds the
// IPS_* bits, State is what `-m conntrack --ctstate` matches. Everything here
// is plain data without pointers, so that tables of it can live outside the
// reach of the garbage collector.
//
// # Keys
//
// A connection has two tuples, one for each direction, and the second is
// normally the first with its ends exchanged. Tuple.Canonical maps both to one
// value, the key, and says whether the ends had to be exchanged. A table
// therefore needs one index slot for a connection, and the direction of a
// packet is (its ends were exchanged) xor (those of the first packet were).
//
//	A:40000 -> B:80   canonical  A:40000 | B:80   flipped=false
//	B:80 -> A:40000   canonical  A:40000 | B:80   flipped=true
//
// ICMP queries are oriented by their type instead of by address: the key of
// an echo reply is the tuple of the request it answers.
package flow
