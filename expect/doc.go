// Package expect is the place of the expectation table that all shards share:
// what a helper has read from the payload of one connection (an FTP PORT
// command, say) and another connection will be RELATED by.
//
// Nothing of it is built yet. Its contract is fixed, so that the packages around
// it need not change: one atomic load on the path of a new connection while the
// table is empty; readers never lock; an expectation is exact in its
// destination, is used once unless it is permanent, dies with its master in the
// same step, and is bounded per master, per source and in total. Masters and
// children know each other by (shard, index, generation), never by pointer.
package expect
