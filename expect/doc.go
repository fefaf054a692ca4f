// Package expect is the table of expected connections that all shards share: what
// a helper has read from the payload of one connection (an FTP PORT command, say)
// or an operator has announced, and another connection will be RELATED by.
//
// # Sharing
//
// A shard asks for every new connection. While the table is empty that costs one
// atomic load; else it reads a list that is never changed, only replaced (the
// chains are immutable slices behind atomic pointers). An expectation ends by a
// compare-and-swap of a flag in it: one that is used once two shards cannot both
// have. So finding, using up, withdrawing, and going with a master take no lock.
//
// Whoever inserts, renews, lists or expires takes a mutex, unlinks what has ended, and
// tells Observe of it. Packets do that too, but only those in which a helper reads an
// announcement. What it costs them does not grow with the table: chains are by
// destination and by master, both with a secret hash; announcers have a count; what
// expires next is on top of a heap.
//
// # Rules
//
// They are those of nf_conntrack_expect.c. An expectation is exact in its
// destination; its source may be masked. The same one of the same master replaces
// the old, one that overlaps another is refused. One too many of a class of a
// master pushes that class's oldest out, one too many in all is refused. All die
// with their master. Only one thing differs: a packet that its tracker finds
// INVALID uses nothing up.
//
// Master and child know each other by tuple: while a connection lives no other has
// its tuple, and its expectations go in the same step as it does.
package expect
