package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/perf/netlab"
)

// The interfaces of a Lab, from the generator to the counter.
const (
	genName  = "gen0"
	inName   = "port0"
	outName  = "port1"
	sinkName = "end0"
)

var (
	genMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	inMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	outMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 3}
	sinkMAC = net.HardwareAddr{2, 0, 0, 0, 0, 4}

	// The addresses of RFC 2544's benchmarks, appendix C.2.2.
	firstSource = netip.MustParseAddr("198.18.0.1")
	destination = netip.MustParseAddr("198.19.0.1")

	// What sources are mapped to, where they are: so many that two of the load's rarely
	// come to share one, whose ports might run out.
	poolFirst = netip.MustParseAddr("198.19.64.0")
	poolLast  = netip.MustParseAddr("198.19.127.255")
)

// Lab is a source and a sink, and between them the box that something is to be
// measured in. Make it with NewLab.
type Lab struct {
	source, box, sink *netlab.NS
	receipts          *ebpf.Map
	closers           []func() error
}

// NewLab makes the three namespaces, joins them and begins to count.
func NewLab() (l *Lab, err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raising the limit on locked memory: %w", err)
	}
	l = &Lab{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	for _, n := range []struct {
		ns   **netlab.NS
		name string
	}{{&l.source, "source"}, {&l.box, "box"}, {&l.sink, "sink"}} {
		if *n.ns, err = netlab.NewNS(n.name); err != nil {
			return l, err
		}
		l.closers = append(l.closers, func() error { (*n.ns).Close(); return nil })
		// Nothing but the load is to be on the wire.
		if err := (*n.ns).Sysctl("net/ipv6/conf/all/disable_ipv6", "1"); err != nil {
			return l, err
		}
	}
	err = errors.Join(
		netlab.Join(netlab.Port{NS: l.source, Name: genName, MAC: genMAC}, netlab.Port{NS: l.box, Name: inName, MAC: inMAC}),
		netlab.Join(netlab.Port{NS: l.box, Name: outName, MAC: outMAC}, netlab.Port{NS: l.sink, Name: sinkName, MAC: sinkMAC}),
	)
	if err != nil {
		return l, err
	}
	return l, l.count()
}

// count attaches the counter at the far end.
func (l *Lab) count() error {
	spec, err := loadWire()
	if err != nil {
		return fmt.Errorf("reading the programs of the lab: %w", err)
	}
	var objs wireObjects
	if err := spec.LoadAndAssign(&objs, nil); err != nil {
		return fmt.Errorf("loading the counter: %w", err)
	}
	l.closers = append(l.closers, objs.Close)
	l.receipts = objs.Receipts
	ifi, err := l.sink.Link(sinkName)
	if err != nil {
		return err
	}
	return l.sink.Do(func() error {
		at, err := link.AttachTCX(link.TCXOptions{Program: objs.Count, Interface: ifi.Attrs().Index, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return fmt.Errorf("attaching the counter: %w", err)
		}
		l.closers = append(l.closers, at.Close)
		return nil
	})
}

// Close removes everything.
func (l *Lab) Close() (err error) {
	for i := len(l.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, l.closers[i]())
	}
	l.closers = nil
	return err
}

// Received is what reached the far end since the Lab was made.
type Received struct {
	Frames, Bytes uint64
	Latency       Histogram // of one frame in 64
}

// Received reads the counter.
func (l *Lab) Received() (Received, error) { return readReceipts(l.receipts) }

func readReceipts(m *ebpf.Map) (Received, error) {
	var perCPU []wireReceived
	if err := m.Lookup(uint32(0), &perCPU); err != nil {
		return Received{}, fmt.Errorf("reading the counter: %w", err)
	}
	var r Received
	for i := range perCPU {
		r.Frames += perCPU[i].Frames
		r.Bytes += perCPU[i].Bytes
		for b, n := range perCPU[i].Latency {
			r.Latency[b] += n
		}
	}
	return r, nil
}

// Sub returns what came after an earlier reading.
func (r Received) Sub(before Received) Received {
	r.Frames -= before.Frames
	r.Bytes -= before.Bytes
	for i := range r.Latency {
		r.Latency[i] -= before.Latency[i]
	}
	return r
}

// routes gives the box routes to source and sink.
func (l *Lab) routes() error {
	return errors.Join(l.route(inName, firstSource.AsSlice(), genMAC), l.route(outName, destination.AsSlice(), sinkMAC))
}

// route sends a /16 out of an interface, to a neighbour that need not answer.
func (l *Lab) route(ifname string, ip net.IP, mac net.HardwareAddr) error {
	ifi, err := l.box.Link(ifname)
	if err != nil {
		return err
	}
	nl, at := l.box.Netlink(), ifi.Attrs().Index
	subnet := &net.IPNet{IP: ip.Mask(net.CIDRMask(16, 32)), Mask: net.CIDRMask(16, 32)}
	own := &net.IPNet{IP: net.IPv4(ip[0], ip[1], 255, 254), Mask: subnet.Mask}
	return errors.Join(
		nl.AddrAdd(ifi, &netlink.Addr{IPNet: own}),
		nl.NeighAdd(&netlink.Neigh{LinkIndex: at, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: mac}),
	)
}

// enableNAPI lets port0 take redirected frames without a program of its own: a
// veth does so once GRO is on.
func (l *Lab) enableNAPI() error {
	return l.box.Do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		return e.Change(inName, map[string]bool{"rx-gro": true})
	})
}
