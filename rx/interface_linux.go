package rx

import (
	"errors"
	"fmt"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
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
	ifi := Interface{Name: name, Index: a.Index, MTU: a.MTU, Queues: max(a.NumRxQueues, 1)}
	driver := ""
	if e, err := ethtool.NewEthtool(); err == nil {
		defer e.Close()
		// A driver that does not answer uses all the queues that it has.
		if ch, err := e.GetChannels(name); err == nil && ch.RxCount+ch.CombinedCount > 0 {
			ifi.Queues = int(ch.RxCount + ch.CombinedCount)
		}
		driver, _ = e.DriverName(name)
	}
	switch link.Type() {
	case "veth", "tun", "tuntap":
		ifi.Partial = true
	default:
		ifi.Partial = driver == "virtio_net"
	}
	return ifi, nil
}

// FrameLen returns the longest frame of the interface: the MTU, an Ethernet
// header and two VLAN tags.
func (i Interface) FrameLen() int { return i.MTU + 14 + 2*4 }
