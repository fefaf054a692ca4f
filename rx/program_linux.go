package rx

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// XDPMode is where in the kernel the XDP program runs.
type XDPMode string

// The modes. In ModeAuto the driver's is tried first.
const (
	ModeAuto    XDPMode = "auto"
	ModeDriver  XDPMode = "driver"
	ModeGeneric XDPMode = "generic"
)

// Steer selects the frames that go to user space.
type Steer uint32

// The choices.
const (
	SteerTraffic Steer = iota // IP, but neither ARP nor neighbour discovery
	SteerAll                  // every frame
	SteerRouted               // what a router forwards or translates, see Program.SetHost
)

// Program is the XDP program on one interface. The kernel detaches it when the
// process ends, however that happens.
type Program struct {
	objs    objects
	link    link.Link
	mode    XDPMode
	promisc int // socket that keeps the interface promiscuous, -1: none

	notDriver  error     // why ModeAuto did not get the driver's mode
	segments   *Segments // nil: large frames are dropped
	noSegments error     // why they are in generic mode
	tcx        link.Link
	unglued    error // why segments that are glued into no more than the MTU stay so
}

// ProgramOptions say how a Program works.
type ProgramOptions struct {
	Steer    Steer
	MaxFrame uint32  // a longer frame is dropped, or in generic mode cut, see Segments
	Mode     XDPMode // empty for ModeAuto
	// Promiscuous makes the interface receive what is sent to other Ethernet addresses,
	// for as long as the Program is open.
	Promiscuous bool
}

// LoadProgram loads the program for an interface whose receive queues are served
// by the given sockets, registers those, and only then attaches it, so that no
// frame comes to a queue without a socket.
func LoadProgram(ifi *Interface, queues []Queue, o ProgramOptions) (p *Program, err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raising the limit on locked memory: %w", privilege(err))
	}
	modes := []XDPMode{o.Mode}
	if o.Mode == ModeAuto || o.Mode == "" {
		modes = []XDPMode{ModeDriver, ModeGeneric}
	}
	var notDriver error
	for _, m := range modes {
		p = &Program{promisc: -1, mode: m, notDriver: notDriver}
		if err = p.open(ifi, queues, &o); err == nil {
			return p, nil
		}
		notDriver = err
		if p.segments != nil {
			err = errors.Join(err, p.segments.Close())
		}
		err = errors.Join(err, p.Close())
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("another XDP program is attached to the interface: %w", err)
		}
	}
	return nil, err
}

// open makes a Program of p, which says the mode.
func (p *Program) open(ifi *Interface, queues []Queue, o *ProgramOptions) error {
	spec, err := loadXdp()
	if err != nil {
		return fmt.Errorf("reading the XDP program: %w", err)
	}
	spec.Maps["sockets"].MaxEntries = uint32(len(queues))
	segmenter := uint32(0)
	flag := func(b bool) uint32 {
		if b {
			return 1
		}
		return 0
	}
	if p.mode == ModeGeneric {
		if p.segments, p.noSegments = openSegments(ifi.NoLink); p.segments != nil {
			segmenter = uint32(p.segments.ifindex)
		}
	}
	for name, v := range map[string]uint32{"steer": uint32(o.Steer), "max_frame": o.MaxFrame, "segmenter": segmenter,
		"no_link": flag(ifi.NoLink), "untags": flag(ifi.Untags)} {
		if err := spec.Variables[name].Set(v); err != nil {
			return fmt.Errorf("setting up the XDP program: %w", err)
		}
	}
	if p.segments != nil {
		p.unglued, err = p.objs.loadGeneric(spec, min(o.MaxFrame, uint32(ifi.FrameLen())))
	} else {
		err = p.objs.load(spec, ifi.Index, p.mode)
	}
	if err != nil {
		return fmt.Errorf("loading the XDP program: %w", privilege(err))
	}
	for _, q := range queues {
		if err := p.register(q); err != nil {
			return err
		}
	}
	if p.segments != nil {
		if p.tcx, err = link.AttachTCX(link.TCXOptions{Interface: ifi.Index, Program: p.objs.segment, Attach: ebpf.AttachTCXIngress}); err != nil {
			return fmt.Errorf("attaching the program that has large frames cut: %w", privilege(err))
		}
	}
	if err := p.attach(ifi.Index); err != nil {
		return err
	}
	if o.Promiscuous {
		return p.setPromiscuous(ifi.Index)
	}
	return nil
}

// setPromiscuous makes the interface promiscuous by the membership of a socket, which
// the kernel ends with the process.
func (p *Program) setPromiscuous(ifindex int) (err error) {
	if p.promisc, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("opening an AF_PACKET socket: %w", privilege(err))
	}
	m := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(p.promisc, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
		return fmt.Errorf("making the interface promiscuous: %w", privilege(err))
	}
	return nil
}

// privilege adds the likely cause to a permission error.
func privilege(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w (needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW, and for a router, or generic XDP mode, CAP_PERFMON)", err)
	}
	return err
}

func (p *Program) attach(ifindex int) (err error) {
	flags := link.XDPDriverMode
	if p.mode == ModeGeneric {
		flags = link.XDPGenericMode
	}
	if p.link, err = link.AttachXDP(link.XDPOptions{Program: p.objs.xdp, Interface: ifindex, Flags: flags}); err != nil {
		if errors.Is(err, unix.ERANGE) {
			err = fmt.Errorf("the MTU is more than the driver takes with XDP (lower it, or use generic mode): %w", err)
		}
		return fmt.Errorf("attaching the XDP program in %s mode: %w", p.mode, privilege(err))
	}
	return nil
}

// NotDriver returns why the program runs in generic mode, where ModeAuto was asked for;
// else nil.
func (p *Program) NotDriver() error { return p.notDriver }

// Unglued returns why a port in generic mode takes what offloads have glued together for one
// frame where that is not longer than the MTU of now; nil if it does not.
func (p *Program) Unglued() error { return p.unglued }

// Mode returns the mode in which the program was attached.
func (p *Program) Mode() XDPMode { return p.mode }

// register hands the frames of a receive queue to the socket of q.
func (p *Program) register(q Queue) error {
	if err := p.objs.maps.Sockets.Update(uint32(q.ID()), uint32(q.FD()), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("queue %d: registering the socket: %w", q.ID(), err)
	}
	return nil
}

// Host is what the host behind a SteerRouted program has for itself.
type Host struct {
	MAC      [6]byte // of the port; frames to other addresses are left to the host
	Addrs    []netip.Addr
	Ports    [PortProtos]*[1024]uint64 // of those, for user space all the same, a bit each; nil: none
	Portless bool                      // protocols without ports, answers of ICMP and fragments are, too
	All      bool                      // all that goes to the host is
}

// PortProtos is how many protocols have ports: TCP, UDP, UDP-Lite, SCTP.
const PortProtos = 4

// SetHost tells a SteerRouted program what is the host's, of which before was the
// last it was told, or nil.
func (p *Program) SetHost(h, before *Host) error {
	cfg := xdpConfig{Mac: h.MAC}
	if h.All {
		cfg.All = 1
	}
	if h.Portless {
		cfg.Portless = 1
	}
	if before == nil {
		before = &Host{}
	}
	for _, a := range h.Addrs {
		if !slices.Contains(before.Addrs, a) {
			if err := p.objs.maps.Locals.Put(a.As16(), uint8(1)); err != nil {
				return fmt.Errorf("telling the XDP program of address %v: %w", a, err)
			}
		}
	}
	for _, a := range before.Addrs {
		if !slices.Contains(h.Addrs, a) {
			if err := p.objs.maps.Locals.Delete(a.As16()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("telling the XDP program of address %v: %w", a, err)
			}
		}
	}
	var none [1024]uint64
	for i, words := range h.Ports {
		old := before.Ports[i]
		if words == nil {
			words = &none
		}
		if old == nil {
			old = &none
		}
		for k := range words {
			if words[k] != old[k] {
				if err := p.objs.maps.Ports.Put(uint32(i*len(words)+k), words[k]); err != nil {
					return fmt.Errorf("telling the XDP program of ports: %w", err)
				}
			}
		}
	}
	if err := p.objs.maps.Configs.Put(uint32(0), cfg); err != nil {
		return fmt.Errorf("telling the XDP program of its port: %w", err)
	}
	return nil
}

// ProgramStats are the counters of a Program.
type ProgramStats struct {
	Steered  uint64 // handed to a socket
	Passed   uint64 // left to the host
	NoSocket uint64 // dropped: ReasonXDPNoSocket
	TooLarge uint64 // dropped: ReasonFrameTooLarge
	Large    uint64 // left to the kernel, to be cut or to keep their VLAN tags, see Segments
}

// Add adds the counters of o.
func (s *ProgramStats) Add(o ProgramStats) {
	s.Steered += o.Steered
	s.Passed += o.Passed
	s.NoSocket += o.NoSocket
	s.TooLarge += o.TooLarge
	s.Large += o.Large
}

// Stats reads the counters.
func (p *Program) Stats() (ProgramStats, error) {
	var n [xdpXdpFateNUM_FATES]uint64
	for f := range n {
		var perCPU []uint64
		if err := p.objs.maps.Fates.Lookup(uint32(f), &perCPU); err != nil {
			return ProgramStats{}, fmt.Errorf("reading the counters of the XDP program: %w", err)
		}
		for _, v := range perCPU {
			n[f] += v
		}
	}
	return ProgramStats{
		Steered: n[xdpXdpFateFATE_STEERED], Passed: n[xdpXdpFateFATE_PASSED],
		NoSocket: n[xdpXdpFateFATE_NO_SOCKET], TooLarge: n[xdpXdpFateFATE_TOO_LARGE],
		Large: n[xdpXdpFateFATE_LARGE],
	}, nil
}

// Close detaches the program. Its Segments stay open for who reads them.
func (p *Program) Close() error {
	var err error
	if p.promisc >= 0 {
		err = unix.Close(p.promisc)
	}
	if p.link != nil {
		err = errors.Join(err, p.link.Close())
	}
	if p.tcx != nil {
		err = errors.Join(err, p.tcx.Close())
	}
	return errors.Join(err, p.objs.close())
}
