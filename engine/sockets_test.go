package engine

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
)

// TestSocketsAreKnown: the ports of the host's sockets of all protocols and families are
// kept from translation, those too of TCP sockets that are bound and no more.
func TestSocketsAreKnown(t *testing.T) {
	s := newSite(t, masqueradeRules4, "", nil)
	var bound []socket
	for _, k := range []struct {
		proto  flow.Proto
		typ    int
		port   uint16
		listen bool
	}{
		{flow.UDP, unix.SOCK_DGRAM, 5001, false}, {flow.UDPLite, unix.SOCK_DGRAM, 5002, false},
		{flow.TCP, unix.SOCK_STREAM, 5003, true}, {flow.TCP, unix.SOCK_STREAM, 5004, false},
		{flow.TCP, unix.SOCK_STREAM, 40004, false}, // of those that a rule may name
		{flow.SCTP, unix.SOCK_STREAM, 5005, true},
	} {
		for family, addr := range map[int]func(uint16) unix.Sockaddr{
			unix.AF_INET:  func(port uint16) unix.Sockaddr { return &unix.SockaddrInet4{Port: int(port)} },
			unix.AF_INET6: func(port uint16) unix.Sockaddr { return &unix.SockaddrInet6{Port: int(port) + 100} },
		} {
			port, missing := k.port, false
			if family == unix.AF_INET6 {
				port += 100
			}
			if err := s.router.Do(func() error {
				fd, err := unix.Socket(family, k.typ|unix.SOCK_CLOEXEC, int(k.proto))
				if err != nil {
					missing = err == unix.EPROTONOSUPPORT
					return err
				}
				t.Cleanup(func() { _ = unix.Close(fd) })
				if err := unix.Bind(fd, addr(k.port)); err != nil {
					return err
				}
				if k.listen {
					return unix.Listen(fd, 1)
				}
				return nil
			}); missing {
				t.Logf("the kernel has no sockets of %v", k.proto)
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			bound = append(bound, socket{proto: k.proto, port: port})
		}
	}
	for _, k := range bound {
		s.knowsSocket(t, k.proto, k.port)
	}
}

// TestReadEndpoints: the list of SCTP, as proc_sctp's sctp_eps_seq_show prints it.
func TestReadEndpoints(t *testing.T) {
	var got []uint16
	err := readEndpoints(strings.NewReader(" ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS\n"+
		"00000000c0ffee00 00000000c0ffee08 2   10  29   5005      0 12345 10.50.0.1 192.0.2.1 \n"+
		"00000000c0ffee10 00000000c0ffee18 0   7   0    0         0 12346 \n"), func(s socket) {
		if s.proto != flow.SCTP || s.passing {
			t.Errorf("%+v", s)
		}
		got = append(got, s.port)
	})
	if err != nil || !slices.Equal(got, []uint16{5005}) {
		t.Errorf("ports %v: %v", got, err)
	}
	if readEndpoints(strings.NewReader("something else\n"), func(socket) {}) == nil {
		t.Error("a list without the column is taken for an empty one")
	}
}
