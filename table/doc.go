// Package table holds the connections of one shard.
//
// # Memory
//
// Everything lives outside the Go heap, in memory mapped once for the
// configured maximum: the garbage collector never sees it, and untouched parts
// of it cost nothing.
//
//	index   64-byte buckets of 12 slots, one slot a connection, 72 % full at most   7.4 B
//	slab    flow.Conn, two cache lines                                            128.0 B
//	wheel   two links a connection                                                  8.0 B
//	                                                                        sum   143.4 B
//
// A table for translation (NewTwoKeyed) has two slots a connection: 7.4 B more.
//
// What few connections have (flow.Extra) lies in a slab of its own, as long as the
// others and at the same number, that is mapped but takes no memory where it was
// never written to.
//
// # Index
//
// A bucket is one cache line: an 8-bit tag for each of its slots, compared eight
// at a time, and the slots' entry numbers. The hash picks the home bucket by its
// upper bits and the tag by its lower ones. A connection that finds its home
// full goes on in steps that its hash chooses, for at most maxProbes buckets;
// each bucket counts how many have passed it by, so a search ends at the first
// bucket that nobody passed, and a deletion takes the counts back: there are no
// tombstones, and a table that has lived long is as good as new.
//
// A connection whose reply tuple is not the inverse of its original one has a
// second slot, for that tuple. Each slot is found only by packets that run in the
// direction of its tuple.
//
// # Time
//
// An entry's Expires is the truth; the wheel only says when to look. It is
// touched when a timer becomes shorter than the wheel knows, and otherwise when
// a slot comes up, at least every armCap. Find does not see expired entries.
//
// # Eviction
//
// Every connection that is not ASSURED is in one queue, oldest first, whose
// links share space with the upper halves of its byte counters (see flow.Conn).
// When the table is full the head of the queue makes room; an ASSURED
// connection never does. Linux looks at eight buckets and gives up; here a
// victim is found whenever one exists, in constant time. A connection that has
// moved 4 GiB in one direction leaves the queue as if it were ASSURED.
//
// A Table belongs to one goroutine.
package table
