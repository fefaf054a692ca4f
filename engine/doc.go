// Package engine runs shards: over AF_XDP queues (Engine), or over captures
// (Replay). It owns what the shards must not: clocks, randomness, threads and
// sockets.
package engine

// MaxShards is the most shards that an engine runs: one for each queue.
const MaxShards = 256
