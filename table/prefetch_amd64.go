package table

// touch reads a byte of each of n cache lines. The loop is so short that the core
// looks ahead over all of it, and its misses are under way together. Loads did
// better than prefetch instructions where this was measured, a virtual machine
// on Zen 4: 86 ns a packet against 109 with a million connections.
//
//go:noescape
func touch(addrs *[MaxBatch]uintptr, n int)
