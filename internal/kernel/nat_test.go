package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/route"
	"github.com/xdpct/xdpct/shard"
)

// natRouter is a router that translates: the kernel's, or some shards.
type natRouter interface {
	name() string
	// begin sends the first packets of connections from side A and returns what came out
	// on side B, in order.
	begin(t *testing.T, datagrams [][]byte) [][]byte
}

// natKernel is the kernel's.
type natKernel struct{ o *Oracle }

func (natKernel) name() string { return "the kernel" }

func (k natKernel) begin(t *testing.T, datagrams [][]byte) (out [][]byte) {
	t.Helper()
	for _, d := range datagrams {
		if err := k.o.raw[A].Send(packet.AppendEthernet(nil, RouterMAC(A), HostMAC(), d)); err != nil {
			t.Fatal(err)
		}
	}
	// The answer to an ARP request comes behind whatever came before.
	if err := k.o.raw[A].Send(arpRequest(A)); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := k.o.raw[A].Recv(5 * time.Second)
		if err != nil || f == nil {
			t.Fatalf("the router does not answer: %v", err)
		}
		if isARPReply(f) {
			break
		}
	}
	for {
		f, err := k.o.raw[B].Recv(0)
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			return out
		}
		if !k.o.ownFrame(f) {
			out = append(out, bytes.Clone(f[14:]))
		}
	}
}

// natShards are some shards, with the interfaces and routes of the kernel's, whose clock
// stands still.
type natShards struct {
	shards []*shard.Shard
}

func (s *natShards) name() string { return fmt.Sprintf("%d shards", len(s.shards)) }

func newNATShards(t *testing.T, n int, f flow.Family, rules string) *natShards {
	t.Helper()
	r, err := syntax.Parse(strings.NewReader(rules), "rules", f)
	if err != nil {
		t.Fatal(err)
	}
	var both [2]*syntax.Ruleset
	if both[0] = r; f == flow.IPv6 {
		both[0], both[1] = nil, r
	}
	prog, err := policy.Compile(both[0], both[1], []string{"r0", "r1"}, nat.Key{1, 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	const conns = 1 << 18
	s := &natShards{}
	shared := nat.NewShared(n, conns, nat.Key{3, 4})
	routes := natRoutes()
	if d := shared.Directory; d != nil {
		ranges, own, all := policy.NATAddrs(r)
		for i := range routes.Interfaces {
			for _, p := range routes.Interfaces[i].Addrs {
				if a := flow.AddrFrom(p.Addr()); own {
					ranges = append(ranges, nat.AddrRange{Lo: a, Hi: a})
				}
			}
		}
		d.SetFilter(nat.NewAddrSet(ranges, all))
	}
	for i := range n {
		sh, err := shard.New(shard.Config{
			L4: l4.Linux(), Checks: packet.Checks{Transport: true}, MaxConns: conns / n, Forwards: true, Translates: true,
			Secret: flow.Secret{1, 2, 3, 4, 5, 6, 7}, Seed: 7, NAT: shared, Number: i, Shards: n,
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sh.Close() })
		sh.SetForwarding(&shard.Forwarding{Rules: prog, Routes: routes})
		s.shards = append(s.shards, sh)
	}
	return s
}

// natRoutes are the routes of the kernel's router.
func natRoutes() *route.Table {
	var ifs []route.Interface
	for s := range Side(2) {
		ifs = append(ifs, route.Interface{Name: fmt.Sprintf("r%d", s), Up: true, MTU: 1500, MAC: RouterMAC(s), Addrs: []netip.Prefix{
			netip.PrefixFrom(s.Host(254, flow.IPv4), 24), netip.PrefixFrom(s.Host(254, flow.IPv6), 48),
		}})
	}
	t := route.New(ifs)
	for s := range Side(2) {
		hop := []route.NextHop{{Out: int(s), Weight: 1}}
		for _, p := range ifs[s].Addrs {
			a := p.Addr()
			t.Add(&route.Route{Table: route.TableMain, Dst: p.Masked(), Kind: route.Unicast, Hops: hop, Src: a})
			t.Add(&route.Route{Table: route.TableLocal, Dst: netip.PrefixFrom(a, a.BitLen()), Kind: route.Local, Hops: hop})
		}
		for n := range Hosts {
			for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
				t.PutNeighbour(int(s), s.Host(n+1, f), route.Neighbour{MAC: HostMAC()})
			}
		}
	}
	return t
}

func (s *natShards) begin(t *testing.T, datagrams [][]byte) (out [][]byte) {
	t.Helper()
	for _, d := range datagrams {
		var p [1]packet.Packet
		var v [1]shard.Verdict
		f := packet.AppendEthernet(make([]byte, 0, len(d)+64), RouterMAC(A), HostMAC(), d)
		p[0].Parse(f, len(f), packet.Checks{Transport: true})
		p[0].In = int(A)
		s.shards[0].Hash(&p[0])
		sh := s.shards[s.shards[0].OwnerOf(&p[0])]
		if sh.Process(p[:], v[:]); v[0].Action == shard.Accept {
			out = append(out, p[0].Frame[14:])
		}
	}
	return out
}

// natRouters are the kernel's router and some of one, two and four shards, with the
// same rules.
func natRouters(t *testing.T, f flow.Family, rules string) []natRouter {
	t.Helper()
	testenv.Root(t)
	testenv.Program(t, "iptables-restore")
	testenv.Program(t, "ip6tables-restore")
	o, err := NewRouter(map[string]string{ // nothing expires, however busy the machine is
		"nf_conntrack_udp_timeout": "3600", "nf_conntrack_icmp_timeout": "3600", "nf_conntrack_tcp_timeout_syn_sent": "3600",
		"nf_conntrack_gre_timeout": "3600",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	o.Settle()
	if err := o.Restore(f, rules); err != nil {
		t.Fatal(err)
	}
	all := []natRouter{natKernel{o}}
	for _, n := range []int{1, 2, 4} {
		all = append(all, newNATShards(t, n, f, rules))
	}
	return all
}

// source is an endpoint as nf_nat_bysource knows it.
type source struct {
	addr  netip.Addr
	proto flow.Proto
	port  uint16
}

// choices is what is known of a router's choices: the slow model of what the next has to
// be.
type choices struct {
	taken map[string]bool     // by protocol, port and destination
	has   map[source][]uint16 // what a source is mapped to, the latest last
	drawn int
}

// expect says what a source has to be mapped to, for a destination; ok is false if it
// is to be drawn from lo to hi.
func (c *choices) expect(s source, dst string) (port uint16, ok bool, lo, hi uint16) {
	if m := c.has[s]; len(m) > 0 && !c.taken[fmt.Sprint(s.proto, m[len(m)-1], dst)] {
		return m[len(m)-1], true, 0, 0
	}
	if !c.taken[fmt.Sprint(s.proto, s.port, dst)] {
		return s.port, true, 0, 0
	}
	switch {
	case s.proto == flow.ICMP:
		return 0, false, 0, 65535
	case s.port < 512:
		return 0, false, 1, 511
	case s.port < 1024:
		return 0, false, 600, 1023
	}
	return 0, false, 1024, 65535
}

// TestMasqueradeAgrees masquerades connections of a hundred hosts, with source ports over
// the whole range, by the kernel and by one, two and four shards. None is dropped; each
// choice that is determined is what it has to be, by the same slow model, and each other
// one lies where it may (F3, F4, F9).
func TestMasqueradeAgrees(t *testing.T) {
	masqueraded := 100_000
	if testing.Short() {
		masqueraded = 4000
	}
	routers := natRouters(t, flow.IPv4, "*nat\n-A POSTROUTING -o r1 -j MASQUERADE\nCOMMIT\n")
	known := make([]choices, len(routers))
	for i := range known {
		known[i] = choices{taken: map[string]bool{}, has: map[source][]uint16{}}
	}
	type begun struct {
		s    source
		dst  string
		sent []byte
	}
	r := rand.New(rand.NewPCG(5, 6))
	seen := map[string]bool{}
	draw := func() begun {
		for {
			b := begun{s: source{addr: netip.AddrFrom4([4]byte{10, 1, 1, byte(1 + r.IntN(100))}), port: uint16(1 + r.IntN(65535))}}
			if r.IntN(2) == 0 { // ports that many have
				b.s.port = []uint16{53, 123, 500, 700, 1023, 1024, 4500, 5060, 40000, 65535}[r.IntN(10)]
			}
			dst, dport := B.Host(1+r.IntN(Hosts), flow.IPv4), uint16(50+r.IntN(40))
			ip := packet.IP{Src: b.s.addr, Dst: dst}
			switch r.IntN(5) {
			case 0, 1:
				b.s.proto = flow.UDP
				b.sent = packet.AppendUDP(nil, ip, b.s.port, dport, []byte("hello"))
			case 2, 3:
				b.s.proto = flow.TCP
				b.sent = packet.AppendTCP(nil, ip, b.s.port, dport, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 1000})
			default:
				b.s.proto, dport = flow.ICMP, 0
				b.sent = packet.AppendICMP(nil, ip, 8, 0, uint32(b.s.port)<<16|1, nil)
			}
			b.dst = netip.AddrPortFrom(dst, dport).String()
			if k := fmt.Sprint(b.s, b.dst); !seen[k] { // not one that is there already
				seen[k] = true
				return b
			}
		}
	}
	for done := 0; done < masqueraded; {
		var batch []begun
		var sent [][]byte
		for range min(32, masqueraded-done) {
			batch = append(batch, draw())
			sent = append(sent, batch[len(batch)-1].sent)
		}
		for i, router := range routers {
			out := router.begin(t, sent)
			if len(out) != len(sent) {
				t.Fatalf("connection %d and on: %s lets %d of %d through", done, router.name(), len(out), len(sent))
			}
			c := &known[i]
			for k, b := range batch {
				got := sourceOf(out[k])
				if got.addr != B.Host(254, flow.IPv4) || got.proto != b.s.proto {
					t.Fatalf("%s: %v leaves as %v", router.name(), b.s, got)
				}
				want, determined, lo, hi := c.expect(b.s, b.dst)
				switch {
				case determined && got.port != want:
					t.Fatalf("%s, connection %d: %v to %s leaves from port %d, not %d", router.name(), done+k, b.s, b.dst, got.port, want)
				case !determined && (got.port < lo || got.port > hi):
					t.Fatalf("%s, connection %d: %v to %s leaves from port %d, not of %d-%d", router.name(), done+k, b.s, b.dst, got.port, lo, hi)
				case c.taken[fmt.Sprint(got.proto, got.port, b.dst)]:
					t.Fatalf("%s, connection %d: %v to %s leaves from port %d, which another has", router.name(), done+k, b.s, b.dst, got.port)
				}
				if !determined {
					c.drawn++
				}
				c.taken[fmt.Sprint(got.proto, got.port, b.dst)] = true
				c.has[b.s] = append(c.has[b.s], got.port)
			}
		}
		done += len(batch)
	}
	for i, router := range routers {
		t.Logf("%s: %d of %d ports are drawn", router.name(), known[i].drawn, masqueraded)
		if known[i].drawn == 0 {
			t.Error("no port was ever taken: nothing was tested")
		}
	}
}

// sourceOf reads the source of a datagram.
func sourceOf(d []byte) (s source) {
	s.addr, s.proto = netip.AddrFrom4([4]byte(d[12:16])), flow.Proto(d[9])
	if s.port = binary.BigEndian.Uint16(d[20:]); s.proto == flow.ICMP {
		s.port = binary.BigEndian.Uint16(d[24:])
	}
	return s
}

// TestMappedAddressesAgree: rules that map to several addresses choose those that the
// kernel chooses, whatever the number of shards; for a destination the kernel hashes
// what it has written of it already, and of a zone its number, whatever directions it
// counts for (F66). Rules that map to one let the same through.
func TestMappedAddressesAgree(t *testing.T) {
	zone := "*raw\n-A PREROUTING -i r0 -j CT --zone-reply 77\nCOMMIT\n"
	for _, c := range []struct {
		name  string
		f     flow.Family
		rules string
	}{
		{"DNAT 6", flow.IPv6, "*nat\n-A PREROUTING -j DNAT --to-destination 2001:db8:2::1-2001:db8:2::4\nCOMMIT\n"},
		{"DNAT 6 from elsewhere", flow.IPv6, "*nat\n-A PREROUTING -j DNAT --to-destination 2001:db8:2::1-2001:db8:2::4\nCOMMIT\n"},
		{"DNAT 6 persistent", flow.IPv6, "*nat\n-A PREROUTING -j DNAT --to-destination 2001:db8:2::1-2001:db8:2::4 --persistent\nCOMMIT\n"},
		{"DNAT 4", flow.IPv4, "*nat\n-A PREROUTING -j DNAT --to-destination 10.2.2.1-10.2.2.4\nCOMMIT\n"},
		{"SNAT 6", flow.IPv6, "*nat\n-A POSTROUTING -o r1 -j SNAT --to-source 2001:db8:9::1-2001:db8:a::4\nCOMMIT\n"},
		{"SNAT 4", flow.IPv4, "*nat\n-A POSTROUTING -o r1 -j SNAT --to-source 192.0.2.1-192.0.2.200\nCOMMIT\n"},
		{"SNAT 4 persistent", flow.IPv4, "*nat\n-A POSTROUTING -o r1 -j SNAT --to-source 192.0.2.1-192.0.2.200 --persistent\nCOMMIT\n"},
		{"SNAT 4 in a zone", flow.IPv4, zone + "*nat\n-A POSTROUTING -o r1 -j SNAT --to-source 192.0.2.1-192.0.2.200\nCOMMIT\n"},
		{"DNAT 4 in a zone", flow.IPv4, zone + "*nat\n-A PREROUTING -i r0 -j DNAT --to-destination 10.2.2.1-10.2.2.4\nCOMMIT\n"},
		{"NETMAP", flow.IPv4, "*nat\n-A POSTROUTING -o r1 -j NETMAP --to 192.0.2.0/26\nCOMMIT\n"},
		{"MASQUERADE", flow.IPv4, "*nat\n-A POSTROUTING -o r1 -j MASQUERADE\nCOMMIT\n"},
		{"DNAT", flow.IPv4, "*nat\n-A PREROUTING -j DNAT --to-destination 10.2.2.3\nCOMMIT\n"},
		{"base port", flow.IPv4, "*nat\n-A PREROUTING -p udp -j DNAT --to-destination 10.2.2.3:5000-5009/50\nCOMMIT\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			routers := natRouters(t, c.f, c.rules)
			r := rand.New(rand.NewPCG(8, 9))
			through := 0
			for n := range 120 {
				src, dst := A.Host(1+r.IntN(60), c.f), B.Host(1+r.IntN(Hosts), c.f)
				if strings.HasSuffix(c.name, "elsewhere") { // nets whose words have other high bits, as they lie in memory
					dst = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(n * 64), 11: byte(n * 37), 15: 1})
				}
				ip := packet.IP{Src: src, Dst: dst}
				var d []byte
				switch r.IntN(4) {
				case 0: // each host's own port: none is taken
					d = packet.AppendTCP(nil, ip, uint16(2000+n), 52, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 1000})
				case 1:
					d = packet.AppendUDP(nil, ip, uint16(2000+n), uint16(50+r.IntN(8)), []byte("hello"))
				case 2:
					d = packet.AppendIP(nil, ip, flow.GRE, []byte{0, 0, 8, 0, 1, 2, 3, 4})
				default:
					d = packet.AppendIP(nil, ip, 99, make([]byte, 16))
				}
				var want [][]byte
				for i, router := range routers {
					out := router.begin(t, [][]byte{d})
					if i == 0 {
						want = out
						through += len(out)
						continue
					}
					if !bytes.Equal(bytes.Join(out, nil), bytes.Join(want, nil)) {
						t.Fatalf("%x from %v to %v:\nthe kernel sends %x\n%s: %x", d, src, dst, want, router.name(), out)
					}
				}
			}
			if through < 30 {
				t.Errorf("%d packets came through", through)
			}
		})
	}
}
