package table

import (
	"errors"
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
// kernel grants where it can; the memory is there either way. All of it is
// written to at once, so that no packet waits while a page is cleared.
func newArena(size int) (*arena, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes for the connection table: %w", size, err)
	}
	if size >= 2*hugePage {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // best effort, see docs/architecture.md
	}
	if err := unix.Madvise(mem, unix.MADV_POPULATE_WRITE); errors.Is(err, unix.ENOMEM) {
		return nil, errors.Join(fmt.Errorf("%d bytes for the connection table: %w", size, err), unix.Munmap(mem))
	} // Linux before 5.14 does not know it
	return &arena{mem}, nil
}

// newLazyArena maps size bytes of zeroed memory that take no room until they are
// written to. dense says that most of it will be.
func newLazyArena(size int, dense bool) (*arena, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("mapping %d bytes for marks, labels and the like: %w", size, err)
	}
	advice := unix.MADV_NOHUGEPAGE // or one mark would cost 2 MiB
	if dense {
		advice = unix.MADV_HUGEPAGE
	}
	_ = unix.Madvise(mem, advice)
	return &arena{mem}, nil
}

// Beside is one T for each entry of a table. Make it with MapBeside. T must not contain pointers.
type Beside[T any] struct {
	Of    []T // by entry
	arena *arena
}

// MapBeside maps room for n entries, in huge pages where they can be had. Close it.
func MapBeside[T any](n int) (*Beside[T], error) {
	a, err := newArena(sizeOf[T](n))
	if err != nil {
		return nil, err
	}
	rest := a.mem
	return &Beside[T]{carve[T](&rest, n), a}, nil
}

// SizeBeside returns the bytes that MapBeside maps for n entries.
func SizeBeside[T any](n int) int { return sizeOf[T](n) }

// Expect asks for what packets from to to-1 of a batch, which are located, will need.
func (b *Beside[T]) Expect(batch *Batch, from, to int) {
	if from < to {
		var zero T
		expectBeside(batch.likely[from:to], (*byte)(unsafe.Pointer(unsafe.SliceData(b.Of))), unsafe.Sizeof(zero))
	}
}

// ExpectExtras does the same for the extras of a table in which most connections have
// one.
func (t *Table) ExpectExtras(batch *Batch, from, to int) {
	if from < to {
		expectBeside(batch.likely[from:to], (*byte)(unsafe.Pointer(unsafe.SliceData(t.extra))), unsafe.Sizeof(flow.Extra{}))
	}
}

// Close unmaps it. Of must not be used afterwards.
func (b *Beside[T]) Close() error {
	b.Of = nil
	return b.arena.close()
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

func sizeOf[T any](n int) int {
	var zero T
	return (n*int(unsafe.Sizeof(zero)) + cacheLine - 1) &^ (cacheLine - 1)
}

const cacheLine = 64

// Compile-time: what the assembly of the stages knows of the layout.
var (
	_ [cacheLine]byte = [unsafe.Sizeof(bucket{})]byte{}
	_ [16]byte        = [unsafe.Offsetof(bucket{}.conns)]byte{}
)
