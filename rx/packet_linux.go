package rx

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// packetQueue is a Queue that transmits by an AF_PACKET socket instead of an AF_XDP
// one. It is for two kinds of port:
//
//   - One without a link header. An AF_XDP socket sends on such a device, but says not
//     which protocol: the packet's EtherType stays 0, so that WireGuard and PPP refuse
//     it and a tun device without IFF_NO_PI misnames it. AF_PACKET says it.
//   - One with fewer receive queues than there are shards. An AF_XDP socket is bound to
//     a queue, and to send by a queue of another core takes a lock in user space;
//     AF_PACKET is bound to none.
//
// Frames go through the queueing discipline of the device, as those of the kernel do.
// A frame is copied while Transmit lasts, so there is nothing left for Kick to do.
type packetQueue struct {
	recv    Queue // nil: receives nothing
	id      int
	umem    *UMEM
	out     sender
	done    []uint64 // chunks whose frames are copied, and so free
	gone    bool
	stats   QueueStats
	noLink  bool
	ifindex int
}

// openPacket opens the transmit side for an interface; recv receives, if it is not nil.
func openPacket(u *UMEM, ifindex, queue int, noLink bool, recv Queue) (*packetQueue, error) {
	typ := unix.SOCK_RAW
	if noLink {
		typ = unix.SOCK_DGRAM // the kernel adds the link header that there is, which is none
	}
	// Protocol 0: the socket receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening an AF_PACKET socket: %w", privilege(err))
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	q := &packetQueue{recv: recv, id: queue, umem: u, noLink: noLink, ifindex: ifindex, done: make([]uint64, 0, sendBatch)}
	q.out.init(fd, ifindex)
	return q, nil
}

// OpenSender returns a Queue that transmits on an interface and receives nothing, for a
// shard that none of the interface's receive queues is for.
func OpenSender(u *UMEM, ifi *Interface, queue int) (Queue, error) {
	q, err := openPacket(u, ifi.Index, queue, ifi.NoLink, nil)
	if err != nil {
		return nil, err
	}
	return q, nil
}

// Receives reports whether a Queue has a receive side, which others can share the UMEM
// with.
func Receives(q Queue) bool {
	p, ok := q.(*packetQueue)
	return !ok || p.recv != nil
}

func (q *packetQueue) ID() int { return q.id }

func (q *packetQueue) FD() int {
	if q.recv == nil {
		return q.out.fd
	}
	return q.recv.FD()
}

func (q *packetQueue) ZeroCopy() bool { return q.recv != nil && q.recv.ZeroCopy() }
func (q *packetQueue) Gone() bool     { return q.gone }
func (q *packetQueue) Kick()          {}

func (q *packetQueue) MarkGone() {
	q.gone = true
	if q.recv != nil {
		q.recv.MarkGone()
	}
}

func (q *packetQueue) WakeRX() {
	if q.recv != nil {
		q.recv.WakeRX()
	}
}

func (q *packetQueue) Room(n int) int {
	if q.recv == nil {
		return 0
	}
	return q.recv.Room(n)
}

func (q *packetQueue) Fill(chunks []uint64) int {
	if q.recv == nil {
		return 0
	}
	return q.recv.Fill(chunks)
}

func (q *packetQueue) Receive(ds []Desc) int {
	if q.recv == nil {
		return 0
	}
	return q.recv.Receive(ds)
}

// Transmit sends frames. It stops at one that the device, or its queueing discipline,
// has no room for; one that the kernel refuses for another reason is counted and gone.
func (q *packetQueue) Transmit(ds []Desc) int {
	taken := 0
	for taken < len(ds) && !q.gone {
		batch := ds[taken:min(len(ds), taken+sendBatch)]
		for i, d := range batch {
			frame := q.umem.mem[d.Addr : d.Addr+uint64(d.Len)]
			q.out.set(i, frame, q.protocol(frame))
		}
		q.stats.Kicks++
		n, err := q.out.send(len(batch))
		q.stats.Transmitted += uint64(n)
		if n == 0 && err != nil {
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) {
				q.stats.TXBusy++
				return taken
			}
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if errors.Is(err, unix.ENETDOWN) {
				q.stats.TXDown++
			} else {
				q.stats.TXErrors++
				q.stats.Drops.Tx_invalid_descs++ // this socket's name for it
			}
			n = 1
		}
		for _, d := range batch[:n] {
			q.done = append(q.done, d.Addr)
		}
		taken += n
	}
	return taken
}

// protocol returns the EtherType of a frame, in network byte order.
func (q *packetQueue) protocol(frame []byte) uint16 {
	const ipv4, ipv6 = 0x0800, 0x86dd
	typ := uint16(ipv4)
	switch {
	case !q.noLink && len(frame) >= 14:
		typ = binary.BigEndian.Uint16(frame[12:])
	case q.noLink && frame[0]>>4 == 6:
		typ = ipv6
	}
	return typ<<8 | typ>>8
}

func (q *packetQueue) Complete(chunks []uint64) int {
	n := copy(chunks, q.done)
	q.done = append(q.done[:0], q.done[n:]...)
	if q.recv != nil {
		n += q.recv.Complete(chunks[n:])
	}
	return n
}

func (q *packetQueue) ReadStats() QueueStats {
	s := q.stats
	if q.recv != nil {
		s.Add(q.recv.ReadStats())
	}
	return s
}

func (q *packetQueue) Abandon(put func(addr uint64)) (unsent int, err error) {
	q.gone = true
	for _, addr := range q.done {
		put(addr)
	}
	q.done = nil
	err = q.out.close()
	if q.recv != nil {
		n, e := q.recv.Abandon(put)
		unsent, err = unsent+n, errors.Join(err, e)
	}
	return unsent, err
}

func (q *packetQueue) Close() error {
	err := q.out.close()
	if q.recv != nil {
		err = errors.Join(err, q.recv.Close())
	}
	return err
}
