package table

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
)

// arena is memory outside the Go heap. This file is the only one outside rx
// that uses unsafe or makes system calls.
type arena struct{ mem []byte }

const hugePage = 2 << 20

// newArena maps size bytes of zeroed memory. It asks for huge pages, which the
// kernel grants where it can; the memory is there either way.
func newArena(size int) (*arena, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes for the connection table: %w", size, err)
	}
	if size >= 2*hugePage {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // best effort, see docs/architecture.md
	}
	return &arena{mem}, nil
}

func (a *arena) close() error {
	if a.mem == nil {
		return nil
	}
	mem := a.mem
	a.mem = nil
	return unix.Munmap(mem)
}

// carve cuts n values of type T from the front of the arena, aligned to a cache
// line. T must not contain pointers.
func carve[T any](rest *[]byte, n int) []T {
	var zero T
	size := (n*int(unsafe.Sizeof(zero)) + cacheLine - 1) &^ (cacheLine - 1)
	b := (*rest)[:size]
	*rest = (*rest)[size:]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}

// address returns where s begins. The arena does not move.
func address[T any](s []T) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(s))) }

func sizeOf[T any](n int) int {
	var zero T
	return (n*int(unsafe.Sizeof(zero)) + cacheLine - 1) &^ (cacheLine - 1)
}

const (
	cacheLine = 64
	connSize  = unsafe.Sizeof(flow.Conn{})
)
