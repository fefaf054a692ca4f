package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// answered is an ICMP message that came, and what it quotes.
type answered struct {
	from         netip.Addr
	typ, code    uint8
	info         uint32 // second word of the header
	qsrc, qdst   netip.Addr
	qttl         uint8
	sport, dport uint16
}

// listenICMP delivers the ICMP messages that come to a namespace.
func listenICMP(t *testing.T, ns *netlab.NS, v6 bool) chan answered {
	t.Helper()
	network, addr := "ip4:icmp", "0.0.0.0"
	if v6 {
		network, addr = "ip6:ipv6-icmp", "::"
	}
	var c *icmp.PacketConn
	if err := ns.Do(func() (err error) { c, err = icmp.ListenPacket(network, addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	all := make(chan answered, 100)
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			m := b[:n]
			if n < 8+48 && v6 || n < 8+28 {
				continue
			}
			a := answered{typ: m[0], code: m[1], info: binary.BigEndian.Uint32(m[4:])}
			a.from, _ = netip.AddrFromSlice(from.(*net.IPAddr).IP)
			a.from = a.from.Unmap()
			q, l4 := m[8:], m[8+20:]
			if v6 {
				l4 = q[40:]
				a.qsrc, a.qdst, a.qttl = netip.AddrFrom16([16]byte(q[8:24])), netip.AddrFrom16([16]byte(q[24:40])), q[7]
			} else {
				a.qsrc, a.qdst, a.qttl = netip.AddrFrom4([4]byte(q[12:16])), netip.AddrFrom4([4]byte(q[16:20])), q[8]
			}
			a.sport, a.dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
			all <- a
		}
	}()
	return all
}

// TestHostUnreachable: the sender of a packet whose next hop is silent is told so after
// the kernel's three probes, of the packet as he sent it, also if that was masqueraded;
// as the running kernel does (ask: ip_forward=1, MASQUERADE, a neighbour that is not
// there).
func TestHostUnreachable(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		from        string
	}{{"plain", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", lanIP}, {"masqueraded", masqueradeRules4, wanIP}} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, c.rules, "", nil)
			got := listenICMP(t, s.client, false)
			var u net.Conn
			if err := s.client.Do(func() (err error) { u, err = net.Dial("udp", "192.0.2.77:9"); return err }); err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			began := time.Now()
			if _, err := u.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			select {
			case a := <-got:
				if took := time.Since(began); took < 2500*time.Millisecond {
					t.Errorf("it came after %v", took)
				}
				want := answered{
					from: netip.MustParseAddr(c.from), typ: 3, code: 1, qsrc: netip.MustParseAddr(clientIP), qdst: netip.MustParseAddr("192.0.2.77"), qttl: 63,
					sport: netip.MustParseAddrPort(u.LocalAddr().String()).Port(), dport: 9,
				}
				if a != want {
					t.Errorf("%+v\nwant %+v", a, want)
				}
			case <-time.After(testenv.Patience):
				t.Error("nothing came")
			}
		})
	}
}

// TestHostUnreachable6 is that over IPv6: address unreachable.
func TestHostUnreachable6(t *testing.T) {
	s := newSite(t, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", nil)
	got := listenICMP(t, s.client, true)
	var u net.Conn
	if err := s.client.Do(func() (err error) { u, err = net.Dial("udp", "[2001:db8:60::77]:9"); return err }); err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if _, err := u.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(testenv.Patience); ; {
		select {
		case a := <-got:
			if a.typ != 1 {
				continue
			}
			want := answered{from: netip.MustParseAddr(lan6), typ: 1, code: 3, qsrc: netip.MustParseAddr(client6), qdst: netip.MustParseAddr("2001:db8:60::77"), qttl: 63, sport: a.sport, dport: 9}
			if a != want {
				t.Errorf("%+v\nwant %+v", a, want)
			}
			return
		case <-deadline:
			t.Fatal("nothing came")
		}
	}
}

// TestRedirects: a host that sends to the router what another host on its link could
// take is told so, if the sysctl says so, at the pace of the kernel.
func TestRedirects(t *testing.T) {
	s := newSite(t, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", "", nil)
	if err := errors.Join(s.router.Sysctl("net/ipv4/conf/all/send_redirects", "1"), s.client.Sysctl("net/ipv4/conf/all/accept_redirects", "0"),
		s.client.Sysctl("net/ipv4/conf/eth0/accept_redirects", "0")); err != nil {
		t.Fatal(err)
	}
	ip(t, s.router, "route add 20.0.0.0/8 via 10.50.0.99")
	ip(t, s.router, "neigh add 10.50.0.99 lladdr 02:00:00:00:00:99 dev lan")
	testenv.Until(t, "the sysctl is known", func() bool { return s.e.router.mirror.Table().Interfaces[0].SendRedirects })
	s.agrees(t)
	got := listenICMP(t, s.client, false)
	var u net.Conn
	if err := s.client.Do(func() (err error) { u, err = net.Dial("udp", "20.1.2.3:9"); return err }); err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	var times []time.Duration
	began := time.Now()
	earliest := []time.Duration{0, 40, 120, 280, 600} // in ms; 40 more, 80, 160, 320
	testenv.Until(t, "five redirects", func() bool {
		if _, err := u.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		select {
		case a := <-got:
			times = append(times, time.Since(began))
			gw := netip.MustParseAddr("10.50.0.99").As4()
			want := answered{from: netip.MustParseAddr(lanIP), typ: 5, code: 1, info: binary.BigEndian.Uint32(gw[:]), qsrc: netip.MustParseAddr(clientIP), qdst: netip.MustParseAddr("20.1.2.3"), qttl: 63, sport: a.sport, dport: 9}
			if a != want {
				t.Fatalf("%+v\nwant %+v", a, want)
			}
		case <-time.After(5 * time.Millisecond): // the rate
		}
		return len(times) == len(earliest)
	})
	for i, at := range times {
		if at < earliest[i]*time.Millisecond {
			t.Errorf("redirect %d came early: %v", i, times)
		}
	}
}

func ip(t *testing.T, ns *netlab.NS, line string) {
	t.Helper()
	if err := command(ns, "ip", line); err != nil {
		t.Fatal(err)
	}
}

// TestRedirects6 sends twenty packets in turn to two routers on the sender's own link:
// six redirects come back, by the host's limit, with the first router's link-layer
// address, which is known, and without the second's (asked of 6.18).
func TestRedirects6(t *testing.T) {
	s := newSite(t, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", nil)
	if err := errors.Join(s.client.Sysctl("net/ipv6/conf/all/accept_redirects", "0"), s.client.Sysctl("net/ipv6/conf/eth0/accept_redirects", "0")); err != nil {
		t.Fatal(err)
	}
	ip(t, s.router, "-6 route add 2001:db8:77::/64 via fe80::99 dev lan")
	ip(t, s.router, "-6 route add 2001:db8:78::/64 via fe80::98 dev lan")
	ip(t, s.router, "neigh add fe80::99 lladdr 02:00:00:00:00:99 dev lan")
	s.agrees(t)
	var c *icmp.PacketConn
	if err := s.client.Do(func() (err error) { c, err = icmp.ListenPacket("ip6:ipv6-icmp", "::"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	via := [2]string{"fe80::99", "fe80::98"}
	dst := [2]string{"2001:db8:77::5", "2001:db8:78::5"}
	for i := range 20 {
		if err := s.client.Do(func() error {
			u, err := net.Dial("udp", "["+dst[i%2]+"]:9")
			if err != nil {
				return err
			}
			defer u.Close()
			_, err = u.Write([]byte("x"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	b := make([]byte, 1500)
	for n < 6 {
		_ = c.SetReadDeadline(testenv.Deadline())
		size, from, err := c.ReadFrom(b)
		if err != nil {
			t.Fatalf("after %d redirects: %v", n, err)
		}
		if b[0] != 137 {
			continue
		}
		m := b[:size]
		target, to := netip.AddrFrom16([16]byte(m[8:24])), netip.AddrFrom16([16]byte(m[24:40]))
		i := n % 2
		if target.String() != via[i] || to.String() != dst[i] || !from.(*net.IPAddr).IP.IsLinkLocalUnicast() {
			t.Errorf("redirect %d: to %v by %v from %v", n, to, target, from)
		}
		want := [2]int{104, 96}[i]
		if size != want || i == 0 && !bytes.Equal(m[40:48], []byte{2, 1, 2, 0, 0, 0, 0, 0x99}) {
			t.Errorf("redirect %d: %d bytes, want %d: %x", n, size, want, m[40:])
		}
		if quote := m[size-48:]; quote[0]>>4 != 6 || quote[7] != 64 {
			t.Errorf("redirect %d quotes %x", n, quote)
		}
		n++
	}
	// The answer to a ping through the router comes behind all that it has to say.
	ping := icmp.Message{Type: ipv6.ICMPTypeEchoRequest, Body: &icmp.Echo{ID: 1}}
	request, err := ping.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(request, &net.IPAddr{IP: net.ParseIP(server6)}); err != nil {
		t.Fatal(err)
	}
	for b[0] = 0; b[0] != 129; {
		_ = c.SetReadDeadline(testenv.Deadline())
		size, _, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if b[0] == 137 {
			t.Errorf("one more: %x", b[:size])
		}
	}
}
