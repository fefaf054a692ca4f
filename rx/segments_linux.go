package rx

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Segments is where the kernel leaves the segments of large frames. In generic mode a
// frame may be many segments: the packet of a sender on this machine that leaves
// segmentation to the device, or what GRO made of many. That may be longer than the MTU of
// the interface, or only than what other links take.
// How long the segments are only the kernel knows. So the program sends such a frame out
// by a TAP device (a TUN device, if there is no link header) with all offload features off: the
// kernel cuts it, as it does for any such device, and completes the checksums. It goes
// with the process. All frames of a device that lies on others come by it, too, in generic
// mode, for their VLAN tags (Interface.Untags).
//
// A Segments belongs to one goroutine.
type Segments struct {
	fd, ifindex int
	spill       [1]byte
	iovs        [2][]byte
	// Received counts frames, TooLarge those that are longer than a chunk even so, which
	// were dropped.
	Received, TooLarge uint64
}

// segmentQueue is how many segments may wait.
const segmentQueue = 2000

func openSegments(noLink bool) (s *Segments, err error) {
	s = &Segments{fd: -1}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making a TAP device for large frames (is /dev/net/tun there?): %w", err), s.Close())
			s = nil
		}
	}()
	if s.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
		return s, err
	}
	ifr, err := unix.NewIfreq("xdpctseg%d")
	if err != nil {
		return s, err
	}
	kind := uint16(unix.IFF_TAP)
	if noLink {
		kind = unix.IFF_TUN
	}
	ifr.SetUint16(kind | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(s.fd, unix.TUNSETIFF, ifr); err != nil {
		return s, privilege(err)
	}
	name := ifr.Name()
	// The host itself is to say nothing on it.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return s, err
	}
	s.ifindex = link.Attrs().Index
	return s, errors.Join(netlink.LinkSetARPOff(link), netlink.LinkSetTxQLen(link, segmentQueue), netlink.LinkSetUp(link))
}

// Close removes the device. Nobody may read any more, and no program send to it.
func (s *Segments) Close() error {
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

// FD returns the file to poll for reading.
func (s *Segments) FD() int { return s.fd }

// Receive reads segments into free chunks of the pool and returns how many; the chunks
// are the caller's then.
func (s *Segments) Receive(u *UMEM, pool *Pool, ds []Desc) (n int) {
	for n < len(ds) {
		free := pool.Peek(1)
		if len(free) == 0 {
			return n // they wait; what finds no room the device drops
		}
		at, size := free[0]+Headroom, int(u.MaxFrame())
		s.iovs[0], s.iovs[1] = u.mem[at:at+uint64(size)], s.spill[:]
		got, err := unix.Readv(s.fd, s.iovs[:])
		if err != nil || got == 0 {
			return n
		}
		if got > size {
			s.TooLarge++
			continue
		}
		pool.Take(1)
		s.Received++
		ds[n] = Desc{Addr: at, Len: uint32(got)}
		n++
	}
	return n
}

// Segments returns where segments of large frames are, nil if large frames are dropped;
// err is why, in generic mode. They are the caller's to close, after the program.
func (p *Program) Segments() (s *Segments, err error) { return p.segments, p.noSegments }
