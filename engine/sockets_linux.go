package engine

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
)

// socket is a port that a socket of the host has.
type socket struct {
	proto flow.Proto
	port  uint16
	// passing says that a TCP socket neither listens nor is only bound: it may have its port
	// by connect, for as long as the connection lives.
	passing bool
}

// eachSocket calls found for each socket in the namespace of the thread that has a port of
// TCP, UDP, UDP-Lite or SCTP.
func eachSocket(found func(socket)) error {
	for _, proto := range []flow.Proto{flow.TCP, flow.UDP, flow.UDPLite} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			// A kernel that does not know a protocol looks for a module each time that it is
			// asked about it.
			if _, err := os.Stat("/proc/thread-self/net/udplite"); err != nil && proto == flow.UDPLite {
				continue
			}
			if err := dumpSockets(family, proto, found); err != nil {
				return err
			}
		}
	}
	// sctp_diag may be a module that is not there, so SCTP is asked for its own list.
	f, err := os.Open("/proc/thread-self/net/sctp/eps")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return readEndpoints(f, found)
}

// inetDiagRequest is a request for the sockets of a protocol in any state (struct
// inet_diag_req_v2).
type inetDiagRequest struct {
	family uint8
	proto  flow.Proto
}

// Len implements nl.NetlinkRequestData.
func (r inetDiagRequest) Len() int { return 56 }

// Serialize implements nl.NetlinkRequestData. Sockets that are bound and no more come with a
// bit of their own (TCP_BOUND_INACTIVE, Linux 6.8); before, there is no list of them.
func (r inetDiagRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1] = r.family, uint8(r.proto)
	binary.NativeEndian.PutUint32(b[4:], ^uint32(0))
	return b
}

// dumpSockets lists sockets by sock_diag(7). What a busy host changes meanwhile the next look
// finds.
func dumpSockets(family uint8, proto flow.Proto, found func(socket)) error {
	const least = 72 // struct inet_diag_msg
	const closed = 7 // TCP_CLOSE
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddData(inetDiagRequest{family, proto})
	err := req.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(m []byte) bool {
		if len(m) < least {
			return true
		}
		s := socket{proto: proto, port: binary.BigEndian.Uint16(m[4:])}
		s.passing = proto == flow.TCP && m[1] != netlink.TCP_LISTEN && m[1] != closed
		if s.port != 0 {
			found(s)
		}
		return true
	})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("listing sockets: %w", err)
	}
	return nil
}

// readEndpoints reads /proc/net/sctp/eps: a line for each endpoint, below one that names the
// columns.
func readEndpoints(r io.Reader, found func(socket)) error {
	lines, column := bufio.NewScanner(r), -1
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if column < 0 {
			for i, w := range words {
				if w == "LPORT" {
					column = i
				}
			}
			if column < 0 {
				return errors.New("listing sockets: /proc/net/sctp/eps has no column LPORT")
			}
			continue
		}
		if column >= len(words) {
			continue
		}
		if port, err := strconv.ParseUint(words[column], 10, 16); err == nil && port != 0 {
			found(socket{proto: flow.SCTP, port: uint16(port)})
		}
	}
	return lines.Err()
}
