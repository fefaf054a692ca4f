package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is a netlink socket. Close ends what waits on it.
type socket struct {
	file *os.File
	conn syscall.RawConn
	seq  uint32
	buf  []byte
	// congested: the kernel has said that it drops messages, and goes on to do so
	// without a word until there are none left to read (NETLINK_S_CONGESTED).
	congested bool
}

// openSocket opens a socket of a netlink protocol in the network namespace of the
// calling thread.
func openSocket(proto int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("binding a netlink socket: %w", err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "netlink")}
	if s.conn, err = s.file.SyscallConn(); err != nil {
		_ = s.file.Close()
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	return s, nil
}

func (s *socket) close() error { return s.file.Close() }

// join subscribes to groups, with room for size bytes that are not read yet.
func (s *socket) join(size int, groups []int) (err error) {
	ctl := s.conn.Control(func(fd uintptr) {
		// More than net.core.rmem_max, where that is allowed: CAP_NET_ADMIN.
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size)
		}
		for _, g := range groups {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g))
		}
	})
	if err = errors.Join(ctl, err); err != nil {
		return fmt.Errorf("subscribing to netlink groups: %w", err)
	}
	return nil
}

// errDrained says that all is read that was there before the kernel dropped messages:
// what it tells from now on is kept again.
var errDrained = errors.New("messages were dropped until now")

// receive waits for a datagram and appends it to b, and then all that are there
// already, until b has limit bytes. The error is ENOBUFS when the kernel begins to drop
// messages, and errDrained when it has ended to do so.
func (s *socket) receive(b []byte, limit int) ([]byte, error) {
	var failed error
	if s.buf == nil {
		s.buf = make([]byte, 1<<18) // the kernel makes its messages as large as that is used
	}
	err := s.conn.Read(func(fd uintptr) (done bool) {
		for {
			n, _, err := unix.Recvfrom(int(fd), s.buf, 0)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				if s.congested {
					s.congested, failed = false, errDrained
					return true
				}
				return len(b) > 0
			case err != nil:
				s.congested = s.congested || errors.Is(err, unix.ENOBUFS)
				failed = err
				return true
			}
			b = append(b, s.buf[:n]...)
			if len(b) >= limit {
				return true
			}
		}
	})
	if err == nil {
		err = failed
	}
	return b, err
}

// send sends one message, whose header it fills in.
func (s *socket) send(typ uint16, flags uint16, body []byte) error {
	s.seq++
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(b, uint32(len(b)+len(body)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	binary.NativeEndian.PutUint32(b[8:], s.seq)
	b = append(b, body...)
	var failed error
	err := s.conn.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return !errors.Is(failed, unix.EAGAIN)
	})
	if err == nil {
		err = failed
	}
	return err
}

// errInterrupted says that what a dump read changed meanwhile, so that it may have
// holes (NLM_F_DUMP_INTR).
var errInterrupted = errors.New("the dump was interrupted by a change")

// dump asks for a list and calls visit for each message of it. The error is
// errInterrupted if the list was read to its end, but may have holes.
func (s *socket) dump(typ uint16, body []byte, visit func(message) error) error {
	if err := s.send(typ, unix.NLM_F_DUMP, body); err != nil {
		return fmt.Errorf("asking for a dump: %w", err)
	}
	interrupted := false
	var buf []byte
	for {
		b, err := s.receive(buf[:0], 1)
		if err != nil {
			return fmt.Errorf("reading a dump: %w", err)
		}
		buf = b
		for m, err := range messages(b) {
			if err != nil {
				return err
			}
			if m.seq != s.seq {
				continue // of a dump that was given up
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.typ {
			case unix.NLMSG_DONE:
				if len(m.body) >= 4 {
					if e := int32(binary.NativeEndian.Uint32(m.body)); e < 0 {
						return fmt.Errorf("reading a dump: %w", unix.Errno(-e))
					}
				}
				if interrupted {
					return errInterrupted
				}
				return nil
			case unix.NLMSG_ERROR:
				if len(m.body) >= 4 {
					if e := int32(binary.NativeEndian.Uint32(m.body)); e != 0 {
						return fmt.Errorf("asking for a dump: %w", unix.Errno(-e))
					}
				}
				continue
			}
			if err := visit(m); err != nil {
				return err
			}
		}
	}
}

// message is a netlink message. Its body is borrowed from the buffer that it came in.
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte
}

var errShort = errors.New("a netlink message is cut off")

// messages splits a buffer into its messages.
func messages(b []byte) func(yield func(message, error) bool) {
	return func(yield func(message, error) bool) {
		for len(b) > 0 {
			if len(b) < unix.NLMSG_HDRLEN {
				yield(message{}, errShort)
				return
			}
			n := int(binary.NativeEndian.Uint32(b))
			if n < unix.NLMSG_HDRLEN || n > len(b) {
				yield(message{}, errShort)
				return
			}
			m := message{
				typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
				seq: binary.NativeEndian.Uint32(b[8:]), body: b[unix.NLMSG_HDRLEN:n],
			}
			if !yield(m, nil) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

func align(n int) int { return (n + 3) &^ 3 }

// attributes splits what follows the fixed header of a message into its attributes. A
// cut-off one ends it.
func attributes(b []byte) func(yield func(typ uint16, value []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

func u16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(b)
}

func u8(b []byte) uint8 {
	if len(b) < 1 {
		return 0
	}
	return b[0]
}

// text is a string that ends in a zero byte.
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// appendAttribute appends an attribute, padded.
func appendAttribute(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	return append(b, make([]byte, align(len(value))-len(value))...)
}

// subscription delivers the messages of groups, and says when some were lost.
type subscription struct {
	groups []int
	size   int
	sock   *socket
	batch  chan batch
	// congested: the kernel drops messages at present. What is read by a dump now
	// would be old before it could be kept up to date. Run's.
	congested bool
}

// batch is messages as they came, or the reason why there are none. The bytes are the
// receiver's.
type batch struct {
	from *subscription
	sock *socket // that it came by
	b    []byte
	err  error
}

// batchBytes is how many bytes of messages are handed over at once.
const batchBytes = 1 << 16

// read hands over what comes until the socket is closed or fails for good. It goes on
// after ENOBUFS and errDrained, which it hands over.
func (s *subscription) read(sock *socket, stop <-chan struct{}) {
	for {
		b, err := sock.receive(nil, batchBytes)
		if err != nil && len(b) > 0 {
			if !s.give(batch{s, sock, b, nil}, stop) {
				return
			}
			b = nil
		}
		if !s.give(batch{s, sock, b, err}, stop) || err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, errDrained) {
			return
		}
	}
}

func (s *subscription) give(b batch, stop <-chan struct{}) bool {
	select {
	case s.batch <- b:
		return true
	case <-stop:
		return false
	}
}

// refusal reads what has come, and returns the error that the last message of ours was
// answered with: the kernel has done what it was sent when send returns (netlink_unicast_kernel),
// and says so only if it could not.
func (s *socket) refusal() (refused error) {
	if s.buf == nil {
		s.buf = make([]byte, 1<<13)
	}
	if err := s.conn.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return
			}
			for m, err := range messages(s.buf[:n]) {
				if err == nil && m.typ == unix.NLMSG_ERROR && m.seq == s.seq && len(m.body) >= 4 {
					if e := int32(binary.NativeEndian.Uint32(m.body)); e < 0 {
						refused = unix.Errno(-e)
					}
				}
			}
		}
	}); err != nil {
		return err
	}
	return refused
}

func putU32(b []byte, v uint32) { binary.NativeEndian.PutUint32(b, v) }
