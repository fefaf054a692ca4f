package shard

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
)

// box is a number of shards that translate together, and do not route: packets that come
// by one of two interfaces leave by the other.
type box struct {
	shards []*Shard
	shared *nat.Shared
	now    int64
	keys   *flow.GREKeys
}

func newBox(t testing.TB, shards int, rules string) *box {
	t.Helper()
	const conns = 1 << 14
	b := &box{shared: nat.NewShared(shards, conns, nat.Key{1, 2})}
	for i := range shards {
		s, err := New(Config{
			L4: l4.Linux(), Checks: packet.Checks{Transport: true}, MaxConns: conns, Forwards: true, Translates: true,
			Secret: flow.Secret{1, 2, 3, 4, 5, 6, 7}, Seed: 1, NAT: b.shared, Number: i, Shards: shards,
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		b.shards = append(b.shards, s)
	}
	b.setRules(t, rules)
	return b
}

// setRules puts rules into force as an engine does: what is concerned first.
func (b *box) setRules(t testing.TB, rules string) {
	t.Helper()
	r, err := syntax.Parse(strings.NewReader(rules), "rules", flow.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(r, nil, []string{"inside", "outside"}, nat.Key{1, 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := b.shared.Directory; d != nil {
		ranges, _, all := policy.NATAddrs(r)
		set := nat.NewAddrSet(ranges, all)
		d.SetFilter(d.Filter().Union(set))
		for _, s := range b.shards {
			for cursor, first := uint32(0), true; first || cursor != 0; first = false {
				var refused int
				if cursor, _, refused = s.Cover(cursor, 16, set); refused > 0 {
					t.Fatalf("%d tuples are refused", refused)
				}
			}
		}
	}
	for _, s := range b.shards {
		s.SetForwarding(&Forwarding{Rules: p})
	}
}

// pass lets an IP datagram come in, and returns it as it leaves, nil if it does not.
func (b *box) pass(in int, datagram []byte) ([]byte, Verdict) {
	b.now++
	for _, s := range b.shards {
		s.Tick(b.now)
	}
	f := packet.AppendEthernet(nil, packet.MAC{2, byte(in)}, packet.MAC{4}, datagram)
	var p [1]packet.Packet
	var v [1]Verdict
	p[0].Parse(f, len(f), packet.Checks{Transport: true, Keys: b.keys})
	p[0].In = in
	b.shards[0].Hash(&p[0])
	s := b.shards[b.shards[0].OwnerOf(&p[0])]
	s.Process(p[:], v[:])
	if v[0].Action == HandOver {
		r := s.TakeRaw()
		if len(r) != 1 {
			panic("nothing is handed over")
		}
		b.shards[v[0].Out].Resume(&p[0], r[0], &v[0])
	}
	if v[0].Action != Accept {
		return nil, v[0]
	}
	return p[0].Frame[14:], v[0]
}

// len returns the number of connections.
func (b *box) len() (n int) {
	for _, s := range b.shards {
		n += s.Len()
	}
	return n
}

// flush removes all connections, as an operator does.
func (b *box) flush() {
	for _, s := range b.shards {
		s.Walk(0, 1<<20, func(uint32, *flow.Conn) bool { return true })
	}
}

// hostOf is host n of a net.
func hostOf(net byte, n int) netip.Addr { return netip.AddrFrom4([4]byte{10, net, 0, byte(n)}) }

// draw makes a datagram of one of some protocols between one of some pairs of hosts.
func draw(r *rand.Rand, src, dst netip.Addr) []byte {
	ip := packet.IP{Src: src, Dst: dst}
	sport, dport := uint16(r.IntN(40)), uint16(50+r.IntN(4))
	switch r.IntN(4) {
	case 0:
		sport += 100
	case 1:
		sport += 600
	default:
		sport += 40000
	}
	switch r.IntN(12) {
	case 0, 1, 2, 3:
		return packet.AppendUDP(nil, ip, sport, dport, []byte("hello"))
	case 4, 5, 6:
		return packet.AppendTCP(nil, ip, sport, dport, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 1000})
	case 7:
		return packet.AppendSCTP(nil, ip, sport, dport, 0, packet.AppendChunk(nil, 1, 0, make([]byte, 16)))
	case 8:
		return packet.AppendICMP(nil, ip, 8, 0, uint32(sport)<<16|1, nil)
	case 9:
		return packet.AppendIP(nil, ip, flow.GRE, []byte{0, 0, 8, 0, 1, 2, 3, 4})
	case 10:
		return packet.AppendIP(nil, ip, 50, make([]byte, 16))
	}
	return packet.AppendIP(nil, ip, 99, make([]byte, 16))
}

// answerTo makes a datagram that answers d: one of the same protocol, or an ICMP error.
func answerTo(r *rand.Rand, d []byte) []byte {
	f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)
	var p packet.Packet
	p.Parse(f, len(f), packet.Checks{})
	t, ok := p.Tuple().Invert()
	if !ok {
		return nil
	}
	ip := packet.IP{Src: t.Src.Netip(flow.IPv4), Dst: t.Dst.Netip(flow.IPv4), TTL: uint8(63 + r.IntN(2))}
	if r.IntN(8) == 0 {
		return packet.AppendICMP(nil, ip, 3, 3, 0, d)
	}
	sport, dport := t.L4.Src(), t.L4.Dst()
	switch p.Proto {
	case flow.UDP:
		return packet.AppendUDP(nil, ip, sport, dport, []byte("answer"))
	case flow.TCP:
		flags, ack := packet.SYN|packet.ACK, uint32(2)
		if r.IntN(6) == 0 {
			flags = packet.RST | packet.ACK
		}
		return packet.AppendTCP(nil, ip, sport, dport, packet.Segment{Seq: 9, Ack: ack, Flags: flags, Window: 1000})
	case flow.ICMP:
		return packet.AppendICMP(nil, ip, t.L4.ICMPType(), 0, uint32(sport)<<16|1, nil)
	case flow.SCTP:
		return nil
	}
	return packet.AppendIP(nil, ip, p.Proto, d[20:])
}

// natRules are the rules that translation is compared with at several numbers of shards.
var natRules = []string{
	"-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\n",
	"-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1-192.0.2.3\n",
	"-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1-192.0.2.3 --persistent\n",
	"-A POSTROUTING -o outside -p udp -j SNAT --to-source 192.0.2.1:9000-9007\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\n",
	"-A PREROUTING -i inside -d 10.2.0.1 -j DNAT --to-destination 10.2.0.2\n",
	"-A PREROUTING -i inside -p udp -d 10.2.0.1 -j DNAT --to-destination 10.2.0.2:52\n-A PREROUTING -i inside -p tcp -j DNAT --to-destination 10.2.0.2-10.2.0.5:50-52\n",
	"-A PREROUTING -i inside -d 10.2.0.1 -j DNAT --to-destination 10.2.0.2\n-A POSTROUTING -o outside -s 10.1.0.0/29 -j SNAT --to-source 192.0.2.1\n",
	"-A POSTROUTING -o outside -j NETMAP --to 10.2.0.0/30\n",
	"-A PREROUTING -i inside -p tcp -j DNAT --to-destination :52\n-A POSTROUTING -o outside -p udp -j SNAT --to-source :9000-9003\n",
}

// zoneRules are such rules, and others that choose zones: for packets of some hosts, and
// for answers by what connections have nothing to do with.
var zoneRules = []string{
	"*raw\n-A PREROUTING -i inside -s 10.1.0.0/29 -j CT --zone 5\n-A PREROUTING -i outside -m ttl --ttl-eq 63 -j CT --zone 5\nCOMMIT\n" +
		"*nat\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n",
	"*raw\n-A PREROUTING -i inside -s 10.1.0.0/29 -j CT --zone-orig 7\n-A PREROUTING -i outside -m ttl --ttl-eq 63 -j CT --zone-orig 7\nCOMMIT\n" +
		"*nat\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1-192.0.2.2\nCOMMIT\n",
	"*raw\n-A PREROUTING -i outside -m ttl --ttl-eq 63 -j MARK --set-mark 6\n-A PREROUTING -s 10.1.0.0/29 -j CT --zone 5\n-A PREROUTING -s 10.1.0.8 -j CT --zone 9\n-A PREROUTING -i outside -p 99 -j CT --zone 9\nCOMMIT\n" +
		"*mangle\n-A PREROUTING -m mark --mark 6 -j TTL --ttl-set 9\nCOMMIT\n" +
		"*nat\n-A PREROUTING -i inside -d 10.2.0.1 -j DNAT --to-destination 10.2.0.2\n-A POSTROUTING -o outside -p udp -j SNAT --to-source 192.0.2.1:9000-9007\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n",
	"*raw\n-A PREROUTING -i inside -s 10.1.0.0/30 -j CT --zone-reply 3\n-A PREROUTING -i outside -m ttl --ttl-eq 63 -j CT --zone 3\n-A PREROUTING -i outside -p tcp -j CT --notrack\nCOMMIT\n" +
		"*nat\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n",
	"*raw\n-A PREROUTING -m statistic --mode nth --every 3 --packet 0 -j CT --zone 5\nCOMMIT\n" +
		"*nat\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\n-A PREROUTING -i outside -d 10.1.0.1 -j DNAT --to-destination 10.1.0.2\nCOMMIT\n",
}

// distinct fails t if two connections of the box have a tuple in common, zone and all.
func (b *box) distinct(t *testing.T) {
	t.Helper()
	of := map[flow.Tuple]flow.Record{}
	for _, s := range b.shards {
		s.Walk(0, 1<<20, func(i uint32, _ *flow.Conn) bool {
			r := s.Record(i)
			both := []flow.Tuple{r.Orig, r.Reply}
			if r.Orig == r.Reply {
				both = both[:1]
			}
			for _, x := range both {
				if other, ok := of[x]; ok {
					t.Errorf("%d shards: %v has two connections: %v > %v and %v > %v", len(b.shards), x, r.Orig, r.Reply, other.Orig, other.Reply)
				}
				of[x] = r
			}
			return false
		})
	}
}

// TestAnyNumberOfShards: one, two and four shards make the same of the same packets, byte
// for byte (F9): ports are kept where they are free, DNAT leaves source ports alone,
// protocols without ports work for every pair of addresses; zones that rules choose may
// have the same tuples, on one shard or on two; no two connections of a zone have a
// tuple in common; and when everything is gone, nothing is claimed any more.
func TestAnyNumberOfShards(t *testing.T) {
	const packets = 1500
	var all []string
	for _, rules := range natRules {
		all = append(all, "*nat\n"+rules+"COMMIT\n")
	}
	for i, rules := range append(all, zoneRules...) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			var boxes []*box
			for _, n := range []int{1, 2, 4} {
				boxes = append(boxes, newBox(t, n, rules))
			}
			r := rand.New(rand.NewPCG(uint64(i), 17))
			var sent [][]byte // that left, by output interface
			reasons := map[flow.Reason]int{}
			for k := range packets {
				in, d := inside, draw(r, hostOf(1, 1+r.IntN(12)), hostOf(2, 1+r.IntN(5)))
				switch n := r.IntN(10); {
				case n < 4 && len(sent) > 0:
					if a := answerTo(r, sent[r.IntN(len(sent))]); a != nil {
						in, d = outside, a
					}
				case n == 4: // direct, between hosts that others are mapped to
					in, d = outside, draw(r, hostOf(2, 1+r.IntN(5)), hostOf(1, 1+r.IntN(12)))
				}
				one, v := boxes[0].pass(in, bytes.Clone(d))
				reasons[v.Reason]++
				for _, b := range boxes[1:] {
					more, w := b.pass(in, bytes.Clone(d))
					if !bytes.Equal(one, more) || v.State != w.State || v.Reason != w.Reason || v.Dir != w.Dir {
						t.Fatalf("packet %d, %x by %d:\none shard:  %x %v %v %v\n%d shards: %x %v %v %v", k, d, in, one, v.State, v.Dir, v.Reason, len(b.shards), more, w.State, w.Dir, w.Reason)
					}
				}
				if one != nil && in == inside {
					sent = append(sent, one)
				}
			}
			for _, b := range boxes {
				b.distinct(t)
				if b.len() != boxes[0].len() {
					t.Errorf("%d shards have %d connections, one %d", len(b.shards), b.len(), boxes[0].len())
				}
				if d := b.shared.Directory; d != nil {
					if d.Stats().Claims == 0 {
						t.Errorf("%d shards have claimed nothing", len(b.shards))
					}
					b.flush()
					if s := d.Stats(); s.Claims != 0 || b.len() != 0 {
						t.Errorf("%d shards: %d connections and %d claims are left", len(b.shards), b.len(), s.Claims)
					}
				}
			}
			t.Logf("%d connections; %v", boxes[0].len(), reasons)
		})
	}
}

// TestRulesThatConcernMore: connections that were there before rules began to map to
// their addresses keep their tuples, whatever shard they are on.
func TestRulesThatConcernMore(t *testing.T) {
	b := newBox(t, 4, "*nat\nCOMMIT\n")
	mapped := hostOf(1, 99)
	for port := range uint16(200) { // of the address itself, before
		b.pass(inside, udp(mapped, serverIP, 1000+port, 53))
	}
	b.setRules(t, "*nat\n-A POSTROUTING -o outside -s 10.1.0.1 -j SNAT --to-source 10.1.0.99\nCOMMIT\n")
	for port := range uint16(200) {
		out, _ := b.pass(inside, udp(clientIP, serverIP, 1000+port, 53))
		src, _ := ends(t, out)
		if src.Addr() != mapped || src.Port() >= 1000 && src.Port() < 1200 {
			t.Fatalf("port %d leaves from %v, which is that of another connection", 1000+port, src)
		}
		back, v := b.pass(outside, udp(serverIP, mapped, 53, 1000+port))
		if _, to := ends(t, back); v.State != flow.Established || to != netip.AddrPortFrom(mapped, 1000+port) {
			t.Fatalf("the answer to the older connection of port %d goes to %v", 1000+port, to)
		}
	}
	// And the reverse: the address itself comes later.
	b.setRules(t, "*nat\nCOMMIT\n")
	b.flush()
	b.setRules(t, "*nat\n-A POSTROUTING -o outside -s 10.1.0.1 -j SNAT --to-source 10.1.0.99\nCOMMIT\n")
	for port := range uint16(200) {
		b.pass(inside, udp(clientIP, serverIP, 1000+port, 53))
		out, _ := b.pass(inside, udp(mapped, serverIP, 1000+port, 53))
		if src, _ := ends(t, out); src.Port() == 1000+port {
			t.Fatalf("port %d of the address itself is kept, and was given to another", 1000+port)
		}
	}
}

// TestManyZonesOneTuple: a hundred zones have a connection with the same tuples, which are
// those of an address that others are mapped to. All are kept apart, with any number of
// shards.
func TestManyZonesOneTuple(t *testing.T) {
	for _, shards := range []int{1, 2, 4} {
		b := newBox(t, shards, "")
		enter := func(zone int) {
			b.setRules(t, fmt.Sprintf("*raw\n-A PREROUTING -j CT --zone %d\nCOMMIT\n*nat\n-A PREROUTING -d 10.2.0.9 -j DNAT --to-destination 10.2.0.1\nCOMMIT\n", zone))
		}
		for zone := 1; zone <= 100; zone++ {
			enter(zone)
			if out, v := b.pass(inside, udp(clientIP, serverIP, 4000, 53)); out == nil || v.State != flow.New {
				t.Fatalf("%d shards, zone %d: %v %v %v", shards, zone, v.Action, v.State, v.Reason)
			}
		}
		for zone := 1; zone <= 100; zone++ {
			enter(zone)
			if _, v := b.pass(outside, udp(serverIP, clientIP, 53, 4000)); v.State != flow.Established {
				t.Fatalf("%d shards: the answer in zone %d is %v %v", shards, zone, v.State, v.Reason)
			}
		}
		if b.len() != 100 {
			t.Errorf("%d shards: %d connections", shards, b.len())
		}
		b.flush()
		if d := b.shared.Directory; d != nil && d.Stats().Claims != 0 {
			t.Errorf("%d shards: %d claims are left", shards, d.Stats().Claims)
		}
	}
}

// TestEqualTuplesTranslated: a connection whose original tuple is its own inverse has
// another reply tuple once it is translated, and is found by both.
func TestEqualTuplesTranslated(t *testing.T) {
	for _, shards := range []int{1, 2, 4} {
		b := newBox(t, shards, "*nat\n-A POSTROUTING -j SNAT --to-source 192.0.2.1\nCOMMIT\n")
		sent := packet.AppendIP(nil, packet.IP{Src: serverIP, Dst: serverIP}, 99, make([]byte, 20))
		back := packet.AppendIP(nil, packet.IP{Src: serverIP, Dst: publicIP}, 99, make([]byte, 20))
		for i, want := range []struct {
			d     []byte
			state flow.State
			dir   flow.Direction
		}{{sent, flow.New, flow.Original}, {sent, flow.New, flow.Original}, {back, flow.Established, flow.Reply}, {sent, flow.Established, flow.Original}} {
			if out, v := b.pass(i%2, bytes.Clone(want.d)); out == nil || v.State != want.state || v.Dir != want.dir {
				t.Errorf("%d shards, packet %d: %v %v %v %v", shards, i, v.Action, v.State, v.Dir, v.Reason)
			}
		}
		if b.len() != 1 {
			t.Errorf("%d connections", b.len())
		}
	}
}

// TestTranslatedOntoItself: a connection whose reply tuple translation has made equal to
// the original one gets replies from its second packet on, as in Linux.
func TestTranslatedOntoItself(t *testing.T) {
	for _, shards := range []int{1, 2, 4} {
		b := newBox(t, shards, "*nat\n-A PREROUTING -d 10.2.0.61 -j DNAT --to-destination 10.2.0.1\n-A POSTROUTING -s 10.2.0.1 -j SNAT --to-source 10.2.0.61\nCOMMIT\n")
		d := packet.AppendIP(nil, packet.IP{Src: serverIP, Dst: hostOf(2, 61)}, 99, make([]byte, 20))
		for i, want := range []flow.State{flow.New, flow.Established, flow.Established} {
			if out, v := b.pass(outside, bytes.Clone(d)); out == nil || v.State != want || v.Dir != min(flow.Direction(i), flow.Reply) {
				t.Errorf("%d shards, packet %d: %v %v %v %v", shards, i, v.Action, v.State, v.Dir, v.Reason)
			}
		}
	}
}

// TestDroppedLeavesNoClaim: what was claimed for a connection that does not come into
// the table is given back.
func TestDroppedLeavesNoClaim(t *testing.T) {
	b := newBox(t, 2, "*nat\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n")
	short := packet.AppendIP(nil, packet.IP{Src: clientIP, Dst: serverIP}, flow.GRE, []byte{0, 0, 8, 0})
	if out, v := b.pass(inside, short); out != nil || v.Reason != flow.ReasonNATTooShort {
		t.Fatalf("GRE of four bytes: %v %v", v.Action, v.Reason)
	}
	if s := b.shared.Directory.Stats(); s.Claims != 0 || b.len() != 0 {
		t.Errorf("%d claims, %d connections are left", s.Claims, b.len())
	}
}

// cameBy is a datagram and the interface that it came by.
type cameBy struct {
	in int
	d  []byte
}

// TestShardsAtOnce runs four shards at the same time, as workers do: each takes packets
// that its peers hand to it, and makes some. Whatever they choose at the same moment, no
// two connections look the same from outside, every answer finds its own, and in the end
// all ports are in use.
func TestShardsAtOnce(t *testing.T) {
	const shards, packets, ports, servers = 4, 6000, 4000, 3
	b := newBox(t, shards, "*nat\n-A POSTROUTING -o outside -p udp -j SNAT --to-source 192.0.2.1:2000-5999\nCOMMIT\n")
	var (
		inbox   [shards]chan cameBy
		mu      sync.Mutex
		seen    = map[string]string{} // by what it looks like from outside: who it is
		working sync.WaitGroup
		pending sync.WaitGroup // frames that nobody has judged yet, and shards that make some
	)
	for i := range inbox {
		inbox[i] = make(chan cameBy, 2*shards*packets) // nobody waits for room
	}
	pending.Add(shards)
	for i, s := range b.shards {
		s.Tick(1)
		hand := func(f cameBy) {
			p := parse(f.d, f.in)
			s.Hash(&p)
			pending.Add(1)
			inbox[s.OwnerOf(&p)] <- f
		}
		judge := func(f cameBy) {
			defer pending.Done()
			p, v := [1]packet.Packet{parse(f.d, f.in)}, [1]Verdict{}
			s.Hash(&p[0])
			s.Process(p[:], v[:])
			if f.in == outside {
				if v[0].Action != Accept || v[0].State != flow.Established {
					t.Errorf("an answer is %v %v %v", v[0].Action, v[0].State, v[0].Reason)
				}
				return
			}
			if v[0].Action != Accept {
				return
			}
			who, out := headOf(f.d), headOf(p[0].Frame[14:])
			mu.Lock()
			was, ok := seen[out]
			seen[out] = who
			mu.Unlock()
			if ok && was != who {
				t.Errorf("%x and %x leave as %x", was, who, out)
			}
			src, dst := p[0].Addrs()
			sport := uint16(p[0].Frame[34])<<8 | uint16(p[0].Frame[35])
			hand(cameBy{outside, udp(dst.Netip(flow.IPv4), src.Netip(flow.IPv4), 53, sport)})
		}
		working.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			for range packets { // all want a few ports of a few servers
				hand(cameBy{inside, udp(hostOf(1, 1+r.IntN(100)), hostOf(2, 1+r.IntN(servers)), uint16(2000+r.IntN(500)), 53)})
				select {
				case f := <-inbox[i]:
					judge(f)
				default:
				}
			}
			pending.Done()
			for f := range inbox[i] {
				judge(f)
			}
		})
	}
	pending.Wait()
	for i := range inbox {
		close(inbox[i])
	}
	working.Wait()
	if len(seen) != ports*servers || b.len() != len(seen) {
		t.Errorf("%d connections, of which %d look different from outside; there are %d ports", b.len(), len(seen), ports*servers)
	}
	b.flush()
	if n := b.shared.Directory.Stats().Claims; n != 0 {
		t.Errorf("%d claims are left", n)
	}
}

// parse reads a datagram that comes by an interface.
func parse(d []byte, in int) (p packet.Packet) {
	f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)
	p.Parse(f, len(f), packet.Checks{Transport: true})
	p.In = in
	return p
}

// headOf returns the addresses and ports of an IPv4 datagram.
func headOf(d []byte) string { return string(d[12:24]) }
