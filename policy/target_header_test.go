package policy

import (
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// run1 runs the rules of mangle FORWARD over a datagram and returns it as it is then,
// parsed anew with its checksums verified.
func run1(t *testing.T, hook Hook, rules string, f flow.Family, d []byte) (Verdict, *packet.Packet) {
	t.Helper()
	p := compile(t, "*mangle\n"+rules+"\nCOMMIT\n", f, nil)
	v := viewOf(t, p, d, 0)
	verdict := p.Run(hook, v)
	after := &packet.Packet{}
	after.Parse(v.P.Frame, len(v.P.Frame), packet.Checks{Transport: true})
	return verdict, after
}

func segment(flags packet.TCPFlags, options []byte) []byte {
	return packet.AppendTCP(nil, packet.IP{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2")}, 1000, 80,
		packet.Segment{Seq: 1, Flags: flags, Window: 1000, Options: options, Payload: []byte("odd")})
}

// TestStripTCPOptions: options are overwritten, at odd offsets as well, and the checksum
// stays right.
func TestStripTCPOptions(t *testing.T) {
	const nop = 1
	for _, c := range []struct {
		strip         string
		options, want []byte
	}{
		{"timestamp", []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}, []byte{1, 1, nop, nop, nop, nop, nop, nop, nop, nop, nop, nop}},
		{"wscale", []byte{2, 4, 5, 180, 1, 3, 3, 7}, []byte{2, 4, 5, 180, 1, nop, nop, nop}},
		{"mss,sack-permitted", []byte{1, 2, 4, 5, 180, 4, 2, 0}, []byte{1, nop, nop, nop, nop, nop, nop, 0}},
		{"sack", []byte{2, 4, 5, 180}, []byte{2, 4, 5, 180}},
		{"30", []byte{30, 12, 1, 1}, []byte{30, 12, 1, 1}}, // longer than the header
	} {
		_, p := run1(t, MangleForward, "-A FORWARD -p tcp -j TCPOPTSTRIP --strip-options "+c.strip, flow.IPv4, segment(packet.SYN, c.options))
		if p.Kind != packet.Data {
			t.Errorf("%s: the segment is not right any more: %v", c.strip, p.Reason)
		}
		if got := p.Body()[20 : 20+len(c.want)]; string(got) != string(c.want) {
			t.Errorf("%s: % x, want % x", c.strip, got, c.want)
		}
	}
}

// TestSetECN: bits of TCP's header and of IP's are set as told (RFC 3168, 6.1).
func TestSetECN(t *testing.T) {
	for _, c := range []struct {
		option string
		flags  packet.TCPFlags
		want   packet.TCPFlags
		ect    uint8
	}{
		{"--ecn-tcp-remove", packet.SYN | packet.ECE | packet.CWR, packet.SYN, 0},
		{"--ecn-tcp-ece 1", packet.ACK, packet.ACK | packet.ECE, 0},
		{"--ecn-tcp-cwr 0", packet.ACK | packet.CWR | packet.ECE, packet.ACK | packet.ECE, 0},
		{"--ecn-ip-ect 2", packet.ACK | packet.CWR, packet.ACK | packet.CWR, 2},
	} {
		_, p := run1(t, MangleForward, "-A FORWARD -p tcp -j ECN "+c.option, flow.IPv4, segment(c.flags, nil))
		if p.Kind != packet.Data || p.TCP.Flags != c.want || p.TOS()&3 != c.ect {
			t.Errorf("%s: flags %08b, ECT %d, %v; want %08b, %d", c.option, p.TCP.Flags, p.TOS()&3, p.Reason, c.want, c.ect)
		}
	}
}

// TestNPT: addresses are mapped as RFC 6296 shows, to and fro, and checksums hold.
func TestNPT(t *testing.T) {
	const outside = "2001:db8:ffff::1"
	for _, c := range []struct{ inner, outer, from, to string }{
		{"fd01:203:405::/48", "2001:db8:1::/48", "fd01:203:405:1::1234", "2001:db8:1:d550::1234"}, // RFC 6296, 3.1
		{"fd01:203:405:1::/64", "2001:db8:1:2::/64", "fd01:203:405:1:0:0:0:1", "2001:db8:1:2:d54e::1"},
	} {
		d := packet.AppendUDP(nil, packet.IP{Src: netip.MustParseAddr(c.from), Dst: netip.MustParseAddr(outside)}, 1, 2, []byte("abc"))
		_, p := run1(t, ManglePostrouting, "-A POSTROUTING -j SNPT --src-pfx "+c.inner+" --dst-pfx "+c.outer, flow.IPv6, d)
		src, _ := p.Addrs()
		if got := src.Netip(flow.IPv6).String(); got != c.to || p.Kind != packet.Data {
			t.Errorf("%s is mapped to %s (%v), want %s", c.from, got, p.Reason, c.to)
		}
		d = packet.AppendUDP(nil, packet.IP{Src: netip.MustParseAddr(outside), Dst: netip.MustParseAddr(c.to)}, 2, 1, []byte("abc"))
		_, p = run1(t, ManglePrerouting, "-A PREROUTING -j DNPT --src-pfx "+c.outer+" --dst-pfx "+c.inner, flow.IPv6, d)
		_, dst := p.Addrs()
		if got := dst.Netip(flow.IPv6); got != netip.MustParseAddr(c.from) || p.Kind != packet.Data {
			t.Errorf("%s is mapped back to %s (%v), want %s", c.to, got, p.Reason, c.from)
		}
	}
	all := "2001:db8:1:2:ffff:ffff:ffff:ffff" // nothing of it can make up for the difference
	d := packet.AppendUDP(nil, packet.IP{Src: netip.MustParseAddr(all), Dst: netip.MustParseAddr(outside)}, 1, 2, nil)
	if v, _ := run1(t, ManglePostrouting, "-A POSTROUTING -j SNPT --src-pfx 2001:db8:1:2::/64 --dst-pfx fd00:0:0:1::/64", flow.IPv6, d); v != Drop {
		t.Errorf("%s: %v, want it dropped", all, v)
	}
}
