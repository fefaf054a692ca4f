package rx

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Desc is struct xdp_desc: a frame in the UMEM.
type Desc = unix.XDPDesc

// ring is one of the four rings that a socket shares with the kernel. Its
// indices run freely; entries live at index & mask. The side that we own is
// cached, so that the other's cache line is read only when we run out.
type ring[T any] struct {
	mem      []byte
	producer *uint32
	consumer *uint32
	flags    *uint32
	entries  []T
	mask     uint32
	head     uint32 // our own index
	limit    uint32 // how far we may go before looking again
}

func mapRing[T any](fd int, pgoff int64, off unix.XDPRingOffset, n int) (r ring[T], err error) {
	var zero T
	size := int(off.Desc) + n*int(unsafe.Sizeof(zero))
	r.mem, err = unix.Mmap(fd, pgoff, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return r, fmt.Errorf("mapping a ring: %w", err)
	}
	base := unsafe.Pointer(unsafe.SliceData(r.mem))
	r.producer = (*uint32)(unsafe.Add(base, off.Producer))
	r.consumer = (*uint32)(unsafe.Add(base, off.Consumer))
	r.flags = (*uint32)(unsafe.Add(base, off.Flags))
	r.entries = unsafe.Slice((*T)(unsafe.Add(base, off.Desc)), n)
	r.mask = uint32(n - 1)
	return r, nil
}

func (r *ring[T]) unmap() {
	if r.mem != nil {
		_ = unix.Munmap(r.mem)
	}
	*r = ring[T]{}
}

// needWakeup reports whether the kernel waits for a system call.
func (r *ring[T]) needWakeup() bool {
	return atomic.LoadUint32(r.flags)&unix.XDP_RING_NEED_WAKEUP != 0
}

// room returns how many entries a producer may add, at most want.
func (r *ring[T]) room(want int) int {
	if free := r.limit - r.head; uint32(want) > free {
		r.limit = atomic.LoadUint32(r.consumer) + uint32(len(r.entries))
	}
	return min(want, int(r.limit-r.head))
}

// filled returns how many entries a consumer may take, at most want.
func (r *ring[T]) filled(want int) int {
	if have := r.limit - r.head; uint32(want) > have {
		r.limit = atomic.LoadUint32(r.producer)
	}
	return min(want, int(r.limit-r.head))
}

// put writes entries after the head; n of room must have been granted.
func (r *ring[T]) put(es []T) {
	for i, e := range es {
		r.entries[(r.head+uint32(i))&r.mask] = e
	}
	r.head += uint32(len(es))
	atomic.StoreUint32(r.producer, r.head)
}

// take reads entries from the head on; that many must be filled.
func (r *ring[T]) take(es []T) {
	for i := range es {
		es[i] = r.entries[(r.head+uint32(i))&r.mask]
	}
	r.head += uint32(len(es))
	atomic.StoreUint32(r.consumer, r.head)
}

// pending returns how many entries of a producer the kernel has not said that it has taken.
func (r *ring[T]) pending() int { return int(int32(r.head - atomic.LoadUint32(r.consumer))) }

// consumed returns how far the kernel says that it has read the ring of a producer.
func (r *ring[T]) consumed() uint32 { return atomic.LoadUint32(r.consumer) }

func setsockopt[T any](fd, opt int, v *T) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt),
		uintptr(unsafe.Pointer(v)), unsafe.Sizeof(*v), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func getsockopt[T any](fd, opt int, v *T) error {
	size := uint32(unsafe.Sizeof(*v))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt),
		uintptr(unsafe.Pointer(v)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// withdraw replaces the entries of a producer that the kernel has not read, and visits
// what they were. read says how many entries the kernel has read without saying so. The
// producer's index stays where it is: the kernel has a copy of it. The kernel must not be reading the
// ring.
func (r *ring[T]) withdraw(read uint32, with T, visit func(T)) (n int) {
	for i := atomic.LoadUint32(r.consumer) + read; int32(r.head-i) > 0; i++ {
		e := &r.entries[i&r.mask]
		visit(*e)
		*e = with
		n++
	}
	return n
}

// untaken visits the entries of a producer that the kernel has not said that it has taken.
func (r *ring[T]) untaken(visit func(T)) {
	for i := atomic.LoadUint32(r.consumer); int32(r.head-i) > 0; i++ {
		visit(r.entries[i&r.mask])
	}
}
