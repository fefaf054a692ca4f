package engine

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx"
	"github.com/xdpct/xdpct/rx/capture"
	"github.com/xdpct/xdpct/shard"
)

// TestZones: a zone has its own connections, timeouts and limit, over all shards.
func TestZones(t *testing.T) {
	cfg, err := ReadConfig(strings.NewReader(`
mode: tap
ports: [{interface: lo}]
timeouts: {guests: {nf_conntrack_udp_timeout: 7}}
zones: [{zone: 5, max: 3, timeouts: guests}, {zone: 6}]
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, shards := range []int{1, 3} {
		r, err := NewReplay(cfg.Settings, shards, cfg.Zoning)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		now := time.Unix(1000, 0)
		send := func(zone flow.Zone, sport uint16) shard.Verdict {
			r.SetZone(flow.ZoneID{Zone: zone})
			d := packet.AppendUDP(nil, packet.IP{Src: ipA, Dst: ipB}, sport, 53, nil)
			_, v := r.Frame(&capture.Frame{Time: now, Data: d, Wire: len(d), Link: capture.LinkRaw})
			return v
		}
		for sport := uint16(1); sport <= 4; sport++ {
			v := send(5, sport)
			if full := sport == 4; (v.Reason == flow.ReasonZoneFull) != full || (v.Action == shard.Drop) != full {
				t.Errorf("connection %d of zone 5: %v %v", sport, v.Action, v.Reason)
			}
			for _, z := range []flow.Zone{0, 6} {
				if v := send(z, sport); v.State != flow.New || r.Timeout(v) != 30 {
					t.Errorf("connection %d of zone %d: %v, %d s", sport, z, v.State, r.Timeout(v))
				}
			}
		}
		if v := send(5, 1); v.State != flow.New || r.Timeout(v) != 7 {
			t.Errorf("zone 5: %v, %d s", v.State, r.Timeout(v))
		}
		now = now.Add(8 * time.Second) // those of zone 5 have expired, and make room
		r.SetTime(now)
		if n := len(r.Records()); n != 8 {
			t.Errorf("%d connections are left, want 8", n)
		}
		if v := send(5, 4); v.Action != shard.Accept {
			t.Errorf("after expiry: %v", v.Reason)
		}
	}
}

// TestExpected: what a master expects is RELATED, on whatever shard, and inherits
// its mark; what it still expects goes with it.
func TestExpected(t *testing.T) {
	ctx := context.Background()
	w := newWire(t, rx.DriverXSK, 2, nil)
	syn := func(sport, dport uint16, fromB bool) []byte {
		ip := packet.IP{Src: ipA, Dst: ipB, ID: sport}
		if fromB {
			ip.Src, ip.Dst = ip.Dst, ip.Src
		}
		return packet.AppendEthernet(nil, macA, macB, packet.AppendTCP(nil, ip, sport, dport, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 1000}))
	}
	if n := w.pass(t, 0, 1, func(int) []byte { return syn(1000, 21, false) }); n != 1 {
		t.Fatal("the master did not come through")
	}
	master := w.records(t, flow.TCP)[0].Orig
	mark := flow.Mark(42)
	err := w.e.Update(ctx, flow.Filter{}, func(*flow.Record) (flow.Change, bool) { return flow.Change{Mark: &mark}, true }, func(*flow.Record) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	const children = 20
	for i := range uint16(children + 1) {
		x := expect.Expectation{
			Tuple: flow.Tuple{Src: master.Dst, Dst: master.Src, L4: flow.MakeL4(flow.IPv4, flow.TCP, 0, 0, 3000+i)},
			Mask:  expect.Mask{Src: expect.ExactSource.Src},
		}
		if err := w.e.Expect(ctx, master, x, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.pass(t, 1, children, func(k int) []byte { return syn(uint16(20+k), uint16(3000+k), true) }); n != children {
		t.Errorf("%d of %d children came through", n, children)
	}
	if c := w.total(t); c["RELATED"] != children || c["NEW"] != 1 {
		t.Errorf("%d packets RELATED, %d NEW", c["RELATED"], c["NEW"])
	}
	related := 0
	for _, r := range w.records(t, flow.TCP) {
		if r.Status&flow.Expected != 0 && r.Mark == mark && r.Master == master {
			related++
		}
	}
	left, _ := w.e.Expectations(ctx)
	if related != children || len(left) != 1 {
		t.Errorf("%d children know their master and its mark, %d expectations are left", related, len(left))
	}
	sport := uint16(1000)
	if n, err := w.e.Flush(ctx, flow.Filter{Orig: &flow.TupleFilter{SPort: &sport}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if left, _ = w.e.Expectations(ctx); len(left) != 0 {
		t.Errorf("the master has gone, but not %v", left)
	}
	if err := w.e.Expect(ctx, master, expect.Expectation{}, time.Minute); err == nil {
		t.Error("an expectation without a master was taken")
	}
}

// TestEventsAreSelected: a subscriber gets the events that it asked for, and if it is
// slow is told how many it lost.
func TestEventsAreSelected(t *testing.T) {
	w := newWire(t, rx.DriverXSK, 2, func(c *Config) { c.Settings.Max = 100_000 })
	port := uint16(53)
	sub := w.e.Subscribe(flow.Filter{Orig: &flow.TupleFilter{DPort: &port}}, 1<<flow.EventNew, 0)
	defer sub.Close()
	const flows = 50
	if n := w.pass(t, 0, flows, func(k int) []byte { return udpFrame(uint16(k), uint16(k), false) }); n != flows {
		t.Fatal(n)
	}
	if n := w.pass(t, 1, flows, func(k int) []byte { return udpFrame(uint16(k), uint16(k), true) }); n != flows {
		t.Fatal(n)
	}
	other := packet.AppendEthernet(nil, macA, macB, packet.AppendUDP(nil, packet.IP{Src: ipA, Dst: ipB, ID: 9999}, 1, 80, nil))
	w.pass(t, 0, 1, func(int) []byte { return other })
	// Of each worker the last one comes behind all that nobody asked for.
	const marks = 16
	w.pass(t, 0, marks, func(k int) []byte { return udpFrame(uint16(k), uint16(flows+k), false) })
	for range flows + marks {
		select {
		case e := <-sub.C:
			if e.Kind != flow.EventNew || e.Record.Orig.L4.Dst() != 53 {
				t.Fatalf("%+v", e)
			}
		case <-time.After(testenv.Patience):
			t.Fatal("an event is missing")
		}
	}
	if n := len(sub.C); n != 0 || sub.Lost() != 0 {
		t.Errorf("%d events that nobody asked for", n)
	}
	for n := 0; n < eventQueueSize+1000; n += 1000 { // now nobody reads
		w.pass(t, 0, 1000, func(k int) []byte { return udpFrame(uint16(k), uint16(100+n+k), false) })
	}
	testenv.Until(t, "some events are lost", func() bool { return sub.Lost() > 0 })
	if n := len(sub.C); n != eventQueueSize {
		t.Errorf("%d events wait", n)
	}
}
