package rx

import (
	"errors"
	"fmt"
	"slices"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
)

// Interface is what there is to know of a network interface before opening it.
type Interface struct {
	Name   string
	Index  int
	MTU    int
	Queues int // receive queues in use
	// NoLink says that packets have no link header: they begin with their IP header,
	// as on tun, WireGuard and PPP devices.
	NoLink bool
	// Untags says that the kernel has taken VLAN tags out of the frames before generic XDP
	// sees them, since the device lies on others, which received them.
	Untags bool
	// Partial says that packets may arrive with a checksum that covers only the
	// pseudo header, see partial.
	Partial bool
}

// LookupInterface finds an interface in the current network namespace. It is an error
// if the interface is of a kind that is neither Ethernet nor without a link header.
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
	ifi := Interface{Name: name, Index: a.Index, MTU: a.MTU, Queues: max(a.NumRxQueues, 1), NoLink: noLink(link)}
	switch link.Type() {
	case "bridge", "bond", "team", "macvlan", "macvtap", "ipvlan", "openvswitch":
		ifi.Untags = true
	}
	if !ifi.NoLink && a.EncapType != "ether" && a.EncapType != "loopback" {
		return Interface{}, fmt.Errorf("interface %q: links of type %s are not supported, only Ethernet, and those without a link header (tun, PPP, IP tunnels)", name, a.EncapType)
	}
	if e, err := ethtool.NewEthtool(); err == nil {
		defer e.Close()
		// A driver that does not answer uses all the queues that it has.
		ch, err := e.GetChannels(name)
		switch {
		case err == nil && ch.RxCount+ch.CombinedCount > 0:
			ifi.Queues = int(ch.RxCount + ch.CombinedCount)
		case err == nil && link.Type() == "tuntap":
			// A queue is in use while a program has it open. Of a persistent device that none
			// has open yet the first will be: that it might have 256 says nothing.
			ifi.Queues = 1
		}
	}
	all, err := netlink.LinkList()
	if err != nil {
		return Interface{}, fmt.Errorf("listing interfaces: %w", err)
	}
	ifi.Partial = partial(link, all)
	return ifi, nil
}

// noLink reports whether packets on a link begin with their IP header: links whose
// hardware type (ARPHRD_*) is one of those that the kernel gives no header_ops.
func noLink(l netlink.Link) bool {
	switch l.Attrs().EncapType {
	case "none", // ARPHRD_NONE: tun, WireGuard
		"ppp", "ipip", "tunnel6", "sit",
		"unknown519": // ARPHRD_RAWIP: modems
		return true
	}
	return false
}

// partial reports whether a link may hand over packets whose transport checksum a local
// stack left for the device to finish (CHECKSUM_PARTIAL), so that it covers only the
// pseudo header. A network card has seen the packet on a wire, where the checksum was
// whole; a device that is only software may pass on what a stack on this machine sent:
// veth, tun, macvlan, and a bridge, which may get such a member at any time. A VLAN, a
// bond or a team is what the links below it are. Of network cards those of virtual
// machines (virtio, Xen) hand over what another guest's stack sent.
func partial(l netlink.Link, all []netlink.Link) bool {
	a := l.Attrs()
	switch l.Type() {
	case "vlan", "bond", "team":
		below := func(o netlink.Link) bool {
			b := o.Attrs()
			return b.MasterIndex == a.Index || l.Type() == "vlan" && b.Index == a.ParentIndex && b.Index != a.Index
		}
		lower := slices.Collect(func(yield func(netlink.Link) bool) {
			for _, o := range all {
				if below(o) && !yield(o) {
					return
				}
			}
		})
		// A VLAN whose parent is in another namespace is software all the way down,
		// for all that can be seen from here.
		return len(lower) == 0 || slices.ContainsFunc(lower, func(o netlink.Link) bool { return partial(o, all) })
	}
	// A device on no bus is software. (Kernels before 5.14 name no bus: all count as that.)
	return a.ParentDevBus == "" || a.ParentDevBus == "virtio" || a.ParentDevBus == "xen"
}

// FrameLen returns the longest frame of the interface: the MTU, and, if it has link
// headers, one of Ethernet with two VLAN tags.
func (i Interface) FrameLen() int {
	if i.NoLink {
		return i.MTU
	}
	return i.MTU + 14 + 2*4
}
