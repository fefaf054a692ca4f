// Package netlab builds networks for tests and demonstrations: anonymous
// namespaces joined by veth pairs.
//
// Anonymous namespaces live as long as somebody holds them open, so a lab leaves
// nothing behind, however its process ends.
package netlab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is a network namespace.
type NS struct {
	Name   string // for messages
	handle netns.NsHandle
	nl     *netlink.Handle
}

// NewNS makes a namespace with its loopback up and IPv6 address configuration
// off, so that nothing but what was asked for is on the wire.
func NewNS(name string) (*NS, error) {
	ns, err := newNS(name)
	if err != nil {
		return nil, err
	}
	for _, s := range []string{"all", "default"} {
		err = errors.Join(err, ns.Sysctl("net/ipv6/conf/"+s+"/autoconf", "0"),
			ns.Sysctl("net/ipv6/conf/"+s+"/accept_dad", "0"),
			ns.Sysctl("net/ipv6/conf/"+s+"/router_solicitations", "0"))
	}
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return ns, nil
}

// NewHost makes a namespace as the kernel does, with its loopback up: IPv6 does all that
// it does by itself (duplicate address detection, router solicitations, MLD).
func NewHost(name string) (*NS, error) { return newNS(name) }

func newNS(name string) (*NS, error) {
	ns := &NS{Name: name, handle: netns.None()}
	err := onThread(func() error {
		h, err := netns.New()
		if err != nil {
			return err
		}
		ns.handle = h
		ns.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
		return err
	})
	var lo netlink.Link
	if err == nil {
		lo, err = ns.nl.LinkByName("lo")
	}
	if err == nil {
		err = ns.nl.LinkSetUp(lo)
	}
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return ns, nil
}

// Close lets go of the namespace; the kernel removes it with the last user.
func (ns *NS) Close() {
	if ns.nl != nil {
		ns.nl.Close()
	}
	if ns.handle.IsOpen() {
		ns.handle.Close()
	}
}

// FD returns the file descriptor of the namespace.
func (ns *NS) FD() int { return int(ns.handle) }

// Netlink returns a handle for links, addresses, routes and conntrack there.
func (ns *NS) Netlink() *netlink.Handle { return ns.nl }

// onThread runs f on a thread of its own, which ends with it: its namespace may
// be changed at will.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread dies
		done <- f()
	}()
	return <-done
}

// Do runs f on a thread that is in the namespace.
func (ns *NS) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns.handle); err != nil {
			return fmt.Errorf("entering namespace %s: %w", ns.Name, err)
		}
		return f()
	})
}

// Sysctl writes a value below /proc/sys of the namespace.
func (ns *NS) Sysctl(name, value string) error {
	return ns.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
	})
}

// ReadFile reads a file of the namespace, such as /proc/net/nf_conntrack. The
// path must begin with /proc/net/.
func (ns *NS) ReadFile(path string) (b []byte, err error) {
	err = ns.Do(func() error {
		b, err = os.ReadFile("/proc/thread-self/" + path[len("/proc/"):])
		return err
	})
	return b, err
}

// Port is one end of a veth pair.
type Port struct {
	NS   *NS
	Name string
	MAC  net.HardwareAddr
	// Addrs are in CIDR notation.
	Addrs []string
	// Queues is the number of transmit and receive queues, 0 for one.
	Queues int
	// Offload leaves transmit checksums and segmentation to the "device", as
	// veth does by default: the frames on the wire then have partial checksums
	// and may be huge. Otherwise the stack does it all.
	Offload bool
}

// Join makes a veth pair and brings both ends up.
func Join(a, b Port) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.Namespace = a.Name, a.MAC, netlink.NsFd(a.NS.FD())
	attrs.NumTxQueues, attrs.NumRxQueues = max(a.Queues, 1), max(a.Queues, 1)
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: b.Name, PeerHardwareAddr: b.MAC,
		PeerNamespace:   netlink.NsFd(b.NS.FD()),
		PeerNumTxQueues: uint32(max(b.Queues, 1)), PeerNumRxQueues: uint32(max(b.Queues, 1)),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth %s-%s: %w", a.Name, b.Name, err)
	}
	return errors.Join(a.up(), b.up())
}

func (p *Port) up() error {
	if !p.Offload {
		if err := p.NS.Do(func() error { return disableOffload(p.Name) }); err != nil {
			return fmt.Errorf("%s: offloads: %w", p.Name, err)
		}
	}
	if err := p.NS.Configure(p.Name, 0, p.Addrs...); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return nil
}

// disableOffload leaves checksums and segmentation to the stack. It acts in the
// namespace of the thread.
func disableOffload(ifname string) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer e.Close()
	return e.Change(ifname, map[string]bool{
		"tx-checksum-ip-generic": false, "tx-checksum-sctp": false, "tx-generic-segmentation": false,
		"tx-tcp-segmentation": false, "tx-tcp6-segmentation": false,
	})
}

// Link returns the link of the given name in the namespace.
func (ns *NS) Link(name string) (netlink.Link, error) { return ns.nl.LinkByName(name) }

// SetUp takes a link of the namespace up or down.
func (ns *NS) SetUp(name string, up bool) error {
	link, err := ns.nl.LinkByName(name)
	if err != nil {
		return err
	}
	if up {
		return ns.nl.LinkSetUp(link)
	}
	return ns.nl.LinkSetDown(link)
}
