package netlab

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Raw sends and receives whole frames on an interface (AF_PACKET).
type Raw struct {
	fd  int
	buf []byte
}

// OpenRaw opens an interface of the namespace. Frames that the interface itself
// sends are not received.
func (ns *NS) OpenRaw(ifname string) (*Raw, error) {
	r := &Raw{fd: -1, buf: make([]byte, 1<<16)}
	err := ns.Do(func() error {
		ifi, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		const allProtocols = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, allProtocols); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		return unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: ifi.Index})
	})
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("%s: opening %s: %w", ns.Name, ifname, err)
	}
	return r, nil
}

// Close closes the socket.
func (r *Raw) Close() {
	if r.fd >= 0 {
		unix.Close(r.fd)
	}
	r.fd = -1
}

// Send sends a frame.
func (r *Raw) Send(frame []byte) error {
	_, err := unix.Write(r.fd, frame)
	return err
}

// Recv returns the next frame, valid until the next call, or nil if none comes
// within wait. A wait of 0 only looks.
func (r *Raw) Recv(wait time.Duration) ([]byte, error) {
	for deadline := time.Now().Add(wait); ; {
		n, _, err := unix.Recvfrom(r.fd, r.buf, unix.MSG_DONTWAIT)
		if err == nil {
			return r.buf[:n], nil
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			return nil, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil, nil
		}
		fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return nil, err
		}
	}
}
