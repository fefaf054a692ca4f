package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// bridgeTraffic makes what is on a link: talks of hosts in IPv4 and IPv6, in frames of all
// kinds, and what is not IP.
type bridgeTraffic struct {
	r    *rand.Rand
	talk [2]*traffic // by family
	// plain is for a bridge without rules, which lets any number of tags pass, and cuts nothing.
	plain bool
}

func newBridgeTraffic(r *rand.Rand, plain bool) *bridgeTraffic {
	g := &bridgeTraffic{r: r, plain: plain}
	for i, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		g.talk[i] = &traffic{r: r, f: f, lab: &lab{}}
	}
	return g
}

// acts makes n acts.
func (g *bridgeTraffic) acts(n int) (all []act) {
	for len(all) < n {
		a := act{}
		if one(g.r, 3) {
			a = g.other()
		} else {
			a = g.linked(g.talk[g.r.IntN(2)].acts(1)[0])
		}
		if frames := a.frames; g.plain { // hop-by-hop options are not read
			a.frames = func(w int) [][]byte {
				return slices.DeleteFunc(frames(w), func(f []byte) bool {
					f = withoutTags(f)
					return len(f) > 20 && f[12] == 0x86 && f[13] == 0xdd && f[20] == 0
				})
			}
		}
		all = append(all, a)
	}
	return all
}

// hostOn is the Ethernet address of the hosts on a side.
func hostOn(s Side) []byte { return []byte{2, 0, 0, 0, 1, 1 + byte(s)} }

// linked gives what hosts send to each other the link headers that it may have on a bridge.
func (g *bridgeTraffic) linked(a act) act {
	header := g.header(a.from)
	tags := g.tags()
	ip := a.frames
	a.frames = func(w int) (all [][]byte) {
		for _, f := range ip(w) {
			if len(f) >= 18 && f[12] == 0x81 { // tagged already
				copy(f, header)
			} else {
				f = append(append(append([]byte{}, header...), tags...), f[12:]...)
			}
			all = append(all, f)
		}
		return all
	}
	a.what += fmt.Sprintf(", header %x, tags %x", header, tags)
	return a
}

// tags are those in front of an EtherType. A kernel's bridge shows iptables what is behind
// one tag, and no more.
func (g *bridgeTraffic) tags() []byte {
	tpid := pick(g.r, uint16(0x8100), 0x8100, 0x88a8)
	tci := pick(g.r, uint16(5), 0x6000, 0xe005, 0, 4095, uint16(g.r.Uint32()))
	tag := func(tpid uint16) []byte {
		return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, tpid), tci)
	}
	if one(g.r, 4) {
		return tag(tpid)
	}
	return nil
}

// header is a pair of Ethernet addresses of a frame from a side.
func (g *bridgeTraffic) header(from Side) []byte {
	r := g.r
	dst, src := hostOn(from^1), hostOn(from)
	switch r.IntN(16) {
	case 0:
		dst = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	case 1:
		dst = pick(r, []byte{1, 0, 0x5e, 0, 0, 5}, []byte{0x33, 0x33, 0, 0, 0, 1}, []byte{3, 1, 2, 3, 4, 5})
	case 2:
		dst = hostOn(from) // of the side that it comes from: nothing is learned
	case 3:
		dst = make([]byte, 6) // but not the address of a port, which is the host's own in Linux
	case 4:
		dst = []byte{1, 0x80, 0xc2, 0, 0, 3 + byte(r.IntN(13))}
	}
	if one(r, 20) {
		src = pick(r, []byte{1, 2, 3, 4, 5, 6}, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, make([]byte, 6), bytes.Clone(dst), bytes.Clone(routerMAC[from]), bytes.Clone(routerMAC[from^1]))
	}
	return append(bytes.Clone(dst), src...)
}

// other makes a frame that carries something else than IP, or hides it.
func (g *bridgeTraffic) other() act {
	r := g.r
	from := Side(r.IntN(2))
	what, body := g.body(from)
	tags := g.tags()
	if typ := binary.BigEndian.Uint16(body); typ == 0x800 || typ == 0x86dd {
		return g.frame(from, what, append(append(g.header(from), tags...), body...))
	}
	if one(r, 5) {
		tags = pick(r, []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 6}, []byte{0x91, 0, 0, 5}, []byte{0x81, 0, 0, 0, 0x81, 0, 0, 0})
		if g.plain {
			tags = append(tags, g.tags()...) // rules let no third one pass
		}
	}
	return g.frame(from, what, append(append(g.header(from), tags...), body...))
}

// frame makes an act of a frame: padded, with a trailer, or cut off now and then.
func (g *bridgeTraffic) frame(from Side, what string, f []byte) act {
	r := g.r
	odd := r.IntN(6)
	if g.plain && len(f) > 1400 {
		odd = 5
	}
	switch odd {
	case 0:
		f = append(f, make([]byte, max(60-len(f), 0))...)
	case 1:
		f = append(f, bytes.Repeat([]byte{0xa5}, r.IntN(30))...)
	case 2:
		f = f[:max(14, len(f)-r.IntN(20))] // cut off
	}
	f = append(f, make([]byte, max(20-len(f), 0))...) // the receiver's kernel drops a tag that is cut off
	return act{from: from, what: what, frames: func(int) [][]byte { return [][]byte{f} }}
}

// body is an EtherType, or a length, and what is behind it.
func (g *bridgeTraffic) body(from Side) (what string, b []byte) {
	r := g.r
	typed := func(typ uint16, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint16(nil, typ), rest...)
	}
	f := pick(r, flow.IPv4, flow.IPv6)
	ip := packet.IP{Src: from.Host(1, f), Dst: (from ^ 1).Host(2, f), ID: uint16(r.Uint32())}
	udp := packet.AppendUDP(nil, ip, 3000, 53, make([]byte, r.IntN(60)))
	random := make([]byte, r.IntN(100))
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	switch r.IntN(13) {
	case 0:
		return "ARP", g.arp(from)
	case 1:
		return "STP", append([]byte{0, 38, 0x42, 0x42, 3}, make([]byte, 35)...)
	case 2:
		return "LLC", typed(uint16(r.IntN(0x600)), random...)
	case 3:
		return "SNAP", append(typed(uint16(8+len(udp)), 0xaa, 0xaa, 3, 0, 0, 0, 8, 0), udp...)
	case 4:
		return "LLDP", typed(0x88cc, 2, 7, 4, 2, 0, 0, 0, 1, 1, 0, 0)
	case 5:
		return "EAPOL", typed(0x888e, 1, 1, 0, 0)
	case 6:
		proto := uint16(0x21)
		if f == flow.IPv6 {
			proto = 0x57
		}
		head := binary.BigEndian.AppendUint16([]byte{0x11, 0, 0, 1}, uint16(2+len(udp)))
		return "PPPoE session", append(typed(0x8864, binary.BigEndian.AppendUint16(head, proto)...), udp...)
	case 7:
		return "PPPoE discovery", typed(0x8863, 0x11, 9, 0, 0, 0, 4, 1, 1, 0, 0)
	case 8:
		return "MPLS", append(typed(pick(r, uint16(0x8847), 0x8848), 0, 1, 0x11, 64), udp...)
	case 9:
		typ := uint16(r.Uint32())
		for typ == 0x800 || typ == 0x86dd || typ == 0x8100 || typ == 0x88a8 || typ == 0x9100 || typ == markerType {
			typ = uint16(r.Uint32())
		}
		return "unknown type", typed(typ, random...)
	case 10:
		return "ND", typed(0x86dd, g.discovery(from)...)
	case 11:
		return "bad IP", g.badIP(ip, udp)
	default:
		n := pick(r, 1450, 1470, 1472, 1473, 1476, 1477, 1600, 1900)
		if f == flow.IPv6 {
			n -= 20
		}
		typ := map[flow.Family]uint16{flow.IPv4: 0x800, flow.IPv6: 0x86dd}[f]
		d := packet.AppendUDP(nil, ip, 3000, 53, make([]byte, n))
		if f == flow.IPv4 && one(r, 2) {
			d[6] |= 0x40
			d = finish(d)
		}
		if g.plain && f == flow.IPv4 { // to cut it takes rules
			d[6] |= 0x40
			d = finish(d)
		}
		if one(r, 4) { // or no IP at all, of the same length
			typ = 0x6000
		}
		if from == B { // whose link takes no more
			typ, d = 0x6000, d[:1400]
		}
		return fmt.Sprintf("jumbo %d", len(d)), typed(typ, d...)
	}
}

func (g *bridgeTraffic) arp(from Side) []byte {
	r := g.r
	b := []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, byte(1 + r.IntN(2))}
	me, you := from.Host(1, flow.IPv4).As4(), (from^1).Host(1, flow.IPv4).As4()
	b = append(append(append(b, hostOn(from)...), me[:]...), append(make([]byte, 6), you[:]...)...)
	if one(r, 4) {
		b[2+r.IntN(len(b)-2)] ^= byte(r.Uint32())
	}
	return b
}

// discovery is a message of neighbour or multicast listener discovery.
func (g *bridgeTraffic) discovery(from Side) []byte {
	r := g.r
	ip := packet.IP{Src: netip.MustParseAddr("fe80::1"), Dst: netip.MustParseAddr("ff02::1:ff00:1"), TTL: 255}
	if one(r, 2) {
		ip.Src, ip.Dst = from.Host(1, flow.IPv6), (from^1).Host(1, flow.IPv6)
	}
	target := (from ^ 1).Host(1, flow.IPv6).As16()
	d := packet.AppendICMP(nil, ip, pick[uint8](r, 133, 134, 135, 136, 137, 130, 131, 132, 143), uint8(r.IntN(40)/39), 0,
		append(target[:], append([]byte{1, 1}, hostOn(from)...)...))
	if one(r, 6) {
		d[40+r.IntN(len(d)-40)] ^= 0x55 // the checksum is wrong
	}
	return d
}

// badIP damages the IP header of a datagram.
func (g *bridgeTraffic) badIP(ip packet.IP, udp []byte) []byte {
	r := g.r
	d := bytes.Clone(udp)
	typ := []byte{8, 0}
	if ip.Src.Is4() {
		switch r.IntN(7) {
		case 0:
			binary.BigEndian.PutUint16(d[2:], uint16(len(d)+r.IntN(30)-15)) // the length, and the checksum with it
		case 1:
			d[10] ^= 0x55
		case 2:
			d[0] = byte(r.Uint32())
		case 3:
			d = d[:r.IntN(20)]
		case 4:
			typ = []byte{0x86, 0xdd}
		case 5: // the length, with a right checksum
			n := uint16(len(d) + r.IntN(60) - 50)
			d = finish(d)
			binary.BigEndian.PutUint16(d[2:], n)
			d[10], d[11] = 0, 0
			sum := uint32(0)
			for i := 0; i < 20; i += 2 {
				sum += uint32(binary.BigEndian.Uint16(d[i:]))
			}
			putSum(d[10:], sum)
		default:
			d = append(d, make([]byte, r.IntN(10))...)
		}
		return append(typ, d...)
	}
	typ = []byte{0x86, 0xdd}
	switch r.IntN(5) {
	case 0:
		binary.BigEndian.PutUint16(d[4:], uint16(len(d)-40+r.IntN(30)-15))
	case 1:
		d[0] = byte(r.Uint32())
	case 2:
		d = d[:r.IntN(40)]
	case 3:
		typ = []byte{8, 0}
	default:
		d = append(d, make([]byte, r.IntN(10))...)
	}
	return append(typ, d...)
}
