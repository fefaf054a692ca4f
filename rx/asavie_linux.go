package rx

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"
)

// asavie is a Queue on a socket of github.com/asavie/xdp. That library keeps
// frames in a memory of each socket's own, so frames are copied between there
// and the UMEM, once in each direction. It is guarded against what it does not do itself:
//
//   - It frees a received frame at once, and may hand the kernel one that is
//     still to be sent. Here a frame of its memory is either for receiving, and
//     given back before Receive returns, or for sending, and never both.
//   - It looks for free frames from the first on, every time. Here all that are
//     free are taken at once, and looked for again when those are used up.
//   - It panics when sending fails, as it does while a link is down. Here that is
//     counted.
//   - Its Program throws out other XDP programs and stays when the process dies.
//     Here this package's Program is used with it.
//   - It never unmaps its rings, which keeps the queue bound. Here Close does.
//     What it mapped before a bind that failed cannot be reached, and stays.
//   - It sends at most 32 frames a call in copy mode. Here Kick goes on.
type asavie struct {
	id    int
	umem  *UMEM
	sock  *xdp.Socket
	spare []uint64   // chunks to receive into
	done  []uint64   // chunks whose frames are copied, and so free
	stock []xdp.Desc // free frames to send from

	zeroCopy bool
	gone     bool
	stats    QueueStats
}

// asavieFlags guards the flags that the library takes from a variable.
var asavieFlags sync.Mutex

func openAsavie(u *UMEM, ifindex, queue int, free []uint64, o QueueOptions) (q *asavie, took int, err error) {
	asavieFlags.Lock()
	defer asavieFlags.Unlock()
	xdp.DefaultSocketFlags = 0
	if o.ForceCopy {
		xdp.DefaultSocketFlags = unix.XDP_COPY
	}
	raiseMemlock() // the library does not tell that from other troubles
	sock, err := xdp.NewSocket(ifindex, queue, &xdp.SocketOptions{
		NumFrames: 2 * RingSize, FrameSize: int(u.chunk),
		FillRingNumDescs: RingSize, CompletionRingNumDescs: RingSize, RxRingNumDescs: RingSize, TxRingNumDescs: RingSize,
	})
	if err != nil {
		return nil, 0, fmt.Errorf("opening queue %d with asavie/xdp: %w", queue, memlock(privilege(withErrno(err)), 2*RingSize*int(u.chunk)))
	}
	q = &asavie{id: queue, umem: u, sock: sock}
	sock.Fill(sock.GetDescs(RingSize)) // the first half is for receiving
	var opts uint32
	if err := getsockopt(sock.FD(), unix.XDP_OPTIONS, &opts); err == nil {
		q.zeroCopy = opts&unix.XDP_OPTIONS_ZEROCOPY != 0
	}
	if o.TXBudget > 0 {
		_ = setsockopt(sock.FD(), unix.XDP_MAX_TX_SKB_BUDGET, &o.TXBudget) // older kernels have none
	}
	_ = unix.SetsockoptInt(sock.FD(), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	return q, q.Fill(free), nil
}

// withErrno gives an error of the library the errno back that it kept the text of
// only, for those that callers ask for.
func withErrno(err error) error {
	for _, errno := range []unix.Errno{unix.EBUSY, unix.EPERM, unix.EACCES, unix.ENOBUFS} {
		if strings.HasSuffix(err.Error(), errno.Error()) {
			return fmt.Errorf("%s%w", strings.TrimSuffix(err.Error(), errno.Error()), errno)
		}
	}
	return err
}

func (q *asavie) ID() int        { return q.id }
func (q *asavie) FD() int        { return q.sock.FD() }
func (q *asavie) ZeroCopy() bool { return q.zeroCopy }
func (q *asavie) Gone() bool     { return q.gone }
func (q *asavie) MarkGone()      { q.gone = true }
func (q *asavie) WakeRX()        {} // the library does not ask for need_wakeup

func (q *asavie) Room(n int) int { return min(n, RingSize-len(q.spare)) }

func (q *asavie) Fill(chunks []uint64) int {
	n := q.Room(len(chunks))
	q.spare = append(q.spare, chunks[:n]...)
	return n
}

func (q *asavie) Receive(ds []Desc) int {
	if q.gone {
		return 0
	}
	frames := q.sock.Receive(min(len(ds), len(q.spare)))
	for i := range frames {
		last := len(q.spare) - 1
		ds[i] = Desc{Addr: q.spare[last] + Headroom, Len: frames[i].Len}
		q.spare = q.spare[:last]
		copy(q.umem.mem[ds[i].Addr:], q.sock.GetFrame(frames[i]))
		frames[i].Addr &^= q.umem.chunk - 1
	}
	q.sock.Fill(frames) // there is room: they came from there
	q.stats.Received += uint64(len(frames))
	return len(frames)
}

func (q *asavie) Transmit(ds []Desc) int {
	if q.gone {
		return 0
	}
	q.recycle()
	n := min(len(ds), len(q.stock), q.sock.NumFreeTxSlots())
	if n == 0 {
		return 0
	}
	last := len(q.stock) - n
	frames := q.stock[last:]
	for i, d := range ds[:n] {
		frames[i].Len = uint32(copy(q.sock.GetFrame(frames[i]), q.umem.mem[d.Addr:d.Addr+uint64(d.Len)]))
		q.done = append(q.done, d.Addr)
	}
	q.stock = q.stock[:last]
	q.send(frames)
	q.stats.Transmitted += uint64(n)
	return n
}

// recycle finds frames to send from, once there are none left.
func (q *asavie) recycle() {
	q.sock.Complete(q.sock.NumCompleted())
	if len(q.stock) > 0 {
		return
	}
	for _, d := range q.sock.GetDescs(2 * RingSize) {
		if d.Addr >= RingSize*q.umem.chunk { // the second half
			q.stock = append(q.stock, d)
		}
	}
}

// send puts frames into the ring and makes the kernel look at it.
func (q *asavie) send(frames []xdp.Desc) {
	defer func() {
		if err := recover(); err != nil {
			q.stats.TXErrors++ // the frames are in the ring
		}
	}()
	q.stats.Kicks++
	q.sock.Transmit(frames)
}

func (q *asavie) Complete(chunks []uint64) int {
	n := copy(chunks, q.done)
	q.done = append(q.done[:0], q.done[n:]...)
	return n
}

func (q *asavie) Kick() {
	errs := q.stats.TXErrors
	for range kickTries {
		if q.gone || q.sock.NumFreeTxSlots() == RingSize || q.stats.TXErrors != errs {
			return
		}
		q.send(nil)
	}
}

func (q *asavie) ReadStats() QueueStats {
	s := q.stats
	_ = getsockopt(q.FD(), unix.XDP_STATISTICS, &s.Drops)
	return s
}

// Abandon implements Queue. The library says nothing of what it has not sent, which counts
// as transmitted.
func (q *asavie) Abandon(put func(addr uint64)) (unsent int, err error) {
	q.gone = true
	for _, addr := range append(q.spare, q.done...) {
		put(addr)
	}
	q.spare, q.done = nil, nil
	return 0, q.Close()
}

func (q *asavie) Close() error {
	if q.sock.FD() < 0 {
		return nil
	}
	return errors.Join(unmapRings(q.sock), q.sock.Close())
}
