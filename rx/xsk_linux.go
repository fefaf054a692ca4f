package rx

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// xsk is a Queue on rings of our own. Queues share the UMEM.
type xsk struct {
	fd   int
	id   int
	umem *UMEM
	rx   ring[Desc]
	tx   ring[Desc]
	fill ring[uint64]
	comp ring[uint64]

	// What follows is of links that go down, in copy mode.
	done      []uint64 // chunks of frames that were not sent, for Complete
	down      bool     // the last system call said so: frames are dropped until one does not
	unread    uint32   // entries of tx that the kernel has read without saying so
	withdrawn uint32   // entries of tx before this index are none any more
	replaced  uint64   // how many became none

	zeroCopy bool
	gone     bool
	Stats    QueueStats
}

// openXSK fills the fill ring before it binds, as some drivers require.
func openXSK(u *UMEM, ifindex, queue int, share *xsk, free []uint64, o QueueOptions) (q *xsk, took int, err error) {
	q = &xsk{fd: -1, id: queue, umem: u}
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
		if err := q.registerMemory(); err != nil {
			return q, 0, err
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
	_ = unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	return q, took, nil
}

// registerMemory makes the UMEM the socket's.
func (q *xsk) registerMemory() error {
	mem := q.umem.mem
	reg := unix.XDPUmemReg{Addr: uint64(q.umem.base()), Len: uint64(len(mem)), Size: uint32(q.umem.chunk)}
	err := setsockopt(q.fd, unix.XDP_UMEM_REG, &reg)
	if errors.Is(err, unix.ENOBUFS) {
		raiseMemlock()
		err = setsockopt(q.fd, unix.XDP_UMEM_REG, &reg)
	}
	if err != nil {
		return fmt.Errorf("registering %d KiB of frame memory: %w", len(mem)>>10, memlock(err, len(mem)))
	}
	return nil
}

func (q *xsk) mapRings() (err error) {
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

func (q *xsk) bind(ifindex int, share *xsk, o QueueOptions) error {
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

func (q *xsk) Close() error {
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

func (q *xsk) ID() int { return q.id }

func (q *xsk) FD() int { return q.fd }

func (q *xsk) ZeroCopy() bool { return q.zeroCopy }

func (q *xsk) Gone() bool { return q.gone }

func (q *xsk) MarkGone() { q.gone = true }

func (q *xsk) Room(n int) int { return q.fill.room(n) }

func (q *xsk) Fill(chunks []uint64) int {
	n := q.fill.room(len(chunks))
	if n > 0 {
		q.fill.put(chunks[:n])
	}
	return n
}

func (q *xsk) Receive(ds []Desc) int {
	n := q.rx.filled(len(ds))
	if n > 0 {
		q.rx.take(ds[:n])
		q.Stats.Received += uint64(n)
	}
	return n
}

func (q *xsk) Transmit(ds []Desc) int {
	if q.gone {
		return 0
	}
	if q.down {
		if q.Kick(); q.down {
			q.Stats.TXDown += uint64(len(ds))
			for _, d := range ds {
				q.done = append(q.done, d.Addr)
			}
			return len(ds)
		}
	}
	n := q.tx.room(len(ds))
	if n > 0 {
		q.tx.put(ds[:n])
		q.Stats.Transmitted += uint64(n)
	}
	return n
}

func (q *xsk) Complete(chunks []uint64) int {
	n := 0
	if len(q.done) > 0 {
		n = copy(chunks, q.done)
		q.done = append(q.done[:0], q.done[n:]...)
		chunks = chunks[n:]
	}
	k := q.comp.filled(len(chunks))
	if k > 0 {
		q.comp.take(chunks[:k])
		if q.replaced > 0 {
			k = q.sift(chunks[:k])
		}
	}
	return n + k
}

// sift leaves out what came back for entries that are none any more (Linux 6.18 completes
// them, others pass over them), and returns how many chunks are left.
func (q *xsk) sift(chunks []uint64) (n int) {
	for {
		for _, a := range chunks {
			if a != noDesc.Addr {
				chunks[n] = a
				n++
			}
		}
		if n > 0 || q.comp.filled(len(chunks)) == 0 { // nothing means that there is no more
			return n
		}
		chunks = chunks[:q.comp.filled(len(chunks))]
		q.comp.take(chunks)
	}
}

// sendBuffer is the size of a socket's send buffer in bytes: copied frames are
// charged to it until they are sent.
const sendBuffer = 8 << 20

// kickTries bounds the system calls of one Kick: in copy mode each sends at most
// TXBudget frames.
const kickTries = 16

func (q *xsk) Kick() {
	for range kickTries + q.hollow() { // of what is no frame the kernel reads one at a time

		if q.gone || q.tx.pending() == 0 || !q.tx.needWakeup() {
			q.down = false // the kernel has read what was there when the link went down
			return
		}
		q.Stats.Kicks++
		before := q.tx.consumed()
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(q.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
		told := q.tx.consumed() != before
		if told {
			q.unread = 0
		}
		if errno != unix.ENETDOWN {
			q.down = false
		}
		switch errno {
		case 0, unix.EINTR:
		case unix.EBUSY:
			if !q.zeroCopy { // NET_XMIT_DROP: the frame is complete, and was not sent
				q.Stats.TXDropped++
				q.Stats.Transmitted--
				if !told {
					q.unread++
				}
				continue
			}
			q.Stats.TXBusy++
		case unix.EAGAIN, unix.ENOBUFS:
			q.Stats.TXBusy++
		case unix.ENETDOWN:
			q.linkDown()
			return
		default: // whether the interface is gone, the owner finds out
			q.Stats.TXErrors++
			return
		}
	}
}

// noDesc is a descriptor that the kernel does not send (xp_validate_desc).
var noDesc = Desc{Addr: 1<<64 - 1}

// linkDown drops what waits to be sent: it would be sent, late and all at once, when the
// link is up again. In copy mode only our own system calls read the ring, so entries can be
// replaced there; taken back they cannot be, since the kernel goes by a copy of the
// producer's index that it has made earlier (xskq_cons_get_entries).
func (q *xsk) linkDown() {
	if q.zeroCopy {
		q.Stats.TXDown++
		return
	}
	n := q.withdraw(func(addr uint64) { q.done = append(q.done, addr) })
	q.Stats.TXDown += uint64(n)
	q.Stats.Transmitted -= uint64(n)
	q.down = true
}

// withdraw visits the chunks of the frames that the kernel has not read, which are then not
// there any more, and returns how many there were.
func (q *xsk) withdraw(visit func(addr uint64)) (n int) {
	q.tx.withdraw(q.unread, noDesc, func(d Desc) {
		if d != noDesc {
			visit(d.Addr)
			n++
			q.replaced++
		}
	})
	q.withdrawn = q.tx.head
	return n
}

// hollow returns how many entries are none any more that the kernel has not read.
func (q *xsk) hollow() int {
	n := int(q.withdrawn - q.tx.consumed() - q.unread)
	if n > len(q.tx.entries) { // it is past them
		return 0
	}
	return n
}

// waiting returns how many frames the kernel has not read.
func (q *xsk) waiting() int {
	return max(q.tx.pending()-int(q.unread)-q.hollow(), 0)
}

func (q *xsk) WakeRX() {
	if q.gone || !q.fill.needWakeup() {
		return
	}
	q.Stats.Polls++
	_, _, _ = unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(q.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
}

func (q *xsk) ReadStats() QueueStats {
	s := q.Stats
	s.Transmitted -= uint64(q.waiting()) // what waits may come to be dropped
	_ = getsockopt(q.fd, unix.XDP_STATISTICS, &s.Drops)
	s.Drops.Tx_invalid_descs -= min(s.Drops.Tx_invalid_descs, q.replaced)
	return s
}

func (q *xsk) Abandon(put func(addr uint64)) (unsent int, err error) {
	q.gone = true
	var ds [64]Desc
	for n := q.Receive(ds[:]); n > 0; n = q.Receive(ds[:]) {
		for _, d := range ds[:n] {
			put(d.Addr)
		}
	}
	var as [64]uint64 // and those of done
	for n := q.Complete(as[:]); n > 0; n = q.Complete(as[:]) {
		for _, a := range as[:n] {
			put(a)
		}
	}
	q.fill.untaken(func(a uint64) { put(a) })
	unsent = q.withdraw(put)
	return unsent, q.Close()
}
