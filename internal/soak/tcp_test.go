package soak

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/perf/netlab"
)

// patience is how long a connection may stand still.
const patience = 15 * time.Second

// dial connects from a namespace.
func dial(ns *netlab.NS, addr string) (c net.Conn, err error) {
	err = ns.Do(func() error {
		c, err = net.DialTimeout("tcp", addr, patience)
		return err
	})
	return c, err
}

// listen serves TCP connections of a namespace until the test ends.
func listen(t *testing.T, ns *netlab.NS, port int, serve func(net.Conn)) {
	t.Helper()
	var l net.Listener
	must(t, ns.Do(func() (err error) { l, err = net.Listen("tcp", fmt.Sprint(":", port)); return err }))
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

// A transfer begins with a byte, which says whether the client sends or receives, the
// number of bytes and their rate. After them comes the hash of all that was sent.
const (
	upload   = 'U'
	download = 'D'
	converse = 'C' // whatever the client sends comes back
	header   = 1 + 8 + 8
)

// pace bounds the rate at which a connection sends, in bytes a second.
func pace(c net.Conn, rate uint64) error {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(err, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, int(rate))
	}), err)
}

// progress is a connection that must not stand still.
type progress struct{ net.Conn }

func (p progress) Read(b []byte) (int, error) {
	_ = p.SetReadDeadline(time.Now().Add(patience))
	return p.Conn.Read(b)
}

func (p progress) Write(b []byte) (int, error) {
	_ = p.SetWriteDeadline(time.Now().Add(patience))
	return p.Conn.Write(b)
}

// send sends n random bytes, and then their hash.
func send(c net.Conn, n int64) error {
	var seed [32]byte
	binary.NativeEndian.PutUint64(seed[:], rand.Uint64())
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(c, sum), rand.NewChaCha8(seed), n); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	_, err := c.Write(sum.Sum(nil))
	return err
}

// receive receives what send sends; its error says whether that is what came.
func receive(c io.Reader, n int64) error {
	sum := sha256.New()
	if got, err := io.CopyN(sum, c, n); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", got, n, err)
	}
	said := make([]byte, sha256.Size)
	if _, err := io.ReadFull(c, said); err != nil {
		return fmt.Errorf("the hash: %w", err)
	}
	if !bytes.Equal(said, sum.Sum(nil)) {
		return fmt.Errorf("%d bytes are not those that were sent", n)
	}
	return nil
}

// serveTransfer is the server's side of a transfer.
func serveTransfer(c net.Conn) {
	head := make([]byte, header)
	if _, err := io.ReadFull(c, head); err != nil {
		return
	}
	n, rate := int64(binary.BigEndian.Uint64(head[1:])), binary.BigEndian.Uint64(head[9:])
	switch head[0] {
	case upload:
		verdict := "ok\n"
		if err := receive(progress{c}, n); err != nil {
			verdict = err.Error() + "\n"
		}
		_, _ = io.WriteString(progress{c}, verdict)
	case download:
		if pace(c, rate) == nil {
			_ = send(progress{c}, n)
		}
	case converse:
		_, _ = io.Copy(c, c)
	}
}

// transfer is one transfer from the client's side.
func transfer(c net.Conn, kind byte, n int64, rate uint64) error {
	head := make([]byte, header)
	head[0] = kind
	binary.BigEndian.PutUint64(head[1:], uint64(n))
	binary.BigEndian.PutUint64(head[9:], rate)
	if _, err := c.Write(head); err != nil {
		return err
	}
	if kind == download {
		return receive(progress{c}, n)
	}
	if err := errors.Join(pace(c, rate), send(progress{c}, n)); err != nil {
		return err
	}
	verdict, err := bufio.NewReader(progress{c}).ReadString('\n')
	if err == nil && verdict != "ok\n" {
		err = errors.New("the server: " + verdict)
	}
	return err
}

// transfers transfers n bytes at a rate in bytes a second, again and again. target is asked
// each time where to.
func (s *soak) transfers(name string, mapped bool, from *netlab.NS, target func() string, kind byte, n int64, rate uint64) {
	s.begin(name, mapped, func(l *load) {
		s.every(time.Second, func() {
			began := time.Now()
			c, err := dial(from, target())
			if err == nil {
				over := s.guard(l, c)
				err = transfer(c, kind, n, rate)
				over()
				_ = c.Close()
			}
			l.outcome(began, n, err)
		})
	})
}

// guard closes a connection if it goes by an address of the router that is no more: what
// was under way cannot go on. Call over when it has ended.
func (s *soak) guard(l *load, c net.Conn) (over func()) {
	if !l.mapped {
		return func() {}
	}
	done, gone := make(chan struct{}), s.ended()
	go func() {
		select {
		case <-done:
		case <-gone:
			_ = c.Close()
		}
	}()
	return func() { close(done) }
}

// serveHTTP serves bodies of any size: /?n=SIZE, each followed by its hash.
func serveHTTP(t *testing.T, ns *netlab.NS) {
	t.Helper()
	var l net.Listener
	must(t, ns.Do(func() (err error) { l, err = net.Listen("tcp", fmt.Sprint(":", httpPort)); return err }))
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body := make([]byte, n)
		for i := range body {
			body[i] = byte(rand.Uint32())
		}
		sum := sha256.Sum256(body)
		_, _ = w.Write(append(body, sum[:]...))
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
}

// browse makes a connection for each request, some of them at once.
func (s *soak) browse(name string, mapped bool, from *netlab.NS, target func() string, interval time.Duration) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(_ context.Context, _, addr string) (net.Conn, error) {
			return dial(from, addr)
		},
	}}
	s.begin(name, mapped, func(l *load) {
		turn := 0
		s.every(interval, func() {
			began := time.Now()
			turn++
			n, err := fetch(client, target(), []int{100, 1000, 20_000, 100_000}[turn%4])
			l.outcome(began, n, err)
		})
	})
}

func fetch(client *http.Client, host string, n int) (int64, error) {
	resp, err := client.Get(fmt.Sprintf("http://%s/?n=%d", host, n))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, errors.New(resp.Status)
	}
	return int64(n), receive(resp.Body, int64(n))
}

// idle keeps a connection on which hardly anything is said: something at the beginning,
// then at long intervals, and at the end.
func (s *soak) idle(name string, mapped bool, from *netlab.NS, target func() string, interval time.Duration) {
	s.begin(name, mapped, func(l *load) {
		for s.sending.Err() == nil {
			began := time.Now()
			c, err := dial(from, target())
			if err == nil {
				var gone <-chan struct{}
				if mapped {
					gone = s.ended()
				}
				err = s.keep(c, interval, gone)
				_ = c.Close()
			}
			l.outcome(began, 0, err)
		}
	})
}

// keep says something at intervals until the end, or until the address is gone that the
// connection goes by.
func (s *soak) keep(c net.Conn, interval time.Duration, gone <-chan struct{}) error {
	if _, err := c.Write(append([]byte{converse}, make([]byte, header-1)...)); err != nil {
		return err
	}
	for n := uint64(0); ; n++ {
		b := binary.BigEndian.AppendUint64(nil, n)
		if _, err := (progress{c}).Write(b); err != nil {
			return fmt.Errorf("word %d: %w", n, err)
		}
		back := make([]byte, len(b))
		if _, err := io.ReadFull(progress{c}, back); err != nil || !bytes.Equal(b, back) {
			return fmt.Errorf("word %d came back as %x: %w", n, back, err)
		}
		if s.sending.Err() != nil {
			return nil
		}
		select {
		case <-gone:
			return errors.New("its address is gone")
		case <-s.sending.Done(): // once more
		case <-time.After(interval):
		}
	}
}

// refused connects to where a rule rejects.
func (s *soak) refused(name string, from *netlab.NS, target string) {
	s.begin(name, false, func(l *load) {
		s.every(time.Second, func() {
			began := time.Now()
			c, err := dial(from, target)
			switch {
			case err == nil:
				_ = c.Close()
				err = errors.New("it was let through")
			case errors.Is(err, unix.ECONNREFUSED):
				err = nil
			}
			l.outcome(began, 0, err)
		})
	})
}
