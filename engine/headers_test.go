package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
)

// probe sends frames into a router and looks at what leaves it on either side.
type probe struct {
	client, server *netlab.Raw
	to, from       packet.MAC // of the router, and of the client
}

func newProbe(t *testing.T, s *site) *probe {
	t.Helper()
	p := &probe{}
	for _, e := range []struct {
		ns  *netlab.NS
		raw **netlab.Raw
	}{{s.client, &p.client}, {s.server, &p.server}} {
		raw, err := e.ns.OpenRaw("eth0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(raw.Close)
		*e.raw = raw
	}
	for _, l := range []struct {
		ns   *netlab.NS
		name string
		mac  *packet.MAC
	}{{s.router, "lan", &p.to}, {s.client, "eth0", &p.from}} {
		link, err := l.ns.Link(l.name)
		if err != nil {
			t.Fatal(err)
		}
		*l.mac = packet.MAC(link.Attrs().HardwareAddr)
	}
	return p
}

// send sends datagrams, each with a trailer, until enough says that what came out of raw
// since is all. It returns that, the frames of IP datagrams of a protocol.
func (p *probe) send(t *testing.T, raw *netlab.Raw, proto flow.Proto, datagrams [][]byte, enough func(frames [][]byte) bool) [][]byte {
	t.Helper()
	var frames [][]byte
	for deadline := testenv.Deadline(); time.Now().Before(deadline); { // the first may wait for a neighbour
		frames = nil
		for _, d := range datagrams {
			f := append(packet.AppendEthernet(nil, p.to, p.from, d), "trailer"...)
			if err := p.client.Send(f); err != nil {
				t.Fatal(err)
			}
		}
		for {
			f, err := raw.Recv(300 * time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				break
			}
			var k packet.Packet
			if k.Parse(f, len(f), packet.Checks{}); k.Proto != proto && (k.Kind != packet.Fragmented || k.Family != flow.IPv6) {
				continue
			}
			if frames = append(frames, bytes.Clone(f)); enough(frames) {
				return frames
			}
		}
	}
	t.Fatalf("%d frames came out, and they are not all:\n%x", len(frames), frames)
	return nil
}

// cutAt cuts an IPv4 datagram into fragments.
func cutAt(d []byte, at ...int) (out [][]byte) {
	n := int(d[0]&15) * 4
	at = append(append([]int{0}, at...), len(d)-n)
	for i := range len(at) - 1 {
		f := append(slices.Clone(d[:n]), d[n+at[i]:n+at[i+1]]...)
		field := binary.BigEndian.Uint16(f[6:]) | uint16(at[i]/8)
		if i < len(at)-2 {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], field)
		out = append(out, lengthened(f))
	}
	return out
}

// lengthened puts length and checksum of an IPv4 header right.
func lengthened(d []byte) []byte {
	binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
	d[10], d[11] = 0, 0
	var c uint32
	for i, x := range d[:int(d[0]&15)*4] {
		c += uint32(x) << (8 * uint(1-i&1))
	}
	c = c>>16 + c&0xffff
	binary.BigEndian.PutUint16(d[10:], ^uint16(c+c>>16))
	return d
}

// whole returns the datagram of which frames are all fragments, parsed, nil if they are
// not all or not right.
func whole(frames [][]byte) *packet.Packet {
	var pieces []packet.Piece
	end := uint32(0)
	for _, f := range frames {
		var p packet.Packet
		p.Parse(f, len(f), packet.Checks{})
		if p.Kind != packet.Fragmented || p.Reason != flow.NoReason || p.Fragment.Offset != end || int(p.L3)+int(p.Len) != len(f) {
			return nil
		}
		end = p.Fragment.End
		pieces = append(pieces, packet.Piece{Fragment: p.Fragment, Frame: f})
	}
	if len(pieces) == 0 || pieces[len(pieces)-1].More {
		return nil
	}
	f, _ := packet.Assemble(nil, pieces)
	p := &packet.Packet{}
	p.ParseWhole(f, len(f), int(pieces[0].L3), packet.Checks{Transport: true})
	return p
}

// TestRouterHeaders sends frames into a running router: what leaves has no trailer, is cut
// where it was or to the MTU of its route, masqueraded, and right.
func TestRouterHeaders(t *testing.T) {
	testenv.Program(t, "ip")
	for _, shards := range []int{1, 2} {
		t.Run(fmt.Sprint(shards, " shards"), func(t *testing.T) { routerHeaders(t, shards) })
	}
}

func routerHeaders(t *testing.T, shards int) {
	t.Helper()
	const clamp = "*mangle\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000\nCOMMIT\n"
	s := newSiteOf(t, shards, clamp+masqueradeRules4, "*filter\nCOMMIT\n", nil)
	for _, args := range [][]string{{"route", "add", farIP + "/32", "via", serverIP, "mtu", "600"}} {
		if err := s.router.Do(func() error { return exec.Command("ip", args...).Run() }); err != nil {
			t.Fatal(err)
		}
	}
	p := newProbe(t, s)
	ip := packet.IP{Src: netip.MustParseAddr(clientIP), Dst: netip.MustParseAddr(farIP), ID: 77}
	toFar := packet.AppendUDP(nil, ip, 4000, 9, bytes.Repeat([]byte("abcdefg"), 200))
	ip.Dst = netip.MustParseAddr(serverIP)
	toServer := packet.AppendUDP(nil, ip, 4000, 9, bytes.Repeat([]byte("abcdefg"), 200))
	reserved := slices.Clone(toFar)
	reserved[6] = 0x80
	options := slices.Concat([]byte{0x47}, toServer[1:20], []byte{148, 4, 0, 0, 0x19, 4, 1, 2}, toServer[20:])
	firstOnly := cutAt(toServer, 608, 1216)
	firstOnly[0] = cutAt(lengthened(options), 608, 1216)[0]
	for _, c := range []struct {
		what  string
		in    [][]byte
		sizes []int // of the datagrams that come out
	}{
		{"whole", [][]byte{lengthened(slices.Clone(toFar))}, []int{596, 596, 276}},
		{"fragments that do not fit", cutAt(reserved, 800), []int{596, 596, 276}},
		{"fragments that do", cutAt(reserved, 400, 800, 1200), []int{420, 420, 420, 228}},
		{"fragments, no MTU", cutAt(toServer, 800), []int{820, 628}},
		{"options in the first", firstOnly, []int{636, 636, 220}},
	} {
		t.Run(c.what, func(t *testing.T) {
			frames := p.send(t, p.server, flow.UDP, c.in, func(frames [][]byte) bool {
				q := whole(frames)
				return q != nil && q.Kind == packet.Data && len(q.Body()) == 1408
			})
			var sizes []int
			for i, f := range frames {
				sizes = append(sizes, len(f)-14)
				if i > 0 && f[14] > 0x45 && !bytes.Equal(f[34:42], []byte{148, 4, 0, 0, 1, 1, 1, 1}) {
					t.Errorf("fragment %d has options %x", i, f[34:42])
				}
				if f[20]&0xc0 != 0 || f[22] != 63 {
					t.Errorf("fragment %d has the header %x", i, f[14:34])
				}
			}
			q := whole(frames)
			if src, _ := q.Addrs(); src.Netip(flow.IPv4).String() != wanIP || !slices.Equal(sizes, c.sizes) || !bytes.Equal(q.Body()[8:], toFar[28:]) {
				t.Errorf("from %v, in %v", src.Netip(flow.IPv4), sizes)
			}
		})
	}
	for _, in := range [][][]byte{cutAt(withDF(toFar), 800), {withDF(toFar)}} {
		p.send(t, p.client, flow.ICMP, in, func(frames [][]byte) bool {
			d := frames[len(frames)-1][14:]
			return d[20] == 3 && d[21] == 4 && binary.BigEndian.Uint16(d[26:]) == 600
		})
	}
	routerFrames(t, p)
}

// routerFrames sends frames that are not fragments of anything.
func routerFrames(t *testing.T, p *probe) {
	t.Helper()
	ip := packet.IP{Src: netip.MustParseAddr(clientIP), Dst: netip.MustParseAddr(serverIP)}
	small := packet.AppendUDP(nil, ip, 4001, 9, []byte("x"))
	p.send(t, p.server, flow.UDP, [][]byte{small}, func(frames [][]byte) bool {
		if f := frames[len(frames)-1]; len(f) != 14+len(small) {
			t.Fatalf("with its trailer: %x", f)
		}
		return true
	})
	// A padded SYN gets its option where the padding was, and a wrong checksum stays so.
	for _, damage := range []byte{0, 0x55} {
		syn := packet.AppendTCP(nil, ip, 4002, 9, packet.Segment{Seq: uint32(damage), Flags: packet.SYN, Window: 1000})
		syn[len(syn)-1] ^= damage
		p.send(t, p.server, flow.TCP, [][]byte{syn}, func(frames [][]byte) bool {
			f := frames[len(frames)-1]
			if len(f) != 14+44 || !bytes.Equal(f[54:], []byte{2, 4, 536 >> 8, 536 & 255}) {
				t.Fatalf("a SYN left as %x", f[14:])
			}
			var k packet.Packet
			if k.Parse(f, len(f), packet.Checks{Transport: true}); (k.Reason == flow.ReasonL4Checksum) != (damage != 0) {
				t.Fatalf("damaged by %x, it left as %x: %v", damage, f[14:], k.Reason)
			}
			return true
		})
	}
	six := packet.IP{Src: netip.MustParseAddr(client6), Dst: netip.MustParseAddr(server6)}
	udp := packet.AppendUDP(nil, six, 4000, 9, []byte("hello"))
	atomic := packet.AppendIP(nil, six, 44, append([]byte{17, 0, 0, 0, 1, 2, 3, 4}, udp[40:]...))
	p.send(t, p.server, flow.UDP, [][]byte{atomic}, func(frames [][]byte) bool {
		f := frames[len(frames)-1]
		want := slices.Clone(udp)
		want[7] = 63
		if !bytes.Equal(f[14:], want) {
			t.Fatalf("an atomic fragment left as %x", f[14:])
		}
		return true
	})
}

// withDF sets Don't Fragment.
func withDF(d []byte) []byte {
	d = slices.Clone(d)
	d[6] |= 0x40
	return lengthened(d)
}

// TestFragmentTime: who has sent the first fragment of an IPv6 datagram is told when the
// others did not come in time, as Linux tells; of later ones nobody is.
func TestFragmentTime(t *testing.T) {
	s := newSite(t, "*filter\nCOMMIT\n", "*filter\nCOMMIT\n", func(c *Config) {
		c.Settings.Fragments.TimeoutIPv4, c.Settings.Fragments.TimeoutIPv6 = 200, 200
	})
	p := newProbe(t, s)
	six := packet.IP{Src: netip.MustParseAddr(client6), Dst: netip.MustParseAddr(server6)}
	udp := packet.AppendUDP(nil, six, 4000, 9, make([]byte, 1000))[40:]
	first := packet.AppendIP(nil, six, 44, append([]byte{17, 0, 0, 1, 1, 2, 3, 4}, udp[:800]...))
	later := packet.AppendIP(nil, six, 44, append([]byte{17, 0, 800 >> 8, 800 & 255, 4, 3, 2, 1}, udp[800:]...))
	four := packet.IP{Src: netip.MustParseAddr(clientIP), Dst: netip.MustParseAddr(serverIP), ID: 7}
	cut := cutAt(packet.AppendUDP(nil, four, 4000, 9, make([]byte, 1000)), 800)
	p.send(t, p.client, flow.ICMPv6, [][]byte{later, cut[0], first}, func(frames [][]byte) bool {
		d := frames[len(frames)-1][14:]
		if d[6] != byte(flow.ICMPv6) || d[40] >= 128 { // neighbour discovery, or a report of groups
			return false
		}
		if d[40] != 3 || d[41] != 1 || !bytes.Equal(d[48:], first) {
			t.Fatalf("the answer is %x", d)
		}
		return true
	})
	testenv.Until(t, "no fragment is held: all have expired", func() bool {
		st, err := s.e.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Workers[0].Held == 0
	})
}
