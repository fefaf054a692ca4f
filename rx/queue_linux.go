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
	Driver Driver // empty for DriverXSK
	// ForceCopy rules zero copy out; otherwise the kernel grants it where the
	// driver can. Of queues that share a UMEM only the first one's counts.
	ForceCopy bool
	// TXBudget is the most frames that one system call transmits in copy mode
	// (XDP_MAX_TX_SKB_BUDGET, Linux 6.17), 0 for the kernel's 32.
	TXBudget uint32
	// NoLink is that of the interface.
	NoLink bool
}

// QueueStats are counters of a Queue. The owner of the Queue writes them.
type QueueStats struct {
	Received, Transmitted uint64 // frames
	Polls, Kicks          uint64 // system calls
	TXBusy                uint64 // EAGAIN, EBUSY: the kernel or the link was short of room
	TXDown                uint64 // frames that were not sent since the link was down (ENETDOWN)
	TXDropped             uint64 // frames that the device dropped: it had no carrier, or a full queue
	TXErrors              uint64 // any other errno
	Drops                 unix.XDPStatistics
}

// Queue is the AF_XDP socket of one receive queue of an interface. It belongs to
// one goroutine. Chunks are named by their addresses in the UMEM.
type Queue interface {
	// ID returns the number of the receive queue, and FD the socket, to poll.
	ID() int
	FD() int
	// ZeroCopy reports whether the driver reads and writes the UMEM itself.
	ZeroCopy() bool

	// Room returns how many chunks Fill would take, at most n.
	Room(n int) int
	// Fill gives chunks to receive into and returns how many it took.
	Fill(chunks []uint64) int
	// Receive takes received frames and returns how many. Their chunks are the
	// caller's.
	Receive(ds []Desc) int
	// Transmit queues frames and returns how many it took; Kick sends them. The
	// chunks come back through Complete.
	Transmit(ds []Desc) int
	// Complete takes back chunks whose frames were sent and returns how many.
	Complete(chunks []uint64) int
	// Kick makes the kernel send what Transmit queued, where it does not by
	// itself. It gives up after a bounded number of calls; the rest stays queued,
	// unless the link is down: then it is dropped, as the kernel drops its own. Where
	// the driver reads the ring itself (ZeroCopy) frames are left to it.
	Kick()
	// WakeRX makes the kernel look at the fill ring, where it waits to be told.
	WakeRX()

	// ReadStats returns the counters with the kernel's own.
	ReadStats() QueueStats
	// MarkGone makes the Queue do nothing from now on: its interface is gone.
	// Gone reports it.
	MarkGone()
	Gone() bool
	// Abandon calls put for every chunk that the Queue has, of an interface that
	// is gone, and closes it. It returns how many frames Transmit took that the kernel
	// has not read: ReadStats has not counted them as transmitted. What the driver itself
	// had in hand at that moment is lost.
	Abandon(put func(addr uint64)) (unsent int, err error)
	// Close closes the socket. Chunks that the kernel held may be used again
	// once it has let go of the socket, which takes a moment.
	Close() error
}

// Driver names an implementation of Queue.
type Driver string

// The drivers.
const (
	DriverXSK    Driver = "xsk"    // this package's own rings
	DriverAsavie Driver = "asavie" // github.com/asavie/xdp, wrapped
)

// OpenQueue opens the socket of a queue on the UMEM with as many of the free
// chunks as fit to receive into; it returns how many it took. share is an open
// Queue of the same driver on the same UMEM, or nil for the first.
func OpenQueue(u *UMEM, ifindex, queue int, share Queue, free []uint64, o QueueOptions) (q Queue, took int, err error) {
	if p, ok := share.(*packetQueue); ok {
		share = p.recv
	}
	switch o.Driver {
	case DriverXSK, "":
		first, _ := share.(*xsk)
		q, took, err = opened(openXSK(u, ifindex, queue, first, free, o))
	case DriverAsavie:
		q, took, err = opened(openAsavie(u, ifindex, queue, free, o))
	default:
		return nil, 0, fmt.Errorf("there is no driver %q, only %s and %s", o.Driver, DriverXSK, DriverAsavie)
	}
	if err != nil || !o.NoLink {
		return q, took, err
	}
	p, err := openPacket(u, ifindex, queue, true, q)
	if err != nil {
		return nil, 0, errors.Join(err, q.Close())
	}
	return p, took, nil
}

// opened keeps a nil pointer from becoming a Queue that is not nil.
func opened[T Queue](q T, took int, err error) (Queue, int, error) {
	if err != nil {
		return nil, 0, err
	}
	return q, took, nil
}

// Add adds the counters of o.
func (s *QueueStats) Add(o QueueStats) {
	s.Received += o.Received
	s.Transmitted += o.Transmitted
	s.Polls += o.Polls
	s.Kicks += o.Kicks
	s.TXBusy += o.TXBusy
	s.TXDown += o.TXDown
	s.TXDropped += o.TXDropped
	s.TXErrors += o.TXErrors
	s.Drops.Rx_dropped += o.Drops.Rx_dropped
	s.Drops.Rx_invalid_descs += o.Drops.Rx_invalid_descs
	s.Drops.Tx_invalid_descs += o.Drops.Tx_invalid_descs
	s.Drops.Rx_ring_full += o.Drops.Rx_ring_full
	s.Drops.Rx_fill_ring_empty_descs += o.Drops.Rx_fill_ring_empty_descs
	s.Drops.Tx_ring_empty_descs += o.Drops.Tx_ring_empty_descs
}
