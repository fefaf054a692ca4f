// Package shard is one core's pipeline: parsed packets go in, verdicts come
// out, and all state belongs to the Shard alone.
//
// A Shard is deterministic. Time comes in with each Tick, randomness is the
// secret that it was made with, and nothing else reaches it: the same
// configuration, secret, times and frames give the same verdicts and events.
// That is what makes captures replayable and one shard comparable with four.
//
//	Tick(now)             ─▶ reap
//	Process(packets)      ─▶ prefetch buckets ▸ prefetch entries ▸ judge each
//	                                                                 │
//	             malformed ▸ invalid ▸ untracked ▸ related ▸ known ▸ new
//
// The two prefetching passes ask for what the judging pass will need, for the whole
// batch at once, so that the cache misses of a batch overlap. They are hints:
// judging looks everything up again, since a packet may change what the next
// one finds.
//
// # Zones, and what few connections have
//
// A packet's zone is part of its key. A zone that counts in one direction only
// gives a connection two keys, so a packet that its first key does not find is
// looked for by the other. Marks, labels, timeout policies and masters lie in the
// Extra of an entry; connections without one never touch that memory.
//
// The table of expectations is shared by all shards: the one exception to
// everything belonging to the Shard, and deterministic as long as one goroutine
// runs them all, as a Replay does.
//
// # Ownership
//
// A connection belongs to the shard that Owner names for the hash of its key,
// whichever direction a packet runs; an ICMP error belongs with the connection
// that it is about. A frame that arrives elsewhere is handed over (engine).
package shard
