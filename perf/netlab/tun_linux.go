package netlab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Tun is a tun device, whose other end is a file: what is written to it the namespace
// receives, what the namespace sends is read from it, one IP datagram at a time. The
// device goes with the file.
type Tun struct {
	*os.File
	Name string
}

// TunOptions say how a tun device is made.
type TunOptions struct {
	// Addrs are in CIDR notation.
	Addrs []string
	// MTU is that of the device, 0 for 1500.
	MTU int
	// Offload lets the stack leave checksums and segmentation to whoever reads, and
	// whoever writes leave them to the stack. Each datagram then has a virtio_net_hdr
	// (10 bytes) in front of it, and may be of 64 KiB.
	Offload bool
}

// OpenTun makes a tun device in the namespace and brings it up.
func (ns *NS) OpenTun(name string, o TunOptions) (*Tun, error) {
	fd := -1
	err := ns.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if o.Offload {
			flags |= unix.IFF_VNET_HDR
		}
		ifr.SetUint16(flags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		if o.Offload {
			return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
		}
		return nil
	})
	if err == nil {
		err = ns.Configure(name, o.MTU, o.Addrs...)
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("%s: tun %s: %w", ns.Name, name, err)
	}
	return &Tun{os.NewFile(uintptr(fd), name), name}, nil
}

// Configure gives a link its MTU, if that is not 0, and addresses in CIDR notation, and
// brings it up.
func (ns *NS) Configure(name string, mtu int, addrs ...string) error {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		return err
	}
	if mtu > 0 {
		if err := ns.nl.LinkSetMTU(link, mtu); err != nil {
			return err
		}
	}
	for _, s := range addrs {
		addr, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		addr.Flags |= unix.IFA_F_NODAD
		if err := ns.nl.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %s: %w", s, err)
		}
	}
	return ns.nl.LinkSetUp(link)
}

// Tunnel carries datagrams between two tun devices until one of them is closed, as a VPN
// in user space does. Wait returns when that has ended.
func Tunnel(a, b *Tun) (wait func()) {
	var both sync.WaitGroup
	carry := func(from, to *Tun) {
		buf := make([]byte, 1<<17)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if _, err := to.Write(buf[:n]); errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed) {
				return // other errors are of one datagram: the link is down, the memory short
			}
		}
	}
	both.Go(func() { carry(a, b) })
	both.Go(func() { carry(b, a) })
	return both.Wait
}
