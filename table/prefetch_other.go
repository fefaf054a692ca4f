//go:build !amd64

package table

// prefetch does nothing: a batch is right without it, if slower.
func prefetch(*[MaxBatch]uintptr, int) {}
