package rx

import (
	"errors"
	"fmt"

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
type Steer bool

// The choices.
const (
	SteerTraffic Steer = false // IP, but neither ARP nor neighbour discovery
	SteerAll     Steer = true  // every frame
)

// Program is the XDP program on one interface. The kernel detaches it when the
// process ends, however that happens.
type Program struct {
	objs xdpObjects
	link link.Link
	mode XDPMode
}

// LoadProgram loads the program for an interface whose receive queues are served
// by the given sockets, registers those, and only then attaches it, so that no
// frame comes to a queue without a socket. A frame longer than maxFrame is
// dropped.
func LoadProgram(ifindex int, queues []Queue, steer Steer, maxFrame uint32, mode XDPMode) (*Program, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raising the limit on locked memory: %w", privilege(err))
	}
	spec, err := loadXdp()
	if err != nil {
		return nil, fmt.Errorf("reading the XDP program: %w", err)
	}
	spec.Maps["sockets"].MaxEntries = uint32(len(queues))
	all := uint32(0)
	if steer == SteerAll {
		all = 1
	}
	if err := errors.Join(spec.Variables["steer_all"].Set(all), spec.Variables["max_frame"].Set(maxFrame)); err != nil {
		return nil, fmt.Errorf("setting up the XDP program: %w", err)
	}
	p := &Program{}
	if err := spec.LoadAndAssign(&p.objs, nil); err != nil {
		return nil, fmt.Errorf("loading the XDP program: %w", privilege(err))
	}
	for _, q := range queues {
		if err = p.register(q); err != nil {
			break
		}
	}
	if err == nil {
		err = p.attach(ifindex, mode)
	}
	if err != nil {
		p.objs.Close()
		return nil, err
	}
	return p, nil
}

// privilege adds the likely cause to a permission error.
func privilege(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%w (needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW)", err)
	}
	return err
}

func (p *Program) attach(ifindex int, mode XDPMode) error {
	modes := []XDPMode{mode}
	if mode == ModeAuto {
		modes = []XDPMode{ModeDriver, ModeGeneric}
	}
	var err error
	for _, m := range modes {
		flags := link.XDPDriverMode
		if m == ModeGeneric {
			flags = link.XDPGenericMode
		}
		p.link, err = link.AttachXDP(link.XDPOptions{Program: p.objs.Xdpct, Interface: ifindex, Flags: flags})
		if err == nil {
			p.mode = m
			return nil
		}
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("another XDP program is attached to the interface: %w", err)
		}
	}
	return fmt.Errorf("attaching the XDP program in %s mode: %w", mode, privilege(err))
}

// Mode returns the mode in which the program was attached.
func (p *Program) Mode() XDPMode { return p.mode }

// register hands the frames of a receive queue to the socket of q.
func (p *Program) register(q Queue) error {
	if err := p.objs.Sockets.Update(uint32(q.ID()), uint32(q.FD()), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("queue %d: registering the socket: %w", q.ID(), err)
	}
	return nil
}

// ProgramStats are the counters of a Program.
type ProgramStats struct {
	Steered  uint64 // handed to a socket
	Passed   uint64 // left to the host
	NoSocket uint64 // dropped: ReasonXDPNoSocket
	TooLarge uint64 // dropped: ReasonFrameTooLarge
}

// Stats reads the counters.
func (p *Program) Stats() (ProgramStats, error) {
	var n [xdpXdpFateNUM_FATES]uint64
	for f := range n {
		var perCPU []uint64
		if err := p.objs.Fates.Lookup(uint32(f), &perCPU); err != nil {
			return ProgramStats{}, fmt.Errorf("reading the counters of the XDP program: %w", err)
		}
		for _, v := range perCPU {
			n[f] += v
		}
	}
	return ProgramStats{
		Steered: n[xdpXdpFateFATE_STEERED], Passed: n[xdpXdpFateFATE_PASSED],
		NoSocket: n[xdpXdpFateFATE_NO_SOCKET], TooLarge: n[xdpXdpFateFATE_TOO_LARGE],
	}, nil
}

// Close detaches the program.
func (p *Program) Close() error { return errors.Join(p.link.Close(), p.objs.Close()) }
