// Package expect is the table of expected connections that all shards share: what
// a helper has read from the payload of one connection (an FTP PORT command, say)
// or an operator has announced, and another connection will be RELATED by.
//
// # Sharing
//
// A shard asks for every new connection. While the table is empty that costs one
// atomic load; else it reads a list that is never changed, only replaced (the
// chains are immutable slices behind atomic pointers), so readers never lock.
// Writers, which are rare, take a mutex. An expectation that is used once is
// claimed by a compare-and-swap: two shards that match it at the same moment
// cannot both have it.
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
