package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/rx"
)

// hopN returns a next hop.
func hopN(n int) nextHop {
	return nextHop{n % 3, netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})}
}

// slowWaiting is waitingHops as lists that are searched.
type slowWaiting struct {
	hops  []*slowHop
	clock int
}

type slowHop struct {
	nextHop
	frames []waitingFrame
	since  int // when it came to hold as many as it does
}

func (s *slowWaiting) held() (n int) {
	for _, h := range s.hops {
		n += len(h.frames)
	}
	return n
}

// first returns the hop that has held as many frames as it does for longest, of those that
// hold n.
func (s *slowWaiting) first(n int) (at int) {
	at = -1
	for i, h := range s.hops {
		if len(h.frames) == n && (at < 0 || h.since < s.hops[at].since) {
			at = i
		}
	}
	return at
}

func (s *slowWaiting) holds(h *slowHop, frames []waitingFrame) {
	s.clock++
	h.frames, h.since = frames, s.clock
}

func (s *slowWaiting) add(n nextHop, f waitingFrame) (gone []waitingFrame) {
	at := slices.IndexFunc(s.hops, func(h *slowHop) bool { return h.nextHop == n })
	if at < 0 {
		if len(s.hops) == maxWaitingHops {
			i := s.first(0)
			s.hops = slices.Delete(s.hops, i, i+1)
		}
		at = len(s.hops)
		s.hops = append(s.hops, &slowHop{nextHop: n})
		s.holds(s.hops[at], nil)
	}
	h := s.hops[at]
	from := h
	if len(h.frames) < maxWaitingHop && s.held() == maxWaiting {
		most := 0
		for _, o := range s.hops {
			most = max(most, len(o.frames))
		}
		from = s.hops[s.first(most)]
	}
	if from != h || len(h.frames) == maxWaitingHop || s.held() == maxWaiting {
		gone = append(gone, from.frames[0])
		s.holds(from, from.frames[1:])
	}
	s.holds(h, append(slices.Clone(h.frames), f))
	return gone
}

// TestWaitingHops compares waitingHops with slowWaiting: which frames go, which hops, and
// what is left, in floods of few and of many next hops.
func TestWaitingHops(t *testing.T) {
	for seed, hops := range []int{1, 4, 6, 7, 40, 600, 1100, 5000} {
		t.Run(fmt.Sprint(hops), func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 1))
			w, s := newWaitingHops(), &slowWaiting{}
			for i := range 6000 {
				n := hopN(r.IntN(hops))
				if r.IntN(3) == 0 {
					n = hopN(r.IntN(min(hops, 5))) // that take more than others
				}
				if r.IntN(400) == 0 && len(s.hops) > 0 { // one answers, or is given up
					at := r.IntN(len(s.hops))
					h := w.hops[s.hops[at].nextHop]
					for _, f := range s.hops[at].frames {
						if got, ok := w.take(h); !ok || got != f {
							t.Fatalf("frame %d: %v is taken, want %v", i, got, f)
						}
					}
					w.remove(h)
					s.hops = slices.Delete(s.hops, at, at+1)
				}
				f := waitingFrame{desc: rx.Desc{Addr: uint64(i)}}
				var got []waitingFrame
				if gone, full := w.add(w.hop(n, 0), f); full {
					got = append(got, gone)
				}
				if want := s.add(n, f); !slices.Equal(got, want) {
					t.Fatalf("frame %d: %v went, want %v", i, got, want)
				}
				if w.held != s.held() || w.held > maxWaiting || len(w.hops) != len(s.hops) || len(w.hops) > maxWaitingHops {
					t.Fatalf("frame %d: %d frames of %d hops, want %d of %d", i, w.held, len(w.hops), s.held(), len(s.hops))
				}
			}
			for _, h := range s.hops {
				got := w.hops[h.nextHop]
				if got == nil || got.held != len(h.frames) {
					t.Fatalf("%v: %+v, want %d frames", h.nextHop, got, len(h.frames))
				}
			}
		})
	}
}

// waiter returns a worker whose frames wait, and what gives it one.
func waiter(t *testing.T, resolve func(int, netip.Addr, *atomic.Bool) bool) (w *worker, send func(nextHop) rx.Desc) {
	t.Helper()
	w = bare(t, 1)[0]
	w.routing.waiting, w.routing.resolve, w.routing.used = newWaitingHops(), resolve, func([]uint32) {}
	return w, func(n nextHop) rx.Desc {
		d, ok := w.chunk(60)
		if !ok {
			t.Fatal("no chunk")
		}
		w.wait(n, waitingFrame{desc: d, in: -1})
		return d
	}
}

// TestOldestWaitingIsDropped: frames that wait for a silent neighbour push out the oldest,
// beyond as many as the kernel keeps by default (unres_qlen), and no other's.
func TestOldestWaitingIsDropped(t *testing.T) {
	const unresQlen = 101 // sysctl net.ipv4.neigh.default.unres_qlen
	w, send := waiter(t, func(int, netip.Addr, *atomic.Bool) bool { return true })
	silent, other := hopN(1), hopN(2)
	free := w.pool.Free()
	send(other)
	var sent []rx.Desc
	for range unresQlen + 20 {
		sent = append(sent, send(silent))
	}
	if n := w.drops[flow.ReasonNoNeighbour]; n != 20 || w.routing.waiting.hops[other].held != 1 {
		t.Errorf("%d are dropped, %d wait for the other neighbour", n, w.routing.waiting.hops[other].held)
	}
	if held := w.routing.waiting.held; held != unresQlen+1 || w.pool.Free() != free-unresQlen-1 {
		t.Errorf("%d held, %d chunks of %d free", held, w.pool.Free(), free)
	}
	for i := range unresQlen {
		if f, ok := w.routing.waiting.take(w.routing.waiting.hops[silent]); !ok || f.desc != sent[20+i] {
			t.Fatalf("frame %d is %v, want %v", i, f.desc, sent[20+i])
		}
	}
}

// TestScanAsksOnceEach: each next hop of a scan is asked for, once for all of its frames,
// also those that came after its first was pushed out, and without memory for them.
func TestScanAsksOnceEach(t *testing.T) {
	asked := map[nextHop]int{}
	_, send := waiter(t, func(out int, a netip.Addr, _ *atomic.Bool) bool { asked[nextHop{out, a}]++; return true })
	const hops = 900 // more than frames may wait
	for i := range 3 * hops {
		send(hopN(i % hops))
	}
	for i := range hops {
		if asked[hopN(i)] != 1 {
			t.Fatalf("hop %d is asked for %d times", i, asked[hopN(i)])
		}
	}
	if got := testing.AllocsPerRun(100, func() { send(hopN(3)) }); got != 0 {
		t.Errorf("%v allocations for a frame that waits", got)
	}
}

// TestFullQueueIsAskedAgain: a question that found no room is asked with the next frame.
func TestFullQueueIsAskedAgain(t *testing.T) {
	room, questions := false, 0
	_, send := waiter(t, func(int, netip.Addr, *atomic.Bool) bool { questions++; return room })
	send(hopN(1))
	room = true
	send(hopN(1))
	send(hopN(1))
	if questions != 2 {
		t.Errorf("%d questions, want one in vain and one more", questions)
	}
}

// TestGivenUpHopIsForgotten: a next hop is forgotten when it was silent for long enough, also
// if its frames were pushed out.
func TestGivenUpHopIsForgotten(t *testing.T) {
	w, send := waiter(t, func(_ int, _ netip.Addr, a *atomic.Bool) bool { a.Store(true); return true })
	w.routing.table = &route.Table{Interfaces: make([]route.Interface, 3)}
	for i := range 700 {
		send(hopN(i))
	}
	free := w.pool.Free()
	for ; w.now < patience+100; w.now += 50 {
		w.tendWaiting()
	}
	if r := w.routing.waiting; len(r.hops) != 0 || r.held != 0 || r.most != 0 || w.pool.Free() != free+maxWaiting {
		t.Errorf("%d hops, %d frames, most %d; %d chunks came back", len(r.hops), r.held, r.most, w.pool.Free()-free)
	}
	if n := w.drops[flow.ReasonNoNeighbour]; n != 700 {
		t.Errorf("%d dropped", n)
	}
}

// noNeighbour returns how many frames were dropped for they had no next hop.
func noNeighbour(t *testing.T, e *Engine) (n uint64) {
	t.Helper()
	s, err := e.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range s.Workers {
		n += w.Shard.Reasons[flow.ReasonNoNeighbour]
	}
	return n
}

// TestScanDoesNotStopResolution: while more frames wait for hosts that are not there than a
// worker holds, one to a host whose address nobody knows yet is delivered, as the kernel does:
// its arp_queue is the neighbour's own.
func TestScanDoesNotStopResolution(t *testing.T) {
	s := newSite(t, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", nil)
	for _, c := range []struct{ name, dead, live string }{{"IPv4", "192.0.2.%d", serverIP}, {"IPv6", "2001:db8:60::%d", server6}} {
		t.Run(c.name, func(t *testing.T) {
			var from, to net.PacketConn
			var config net.ListenConfig
			if err := s.server.Do(func() (err error) {
				to, err = config.ListenPacket(context.Background(), "udp", net.JoinHostPort(c.live, "0"))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			if err := s.client.Do(func() (err error) {
				from, err = config.ListenPacket(context.Background(), "udp", ":0")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			live := netip.MustParseAddr(c.live)
			wan, err := s.router.Netlink().LinkByName("wan")
			if err != nil {
				t.Fatal(err)
			}
			testenv.Until(t, "the router knows no neighbour", func() bool {
				_ = s.router.Netlink().NeighDel(&netlink.Neigh{LinkIndex: wan.Attrs().Index, IP: live.AsSlice()})
				_, known := s.e.router.mirror.Table().Neighbour(1, live)
				return !known
			})
			// Nobody is there: six of them could fill the worker.
			before := noNeighbour(t, s.e)
			for i := range 2 * maxWaiting {
				a := netip.MustParseAddr(fmt.Sprintf(c.dead, 10+i%200))
				_, _ = from.WriteTo([]byte("dead"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 9)))
			}
			testenv.Until(t, "the worker holds as many frames as it may", func() bool { return noNeighbour(t, s.e) > before })
			if _, err := from.WriteTo([]byte("live"), to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			_ = to.SetReadDeadline(testenv.Deadline())
			b := make([]byte, 100)
			if n, _, err := to.ReadFrom(b); err != nil || string(b[:n]) != "live" {
				t.Errorf("%q, %v", b[:n], err)
			}
		})
	}
}
