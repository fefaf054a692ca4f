// Package nat translates addresses: it chooses what a connection's reply tuple is,
// and rewrites packets and the packets that ICMP errors quote.
//
// A connection that is translated is one whose reply tuple is not the inverse of
// its original one, and nothing else is remembered of it: a packet in one direction
// leaves with the inverse of the other direction's tuple. The reply tuple is unique
// among all connections of its zone, and belongs to the shard that has the
// connection, so that packets of both directions come to it.
package nat
