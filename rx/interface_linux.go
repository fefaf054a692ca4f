package rx

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface is what there is to know of a network interface before opening it.
type Interface struct {
	Name   string
	Index  int
	MTU    int
	Queues int // receive queues in use
	// Partial says that frames may arrive with a checksum that covers only the
	// pseudo header, because a local stack is at the other end: veth, virtio
	// and tun devices.
	Partial bool
}

// LookupInterface finds an interface in the current network namespace.
func LookupInterface(name string) (Interface, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		var notFound netlink.LinkNotFoundError
		if errors.As(err, &notFound) {
			return Interface{}, fmt.Errorf("there is no interface %q", name)
		}
		return Interface{}, fmt.Errorf("interface %q: %w", name, err)
	}
	a := link.Attrs()
	return Interface{
		Name: name, Index: a.Index, MTU: a.MTU,
		Queues:  receiveQueues(name, a.NumRxQueues),
		Partial: partialChecksums(name, link.Type()),
	}, nil
}

// receiveQueues asks the driver; those that do not answer use all they have.
func receiveQueues(name string, configured int) int {
	ch := ethtoolChannels{cmd: unix.ETHTOOL_GCHANNELS}
	if err := ethtool(name, &ch); err == nil && ch.rx+ch.combined > 0 {
		return int(ch.rx + ch.combined)
	}
	return max(configured, 1)
}

func partialChecksums(name, kind string) bool {
	switch kind {
	case "veth", "tun", "tuntap":
		return true
	}
	info := ethtoolDriver{cmd: unix.ETHTOOL_GDRVINFO}
	if err := ethtool(name, &info); err != nil {
		return false
	}
	return unix.ByteSliceToString(info.driver[:]) == "virtio_net"
}

// ethtoolDriver is struct ethtool_drvinfo.
type ethtoolDriver struct {
	cmd    uint32
	driver [32]byte
	_      [160]byte
}

// FrameLen returns the longest frame of the interface: the MTU, an Ethernet
// header and two VLAN tags.
func (i Interface) FrameLen() int { return i.MTU + 14 + 2*4 }
