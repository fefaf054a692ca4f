// Package engine runs shards: over AF_XDP queues (Engine), or over captures
// (Replay). It owns what the shards must not: clocks, randomness, threads and
// sockets.
//
// # Threads
//
// A worker is a thread with one shard and, on each port, the queue of its number. One turn
// of its loop (worker.run):
//
//	clock ▸ reap ▸ frames of each port ▸ frames from other workers ▸ what rules logged
//	      ▸ chunks back, fill rings ▸ kick transmission ▸ a slice of a request
//
// Nothing else touches the shard. Frames that another shard owns, and chunks on their way
// home, go through rings with one producer and one consumer (spsc), as do events and
// what rules log, to the goroutines that distribute and write them. What any other goroutine
// wants of a shard is a request (Engine.ask), which the worker serves between two batches,
// 512 connections at a time.
//
//	worker ×n     frames, requests
//	distribute    events from the workers' rings to subscribers; ends expectations
//	logPackets    lines of LOG and NFLOG
//	supervise     ports: gone, back, renamed
//	router        follow: routes and ports of the host to workers and XDP programs; package mirror
//
// # Rules and routes
//
// What is in force is in the rulebook. A change is compiled first; if anything is wrong
// nothing changes. Then each worker gets it between two batches (shard.Forwarding), and
// the counters that it had for the rules before are added up. Where several shards
// translate, the tuples of addresses that connections may be mapped to are claimed
// before the rules are in force that map to them (translate.go).
//
// # Ports
//
// An interface that goes away is a state, not an error: its queues are taken from the
// workers, their chunks are reclaimed, and it is opened again when it is back under its
// name in the configuration.
//
// The order of locks is in CONTRIBUTING.md; no packet leads to one.
package engine

// MaxShards is the most shards that an engine runs: one for each queue.
const MaxShards = 256
