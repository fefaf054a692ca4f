package rx

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendBatch is the most frames that one system call sends.
const sendBatch = 64

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// sender sends packets on an AF_PACKET socket, many with one system call. It must not be
// moved after init.
type sender struct {
	fd    int
	msgs  [sendBatch]mmsghdr
	iovs  [sendBatch]unix.Iovec
	addrs [sendBatch]unix.RawSockaddrLinklayer
}

func (s *sender) init(fd, ifindex int) {
	s.fd = fd
	for i := range s.msgs {
		s.addrs[i] = unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Ifindex: int32(ifindex)}
		h := &s.msgs[i].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&s.addrs[i])), uint32(unsafe.Sizeof(s.addrs[i]))
		h.Iov = &s.iovs[i]
		h.SetIovlen(1)
	}
}

// set makes packet i of the next batch. protocol is in network byte order.
func (s *sender) set(i int, packet []byte, protocol uint16) {
	s.addrs[i].Protocol = protocol
	s.iovs[i].Base = unsafe.SliceData(packet)
	s.iovs[i].SetLen(len(packet))
}

// send sends the first n packets and returns how many the kernel took. It never blocks.
// If it took none, err says why it did not take the first.
func (s *sender) send(n int) (int, error) {
	sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.msgs[0])), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sent), nil
}

func (s *sender) close() error {
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}
