// Package perf measures: load for shards in memory, and the rate at which the
// machine itself could do the memory accesses that the load needs.
//
// # The engine measurement
//
// Frames lie in memory with the footprint of a real port: a few thousand chunks,
// written in turn. Writing them is the network card's work and is not timed; what
// is timed is parse, hash and judge, batch by batch, as a worker does it.
//
// # The limit
//
// Next to each rate stands the rate at which the same core touches the same cache
// lines (a frame's, a bucket's, two of an entry, read and written) at random over
// memory of the same size, with nothing to wait for in between. On a noisy machine
// the ratio of the two is the figure that counts.
package perf
