package rx

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// UMEM is the memory of the frames, cut into chunks of equal size. It may be
// used by many goroutines; which of them may touch a chunk is theirs to settle.
type UMEM struct {
	mem   []byte
	chunk uint64
}

// Headroom is what the kernel keeps free at the start of a chunk
// (XDP_PACKET_HEADROOM).
const Headroom = 256

// The sizes of chunk that the kernel accepts.
const (
	MinChunk = 2048
	MaxChunk = 4096
)

const hugePage = 2 << 20

// NewUMEM maps n chunks of size chunk, 2048 or 4096 bytes, in huge pages where
// they can be had.
func NewUMEM(n int, chunk int) (*UMEM, error) {
	if chunk != MinChunk && chunk != MaxChunk {
		return nil, fmt.Errorf("chunks of %d bytes: must be %d or %d", chunk, MinChunk, MaxChunk)
	}
	size := (n*chunk + hugePage - 1) &^ (hugePage - 1)
	const prot = unix.PROT_READ | unix.PROT_WRITE
	mem, err := unix.Mmap(-1, 0, size, prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB)
	if err != nil { // none reserved: ask for transparent ones, before first touch
		if mem, err = unix.Mmap(-1, 0, size, prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
			return nil, fmt.Errorf("mapping %d bytes for frames: %w", size, err)
		}
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	}
	return &UMEM{mem[:n*chunk], uint64(chunk)}, nil
}

// Close unmaps the memory. No Queue may be open on it.
func (u *UMEM) Close() error { return unix.Munmap(u.mem[:cap(u.mem)]) }

// Chunks returns the number of chunks.
func (u *UMEM) Chunks() int { return len(u.mem) / int(u.chunk) }

// MaxFrame returns the longest frame that a chunk holds.
func (u *UMEM) MaxFrame() uint32 { return uint32(u.chunk) - Headroom }

// Frame returns the bytes of a descriptor, or nil if it does not lie within one
// chunk: the kernel is trusted to write the truth, but not with our memory.
func (u *UMEM) Frame(d Desc) []byte {
	end := d.Addr + uint64(d.Len)
	if d.Addr >= uint64(len(u.mem)) || end > uint64(len(u.mem)) || d.Len == 0 || (d.Addr^(end-1))&^(u.chunk-1) != 0 {
		return nil
	}
	return u.mem[d.Addr:end:min(d.Addr|(u.chunk-1)+1, uint64(len(u.mem)))] // not beyond its chunk
}

func (u *UMEM) base() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(u.mem))) }

// Memory returns all of the memory. Valid until Close.
func (u *UMEM) Memory() []byte { return u.mem }
