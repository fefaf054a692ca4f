package rx

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// lab is a veth pair, one end of which has a program and a queue.
type lab struct {
	umem *UMEM
	pool *Pool
	ifi  Interface
	box  *netlab.NS
	far  *netlab.NS
	peer *netlab.Raw
}

const labChunks = 256

func newLab(t *testing.T) *lab {
	t.Helper()
	testenv.Root(t)
	l := &lab{}
	var err error
	if l.box, err = netlab.NewNS("box"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.box.Close)
	if l.far, err = netlab.NewNS("far"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.far.Close)
	for _, ns := range []*netlab.NS{l.box, l.far} {
		if err := ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlab.Join(netlab.Port{NS: l.box, Name: "port"}, netlab.Port{NS: l.far, Name: "far"}); err != nil {
		t.Fatal(err)
	}
	if l.peer, err = l.far.OpenRaw("far"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.peer.Close() })
	if err := l.box.Do(func() (err error) { l.ifi, err = LookupInterface("port"); return err }); err != nil {
		t.Fatal(err)
	}
	if l.umem, err = NewUMEM(labChunks, MaxChunk); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.umem.Close(); err != nil {
			t.Error(err)
		}
	})
	l.pool = NewPool(l.umem, 0, labChunks)
	return l
}

// frame is one of ours: number n, in so many bytes.
func frame(n uint32, size int) []byte {
	f := make([]byte, size)
	copy(f, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}) // an EtherType for experiments
	binary.BigEndian.PutUint32(f[14:], n)
	for i := 18; i < size; i++ {
		f[i] = byte(i * int(n|1))
	}
	return f
}

// expect waits for frames from the far end, in order.
func (l *lab) expect(t *testing.T, want [][]byte) {
	t.Helper()
	for _, w := range want {
		got, err := l.peer.Recv(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, w) {
			t.Fatalf("got %x, want %x", got, w)
		}
	}
}

// whole checks that the pool has every chunk once.
func (l *lab) whole(t *testing.T) {
	t.Helper()
	seen := map[uint64]bool{}
	for _, a := range l.pool.free {
		seen[a] = true
	}
	if len(l.pool.free) != labChunks || len(seen) != labChunks {
		t.Errorf("%d free chunks, %d different ones, of %d", len(l.pool.free), len(seen), labChunks)
	}
}

// TestQueue reflects frames of all sizes with each driver and in each mode, drops some,
// and has every chunk back in the end.
func TestQueue(t *testing.T) {
	for _, d := range []Driver{DriverXSK, DriverAsavie} {
		for _, m := range []XDPMode{ModeDriver, ModeGeneric} {
			t.Run(string(d)+"/"+string(m), func(t *testing.T) { testQueue(t, d, m) })
		}
	}
}

func testQueue(t *testing.T, d Driver, m XDPMode) {
	l := newLab(t)
	var q Queue
	var p *Program
	if err := l.box.Do(func() (err error) {
		var took int
		if q, took, err = OpenQueue(l.umem, l.ifi.Index, 0, nil, l.pool.Peek(labChunks/2), QueueOptions{Driver: d}); err != nil {
			return err
		}
		l.pool.Take(took)
		p, err = LoadProgram(&l.ifi, []Queue{q}, ProgramOptions{Steer: SteerAll, MaxFrame: l.umem.MaxFrame(), Mode: m})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	rand := rand.New(rand.NewPCG(1, 2))
	next, sent := uint32(0), uint64(0)
	for range 50 {
		var in, back [][]byte
		for range 1 + rand.IntN(40) {
			in = append(in, frame(next, 60+rand.IntN(1400)))
			next++
		}
		for _, f := range in {
			if err := l.peer.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		var out []Desc
		got := 0
		for deadline := time.Now().Add(5 * time.Second); got < len(in); {
			var ds [16]Desc
			n := q.Receive(ds[:])
			for _, x := range ds[:n] {
				if f := l.umem.Frame(x); !bytes.Equal(f, in[got]) {
					t.Fatalf("received %x, want %x", f, in[got])
				}
				if got++; rand.IntN(4) == 0 {
					l.pool.Put(x.Addr)
					continue
				}
				out = append(out, x)
				back = append(back, in[got-1])
			}
			l.pool.Refill(q, labChunks)
			q.WakeRX()
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d frames came", got, len(in))
			}
		}
		if n := q.Transmit(out); n != len(out) {
			t.Fatalf("%d of %d frames were taken", n, len(out))
		}
		sent += uint64(len(out))
		q.Kick()
		l.expect(t, back)
		var addrs [8]uint64
		for n := len(addrs); n == len(addrs); {
			n = q.Complete(addrs[:])
			for _, a := range addrs[:n] {
				l.pool.Put(a)
			}
		}
	}
	if s := q.ReadStats(); s.Received != uint64(next) || s.Transmitted != sent || s.Drops.Rx_dropped != 0 {
		t.Errorf("%+v: received %d, sent %d", s, next, sent)
	}
	s, err := p.Stats()
	if err != nil || s.Steered != uint64(next) {
		t.Errorf("%+v, %v: steered %d", s, err, next)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := q.Abandon(l.pool.Put); err != nil {
		t.Error(err)
	}
	l.whole(t)
}

// TestSender sends more frames than one system call takes by AF_PACKET, then to a link
// that is down, and has every chunk back.
func TestSender(t *testing.T) {
	l := newLab(t)
	var q Queue
	if err := l.box.Do(func() (err error) { q, err = OpenSender(l.umem, &l.ifi, 0); return err }); err != nil {
		t.Fatal(err)
	}
	if Receives(q) || q.Room(1) != 0 || q.Fill([]uint64{0}) != 0 || q.Receive(make([]Desc, 1)) != 0 {
		t.Error("it receives")
	}
	fill := func(n int) (ds []Desc, want [][]byte) {
		for i := range n {
			f := frame(uint32(i), 60+i)
			d := Desc{Addr: l.pool.Peek(1)[0] + Headroom, Len: uint32(len(f))}
			l.pool.Take(1)
			copy(l.umem.Frame(d), f)
			ds, want = append(ds, d), append(want, f)
		}
		return ds, want
	}
	complete := func() {
		var addrs [7]uint64
		for n := q.Complete(addrs[:]); n > 0; n = q.Complete(addrs[:]) {
			for _, a := range addrs[:n] {
				l.pool.Put(a)
			}
		}
	}
	ds, want := fill(2*sendBatch + 3)
	if n := q.Transmit(ds); n != len(ds) {
		t.Fatalf("%d of %d frames were taken", n, len(ds))
	}
	l.expect(t, want)
	complete()
	l.whole(t)

	if err := l.box.SetUp("port", false); err != nil {
		t.Fatal(err)
	}
	ds, _ = fill(3)
	if n := q.Transmit(ds); n != len(ds) {
		t.Fatalf("%d of %d frames were taken by a link that is down", n, len(ds))
	}
	if s := q.ReadStats(); s.TXDown != 3 || s.Drops.Tx_invalid_descs != 0 {
		t.Errorf("%+v: three frames were refused", s)
	}
	if _, err := q.Abandon(l.pool.Put); err != nil {
		t.Error(err)
	}
	l.whole(t)
}

// TestNothingIsSentLate: frames for a link that is down are dropped and counted, and so are
// those that a device without a carrier takes. None comes later, and every chunk is back.
func TestNothingIsSentLate(t *testing.T) {
	l := newLab(t)
	var q Queue
	if err := l.box.Do(func() (err error) {
		q, _, err = OpenQueue(l.umem, l.ifi.Index, 0, nil, nil, QueueOptions{TXBudget: 8})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	number := uint32(0)
	send := func(n int) (want [][]byte) {
		var ds []Desc
		for range n {
			number++
			f := frame(number, 100)
			d := Desc{Addr: l.pool.Peek(1)[0] + Headroom, Len: uint32(len(f))}
			l.pool.Take(1)
			copy(l.umem.Frame(d), f)
			ds, want = append(ds, d), append(want, f)
		}
		if n := q.Transmit(ds); n != len(ds) {
			t.Fatalf("%d of %d frames were taken", n, len(ds))
		}
		q.Kick()
		return want
	}
	complete := func() {
		var addrs [3]uint64
		for n := q.Complete(addrs[:]); n > 0; n = q.Complete(addrs[:]) {
			for _, a := range addrs[:n] {
				l.pool.Put(a)
			}
		}
	}
	setUp := func(ns *netlab.NS, name string, up bool) {
		if err := ns.SetUp(name, up); err != nil {
			t.Fatal(err)
		}
	}
	setUp(l.box, "port", false)
	send(10)
	complete()
	l.whole(t)
	setUp(l.box, "port", true)
	l.expect(t, send(5))
	complete()
	l.whole(t)

	setUp(l.far, "far", false)
	send(7)
	complete()
	l.whole(t)
	setUp(l.far, "far", true)
	l.peer.Close() // it remembers that the link was down
	var err error
	if l.peer, err = l.far.OpenRaw("far"); err != nil {
		t.Fatal(err)
	}
	l.expect(t, send(5))
	complete()
	if s := q.ReadStats(); s.TXDown != 10 || s.TXDropped != 7 || s.Transmitted != 10 || s.TXErrors != 0 {
		t.Errorf("%+v: ten frames were for a link that was down, seven for one without a carrier", s)
	}
	if _, err := q.Abandon(l.pool.Put); err != nil {
		t.Error(err)
	}
	l.whole(t)
}

// TestLinkFlaps: a link goes down and comes up, again and again, while frames are sent, also
// when the kernel has read a part of the ring only. No chunk comes back twice or never, and
// no frame comes twice, late or in disorder.
func TestLinkFlaps(t *testing.T) {
	l := newLab(t)
	var q Queue
	if err := l.box.Do(func() (err error) {
		q, _, err = OpenQueue(l.umem, l.ifi.Index, 0, nil, nil, QueueOptions{TXBudget: 8, ForceCopy: true})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	number, last, queued, came := uint32(0), uint32(0), uint64(0), uint64(0)
	up := true
	drain := func(wait time.Duration) {
		for {
			got, err := l.peer.Recv(wait)
			if err != nil {
				t.Fatal(err)
			}
			if got == nil {
				return
			}
			n := binary.BigEndian.Uint32(got[14:])
			if n <= last {
				t.Fatalf("frame %d came after frame %d", n, last)
			}
			last, came = n, came+1
		}
	}
	for turn := range 300 {
		if turn%4 == 0 || turn == 299 {
			up = !up || turn == 299
			if err := l.box.SetUp("port", up); err != nil {
				t.Fatal(err)
			}
		}
		var ds []Desc
		for range []int{64, 3, 20, 1, 50, 5}[r.IntN(6)] {
			if l.pool.Free() == 0 {
				break
			}
			number++
			f := frame(number, 100)
			d := Desc{Addr: l.pool.Peek(1)[0] + Headroom, Len: uint32(len(f))}
			l.pool.Take(1)
			copy(l.umem.Frame(d), f)
			ds = append(ds, d)
		}
		n := q.Transmit(ds)
		queued += uint64(n)
		for _, d := range ds[n:] {
			l.pool.Put(d.Addr)
		}
		if r.IntN(3) == 0 { // a Kick that is cut short
			_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(q.(*xsk).fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
		} else {
			q.Kick()
		}
		var addrs [64]uint64
		for n := q.Complete(addrs[:]); n > 0; n = q.Complete(addrs[:]) {
			for _, a := range addrs[:n] {
				l.pool.Put(a)
			}
		}
		if free := l.pool.Free(); free > labChunks {
			t.Fatalf("turn %d: %d free chunks of %d", turn, free, labChunks)
		}
		drain(time.Millisecond)
	}
	q.Kick()
	drain(time.Second)
	if last != number {
		t.Errorf("the last frame that came is %d of %d", last, number)
	}
	if s := q.ReadStats(); s.Transmitted+s.TXDown+s.TXDropped != queued || s.Transmitted < came || s.TXDown == 0 || s.Drops.Tx_invalid_descs != 0 {
		t.Errorf("%+v of %d, of which %d came", s, queued, came)
	}
	if _, err := q.Abandon(l.pool.Put); err != nil {
		t.Error(err)
	}
	l.whole(t)
}

// TestProgramCountsFates: what is too large for a chunk, and what has no socket, is
// dropped and counted.
func TestProgramCountsFates(t *testing.T) {
	l := newLab(t)
	var p *Program
	if err := l.box.Do(func() (err error) {
		p, err = LoadProgram(&l.ifi, []Queue{}, ProgramOptions{Steer: SteerAll, MaxFrame: 1000, Mode: ModeDriver})
		return err
	}); err == nil {
		p.Close()
		t.Fatal("a program without sockets loads")
	}
	var q Queue
	if err := l.box.Do(func() (err error) {
		if q, _, err = OpenQueue(l.umem, l.ifi.Index, 0, nil, l.pool.Peek(1), QueueOptions{}); err != nil {
			return err
		}
		p, err = LoadProgram(&l.ifi, []Queue{q}, ProgramOptions{Steer: SteerAll, MaxFrame: 1000, Mode: ModeDriver})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	defer p.Close()
	if err := p.objs.maps.Sockets.Delete(uint32(0)); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{100, 1000, 1001, 1400} {
		if err := l.peer.Send(frame(1, size)); err != nil {
			t.Fatal(err)
		}
	}
	want := ProgramStats{NoSocket: 2, TooLarge: 2}
	var got ProgramStats
	testenv.Until(t, fmt.Sprintf("%+v", want), func() bool {
		var err error
		if got, err = p.Stats(); err != nil {
			t.Fatal(err)
		}
		return got == want
	})
}

// tunPI is a tun device that says the protocol of each packet, as those do that are made
// without IFF_NO_PI.
func tunPI(t *testing.T, ns *netlab.NS) (fd int, ifi Interface) {
	t.Helper()
	if err := ns.Do(func() (err error) {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("pi")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TUN)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := ns.SetUp("pi", true); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() (err error) { ifi, err = LookupInterface("pi"); return err }); err != nil {
		t.Fatal(err)
	}
	return fd, ifi
}

// TestProtocolWithoutLink sends datagrams on a device without a link header by each kind
// of socket: that of AF_XDP leaves their protocol 0, which is why AF_PACKET is used there.
func TestProtocolWithoutLink(t *testing.T) {
	l := newLab(t)
	fd, ifi := tunPI(t, l.box)
	datagrams := [][]byte{make([]byte, 60), make([]byte, 70)}
	datagrams[0][0], datagrams[1][0] = 0x45, 0x60
	for _, c := range []struct {
		noLink bool
		want   [2]uint16
	}{{true, [2]uint16{0x0800, 0x86dd}}, {false, [2]uint16{0, 0}}} {
		var q Queue
		var took int
		open := func() (err error) {
			q, took, err = OpenQueue(l.umem, ifi.Index, 0, nil, l.pool.Peek(4), QueueOptions{NoLink: c.noLink})
			return err
		}
		var err error
		testenv.Until(t, "the kernel has let go of the socket before", func() bool { err = l.box.Do(open); return !errors.Is(err, unix.EBUSY) })
		if err != nil {
			t.Fatal(err)
		}
		l.pool.Take(took)
		var ds []Desc
		for _, d := range datagrams {
			x := Desc{Addr: l.pool.Peek(1)[0] + Headroom, Len: uint32(len(d))}
			l.pool.Take(1)
			copy(l.umem.Frame(x), d)
			ds = append(ds, x)
		}
		if n := q.Transmit(ds); n != len(ds) {
			t.Fatalf("%d of %d were taken", n, len(ds))
		}
		q.Kick()
		for i, want := range c.want {
			b := make([]byte, 200)
			n := 0
			// The host may have something to say as well, in other lengths.
			for deadline := testenv.Deadline(); n != 4+len(datagrams[i]); {
				var err error
				if n, err = unix.Read(fd, b); err == unix.EAGAIN {
					time.Sleep(time.Millisecond)
				}
				if time.Now().After(deadline) {
					t.Fatal("nothing came")
				}
			}
			if got := binary.BigEndian.Uint16(b[2:]); got != want || !bytes.Equal(b[4:n], datagrams[i]) {
				t.Errorf("without link header %v: protocol %#x, want %#x", c.noLink, got, want)
			}
		}
		if _, err := q.Abandon(l.pool.Put); err != nil {
			t.Error(err)
		}
		l.whole(t)
	}
}

// BenchmarkTun sends datagrams of 60 bytes on a tun device that nobody reads, in batches
// of 64: most are dropped behind the socket.
func BenchmarkTun(b *testing.B) {
	for _, noLink := range []bool{true, false} {
		b.Run(map[bool]string{true: "packet", false: "xdp"}[noLink], func(b *testing.B) {
			testenv.Root(b)
			ns, err := netlab.NewNS("box")
			if err != nil {
				b.Fatal(err)
			}
			defer ns.Close()
			tun, err := ns.OpenTun("tun", netlab.TunOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer tun.Close()
			umem, err := NewUMEM(labChunks, MaxChunk)
			if err != nil {
				b.Fatal(err)
			}
			defer umem.Close()
			pool := NewPool(umem, 0, labChunks)
			var q Queue
			if err := ns.Do(func() error {
				ifi, err := LookupInterface("tun")
				if err == nil {
					q, _, err = OpenQueue(umem, ifi.Index, 0, nil, nil, QueueOptions{NoLink: noLink, TXBudget: 128})
				}
				return err
			}); err != nil {
				b.Fatal(err)
			}
			defer q.Close()
			var addrs [64]uint64
			sent := 0
			defer func() { b.ReportMetric(float64(sent)/float64(b.N), "taken/op") }()
			for n := 0; n < b.N; {
				ds := make([]Desc, 0, 64)
				for _, a := range pool.Peek(64) {
					umem.mem[a+Headroom] = 0x45
					ds = append(ds, Desc{Addr: a + Headroom, Len: 60})
				}
				took := q.Transmit(ds)
				sent += took
				pool.Take(len(ds))
				for _, d := range ds[took:] {
					pool.Put(d.Addr)
				}
				q.Kick()
				n += len(ds)
				for k := len(addrs); k == len(addrs); {
					k = q.Complete(addrs[:])
					for _, a := range addrs[:k] {
						pool.Put(a)
					}
				}
			}
		})
	}
}
