package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// headerMaker makes datagrams whose headers are out of the ordinary.
type headerMaker struct{ r *rand.Rand }

// one picks one.
func (g headerMaker) one(all ...int) int { return all[g.r.IntN(len(all))] }

// options4 makes IPv4 options that are nearly right.
func (g headerMaker) options4() (b []byte) {
	for range g.r.IntN(4) {
		typ := byte(g.one(0, 1, 7, 7, 7, 68, 68, 68, 130, 131, 134, 137, 148, 0x99, 0x19))
		if typ < 2 && g.r.IntN(9) > 0 {
			b = append(b, typ)
			continue
		}
		n := 2 + g.one(1, 2, 5, 6, 6, 9, 10, 10, 13, 18, 21)
		opt := make([]byte, n)
		opt[0], opt[1] = typ, byte(n)
		opt[2] = byte(g.one(0, 4, 4, 4, 5, 5, 5, 8, 9, 12, 13, 40))
		if typ == 131 || typ == 137 { // an error would go back along the route, and xdpct sends none
			opt[2] = byte(g.one(0, 4))
		}
		if n > 3 {
			opt[3] = byte(g.one(0, 1, 3, 2, 0xf0, 0x13, 0x21))
		}
		if typ == 68 && n > 3 { // at a whole place, or noTime would not find the time
			opt[2] = byte(g.one(5, 5, 5, 13, 21, 4, 40))
		}
		for at := 4; at+4 <= n; at += 4 {
			a := netip.MustParseAddr([]string{"10.1.1.254", "10.2.2.254", "10.1.1.1", "10.9.9.9", "255.255.255.255", "0.0.0.0", "224.0.0.1"}[g.r.IntN(7)]).As4()
			copy(opt[at:], a[:])
		}
		if g.r.IntN(12) == 0 {
			opt[1] = byte(g.r.IntN(256))
		}
		b = append(b, opt...)
	}
	for len(b)%4 != 0 {
		b = append(b, byte(g.one(0, 0, 0, 0, 1, 9)))
	}
	return b[:min(len(b), 40)]
}

// options6 makes hop-by-hop options that are nearly right, a whole header of them.
func (g headerMaker) options6(next byte) []byte {
	b := []byte{next, 0}
	for range g.r.IntN(5) {
		typ := byte(g.one(0, 0, 1, 1, 5, 7, 49, 4, 0x1e, 0x3e, 0x5e, 0x9e, 0xde, 0xc2))
		if typ == 0 {
			b = append(b, 0)
			continue
		}
		n := g.one(0, 1, 2, 2, 3, 4, 4, 5, 6)
		b = append(append(b, typ, byte(n)), make([]byte, n)...)
		if n > 0 && g.r.IntN(6) == 0 {
			b[len(b)-1] = 1
		}
	}
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b[1] = byte(len(b)/8 - 1)
	if g.r.IntN(15) == 0 {
		b[1] = byte(g.r.IntN(256))
	}
	return b
}

// payload makes a transport header with something behind it, as part of a datagram.
func (g headerMaker) datagram(ip packet.IP) []byte {
	data := make([]byte, g.one(0, 1, 4, 18, 200, 600, 1200, 1380))
	port := uint16(g.one(7, 53, 53, 53))
	switch g.r.IntN(5) {
	case 0:
		return packet.AppendTCP(nil, ip, uint16(1000+g.r.IntN(30000)), port, packet.Segment{
			Flags: packet.SYN, Window: 1000, Payload: data[:len(data)*g.r.IntN(2)], Options: [][]byte{nil, {2, 4, 5, 180}, {1, 1, 4, 2}}[g.r.IntN(3)],
		})
	case 1:
		typ := uint8(8)
		if ip.Src.Is6() {
			typ = 128
		}
		return packet.AppendICMP(nil, ip, typ, 0, g.r.Uint32(), data)
	}
	return packet.AppendUDP(nil, ip, uint16(1000+g.r.IntN(30000)), port, data)
}

// make4 makes the frames' worth of an IPv4 datagram: one, or its fragments. A SYN comes
// whole: the kernel makes one piece of what TCPMSS changes, and cuts that anew.
func (g headerMaker) make4() (out [][]byte) {
	dst := B.Host(1+g.r.IntN(2), flow.IPv4)
	d := g.datagram(packet.IP{Src: A.Host(1, flow.IPv4), Dst: dst, TTL: uint8(g.one(64, 64, 64, 64, 2, 1)), ID: uint16(g.r.Uint32())})
	if o := g.options4(); g.r.IntN(3) > 0 {
		d = slices.Concat(d[:20], o, d[20:])
		d[0] = 0x40 | byte(5+len(o)/4)
		binary.BigEndian.PutUint16(d[2:], uint16(len(d)))
	}
	if g.r.IntN(9) == 0 {
		d[len(d)-1] ^= 0x55 // a wrong checksum
	}
	d[1] = byte(g.one(0, 0, 0x10, 2, 3))
	d[6] = byte(g.one(0, 0, 0, 0, 0x40, 0x80))
	n := int(d[0]&15) * 4
	at := []int{0}
	for d[9] != 6 && g.r.IntN(3) == 0 && len(d)-n > at[len(at)-1]+8*60 {
		at = append(at, at[len(at)-1]+8*(4+g.r.IntN(50)))
	}
	at = append(at, len(d)-n)
	for i := range len(at) - 1 {
		f := append(slices.Clone(d[:n]), d[n+at[i]:n+at[i+1]]...)
		field := uint16(d[6])<<8 | uint16(at[i]/8)
		if i < len(at)-2 {
			field |= 0x2000
		}
		if i > 0 && g.r.IntN(3) == 0 {
			field ^= 0x4000
			f[8] = byte(g.one(1, 9, 64))
			if f[1]&3 != 0 {
				f[1] = f[1]&^3 | byte(g.one(1, 2, 3))
			}
		}
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[6:], field)
		header4(f[:n])
		out = append(out, f)
	}
	return out
}

// header4 makes the checksum of an IPv4 header.
func header4(h []byte) {
	h[10], h[11] = 0, 0
	var c uint32
	for i := 0; i < len(h); i += 2 {
		c += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	c = c>>16 + c&0xffff
	binary.BigEndian.PutUint16(h[10:], ^uint16(c+c>>16))
}

// make6 is make4 for IPv6.
func (g headerMaker) make6() (out [][]byte) {
	dst := B.Host(1+g.r.IntN(2), flow.IPv6)
	if g.r.IntN(8) == 0 {
		dst = netip.MustParseAddr("2001:db8:9::9")
	}
	ip := packet.IP{Src: A.Host(1, flow.IPv6), Dst: dst, TTL: uint8(g.one(64, 64, 64, 64, 2, 1))}
	d := g.datagram(ip)
	n, announces := 40, 6
	if g.r.IntN(2) == 0 {
		o := g.options6(d[6])
		d = slices.Concat(d[:40], o, d[40:])
		d[6] = 0
		n, announces = 40+len(o), 40
	}
	d[1] = byte(g.one(0, 0, 0x20, 0x30))
	binary.BigEndian.PutUint16(d[4:], uint16(len(d)-40))
	if g.r.IntN(3) > 0 || announces == 40 && int(d[41]) != n/8-6 {
		return [][]byte{d}
	}
	at := []int{0}
	for d[announces] != 6 && g.r.IntN(3) > 0 && len(d)-n > at[len(at)-1]+8*60 {
		at = append(at, at[len(at)-1]+8*(5+g.r.IntN(50)))
	}
	at = append(at, len(d)-n)
	id := g.r.Uint32()
	for i := range len(at) - 1 {
		f := slices.Clone(d[:n])
		field := uint16(at[i])
		if i < len(at)-2 {
			field |= 1
		}
		f = append(f, f[announces], byte(g.one(0, 0, 7)), byte(field>>8), byte(field))
		f = append(binary.BigEndian.AppendUint32(f, id), d[n+at[i]:n+at[i+1]]...)
		f[announces] = 44
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
		out = append(out, f)
	}
	return out
}

// TestHeadersAgree sends datagrams with options of all kinds, right and wrong, whole and
// in fragments, with trailers, longer than the path takes or at the end of their time,
// through the kernel's router and through a shard. What comes out must be the same, but
// for the time of day, and for the identification of what a router sends of its own and
// of IPv6 fragments.
func TestHeadersAgree(t *testing.T) {
	testenv.Root(t)
	for _, p := range []string{"iptables-restore", "ip6tables-restore", "ip"} {
		testenv.Program(t, p)
	}
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d (repeat with: go test ./internal/kernel -run %s -seed %d)", s, t.Name(), s)
	for round, c := range []struct {
		f   flow.Family
		mtu int
		nat bool
	}{{flow.IPv4, 1500, false}, {flow.IPv4, 600, false}, {flow.IPv4, 576, true}, {flow.IPv6, 1500, false}, {flow.IPv6, 1280, true}} {
		text := headerRules
		if c.nat {
			text += fmt.Sprintf("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -d %v -j DNAT --to-destination %v\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s %v -j SNAT --to-source %v\nCOMMIT\n",
				B.Host(1, c.f), B.Host(3, c.f), A.Host(1, c.f), B.Host(60, c.f))
		}
		t.Run(fmt.Sprintf("IPv%c MTU %d NAT %v", "46"[c.f>>3&1], c.mtu, c.nat), func(t *testing.T) {
			headersAgree(t, rand.New(rand.NewPCG(s, uint64(round))), text, c.f, c.mtu, 1200)
		})
	}
}

func headersAgree(t *testing.T, r *rand.Rand, text string, f flow.Family, mtu, n int) {
	t.Helper()
	pin(t)
	o, w := routers(t, &lab{mtu: [2]int{B: mtu}}, f, text)
	g := headerMaker{r}
	for i := range n {
		var in [][]byte
		if f == flow.IPv4 {
			in = g.make4()
		} else {
			in = g.make6()
		}
		var x [2][][]byte
		for k := range in {
			if r.IntN(4) == 0 && len(in[k]) < 1490 && binary.BigEndian.Uint16(in[k][4:]) != 0 { // padding, or a trailer
				in[k] = append(in[k], bytes.Repeat([]byte{0xee}, 1+r.IntN(9))...)
			}
			in[k] = Frame(A, in[k])
			one, err := w.exchange(A, in[k])
			if err != nil {
				t.Fatal(err)
			}
			for side := range x {
				x[side] = append(x[side], one[side]...)
			}
		}
		k, err := o.exchange(A, in...)
		if err != nil {
			t.Fatal(err)
		}
		for side := range 2 {
			if !slices.EqualFunc(k[side], x[side], func(a, b []byte) bool { return bytes.Equal(timeless(a), timeless(b)) }) {
				t.Fatalf("IPv%c, MTU %d, datagram %d, side %d\nsent   %s\nkernel %s\nxdpct  %s\n%v %v", "46"[f>>3&1], mtu, i, side, dump(in), dump(shorter(k[side])), dump(shorter(x[side])), w.last.Action, w.last.Reason)
			}
		}
	}
}

// TestFragmentTimeAgrees: the kernel and a shard tell the sender of the first fragment of
// an IPv6 datagram that the others did not come in time, in the same words.
func TestFragmentTimeAgrees(t *testing.T) {
	testenv.Root(t)
	for _, p := range []string{"ip6tables-restore", "ip"} {
		testenv.Program(t, p)
	}
	l := &lab{mtu: [2]int{B: 1500}}
	k, err := newLinux(l, flow.IPv6, headerRules, map[string]string{"nf_conntrack_frag6_timeout": "1"}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	w, err := newDevice(1, l, flow.IPv6, headerRules)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	o := k.o
	ip := packet.IP{Src: A.Host(1, flow.IPv6), Dst: B.Host(1, flow.IPv6)}
	first := packet.AppendIP(nil, ip, 44, append([]byte{17, 0, 0, 1, 1, 2, 3, 4}, make([]byte, 800)...))
	frame := packet.AppendEthernet(nil, RouterMAC(A), HostMAC(), first)
	var p packet.Packet
	p.Parse(frame, len(frame), packet.Checks{})
	p.In = int(A)
	var out [2][][]byte
	w.shards[0].Expired(&p)
	w.take(w.shards[0], &out)
	x := out[A]
	if len(x) != 1 {
		t.Fatalf("xdpct sends %d frames", len(x))
	}
	if err := o.raw[A].Send(frame); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		f, err := o.raw[A].Recv(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if f != nil && !o.ownFrame(f) {
			if !bytes.Equal(timeless(f), timeless(x[0])) {
				t.Fatalf("kernel %x\nxdpct  %x", timeless(f), timeless(x[0]))
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the kernel says nothing")
		}
	}
}

// timeless returns a frame without the time of day, in its options and in those of a
// packet that it quotes, without its identification if a router has made it, and
// without that of an IPv6 fragment.
func timeless(frame []byte) []byte {
	f := bytes.Clone(frame)
	d := f[14:]
	if d[0]>>4 == 6 {
		f = anonymous(f, nil)
		d = f[14:]
		var p packet.Packet
		p.ParseFrom(d, len(d), 0, packet.EtherIPv6, packet.Checks{})
		for x := range p.Extensions {
			if x.Proto == 44 && x.At+8 <= len(d) {
				clear(d[x.At+4 : x.At+8])
			}
		}
		return f
	}
	noTime(d)
	n := int(d[0]&15) * 4
	switch {
	case d[9] == 1 && len(d) > n && (d[n] == 3 || d[n] == 5 || d[n] == 11 || d[n] == 12):
		noTime(d[n+8:])
		clear(d[n+2 : n+4])
		clear(d[4:6])
		clear(d[10:12])
	case d[9] == 6 && len(d) > n+13 && d[n+13]&4 != 0:
		clear(d[4:6])
		clear(d[10:12])
	}
	return f
}

// noTime takes the times out of the first timestamp option of an IPv4 header, and its
// checksum, which depends on them.
func noTime(d []byte) {
	n := int(d[0]&15) * 4
	for at := 20; at+4 <= min(n, len(d)) && d[at] != 0; {
		switch {
		case d[at] == 1:
			at++
			continue
		case d[at+1] < 2:
			return
		case d[at] == 68:
			step, from := 8, 8
			if d[at+3]&15 == 0 {
				step, from = 4, 4
			}
			for k := at + from; k+4 <= min(at+int(d[at+1]), n, len(d)); k += step {
				clear(d[k : k+4])
			}
			d[10], d[11] = 0, 0
			return
		}
		at += int(d[at+1])
	}
}

// headerRules have the kernel track connections, and reject some of them.
const headerRules = "*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1200\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p udp -m udp --dport 7 -j REJECT\n-A FORWARD -p tcp -m tcp --dport 7 -j REJECT --reject-with tcp-reset\n-A FORWARD -m conntrack --ctstate INVALID\nCOMMIT\n"

// shorter returns frames without time and without what is beyond their headers.
func shorter(frames [][]byte) (out [][]byte) {
	for _, f := range frames {
		f = timeless(f)
		out = append(out, f[:min(len(f), 200)])
	}
	return out
}
