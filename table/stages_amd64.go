package table

import "github.com/xdpct/xdpct/flow"

// The stages that touch much memory for little work are written in assembly: Go
// has no prefetch instruction, and a loop that looks far ahead must be short.
//
// PREFETCHT0 is measured, at no more than some 24 lines at a time: that is how
// many misses the first-level cache of Zen 4 keeps track of, and a prefetch beyond
// them is dropped. (docs/performance.md)

// expect asks for the home bucket of each hash.
//
//go:noescape
func expect(hash []uint64, buckets []bucket)

// locate sets likely to the first entry in the home bucket of each hash whose
// tag matches, or to nowhere, and asks for it, for both of its lines where both
// is set. The slices must be equally long, at most 64, and not empty. Bit i of
// odd says that not exactly one tag matched.
//
//go:noescape
func locate(hash []uint64, both []uint8, likely []uint32, buckets []bucket, conns []flow.Conn) (odd uint64)

// expectBeside asks for the line of each entry, an entry being size bytes from base
// on. What is no entry does no harm.
//
//go:noescape
func expectBeside(likely []uint32, base *byte, size uintptr)

//go:noescape
func expectBucket(b *bucket)

// expectConn asks for the first line of c, or for both.
//
//go:noescape
func expectConn(c *flow.Conn, both uint8)
