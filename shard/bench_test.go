package shard

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
)

const million = 1_000_000

// traffic makes batches of UDP packets of numbered connections.
type traffic struct {
	frames [64][]byte
	pkts   [64]packet.Packet
	out    [64]Verdict
}

func newTraffic() *traffic {
	t := &traffic{}
	ip := packet.IP{Src: network.Host(false, 1, flow.IPv4), Dst: network.Host(true, 1, flow.IPv4)}
	for i := range t.frames {
		t.frames[i] = packet.AppendEthernet(nil, packet.MAC{}, packet.MAC{}, packet.AppendUDP(nil, ip, 1, 53, make([]byte, 18)))
		t.frames[i][14+26], t.frames[i][14+27] = 0, 0 // no checksum
	}
	return t
}

// set makes packet i belong to connection n, in its reply direction if asked.
func (t *traffic) set(s *Shard, i, n int, reply bool) {
	ip := t.frames[i][14:]
	src, dst, sport, dport := ip[12:16], ip[16:20], ip[20:22], ip[22:24]
	if reply {
		src, dst, sport, dport = dst, src, dport, sport
	}
	binary.BigEndian.PutUint32(src, 10<<24|uint32(n>>16))
	binary.BigEndian.PutUint32(dst, 11<<24|1)
	binary.BigEndian.PutUint16(sport, uint16(n))
	binary.BigEndian.PutUint16(dport, 53)
	// The header checksum: zero the field, then put the complement of the sum.
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], ^onesSum(ip[:20], 0))
	t.pkts[i].Parse(t.frames[i], len(t.frames[i]), packet.Checks{})
	s.Hash(&t.pkts[i])
}

// offer sends a packet of each connection from first to last-1 at the time now.
func (t *traffic) offer(s *Shard, now int64, first, last int, reply bool) (dropped int) {
	for n := first; n < last; {
		k := min(len(t.frames), last-n)
		for i := range k {
			t.set(s, i, n+i, reply)
		}
		s.Tick(now)
		s.Process(t.pkts[:k], t.out[:k])
		for i := range k {
			if t.out[i].Action == Drop {
				dropped++
			}
		}
		n += k
	}
	return dropped
}

func benchShard(tb testing.TB, conns int) *Shard {
	tb.Helper()
	s, err := New(Config{L4: l4.Linux(), MaxConns: conns, Secret: testSecret}, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// BenchmarkMemory fills a table with a million connections and reports what it
// takes for each: index, slab and wheel.
func BenchmarkMemory(b *testing.B) {
	for range b.N {
		s, t := benchShard(b, million), newTraffic()
		if dropped := t.offer(s, 0, 0, million, false); dropped > 0 || s.Len() != million {
			b.Fatalf("%d connections, %d dropped", s.Len(), dropped)
		}
		per := float64(s.Bytes()) / million
		if per > 144 {
			b.Errorf("%.1f bytes a connection, at most 144 allowed", per)
		}
		b.ReportMetric(per, "bytes/flow")
		b.ReportMetric(float64(s.Len()), "flows")
	}
}

// BenchmarkFillPastMaximum offers two million connections to a table of one
// million, half of which is ASSURED, and reports how many of those were lost.
func BenchmarkFillPastMaximum(b *testing.B) {
	for range b.N {
		lost := 0
		var s *Shard
		var err error
		cfg := Config{L4: l4.Linux(), MaxConns: million, Secret: testSecret, Observe: func(k flow.EventKind, entry uint32) {
			if k == flow.EventDestroy && s.Conn(entry).Status&flow.Assured != 0 {
				lost++
			}
		}}
		s, err = New(cfg, 0)
		if err != nil {
			b.Fatal(err)
		}
		t := newTraffic()
		// Half of them become streams: an answer, and a packet after two seconds.
		t.offer(s, 0, 0, million/2, false)
		t.offer(s, 10, 0, million/2, true)
		t.offer(s, 2500, 0, million/2, false)
		begin := time.Now()
		dropped := t.offer(s, 3000, million, 3*million, false)
		ns := float64(time.Since(begin)) / (2 * million)
		st := s.Stats()
		if lost > 0 || dropped > 0 || st.Table.Evicted != 3*million/2 || s.Len() != million {
			b.Errorf("%d ASSURED lost, %d packets dropped, %d evicted, %d connections", lost, dropped, st.Table.Evicted, s.Len())
		}
		b.ReportMetric(float64(lost), "assured-lost")
		b.ReportMetric(ns, "ns/insert")
		s.Close()
	}
}

// cpuTime returns the processor time of the calling thread, which must be locked: unlike
// the time of day it does not run while others have the processor.
func cpuTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// BenchmarkMassExpiry lets a million connections expire within one second while
// other packets keep coming, and reports how much processor time batches take. What it
// holds is counted: no batch removes more than reapBudget of them.
func BenchmarkMassExpiry(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range b.N {
		s, t := benchShard(b, 2*million), newTraffic()
		for ms := range int64(1000) { // spread over the second in which they will expire
			t.offer(s, ms, int(ms)*million/1000, int(ms+1)*million/1000, false)
		}
		for i := range t.frames {
			t.set(s, i, 2*million+i, false)
		}
		var took []time.Duration
		most := uint64(0)                                                        // connections that one batch has removed
		for us := int64(29_900_000); s.Len() > 64 || us < 32_000_000; us += 50 { // a batch each 50 us: 1.28 Mpps
			begin, before := cpuTime(b), s.Stats().Table.Expired
			s.Tick(us / 1000)
			most = max(most, s.Stats().Table.Expired-before)
			s.Process(t.pkts[:], t.out[:])
			took = append(took, cpuTime(b)-begin)
			if us > 60_000_000 {
				b.Fatalf("%d connections are still there", s.Len())
			}
		}
		slices.Sort(took)
		p999 := took[len(took)*999/1000]
		if most == 0 || most > reapBudget {
			b.Errorf("one batch has removed %d connections, at most %d allowed", most, reapBudget)
		}
		b.ReportMetric(float64(p999.Nanoseconds())/1000, "p99.9-us/batch")
		b.ReportMetric(float64(took[len(took)-1].Nanoseconds())/1000, "max-us/batch")
		b.ReportMetric(float64(len(took)), "batches")
	}
}

// BenchmarkProcess is an established UDP packet, by the number of connections.
func BenchmarkProcess(b *testing.B) {
	for _, flows := range []int{1, 1000, 100_000, million} {
		name := map[int]string{1: "flows=1", 1000: "flows=1k", 100_000: "flows=100k", million: "flows=1M"}[flows]
		b.Run(name, func(b *testing.B) {
			s, t := benchShard(b, max(flows, 64)), newTraffic()
			t.offer(s, 0, 0, flows, false)
			b.ReportAllocs()
			b.ResetTimer()
			n := 0
			for i := 0; i < b.N; i += 64 {
				b.StopTimer()
				for k := range t.frames {
					n = (n + 7919) % flows
					t.set(s, k, n, false)
				}
				b.StartTimer()
				s.Process(t.pkts[:], t.out[:])
			}
		})
	}
}

// TestNoAllocations holds the packet path free of garbage: known connections, new
// ones, evictions and removals.
func TestNoAllocations(t *testing.T) {
	s, tr := benchShard(t, 1000), newTraffic()
	n := 0
	if a := testing.AllocsPerRun(200, func() {
		tr.offer(s, int64(n), n, n+64, false)
		tr.offer(s, int64(n), n, n+64, true)
		n += 64
	}); a != 0 {
		t.Errorf("%v allocations a batch", a)
	}
	if s.Stats().Table.Evicted == 0 {
		t.Error("the test should evict")
	}
}

// BenchmarkWalk is one slice of a listing, as a worker does it between batches:
// 512 entries of a table of a million, copied.
func BenchmarkWalk(b *testing.B) {
	s, t := benchShard(b, million), newTraffic()
	t.offer(s, 0, 0, million, false)
	page := make([]flow.Record, 0, 512)
	b.ReportAllocs()
	b.ResetTimer()
	cursor := uint32(0)
	for range b.N {
		page = page[:0]
		cursor = s.Walk(cursor, 512, func(i uint32, _ *flow.Conn) bool {
			page = append(page, s.Record(i))
			return false
		})
	}
}

// BenchmarkOwnerOf is what it costs to find the shard of a packet: of one shard; of two,
// for packets that translation has nothing to do with; and of two, for those to an address
// that connections are mapped to.
func BenchmarkOwnerOf(b *testing.B) {
	const snat = "*nat\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n"
	for _, c := range []struct {
		name   string
		shards int
		dst    netip.Addr
	}{{"one", 1, serverIP}, {"unconcerned", 2, serverIP}, {"concerned", 2, publicIP}} {
		b.Run(c.name, func(b *testing.B) {
			x := newBox(b, c.shards, snat)
			var pkts [1 << 10]packet.Packet
			for i := range pkts {
				f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, udp(clientIP, c.dst, uint16(i), 53))
				pkts[i].Parse(f, len(f), packet.Checks{})
				x.shards[0].Hash(&pkts[i])
			}
			n := 0
			for i := range b.N {
				n += x.shards[0].OwnerOf(&pkts[i%len(pkts)])
			}
			if n < 0 {
				b.Fatal(n)
			}
		})
	}
}
