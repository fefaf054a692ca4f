package soak

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/perf/netlab"
)

// socketBuffer is how much a socket may hold, so that a busy machine loses nothing there.
const socketBuffer = 4 << 20

// grace is how long an answer may take.
const grace = 5 * time.Second

func udpSocket(ns *netlab.NS, network, addr string) (c *net.UDPConn, err error) {
	err = ns.Do(func() error {
		p, err := net.ListenPacket(network, addr)
		if err != nil {
			return err
		}
		c = p.(*net.UDPConn)
		return nil
	})
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return c, errors.Join(raw.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer), anyPath(int(fd), network))
	}), err)
}

// anyPath makes datagrams get through whatever the path MTU is: to find that out costs the
// first one, in any network.
func anyPath(fd int, network string) error {
	const least = 1280 // that a link for IPv6 takes (RFC 8200 section 5)
	err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	if network != "udp4" {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU, least))
	}
	return err
}

// echoUDP sends back whatever comes.
func echoUDP(t *testing.T, ns *netlab.NS, port int) {
	t.Helper()
	for _, network := range []string{"udp4", "udp6"} {
		c, err := udpSocket(ns, network, fmt.Sprint(":", port))
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, from, err := c.ReadFromUDPAddrPort(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = c.WriteToUDPAddrPort(b[:n], from)
				}
			}
		}()
	}
}

var errNoAnswer = errors.New("no answer came")

// asked are requests that wait for their answers, by number.
type asked struct {
	mu   sync.Mutex
	sent map[uint32]time.Time
}

func (a *asked) add(n uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent[n] = time.Now()
}

func (a *asked) take(n uint32) (ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok = a.sent[n]
	delete(a.sent, n)
	return ok
}

// settle waits until all are answered, or are too late.
func (a *asked) settle(l *load) {
	for deadline := time.Now().Add(grace); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		a.mu.Lock()
		n := len(a.sent)
		a.mu.Unlock()
		if n == 0 {
			return
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for n, at := range a.sent {
		l.fail(at, at.Add(time.Second), fmt.Errorf("datagram %d: %w", n, errNoAnswer))
	}
}

// message is a datagram's payload: its number, and bytes that follow from it.
func message(n uint32, size int) []byte {
	b := make([]byte, max(size, 4))
	binary.BigEndian.PutUint32(b, n)
	for i := 4; i < len(b); i++ {
		b[i] = byte(uint32(i) * (n | 1) >> 3)
	}
	return b
}

// numberOf returns the number of a message, if it came whole.
func numberOf(b []byte) (uint32, bool) {
	if len(b) < 4 {
		return 0, false
	}
	n := binary.BigEndian.Uint32(b)
	return n, bytes.Equal(b, message(n, len(b)))
}

// questions sends datagrams from one socket and expects each back. target is asked each
// time where to.
func (s *soak) questions(name string, mapped bool, from *netlab.NS, target func() string, interval time.Duration, sizes ...int) {
	s.begin(name, mapped, func(l *load) {
		c, err := udpSocket(from, "udp", ":0")
		if err != nil {
			l.fail(time.Now(), time.Now(), err)
			return
		}
		defer c.Close()
		wait := &asked{sent: map[uint32]time.Time{}}
		go l.answers(c, wait)
		n := uint32(0)
		s.every(interval, func() {
			n++
			l.ask(c, wait, n, target(), sizes[int(n)%len(sizes)])
		})
		wait.settle(l)
	})
}

func (l *load) ask(c *net.UDPConn, wait *asked, n uint32, to string, size int) {
	l.try()
	wait.add(n)
	addr, err := netip.ParseAddrPort(to)
	if err == nil {
		_, err = c.WriteToUDPAddrPort(message(n, size), addr)
	}
	if err != nil && wait.take(n) {
		l.fail(time.Now(), time.Now(), err)
	}
}

func (l *load) answers(c *net.UDPConn, wait *asked) {
	b := make([]byte, 1<<16)
	for {
		got, _, err := c.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		n, whole := numberOf(b[:got])
		switch {
		case !whole:
			l.fail(time.Now(), time.Now(), fmt.Errorf("a datagram of %d bytes is not one that was sent", got))
		case wait.take(n):
			l.ok(int64(got))
		}
	}
}

// queries asks as resolvers do: each question from a socket, and so a port, of its own.
func (s *soak) queries(name string, mapped bool, from *netlab.NS, target func() string, interval time.Duration) {
	var n atomic.Uint32
	s.begin(name, mapped, func(l *load) {
		var under sync.WaitGroup
		s.every(interval, func() {
			under.Go(func() {
				began := time.Now()
				l.outcome(began, 40, query(from, target(), message(n.Add(1), 40)))
			})
		})
		under.Wait()
	})
}

func query(from *netlab.NS, to string, question []byte) error {
	c, err := udpSocket(from, "udp", ":0")
	if err != nil {
		return err
	}
	defer c.Close()
	addr, err := netip.ParseAddrPort(to)
	if err != nil {
		return err
	}
	if _, err := c.WriteToUDPAddrPort(question, addr); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(grace))
	b := make([]byte, 1500)
	got, _, err := c.ReadFromUDPAddrPort(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errNoAnswer
	}
	if err == nil && !bytes.Equal(b[:got], question) {
		err = fmt.Errorf("%d bytes, not those that were sent", got)
	}
	return err
}

// pings sends echo requests and expects the replies.
func (s *soak) pings(name string, mapped bool, from *netlab.NS, to string, interval time.Duration, size int) {
	s.begin(name, mapped, func(l *load) {
		var c *icmp.PacketConn
		addr := netip.MustParseAddr(to)
		network, request, reply, proto := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
		if addr.Is6() {
			network, request, reply, proto = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
		}
		if err := from.Do(func() (err error) { c, err = icmp.ListenPacket(network, ""); return err }); err != nil {
			l.fail(time.Now(), time.Now(), err)
			return
		}
		defer c.Close()
		id := int(pingID.Add(1))
		wait := &asked{sent: map[uint32]time.Time{}}
		go func() {
			b := make([]byte, 1<<16)
			for {
				got, _, err := c.ReadFrom(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				m, err := icmp.ParseMessage(proto, b[:max(got, 0)])
				if err != nil || m.Type != reply {
					continue
				}
				if e, ok := m.Body.(*icmp.Echo); ok && e.ID == id {
					if n, whole := numberOf(e.Data); whole && wait.take(n) {
						l.ok(int64(got))
					}
				}
			}
		}()
		n := uint32(0)
		s.every(interval, func() {
			n++
			l.try()
			wait.add(n)
			m := icmp.Message{Type: request, Body: &icmp.Echo{ID: id, Seq: int(n & 0xffff), Data: message(n, size)}}
			b, err := m.Marshal(nil)
			if err == nil {
				_, err = c.WriteTo(b, &net.IPAddr{IP: addr.AsSlice()})
			}
			if err != nil && wait.take(n) {
				l.fail(time.Now(), time.Now(), err)
			}
		})
		wait.settle(l)
	})
}

var pingID atomic.Uint32

// doomed sends datagrams that a rule drops; how many is compared with what the rule has
// counted.
func (s *soak) doomed(name string, from *netlab.NS, target string, interval time.Duration) {
	s.begin(name, false, func(l *load) {
		c, err := udpSocket(from, "udp", ":0")
		if err != nil {
			l.fail(time.Now(), time.Now(), err)
			return
		}
		defer c.Close()
		n := uint32(0)
		s.every(interval, func() {
			n++
			_, err := c.WriteToUDPAddrPort(message(n, 100), netip.MustParseAddrPort(target))
			l.outcome(time.Now(), 0, err)
		})
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if n, _, err := c.ReadFromUDPAddrPort(make([]byte, 1500)); err == nil {
			l.fail(time.Now(), time.Now(), fmt.Errorf("an answer of %d bytes came", n))
		}
	})
}

// errorReported sends a datagram that a router on its path must answer with an ICMP error,
// by which the socket fails.
func (s *soak) errorReported(name string, from *netlab.NS, target string, option, value, size int, want syscall.Errno) {
	addr := netip.MustParseAddrPort(target)
	level, receive := unix.IPPROTO_IP, unix.IP_RECVERR
	if addr.Addr().Is6() {
		level, receive = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	s.begin(name, false, func(l *load) {
		s.every(3*time.Second, func() { // ICMP errors are limited to one a second
			began := time.Now()
			l.outcome(began, 0, provoke(from, addr, level, receive, option, value, size, want))
		})
	})
}

func provoke(from *netlab.NS, to netip.AddrPort, level, receive, option, value, size int, want syscall.Errno) error {
	var conn net.Conn
	if err := from.Do(func() (err error) {
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			return errors.Join(raw.Control(func(fd uintptr) {
				err = errors.Join(unix.SetsockoptInt(int(fd), level, receive, 1), unix.SetsockoptInt(int(fd), level, option, value))
			}), err)
		}}
		conn, err = d.DialContext(context.Background(), "udp", to.String())
		return err
	}); err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(grace))
	if _, err := conn.Write(make([]byte, size)); err != nil {
		if errors.Is(err, want) { // remembered from before
			return nil
		}
		return err
	}
	_, err := conn.Read(make([]byte, 100))
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("%w, and not %s", err, want.Error())
}
