package rx

import (
	"errors"
	"reflect"
	"unsafe"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"
)

// unmapRings unmaps the four rings of a socket, which the library forgets when
// it closes one. While they are mapped the kernel keeps the socket, and with it
// the queue. Their addresses are in fields that are not exported; the library is
// not developed any more, so those stay.
func unmapRings(sock *xdp.Socket) (err error) {
	var off unix.XDPMmapOffsets
	if err := getsockopt(sock.FD(), unix.XDP_MMAP_OFFSETS, &off); err != nil {
		return err
	}
	fields := reflect.ValueOf(sock).Elem()
	for _, r := range []struct {
		name string
		desc uint64
		size uintptr
	}{
		{"fillRing", off.Fr.Desc, unsafe.Sizeof(uint64(0))}, {"completionRing", off.Cr.Desc, unsafe.Sizeof(uint64(0))},
		{"rxRing", off.Rx.Desc, unsafe.Sizeof(Desc{})}, {"txRing", off.Tx.Desc, unsafe.Sizeof(Desc{})},
	} {
		base := unsafe.Add(fields.FieldByName(r.name).FieldByName("Descs").UnsafePointer(), -int(r.desc))
		err = errors.Join(err, unix.MunmapPtr(base, uintptr(r.desc)+RingSize*r.size))
	}
	return err
}
