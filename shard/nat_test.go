package shard

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"

	"pgregory.net/rapid"
)

var (
	clientIP = netip.MustParseAddr("10.1.0.1")
	serverIP = netip.MustParseAddr("10.2.0.1")
	publicIP = netip.MustParseAddr("192.0.2.1")
)

func udp(src, dst netip.Addr, sport, dport uint16) []byte {
	return packet.AppendUDP(nil, packet.IP{Src: src, Dst: dst}, sport, dport, []byte("hello"))
}

// ends returns addresses and ports of a datagram, and fails if a checksum is wrong.
func ends(t *testing.T, d []byte) (src, dst netip.AddrPort) {
	t.Helper()
	if d == nil {
		t.Fatal("it did not come through")
	}
	f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)
	var p packet.Packet
	p.Parse(f, len(f), packet.Checks{Transport: true})
	if p.Kind != packet.Data {
		t.Fatalf("it came out wrong: %v", p.Reason)
	}
	k := p.Tuple()
	return netip.AddrPortFrom(k.Src.Netip(p.Family), k.L4.Src()), netip.AddrPortFrom(k.Dst.Netip(p.Family), k.L4.Dst())
}

// TestKernelNATClash is dnat_clash of the kernel's nft_nat.sh: a translated flow and a
// direct one, which would have one reply tuple, both work.
func TestKernelNATClash(t *testing.T) {
	b := newNATBox(t, "*nat\n-A PREROUTING -p udp --dport 8080 -j DNAT --to-destination 10.2.0.1:80\nCOMMIT\n")
	direct, _ := b.pass(inside, udp(clientIP, serverIP, 4000, 80))
	if src, _ := ends(t, direct); src.Port() != 4000 {
		t.Errorf("the direct flow leaves from port %d", src.Port())
	}
	sent, _ := b.pass(inside, udp(clientIP, publicIP, 4000, 8080))
	src, dst := ends(t, sent)
	if dst.String() != "10.2.0.1:80" || src.Port() == 4000 {
		t.Fatalf("the translated flow leaves from %v to %v: it must not look like the direct one", src, dst)
	}
	back, _ := b.pass(outside, udp(serverIP, clientIP, 80, src.Port()))
	if from, to := ends(t, back); from.String() != "192.0.2.1:8080" || to.Port() != 4000 {
		t.Errorf("the answer comes from %v to %v", from, to)
	}
	back, _ = b.pass(outside, udp(serverIP, clientIP, 80, 4000))
	if from, to := ends(t, back); from.String() != "10.2.0.1:80" || to.Port() != 4000 {
		t.Errorf("the answer to the direct flow comes from %v to %v", from, to)
	}
}

// TestKernelNATEdemux is the kernel's nf_nat_edemux.sh: connections from one source port
// to several ports that are sent to one and the same are kept apart.
func TestKernelNATEdemux(t *testing.T) {
	b := newNATBox(t, "*nat\n-A PREROUTING -p tcp --dport 5202:5203 -j DNAT --to-destination 10.2.0.1:5201\nCOMMIT\n")
	ports := map[uint16]bool{}
	for _, dport := range []uint16{5201, 5202, 5203} {
		dst := publicIP
		if dport == 5201 {
			dst = serverIP
		}
		syn := packet.AppendTCP(nil, packet.IP{Src: clientIP, Dst: dst}, 34567, dport, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 1000})
		out, _ := b.pass(inside, syn)
		src, to := ends(t, out)
		if to.String() != "10.2.0.1:5201" || ports[src.Port()] {
			t.Fatalf("port %d leaves from %v to %v", dport, src, to)
		}
		ports[src.Port()] = true
		answer := packet.AppendTCP(nil, packet.IP{Src: serverIP, Dst: clientIP}, 5201, src.Port(), packet.Segment{Seq: 9, Ack: 2, Flags: packet.SYN | packet.ACK, Window: 1000})
		back, v := b.pass(outside, answer)
		from, to := ends(t, back)
		if v.State != flow.Established || from.Addr() != dst || from.Port() != dport || to.Port() != 34567 {
			t.Errorf("the answer is %v from %v to %v", v.State, from, to)
		}
	}
}

// TestKernelNATZones is the kernel's nft_nat_zones.sh: hundred clients with one address
// and one port, each in a zone of its own, reach one server; each has a port of its own
// outside, and gets its own answers.
func TestKernelNATZones(t *testing.T) {
	b := newNATBox(t, "")
	zone := func(n int) { // as the mark of an interface would
		b.setRules(t, "*raw\n-A PREROUTING -i inside -j CT --zone-orig "+strconv.Itoa(n)+"\nCOMMIT\n*nat\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n")
	}
	ports := map[uint16]int{}
	for n := 1; n <= 100; n++ {
		zone(n)
		for range 3 {
			out, _ := b.pass(inside, udp(clientIP, serverIP, 10000, 53))
			src, _ := ends(t, out)
			if was, taken := ports[src.Port()]; taken && was != n {
				t.Fatalf("clients %d and %d have port %d", was, n, src.Port())
			}
			ports[src.Port()] = n
		}
	}
	if len(ports) != 100 || b.Len() != 100 {
		t.Fatalf("%d ports, %d connections, not 100", len(ports), b.Len())
	}
	for port := range ports {
		out, v := b.pass(outside, udp(serverIP, publicIP, 53, port))
		if _, to := ends(t, out); v.State != flow.Established || to.String() != "10.1.0.1:10000" {
			t.Fatalf("the answer to port %d is %v, to %v", port, v.State, to)
		}
	}
}

// TestNATExhaustion is pf's test of that name: of a pool of two ports the third
// connection gets none, and everything else goes on. (That it costs little is
// TestBoundedWork's to hold.)
func TestNATExhaustion(t *testing.T) {
	b := newNATBox(t, "*nat\n-A POSTROUTING -p udp -j SNAT --to-source 192.0.2.1:9000-9001\nCOMMIT\n")
	for i := range uint16(2) {
		out, _ := b.pass(inside, udp(clientIP, serverIP, 4000+i, 53))
		if src, _ := ends(t, out); src.Port() != 9000 && src.Port() != 9001 {
			t.Fatalf("connection %d leaves from %v", i, src)
		}
	}
	for i := range uint16(1000) {
		if out, v := b.pass(inside, udp(clientIP, serverIP, 5000+i, 53)); out != nil || v.Reason != flow.ReasonNATExhausted {
			t.Fatalf("connection %d: %v %v", i, v.Action, v.Reason)
		}
	}
	if b.Len() != 2 {
		t.Errorf("%d connections", b.Len())
	}
	other := netip.MustParseAddr("10.2.0.2")
	out, _ := b.pass(inside, udp(clientIP, other, 6000, 53)) // another destination: the ports are free there
	ends(t, out)
	st := b.Stats()
	if st.Reasons[flow.ReasonNATExhausted] != 1000 {
		t.Errorf("%d counted", st.Reasons[flow.ReasonNATExhausted])
	}
}

// TestNATWithoutAddress is pf's no_addrs and empty_table: an interface without an address
// cannot lend one, and nothing else happens.
func TestNATWithoutAddress(t *testing.T) {
	b := newNATBox(t, "*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n")
	for range 3 {
		if out, v := b.pass(inside, udp(clientIP, serverIP, 4000, 53)); out != nil || v.Reason != flow.ReasonMasquerade {
			t.Fatalf("%v %v", v.Action, v.Reason)
		}
	}
	if b.Len() != 0 {
		t.Errorf("%d connections", b.Len())
	}
}

// TestNATIsAFunctionOfTheConnection: whatever else changes, a connection keeps its
// mapping, and its packets come back to where they came from; a null binding changes
// nothing (the invariants of RFC 3022).
func TestNATIsAFunctionOfTheConnection(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newNATBox(t, "*nat\n-A POSTROUTING -s 10.1.0.0/28 -j SNAT --to-source 192.0.2.1-192.0.2.2\nCOMMIT\n")
		type key struct{ host, sport, server, dport uint16 }
		mapped, used := map[key]netip.AddrPort{}, map[string]key{}
		for range rapid.IntRange(1, 200).Draw(rt, "packets") {
			k := key{
				rapid.Uint16Range(1, 20).Draw(rt, "host"), rapid.Uint16Range(4000, 4003).Draw(rt, "sport"),
				rapid.Uint16Range(1, 2).Draw(rt, "server"), rapid.Uint16Range(53, 54).Draw(rt, "dport"),
			}
			src := netip.AddrFrom4([4]byte{10, 1, 0, byte(k.host)})
			dst := netip.AddrFrom4([4]byte{10, 2, 0, byte(k.server)})
			out, _ := b.pass(inside, udp(src, dst, k.sport, k.dport))
			from, to := ends(t, out)
			if was, ok := mapped[k]; ok && was != from {
				rt.Fatalf("%v was %v, is %v", k, was, from)
			}
			if to != netip.AddrPortFrom(dst, k.dport) || k.host < 16 != (from.Addr() != src) || k.host >= 16 && from.Port() != k.sport {
				rt.Fatalf("%v leaves from %v to %v", k, from, to)
			}
			tuple := from.String() + to.String()
			if other, ok := used[tuple]; ok && other != k {
				rt.Fatalf("%v and %v look the same outside", k, other)
			}
			mapped[k], used[tuple] = from, k
			back, _ := b.pass(outside, udp(dst, from.Addr(), k.dport, from.Port()))
			if server, client := ends(t, back); server != to || client != netip.AddrPortFrom(src, k.sport) {
				rt.Fatalf("the answer to %v comes from %v to %v", k, server, client)
			}
		}
	})
}

// TestOVSNATVectors: the cases of Open vSwitch's system tests that translate ICMP errors,
// with the addresses and ports that they have.
func TestOVSNATVectors(t *testing.T) {
	a, vip, srv := netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("10.1.1.240"), netip.MustParseAddr("10.1.1.2")
	t.Run("ICMP related NAT with single port", func(t *testing.T) {
		b := newNATBox(t, "*nat\n-A PREROUTING -d 10.1.1.240 -p udp --dport 80 -j DNAT --to-destination 10.1.1.2:8080\nCOMMIT\n")
		asked := udp(a, vip, 1234, 80)
		out, _ := b.pass(inside, asked)
		if _, to := ends(t, out); to.String() != "10.1.1.2:8080" {
			t.Fatal(to)
		}
		back, v := b.pass(outside, packet.AppendICMP(nil, packet.IP{Src: srv, Dst: a}, 3, 3, 0, out))
		checkError(t, back, vip, a, asked)
		if v.State != flow.Related {
			t.Error(v.State)
		}
	})
	t.Run("ICMP from different source related with NAT", func(t *testing.T) {
		c, vip, srv := netip.MustParseAddr("192.168.20.10"), netip.MustParseAddr("192.168.20.20"), netip.MustParseAddr("192.168.10.20")
		router := netip.MustParseAddr("192.168.20.1")
		b := newNATBox(t, "*nat\n-A PREROUTING -d 192.168.20.20 -p udp -j DNAT --to-destination 192.168.10.20\nCOMMIT\n")
		b.pass(inside, udp(c, vip, 1, 2))
		answer := udp(srv, c, 2, 1)
		got, _ := b.pass(outside, answer)
		if from, _ := ends(t, got); from.Addr() != vip {
			t.Fatal(from)
		}
		// Too big for the path to the client, says a router there; and in the other direction.
		back, _ := b.pass(inside, packet.AppendICMP(nil, packet.IP{Src: router, Dst: vip}, 3, 4, 1400, got))
		checkError(t, back, router, srv, answer)
	})
}

// checkError checks an ICMP error: who it is from and to, and that it quotes the very
// datagram, and that all of its checksums are right.
func checkError(t *testing.T, d []byte, from, to netip.Addr, quoted []byte) {
	t.Helper()
	if d == nil {
		t.Fatal("the error did not come through")
	}
	f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)
	var p packet.Packet
	p.Parse(f, len(f), packet.Checks{Transport: true})
	if p.Kind != packet.Error {
		t.Fatalf("it came out wrong: %v", p.Reason)
	}
	if src, dst := p.Addrs(); src.Netip(p.Family) != from || dst.Netip(p.Family) != to {
		t.Errorf("it is from %v to %v, not from %v to %v", src.Netip(p.Family), dst.Netip(p.Family), from, to)
	}
	q := f[14+20+8:]
	if string(q) != string(quoted[:len(q)]) {
		t.Errorf("it quotes\n%x, not\n%x", q, quoted)
	}
}
