package engine

import (
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/shard"
)

// bare returns n workers of a bridge without queues, whose threads do not run.
func bare(t *testing.T, n int) []*worker {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Mode, cfg.Settings.Max = Bridge, 1000
	cfg.Ports = []PortConfig{{Interface: "left"}, {Interface: "right"}}
	e := &Engine{cfg: cfg, log: slog.New(slog.DiscardHandler), ports: []*port{{}, {}}}
	t.Cleanup(func() { _ = e.release() })
	if err := e.makeWorkers(n); err != nil {
		t.Fatal(err)
	}
	return e.workers
}

// TestTooLongForAChunk: a datagram of our own that no chunk holds is frame_too_large; that
// no chunk is free is said only of one that would have fitted.
func TestTooLongForAChunk(t *testing.T) {
	w := bare(t, 1)[0]
	link, v := make([]byte, 14), &shard.Verdict{Action: shard.Accept}
	most := int(w.umem.MaxFrame()) - len(link)
	free := w.pool.Free()
	w.sendBuilt(link, make([]byte, most+1), 0, v)
	if w.drops[flow.ReasonFrameTooLarge] != 1 || w.drops[flow.ReasonNoChunk] != 0 || w.pool.Free() != free {
		t.Errorf("too long: %d frame_too_large, %d no_chunk, %d chunks of %d left",
			w.drops[flow.ReasonFrameTooLarge], w.drops[flow.ReasonNoChunk], w.pool.Free(), free)
	}
	w.pool.Take(free)
	w.sendBuilt(link, make([]byte, most), 0, v)
	if w.drops[flow.ReasonFrameTooLarge] != 1 || w.drops[flow.ReasonNoChunk] != 1 {
		t.Errorf("none free: %d frame_too_large, %d no_chunk", w.drops[flow.ReasonFrameTooLarge], w.drops[flow.ReasonNoChunk])
	}
}

// TestPatienceBeginsWithTheQuestion: a neighbour is silent if it has not answered for as
// long as the kernel waits since that asks it; while the kernel does not come to that, it is
// asked again, and what found no room there is not lost.
func TestPatienceBeginsWithTheQuestion(t *testing.T) {
	w := bare(t, 1)[0]
	var asked *atomic.Bool
	questions := 0
	w.routing.table = &route.Table{Interfaces: []route.Interface{{Index: 1}}}
	w.routing.waiting = newWaitingHops()
	w.routing.resolve = func(_ int, _ netip.Addr, a *atomic.Bool) bool { asked = a; questions++; return true }
	w.routing.used = func([]uint32) {}
	wait := func() {
		d, ok := w.chunk(60)
		if !ok {
			t.Fatal("no chunk")
		}
		w.wait(nextHop{0, netip.MustParseAddr("192.0.2.1")}, waitingFrame{desc: d, in: -1})
	}
	until := func(now int64) (held int) {
		for ; w.now < now; w.now += 50 {
			w.tendWaiting()
		}
		return w.routing.waiting.held
	}
	wait()
	if n := until(5000); n != 1 || questions != 5 {
		t.Errorf("after five seconds without a question %d frames wait, and the kernel was told %d times", n, questions)
	}
	asked.Store(true)
	if n := until(7900); n != 1 || questions != 5 {
		t.Errorf("2.9 s after the question %d frames wait", n)
	}
	if n := until(8100); n != 0 || w.drops[flow.ReasonNoNeighbour] != 1 {
		t.Errorf("3.1 s after the question %d frames wait", n)
	}
	wait() // for a kernel that never asks
	if n := until(8100 + askPatience + 3100); n != 0 || w.drops[flow.ReasonNoNeighbour] != 2 {
		t.Errorf("%d frames wait for ever", n)
	}
}

// TestWholeHasTheTagOfItsFirstFragment: port and VLAN tag of a datagram are both those of
// its first fragment, so that its zone is one that fragments came by.
func TestWholeHasTheTagOfItsFirstFragment(t *testing.T) {
	w := bare(t, 1)[0]
	w.ports[0].zones = &portZones{vlans: map[uint16]PortZone{7: {ZoneID: flow.ZoneID{Zone: 70}}, 8: {ZoneID: flow.ZoneID{Zone: 80}}}}
	frames, _ := cutDatagram(1)
	var held []handed
	for i, f := range frames {
		vlan := uint16(8)
		if i == 0 {
			vlan = 7
		}
		tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, vlan)
		f = slices.Concat(f[:12], tag, f[12:])
		d, ok := w.chunk(len(f))
		if !ok {
			t.Fatal("no chunk")
		}
		copy(w.umem.Frame(d), f)
		held = append(held, handed{desc: d, port: uint8(min(i, 1))})
	}
	p := w.assemble(held)
	if p.Kind != packet.Data || p.VLAN != 7 || p.Zone.Zone != 70 {
		t.Errorf("kind %v, VLAN %d, zone %v", p.Kind, p.VLAN, p.Zone)
	}
}

// TestChunkRousesAStarvingOwner: a worker that has no free chunk does not sleep while peers
// have given some back, and one that is given back rouses it.
func TestChunkRousesAStarvingOwner(t *testing.T) {
	ws := bare(t, 2)
	owner, peer := ws[0], ws[1]
	chunks := slices.Clone(owner.pool.Peek(owner.pool.Free()))
	owner.pool.Take(len(chunks))
	peer.release(chunks[0])
	if owner.sleep(); owner.loop.Sleeps != 0 {
		t.Error("it sleeps although a chunk is there")
	}
	owner.reclaim()
	if owner.pool.Free() != 1 {
		t.Fatalf("%d free", owner.pool.Free())
	}
	roused := func() bool {
		var b [8]byte
		n, _ := unix.Read(owner.wake, b[:])
		return n == 8
	}
	owner.asleep.Store(true) // with a free chunk
	if peer.release(chunks[1]); roused() {
		t.Error("it is roused for chunks that it does not need")
	}
	owner.starving.Store(true)
	if peer.release(chunks[2]); !roused() {
		t.Error("a chunk that is given back does not rouse it")
	}
	if peer.release(chunks[3]); roused() {
		t.Error("it is roused for each chunk")
	}
}
