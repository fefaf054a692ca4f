package netlab

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Raw sends and receives whole frames on an interface (AF_PACKET).
type Raw struct {
	fd  int
	buf []byte // with room for a VLAN tag in front
	oob []byte
}

// tagLen is the length of a VLAN tag.
const tagLen = 4

// OpenRaw opens an interface of the namespace. Frames that the interface itself
// sends are not received.
func (ns *NS) OpenRaw(ifname string) (*Raw, error) {
	r := &Raw{fd: -1, buf: make([]byte, tagLen+1<<16), oob: make([]byte, 256)}
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
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
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
		n, oob, _, _, err := unix.Recvmsg(r.fd, r.buf[tagLen:], r.oob, unix.MSG_DONTWAIT)
		if err == nil {
			return r.tagged(n, r.oob[:oob]), nil
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

// tagged returns the frame of n bytes that was received, with the VLAN tag that the kernel
// has taken out of it.
func (r *Raw) tagged(n int, oob []byte) []byte {
	frame := r.buf[tagLen : tagLen+n]
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || n < 12 {
		return frame
	}
	for _, m := range msgs {
		// struct tpacket_auxdata: status at 0, vlan_tci at 16, vlan_tpid at 18.
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 ||
			binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		copy(r.buf, frame[:12])
		binary.BigEndian.PutUint16(r.buf[12:], binary.NativeEndian.Uint16(m.Data[18:]))
		binary.BigEndian.PutUint16(r.buf[14:], binary.NativeEndian.Uint16(m.Data[16:]))
		return r.buf[:tagLen+n]
	}
	return frame
}
