package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
)

const (
	demoPort   = 8080
	demoNTP    = 123
	demoNaming = 53
	demoPingID = 1226
)

var (
	leftIP  = netip.MustParseAddr("10.77.0.1")
	rightIP = netip.MustParseAddr("10.77.0.2")
)

// conversation is the demo's connections, still open.
type conversation struct {
	listener *net.TCPListener
	tcp      []*net.TCPConn
	udp      []*net.UDPConn
}

func (c *conversation) close() {
	if c.listener != nil {
		c.listener.Close()
	}
	for _, t := range c.tcp {
		t.Close()
	}
	for _, u := range c.udp {
		u.Close()
	}
}

// in runs f in a namespace: the sockets that it opens belong there.
func in[T any](ns *netlab.NS, f func() (T, error)) (v T, err error) {
	err = ns.Do(func() error {
		v, err = f()
		return err
	})
	return v, err
}

// talk lets the left host talk to the right one and leaves connections open.
func (d *demoNet) talk(ctx context.Context) (c *conversation, err error) {
	c = &conversation{}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := d.startServers(c); err != nil {
		return c, err
	}
	for _, to := range []string{"10.77.0.2", "fd77::2"} {
		ip := net.ParseIP(to)
		conn, err := in(d.left, func() (*net.TCPConn, error) {
			return net.DialTCP("tcp", nil, &net.TCPAddr{IP: ip, Port: demoPort})
		})
		if err != nil {
			return c, err
		}
		c.tcp = append(c.tcp, conn)
		if err := echo(conn, "hello over TCP"); err != nil {
			return c, err
		}
	}
	ask, err := in(d.left, func() (*net.UDPConn, error) {
		return net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(10, 77, 0, 2), Port: demoNaming})
	})
	if err != nil {
		return c, err
	}
	c.udp = append(c.udp, ask)
	if err := echo(ask, "hello over UDP"); err != nil {
		return c, err
	}
	if err := d.ping(); err != nil {
		return c, err
	}
	// A port where nobody listens: the right host answers with an ICMP error.
	deaf, err := in(d.left, func() (*net.UDPConn, error) {
		return net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(10, 77, 0, 2), Port: demoNTP})
	})
	if err != nil {
		return c, err
	}
	c.udp = append(c.udp, deaf)
	_, _ = deaf.Write([]byte("anybody there?"))
	// After two seconds the UDP connection counts as a stream.
	select {
	case <-time.After(2200 * time.Millisecond):
	case <-ctx.Done():
		return c, ctx.Err()
	}
	if err := echo(ask, "hello again"); err != nil {
		return c, err
	}
	time.Sleep(100 * time.Millisecond)
	return c, nil
}

// startServers starts echo servers on the right host.
func (d *demoNet) startServers(c *conversation) error {
	l, err := in(d.right, func() (*net.TCPListener, error) {
		return net.ListenTCP("tcp", &net.TCPAddr{Port: demoPort})
	})
	if err != nil {
		return err
	}
	c.listener = l
	go func() {
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 1<<16)
				for first := true; ; first = false {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					if first { // answer the greeting; swallow what follows
						_, _ = conn.Write(buf[:n])
					}
				}
			}()
		}
	}()
	u, err := in(d.right, func() (*net.UDPConn, error) {
		return net.ListenUDP("udp4", &net.UDPAddr{Port: demoNaming})
	})
	if err != nil {
		return err
	}
	c.udp = append(c.udp, u)
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := u.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteToUDP(buf[:n], from)
		}
	}()
	return nil
}

// demoPatience is how long an answer may take.
const demoPatience = 5 * time.Second

// echo says something and waits to hear it back.
func echo(conn net.Conn, what string) error {
	if err := conn.SetDeadline(time.Now().Add(demoPatience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, what); err != nil {
		return err
	}
	buf := make([]byte, len(what))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return fmt.Errorf("no answer from %v: %w", conn.RemoteAddr(), err)
	}
	return conn.SetDeadline(time.Time{})
}

// ping sends an echo request from the left host; the right one's stack answers.
func (d *demoNet) ping() error {
	conn, err := in(d.left, func() (net.PacketConn, error) { return net.ListenPacket("ip4:icmp", "10.77.0.1") })
	if err != nil {
		return err
	}
	defer conn.Close()
	datagram := packet.AppendICMP(nil, packet.IP{Src: leftIP, Dst: rightIP}, 8, 0, demoPingID<<16|1, nil)
	request := datagram[len(datagram)-8:] // the stack makes the IP header
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: net.IPv4(10, 77, 0, 2)}); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(demoPatience)); err != nil {
		return err
	}
	_, _, err = conn.ReadFrom(make([]byte, 1500))
	if err != nil {
		return fmt.Errorf("no answer to a ping: %w", err)
	}
	return nil
}

// bulk sends over the first TCP connection for a while and returns how many
// bytes the left host's stack took.
func (c *conversation) bulk(ctx context.Context, d time.Duration) (sent int64, took time.Duration, err error) {
	conn := c.tcp[0]
	begin := time.Now()
	if err := conn.SetWriteDeadline(begin.Add(d)); err != nil {
		return 0, 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, 1<<16)
	for {
		n, err := conn.Write(buf)
		sent += int64(n)
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return sent, time.Since(begin), ctx.Err()
		}
		if err != nil {
			return sent, time.Since(begin), err
		}
	}
}
