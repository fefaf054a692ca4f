package wire

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Load is what the generator sends: UDP over IPv4 in one direction.
type Load struct {
	Flows int // connections, 1..16M
	Size  int // frame length in bytes, without its checksum, 60..1514
	// Uniform picks connections at random; otherwise they take turns.
	Uniform bool
	// PPS is the rate, 0 for as fast as it goes.
	PPS    float64
	Frames int // how many to send
	// CPU is the one that generates.
	CPU int
	// Generator makes the frames; empty means LiveFrames.
	Generator Generator
	// Urgent lets nothing else on the machine hold the generator up.
	Urgent bool
}

// The range of Size, and the most Flows.
const (
	MinSize  = 60
	MaxSize  = 1514
	MaxFlows = 16 << 20
)

// Sent is what the generator did.
type Sent struct {
	Frames uint64
	Took   time.Duration // from the first frame to the last
}

// Send generates a load and returns when it is sent.
func (l *Lab) Send(load Load) (s Sent, err error) {
	if load.Generator == Pktgen {
		return l.sendPktgen(load)
	}
	p, err := l.generator(load)
	if err != nil {
		return s, fmt.Errorf("loading the generator: %w", err)
	}
	defer p.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread dies
		if load.Urgent {
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
		}
		done <- l.run(p, load)
	}()
	if err := <-done; err != nil {
		return s, err
	}
	var g wireProgress
	if err := p.Sent.Get(&g); err != nil {
		return s, fmt.Errorf("reading what the generator did: %w", err)
	}
	return Sent{g.Frames, time.Duration(g.Last - g.First)}, nil
}

func (l *Lab) generator(load Load) (*wireObjects, error) {
	spec, err := loadWire()
	if err != nil {
		return nil, err
	}
	out, err := l.source.Link(genName)
	if err != nil {
		return nil, err
	}
	uniform, interval := uint32(0), uint64(0)
	if load.Uniform {
		uniform = 1
	}
	if load.PPS > 0 {
		interval = uint64(1e12 / load.PPS)
	}
	for name, value := range map[string]any{
		"out_ifindex": uint32(out.Attrs().Index), "macs": [12]byte(slices.Concat(inMAC, genMAC)),
		"flows": uint32(load.Flows), "uniform": uniform, "interval_ps": interval, "frames": uint64(load.Frames),
		"source":      binary.BigEndian.Uint32(firstSource.AsSlice()),
		"destination": binary.BigEndian.Uint32(destination.AsSlice()),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	objs := &wireObjects{}
	return objs, spec.LoadAndAssign(objs, nil)
}

// attemptRate is about how often a second the generator is asked for a frame that
// is not due yet, and answers that it is not.
const attemptRate = 20e6

// run runs the generator on the thread, which it moves to the source.
func (l *Lab) run(p *wireObjects, load Load) error {
	if err := netns.Set(netns.NsHandle(l.source.FD())); err != nil {
		return fmt.Errorf("entering the source: %w", err)
	}
	var set unix.CPUSet
	set.Set(load.CPU)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("moving to CPU %d: %w", load.CPU, err)
	}
	for left := uint64(load.Frames); left > 0; {
		n := left
		if load.PPS > 0 { // in one call if possible: each ends with a pause
			n = max(n, uint64(float64(left)*attemptRate/load.PPS))
		}
		_, err := p.Generate.Run(&ebpf.RunOptions{
			Data: make([]byte, load.Size), Repeat: uint32(min(n, 1<<30)), Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES,
		})
		if err != nil {
			return fmt.Errorf("generating frames: %w", err)
		}
		var g wireProgress
		if err := p.Sent.Get(&g); err != nil {
			return err
		}
		left = uint64(max(load.Frames-int(g.Frames), 0))
	}
	return nil
}
