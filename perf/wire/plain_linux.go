package wire

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/rx"
)

// sockets moves frames from one AF_XDP socket to another, or nowhere, on one
// thread: what xdpct would do if tracking took no time.
type sockets struct {
	setup    Setup
	umem     *rx.UMEM
	pool     *rx.Pool
	queues   []rx.Queue
	programs []*rx.Program
	frames   atomic.Uint64
	quit     atomic.Bool
	ended    chan struct{}
}

const (
	plainChunks = 4 * rx.RingSize
	plainBatch  = 64
)

func (s *sockets) start(l *Lab) error {
	if err := l.enableNAPI(); err != nil {
		return err
	}
	var err error
	if s.umem, err = rx.NewUMEM(plainChunks, rx.MinChunk); err != nil {
		return err
	}
	s.pool = rx.NewPool(s.umem, 0, plainChunks)
	names := []string{inName, outName}
	if s.setup.Mode == engine.Tap {
		names = names[:1]
	}
	for _, name := range names {
		if err := l.box.Do(func() error { return s.open(name) }); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	s.ended = make(chan struct{})
	go s.move()
	return nil
}

func (s *sockets) open(name string) error {
	ifi, err := rx.LookupInterface(name)
	if err != nil {
		return err
	}
	var first rx.Queue
	if len(s.queues) > 0 {
		first = s.queues[0]
	}
	q, took, err := rx.OpenQueue(s.umem, ifi.Index, 0, first, s.pool.Peek(rx.RingSize), rx.QueueOptions{TXBudget: 128})
	if err != nil {
		return err
	}
	s.pool.Take(took)
	s.queues = append(s.queues, q)
	p, err := rx.LoadProgram(&ifi, []rx.Queue{q}, rx.ProgramOptions{Steer: rx.SteerAll, MaxFrame: s.umem.MaxFrame(), Mode: s.setup.XDP})
	if err != nil {
		return err
	}
	s.programs = append(s.programs, p)
	return nil
}

// move is the thread.
func (s *sockets) move() {
	defer close(s.ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set unix.CPUSet
	set.Set(s.setup.CPU)
	_ = unix.SchedSetaffinity(0, &set)
	in, out := s.queues[0], s.queues[len(s.queues)-1]
	var descs [plainBatch]rx.Desc
	var chunks [plainBatch]uint64
	for !s.quit.Load() {
		n := in.Receive(descs[:])
		s.frames.Add(uint64(n))
		sent := 0
		if out != in {
			sent = out.Transmit(descs[:n])
			out.Kick()
			for _, addr := range chunks[:out.Complete(chunks[:])] {
				s.pool.Put(addr)
			}
		}
		for _, d := range descs[sent:n] {
			s.pool.Put(d.Addr)
		}
		s.pool.Refill(in, plainBatch)
		in.WakeRX()
	}
}

func (s *sockets) ready() error              { return nil }
func (s *sockets) flows() (int, bool, error) { return 0, false, nil }
func (s *sockets) taken() (uint64, error)    { return s.frames.Load(), nil }
func (s *sockets) flush() error              { return nil }
func (s *sockets) detail() (Detail, error) {
	return Detail{Mode: string(s.programs[0].Mode()) + ", copy"}, nil
}

func (s *sockets) stop() (err error) {
	for _, p := range s.programs {
		err = errors.Join(err, p.Close())
	}
	if s.ended != nil {
		s.quit.Store(true)
		<-s.ended
	}
	for _, q := range s.queues {
		err = errors.Join(err, q.Close())
	}
	if s.umem != nil {
		err = errors.Join(err, s.umem.Close())
	}
	return err
}

// dropper is an XDP program that drops.
type dropper struct {
	objs *wireObjects
	link link.Link
}

func (d *dropper) start(l *Lab) error {
	spec, err := loadWire()
	if err != nil {
		return err
	}
	d.objs = &wireObjects{}
	if err := spec.LoadAndAssign(d.objs, nil); err != nil {
		d.objs = nil
		return err
	}
	ifi, err := l.box.Link(inName)
	if err != nil {
		return err
	}
	return l.box.Do(func() (err error) {
		d.link, err = link.AttachXDP(link.XDPOptions{
			Program: d.objs.Discard, Interface: ifi.Attrs().Index, Flags: link.XDPDriverMode,
		})
		return err
	})
}

func (d *dropper) ready() error              { return nil }
func (d *dropper) flows() (int, bool, error) { return 0, false, nil }
func (d *dropper) flush() error              { return nil }
func (d *dropper) detail() (Detail, error)   { return Detail{Mode: "driver"}, nil }

func (d *dropper) taken() (uint64, error) {
	r, err := readReceipts(d.objs.Receipts)
	return r.Frames, err
}

func (d *dropper) stop() (err error) {
	if d.link != nil {
		err = d.link.Close()
	}
	if d.objs != nil {
		err = errors.Join(err, d.objs.Close())
	}
	return err
}
