package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/rx"
)

// The tests in this file are those of the kernel's
// tools/testing/selftests/net/netfilter that are about tracking alone, each under
// the name of its original. What they check of NAT is not here.

// stacks gives both hosts of a wire an address, and so a stack that answers.
func (w *wire) stacks(t *testing.T) {
	t.Helper()
	for i, ip := range []netip.Addr{ipA, ipB} {
		link, err := w.host[i].Link("eth0")
		if err != nil {
			t.Fatal(err)
		}
		addr, err := netlink.ParseAddr(ip.String() + "/24")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.host[i].Netlink().AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
	}
}

// udpIn opens a UDP socket in a namespace.
func udpIn(t *testing.T, ns *netlab.NS, local netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := ns.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(local))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// records lists the connections of a protocol.
func (w *wire) records(t *testing.T, p flow.Proto) (all []flow.Record) {
	t.Helper()
	err := w.e.List(context.Background(), flow.Filter{Proto: &p}, func(r *flow.Record) error { all = append(all, *r); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// total returns the counters of all shards.
func (w *wire) total(t *testing.T) map[string]uint64 {
	t.Helper()
	st, err := w.e.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	sum := st.Total()
	m := map[string]uint64{}
	for s, n := range sum.States {
		m[flow.State(s).String()] = n
	}
	for r, n := range sum.Reasons {
		m[flow.Reason(r).String()] += n
	}
	return m
}

// Test_conntrack_clash: 128 threads send the first packet of one connection at
// once. All answers come back, and there is one connection.
func Test_conntrack_clash(t *testing.T) {
	const threads = 128
	w := newWire(t, rx.DriverXSK, 2, nil)
	w.stacks(t)
	server := udpIn(t, w.host[1], netip.AddrPortFrom(ipB, 22111))
	go func() {
		var b [64]byte
		for {
			n, from, err := server.ReadFromUDPAddrPort(b[:])
			if err != nil {
				return
			}
			_, _ = server.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	for round := range 20 {
		client := udpIn(t, w.host[0], netip.AddrPortFrom(ipA, uint16(20_000+round)))
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range threads {
			wg.Go(func() {
				<-start
				_, _ = client.WriteToUDPAddrPort([]byte(fmt.Sprint(i)), netip.AddrPortFrom(ipB, 22111))
			})
		}
		close(start)
		wg.Wait()
		_ = client.SetReadDeadline(testenv.Deadline())
		answers := map[string]bool{}
		for len(answers) < threads {
			var b [64]byte
			n, from, err := client.ReadFromUDPAddrPort(b[:])
			if err != nil {
				t.Fatalf("round %d: %d answers of %d: %v", round, len(answers), threads, err)
			}
			if from.Addr().Unmap() != ipB {
				t.Fatalf("an answer from %v", from)
			}
			answers[string(b[:n])] = true
		}
		var mine []flow.Record
		for _, r := range w.records(t, flow.UDP) {
			if r.Orig.L4.Src() == uint16(20_000+round) {
				mine = append(mine, r)
			}
		}
		if len(mine) != 1 || mine[0].Counters[flow.Original].Packets != threads || mine[0].Counters[flow.Reply].Packets != threads {
			t.Fatalf("round %d: %+v", round, mine)
		}
	}
}

// Test_conntrack_reverse_clash: two sockets send to each other at the same moment,
// through different queues. That is one connection, with the ports as they are.
func Test_conntrack_reverse_clash(t *testing.T) {
	w := newWire(t, rx.DriverXSK, 2, nil)
	const rounds = 300
	for n := range uint16(rounds) {
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				src, dst, sport, dport := ipA, ipB, 10_000+n, 20_000+n
				if i == 1 {
					src, dst, sport, dport = dst, src, dport, sport
				}
				d := packet.AppendUDP(nil, packet.IP{Src: src, Dst: dst, ID: n}, sport, dport, []byte("at once"))
				if err := w.raw[i].Send(packet.AppendEthernet(nil, macA, macB, d)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i := range 2 {
			f, err := w.raw[i].Recv(testenv.Patience)
			if err != nil || f == nil {
				t.Fatalf("round %d: nothing came to side %d, %v", n, i, err)
			}
			sport, dport := 20_000+n, 10_000+n
			if i == 1 {
				sport, dport = dport, sport
			}
			if binary.BigEndian.Uint16(f[34:]) != sport || binary.BigEndian.Uint16(f[36:]) != dport {
				t.Fatalf("round %d: the ports have changed: %x", n, f[34:38])
			}
		}
	}
	if all := w.records(t, flow.UDP); len(all) != rounds {
		t.Errorf("%d connections, want %d", len(all), rounds)
	}
}

// Test_conntrack_tcp_unreplied: a SYN that is sent again and again does not keep its
// connection alive.
func Test_conntrack_tcp_unreplied(t *testing.T) {
	w := newWire(t, rx.DriverXSK, 1, func(c *Config) { c.Settings.L4.Timeouts.TCP[flow.TCPSynSent] = 2; c.Settings.Timestamp = true })
	syn := packet.AppendEthernet(nil, macB, macA, packet.AppendTCP(nil, packet.IP{Src: ipA, Dst: ipB}, 1234, 80, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 1000}))
	var begun []int64
	testenv.Until(t, "another connection begins", func() bool {
		if err := w.raw[0].Send(syn); err != nil {
			t.Fatal(err)
		}
		for _, r := range w.records(t, flow.TCP) {
			if !slices.Contains(begun, r.Start) {
				begun = append(begun, r.Start)
			}
			if r.Status&flow.SeenReply != 0 || r.StateName() != "SYN_SENT" {
				t.Fatalf("%+v", r)
			}
		}
		return len(begun) == 2
	})
	if lasted := time.Duration(begun[1] - begun[0]); lasted < 2*time.Second {
		t.Errorf("the connection ended after %v: it must last two seconds", lasted)
	}
}

// Test_conntrack_sctp_collision: both ends send an INIT at once; the INIT ACK of the
// older attempt, which comes late, is INVALID and does not disturb the association.
func Test_conntrack_sctp_collision(t *testing.T) {
	w := newWire(t, rx.DriverXSK, 2, nil)
	const a, b, stale = 2017837359, 1187206187, 164579970
	init := func(tag uint32) []byte {
		return append(binary.BigEndian.AppendUint32(nil, tag), make([]byte, 12)...)
	}
	for i, s := range []struct {
		from  int
		vtag  uint32
		typ   uint8
		value []byte
		want  string // the state that is counted
	}{
		{0, 0, 1, init(a), "NEW"},
		{1, 0, 1, init(b), "ESTABLISHED"},
		{0, b, 2, init(a), "ESTABLISHED"},
		{1, a, 10, []byte("cookie"), "ESTABLISHED"},
		{0, b, 11, nil, "ESTABLISHED"},
		{1, a, 2, init(stale), "INVALID"},
		{0, b, 0, make([]byte, 20), "ESTABLISHED"},
		{1, a, 0, make([]byte, 20), "ESTABLISHED"},
	} {
		before := w.total(t)
		ip, sport, dport := packet.IP{Src: ipA, Dst: ipB}, uint16(1234), uint16(1235)
		if s.from == 1 {
			ip, sport, dport = packet.IP{Src: ipB, Dst: ipA}, dport, sport
		}
		d := packet.AppendSCTP(nil, ip, sport, dport, s.vtag, packet.AppendChunk(nil, s.typ, 0, s.value))
		if n := w.pass(t, s.from, 1, func(int) []byte { return packet.AppendEthernet(nil, macA, macB, d) }); n != 1 {
			t.Fatalf("chunk %d did not come through", i)
		}
		if after := w.total(t); after[s.want] != before[s.want]+1 {
			t.Fatalf("chunk %d of type %d is not %s: %v", i, s.typ, s.want, after)
		}
	}
	all := w.records(t, flow.SCTP)
	if len(all) != 1 || all[0].VTag != [2]uint32{b, a} {
		t.Errorf("%+v", all)
	}
}

// Test_conntrack_icmp_related: errors and redirects about a connection are RELATED,
// over both families, and nothing is INVALID.
func Test_conntrack_icmp_related(t *testing.T) {
	w := newWire(t, rx.DriverXSK, 2, nil)
	router4, router6 := netip.MustParseAddr("10.9.0.254"), netip.MustParseAddr("fe80::1")
	a6, b6 := netip.MustParseAddr("dead:1::99"), netip.MustParseAddr("dead:2::99")
	send := func(from int, d []byte, want string, hops uint8) {
		t.Helper()
		if hops != 0 {
			d[7] = hops
		}
		before := w.total(t)
		if err := w.raw[from].Send(packet.AppendEthernet(nil, macA, macB, d)); err != nil {
			t.Fatal(err)
		}
		if f, err := w.raw[1-from].Recv(testenv.Patience); err != nil || f == nil {
			t.Fatalf("%s: nothing came through, %v", want, err)
		}
		if after := w.total(t); after[want] != before[want]+1 {
			t.Fatalf("not %s: %v", want, after)
		}
	}
	payload := make([]byte, 1300)
	ping4 := packet.AppendICMP(nil, packet.IP{Src: ipA, Dst: ipB}, 8, 0, 1<<16|1, payload)
	ping6 := packet.AppendICMP(nil, packet.IP{Src: a6, Dst: b6}, 128, 0, 1<<16|1, payload)
	send(0, ping4, "NEW", 0)
	send(0, ping6, "NEW", 0)
	send(1, packet.AppendICMP(nil, packet.IP{Src: router4, Dst: ipA}, 3, 4, 1280, ping4[:548]), "RELATED", 0)
	send(1, packet.AppendICMP(nil, packet.IP{Src: b6, Dst: a6}, 2, 0, 1280, ping6[:1232]), "RELATED", 0)
	send(1, packet.AppendICMP(nil, packet.IP{Src: router4, Dst: ipA}, 5, 1, 0x0a090001, ping4[:84]), "RELATED", 0)
	redirect := append(append(a6.AsSlice(), b6.AsSlice()...), 4, 12, 0, 0, 0, 0, 0, 0)
	redirect = append(redirect, ping6[:88]...)
	send(1, packet.AppendICMP(nil, packet.IP{Src: router6, Dst: a6}, 137, 0, 0, redirect), "RELATED", 255)
	if c := w.total(t); c["INVALID"] != 0 {
		t.Errorf("%d packets are INVALID", c["INVALID"])
	}
}

// Test_conntrack_resize: what is over the maximum is not in the table, and while it
// is filled, flushed and listed at once, a listing has everything once.
func Test_conntrack_resize(t *testing.T) {
	ctx := context.Background()
	w := newWire(t, rx.DriverXSK, 1, func(c *Config) { c.Settings.Max = 100 })
	create := func(n int) {
		r := flow.Record{Timeout: 1000}
		r.Orig = flow.Tuple{Src: flow.AddrFrom(ipA), Dst: flow.AddrFrom(ipB), L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, uint16(n), 53)}
		r.Reply, _ = r.Orig.Invert()
		if err := w.e.Create(ctx, r); err != nil {
			t.Error(n, err)
		}
	}
	for n := range 101 {
		create(n)
	}
	if n, err := w.e.Count(ctx); n != 100 || err != nil {
		t.Errorf("%d connections of at most 100, %v", n, err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1000; !stop.Load(); n++ {
			_ = w.raw[0].Send(udpFrame(uint16(n), uint16(n), false))
			if n%16 == 0 {
				time.Sleep(time.Millisecond) // the rate
			}
		}
	})
	for round := range 1000 {
		if round%50 == 0 {
			wg.Go(func() {
				if _, err := w.e.Flush(ctx, flow.Filter{}); err != nil {
					t.Error(err)
				}
			})
		}
		seen := map[flow.Tuple]bool{}
		for _, r := range w.records(t, flow.UDP) {
			if seen[r.Orig] {
				stop.Store(true)
				t.Fatalf("%v is listed twice", r.Orig)
			}
			seen[r.Orig] = true
		}
		if len(seen) > 100 {
			t.Fatalf("%d connections of at most 100", len(seen))
		}
	}
	stop.Store(true)
	wg.Wait()
	n, err := w.e.Count(ctx)
	if listed := len(w.records(t, flow.UDP)); err != nil || listed != n {
		t.Errorf("%d are listed of %d, %v", listed, n, err)
	}
}

// Test_conntrack_dump_flush: listing and flushing by zone touch that zone only.
func Test_conntrack_dump_flush(t *testing.T) {
	ctx := context.Background()
	w := newWire(t, rx.DriverXSK, 2, nil)
	zones := []flow.Zone{123, 124, 125, 0}
	for _, z := range zones {
		for n := range uint16(2) {
			r := flow.Record{Timeout: 1000, Zone: flow.ZoneID{Zone: z}}
			r.Orig = flow.Tuple{Src: flow.AddrFrom(ipA), Dst: flow.AddrFrom(ipB), L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, 1000+n, 53)}
			r.Reply, _ = r.Orig.Invert()
			if err := w.e.Create(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	count := func(z flow.Zone) (n int) {
		if err := w.e.List(ctx, flow.Filter{Zone: &z}, func(*flow.Record) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	left := map[flow.Zone]int{123: 2, 124: 2, 125: 2, 0: 2}
	for _, flush := range []flow.Zone{123, 0} {
		for _, z := range zones {
			if n := count(z); n != left[z] {
				t.Errorf("%d connections in zone %d, want %d", n, z, left[z])
			}
		}
		if n, err := w.e.Flush(ctx, flow.Filter{Zone: &flush}); n != 2 || err != nil {
			t.Errorf("flushing zone %d removed %d, %v", flush, n, err)
		}
		left[flush] = 0
	}
	if n, err := w.e.Count(ctx); n != 4 || err != nil {
		t.Errorf("%d are left, want 4, %v", n, err)
	}
}

// Test_nft_zones_many: one tuple in 2000 zones. None fails to get in, none is slow
// to find.
func Test_nft_zones_many(t *testing.T) {
	ctx := context.Background()
	w := newWire(t, rx.DriverXSK, 1, nil)
	const zones = 2000
	begin := time.Now()
	for z := range flow.Zone(zones) {
		r := flow.Record{Timeout: 1000, Zone: flow.ZoneID{Zone: z}}
		r.Orig = flow.Tuple{Src: flow.AddrFrom(ipA), Dst: flow.AddrFrom(ipB), L4: flow.MakeL4(flow.IPv4, flow.UDP, z, 1000, 53)}
		r.Reply, _ = r.Orig.Invert()
		if err := w.e.Create(ctx, r); err != nil {
			t.Fatalf("zone %d: %v", z, err)
		}
		if _, ok, err := w.e.Get(ctx, r.Orig); !ok || err != nil {
			t.Fatalf("zone %d: not found, %v", z, err)
		}
	}
	t.Logf("%v a connection", time.Since(begin)/zones)
	st, err := w.e.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// With zones in one place it would be 2000/12. The secret is new each time: 4 does happen.
	if p := st.Workers[0].Shard.Table.MaxProbes(); p > 8 {
		t.Errorf("an insertion looked at %d buckets: zones pile up in the index", p)
	}
}
