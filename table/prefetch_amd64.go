package table

// prefetch asks for n cache lines at once. Unlike loads, prefetches retire before
// their lines arrive, so more of them are under way than the core could otherwise
// look ahead for.
//
//go:noescape
func prefetch(addrs *[MaxBatch]uintptr, n int)
