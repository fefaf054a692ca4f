package rx

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// RingSize is the number of entries of each ring, a power of two.
const RingSize = 2048

// QueueOptions say how a Queue is opened.
type QueueOptions struct {
	// ForceCopy rules zero copy out; otherwise the kernel grants it where the
	// driver can. Of queues that share a UMEM only the first one's counts.
	ForceCopy bool
	// TXBudget is the most frames that one system call transmits in copy mode
	// (XDP_MAX_TX_SKB_BUDGET, Linux 6.17), 0 for the kernel's 32.
	TXBudget uint32
}

// QueueStats are counters of a Queue. The owner of the Queue writes them.
type QueueStats struct {
	Received, Transmitted uint64 // frames
	Polls, Kicks          uint64 // system calls
	TXBusy                uint64 // EAGAIN, EBUSY: the kernel or the link was short of room
	TXDown                uint64 // ENETDOWN: the link was down
	TXErrors              uint64 // any other errno
	Drops                 unix.XDPStatistics
}

// Queue is the AF_XDP socket of one receive queue of an interface. It belongs to
// one goroutine.
type Queue struct {
	fd   int
	id   int
	umem *UMEM
	rx   ring[Desc]
	tx   ring[Desc]
	fill ring[uint64]
	comp ring[uint64]

	zeroCopy bool
	gone     bool
	Stats    QueueStats
}

// OpenQueue opens the socket of a queue on the UMEM and fills its fill ring
// before it is bound, as some drivers require, with as many of the free chunks
// as fit; it returns how many it took. share is an open Queue on the same UMEM,
// or nil for the first.
func OpenQueue(u *UMEM, ifindex, queue int, share *Queue, free []uint64, o QueueOptions) (q *Queue, took int, err error) {
	q = &Queue{fd: -1, id: queue, umem: u}
	defer func() {
		if err != nil {
			q.Close()
			q, took = nil, 0
		}
	}()
	if q.fd, err = unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		if errors.Is(err, unix.EAFNOSUPPORT) {
			return q, 0, errors.New("the kernel has no AF_XDP (CONFIG_XDP_SOCKETS)")
		}
		return q, 0, fmt.Errorf("opening an AF_XDP socket: %w", privilege(err))
	}
	if share == nil {
		reg := unix.XDPUmemReg{Addr: uint64(u.base()), Len: uint64(len(u.mem)), Size: uint32(u.chunk)}
		if err := setsockopt(q.fd, unix.XDP_UMEM_REG, &reg); err != nil {
			return q, 0, fmt.Errorf("registering %d bytes of frame memory: %w", len(u.mem), err)
		}
	}
	if err := q.mapRings(); err != nil {
		return q, 0, err
	}
	took = q.Fill(free)
	if err := q.bind(ifindex, share, o); err != nil {
		return q, 0, err
	}
	if o.TXBudget > 0 {
		_ = setsockopt(q.fd, unix.XDP_MAX_TX_SKB_BUDGET, &o.TXBudget) // older kernels have none
	}
	const sendBuffer = 8 << 20 // copied frames are charged to it until they are sent
	_ = unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	return q, took, nil
}

func (q *Queue) mapRings() (err error) {
	size := uint32(RingSize)
	for _, opt := range []int{unix.XDP_RX_RING, unix.XDP_TX_RING, unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING} {
		if err := setsockopt(q.fd, opt, &size); err != nil {
			return fmt.Errorf("sizing a ring: %w", err)
		}
	}
	var off unix.XDPMmapOffsets
	if err := getsockopt(q.fd, unix.XDP_MMAP_OFFSETS, &off); err != nil {
		return fmt.Errorf("finding the rings: %w", err)
	}
	q.rx, err = mapRing[Desc](q.fd, unix.XDP_PGOFF_RX_RING, off.Rx, RingSize)
	if err == nil {
		q.tx, err = mapRing[Desc](q.fd, unix.XDP_PGOFF_TX_RING, off.Tx, RingSize)
	}
	if err == nil {
		q.fill, err = mapRing[uint64](q.fd, unix.XDP_UMEM_PGOFF_FILL_RING, off.Fr, RingSize)
	}
	if err == nil {
		q.comp, err = mapRing[uint64](q.fd, unix.XDP_UMEM_PGOFF_COMPLETION_RING, off.Cr, RingSize)
	}
	q.tx.limit, q.fill.limit = RingSize, RingSize
	return err
}

func (q *Queue) bind(ifindex int, share *Queue, o QueueOptions) error {
	sa := &unix.SockaddrXDP{Ifindex: uint32(ifindex), QueueID: uint32(q.id)}
	if share != nil {
		sa.Flags, sa.SharedUmemFD = unix.XDP_SHARED_UMEM, uint32(share.fd)
	} else {
		sa.Flags = unix.XDP_USE_NEED_WAKEUP
		if o.ForceCopy {
			sa.Flags |= unix.XDP_COPY
		}
	}
	if err := unix.Bind(q.fd, sa); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("queue %d is in use by another socket: %w", q.id, err)
		}
		return fmt.Errorf("binding to queue %d: %w", q.id, privilege(err))
	}
	var opts uint32
	if err := getsockopt(q.fd, unix.XDP_OPTIONS, &opts); err == nil {
		q.zeroCopy = opts&unix.XDP_OPTIONS_ZEROCOPY != 0
	}
	return nil
}

// Close closes the socket. Chunks that the kernel held may be used again once
// it has let go of the socket, which takes a moment.
func (q *Queue) Close() error {
	q.rx.unmap()
	q.tx.unmap()
	q.fill.unmap()
	q.comp.unmap()
	if q.fd < 0 {
		return nil
	}
	fd := q.fd
	q.fd = -1
	return unix.Close(fd)
}

// ID returns the number of the receive queue.
func (q *Queue) ID() int { return q.id }

// FD returns the socket, to poll.
func (q *Queue) FD() int { return q.fd }

// ZeroCopy reports whether the driver reads and writes the UMEM itself.
func (q *Queue) ZeroCopy() bool { return q.zeroCopy }

// Gone reports that the interface does not exist any more.
func (q *Queue) Gone() bool { return q.gone }

// MarkGone makes the Queue do nothing from now on: its interface is gone.
func (q *Queue) MarkGone() { q.gone = true }

// Fill gives chunks to the kernel to receive into and returns how many it took.
func (q *Queue) Fill(chunks []uint64) int {
	n := q.fill.room(len(chunks))
	if n > 0 {
		q.fill.put(chunks[:n])
	}
	return n
}

// Receive takes received frames and returns how many. Their chunks are the
// caller's.
func (q *Queue) Receive(ds []Desc) int {
	n := q.rx.filled(len(ds))
	if n > 0 {
		q.rx.take(ds[:n])
		q.Stats.Received += uint64(n)
	}
	return n
}

// Transmit queues frames and returns how many it took; Kick sends them. The
// chunks come back through Complete.
func (q *Queue) Transmit(ds []Desc) int {
	if q.gone {
		return 0
	}
	n := q.tx.room(len(ds))
	if n > 0 {
		q.tx.put(ds[:n])
		q.Stats.Transmitted += uint64(n)
	}
	return n
}

// Complete takes back chunks whose frames were sent and returns how many.
func (q *Queue) Complete(chunks []uint64) int {
	n := q.comp.filled(len(chunks))
	if n > 0 {
		q.comp.take(chunks[:n])
	}
	return n
}

// kickTries bounds the system calls of one Kick: in copy mode each sends at most
// TXBudget frames.
const kickTries = 16

// Kick makes the kernel send what Transmit queued, where it does not by itself.
// It gives up after a bounded number of calls; the rest stays queued.
func (q *Queue) Kick() {
	for range kickTries {
		if q.gone || q.tx.pending() == 0 || !q.tx.needWakeup() {
			return
		}
		q.Stats.Kicks++
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(q.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0, unix.EINTR:
		case unix.EAGAIN, unix.EBUSY, unix.ENOBUFS:
			q.Stats.TXBusy++
		case unix.ENETDOWN:
			q.Stats.TXDown++
			return
		default: // whether the interface is gone, the owner finds out
			q.Stats.TXErrors++
			return
		}
	}
}

// WakeRX makes the kernel look at the fill ring, where it waits to be told.
func (q *Queue) WakeRX() {
	if q.gone || !q.fill.needWakeup() {
		return
	}
	q.Stats.Polls++
	_, _, _ = unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(q.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
}

// ReadStats returns the counters with the kernel's own.
func (q *Queue) ReadStats() QueueStats {
	s := q.Stats
	_ = getsockopt(q.fd, unix.XDP_STATISTICS, &s.Drops)
	return s
}

// Abandon calls put for every chunk in the rings of a Queue whose interface is
// gone, and closes it. What the driver itself had in hand at that moment is lost.
func (q *Queue) Abandon(put func(addr uint64)) error {
	q.gone = true
	var ds [64]Desc
	for n := q.Receive(ds[:]); n > 0; n = q.Receive(ds[:]) {
		for _, d := range ds[:n] {
			put(d.Addr)
		}
	}
	var as [64]uint64
	for n := q.Complete(as[:]); n > 0; n = q.Complete(as[:]) {
		for _, a := range as[:n] {
			put(a)
		}
	}
	q.fill.untaken(func(a uint64) { put(a) })
	q.tx.untaken(func(d Desc) { put(d.Addr) })
	return q.Close()
}

// Add adds the counters of o.
func (s *QueueStats) Add(o QueueStats) {
	s.Received += o.Received
	s.Transmitted += o.Transmitted
	s.Polls += o.Polls
	s.Kicks += o.Kicks
	s.TXBusy += o.TXBusy
	s.TXDown += o.TXDown
	s.TXErrors += o.TXErrors
	s.Drops.Rx_dropped += o.Drops.Rx_dropped
	s.Drops.Rx_invalid_descs += o.Drops.Rx_invalid_descs
	s.Drops.Tx_invalid_descs += o.Drops.Tx_invalid_descs
	s.Drops.Rx_ring_full += o.Drops.Rx_ring_full
	s.Drops.Rx_fill_ring_empty_descs += o.Drops.Rx_fill_ring_empty_descs
	s.Drops.Tx_ring_empty_descs += o.Drops.Tx_ring_empty_descs
}
