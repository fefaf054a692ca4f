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
// # Ownership
//
// A connection belongs to the shard that Owner names for the hash of its key,
// whichever direction a packet runs; an ICMP error belongs with the connection
// that it is about. A frame that arrives elsewhere is handed over (engine).
package shard
