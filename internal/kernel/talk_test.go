package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// A talk is a connection between a host on one side and whatever answers on the other:
// since translation may differ in its choice of ports, each side of it answers to what it
// has seen itself, through the router in question.
type talk struct {
	family flow.Family
	proto  flow.Proto
	from   Side
	client netip.AddrPort
	server netip.AddrPort
	seq    [2]uint32 // of client and server
	step   int
	closed bool
	*sights
}

// sights are what hosts have seen of a talk, by router: talks of the same hosts and ports
// have them in common, since one connection may take the place of the other.
type sights struct {
	far  [maxRouters]*end // the last datagram of the client as the other side saw it
	near [maxRouters]*end // the last datagram of the server as the client's side saw it
}

// end is a datagram as it was seen.
type end struct {
	src, dst     netip.Addr
	sport, dport uint16
	datagram     []byte
	proto        flow.Proto
}

// traffic makes the acts of a trial.
type traffic struct {
	r     *rand.Rand
	f     flow.Family
	lab   *lab
	talks []*talk
	// legacy: what reads headers is ip_tables
	legacy bool
}

// one is true one time in n, if a feature is wanted.
func (g *traffic) one(n int, feature string) bool { return one(g.r, n) && on(feature) }

func one(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// acts makes n acts of a changing number of talks, and of strangers.
func (g *traffic) acts(n int) (all []act) {
	for len(all) < n {
		if one(g.r, 14) {
			if a, ok := g.stray(); ok {
				all = append(all, a)
			}
			continue
		}
		if len(g.talks) < 12 || one(g.r, 12) {
			g.talks = append(g.talks, g.newTalk())
		}
		if len(g.talks) > 25 {
			g.talks = g.talks[1:]
		}
		all = append(all, g.next(g.talks[g.r.IntN(len(g.talks))]))
	}
	return all
}

// ports are those that servers listen at, and that rules name.
var ports = []uint16{22, 53, 80, 443, 5000, 8080}

// newTalk makes a talk between hosts and ports of small pools, so that connections get
// in each other's way.
func (g *traffic) newTalk() *talk {
	r := g.r
	if len(g.talks) > 0 && one(r, 8) { // the ports are used again
		t := *pick(r, g.talks...)
		t.seq, t.step, t.closed = [2]uint32{pick(r, t.seq[0]+100_000, r.Uint32()), r.Uint32()}, 0, false
		return &t
	}
	t := &talk{sights: &sights{}, family: g.f, from: Side(r.IntN(4) / 3), seq: [2]uint32{r.Uint32(), r.Uint32()}}
	t.proto = g.proto()
	server := (t.from ^ 1).Host(1+r.IntN(Hosts), g.f)
	if one(r, 4) { // the router's own address, or one that is only translated
		n := []int{254, 60, 61}[r.IntN(3)]
		if g.f == flow.IPv6 { // which makes the kernel send redirects
			n = 254
		}
		server = t.from.Host(n, g.f)
	}
	t.client = netip.AddrPortFrom(t.from.Host(1+r.IntN(Hosts), g.f), g.port())
	t.server = netip.AddrPortFrom(server, ports[r.IntN(len(ports))])
	if g.one(30, "equal") && (g.f == flow.IPv4 || server != t.from.Host(254, g.f) || on("srcown6")) { // both ends are the same
		t.client = t.server
	}
	return t
}

func (g *traffic) proto() flow.Proto {
	r := g.r
	p := pick(r, flow.TCP, flow.TCP, flow.TCP, flow.TCP, flow.UDP, flow.UDP, flow.UDP, flow.ICMP, flow.UDPLite, 99)
	if one(r, 8) {
		if q := pick(r, flow.SCTP, flow.DCCP, flow.GRE, 50, 51, 4, 255); on(fmt.Sprintf("proto%d", q)) {
			p = q
		}
	}
	if p == flow.ICMP && g.f == flow.IPv6 {
		p = flow.ICMPv6
	}
	if p == 51 && g.f == flow.IPv6 { // an extension header there
		p = 50
	}
	return p
}

// port is the client's: of all ranges, and of each only some.
func (g *traffic) port() uint16 {
	r := g.r
	p := uint16(2000 + r.IntN(40))
	switch r.IntN(8) {
	case 0:
		p = uint16(520 + r.IntN(30))
	case 1:
		p = pick[uint16](r, 1, 53, 123, 500, 511, 512, 599, 600, 1023, 1024)
	case 2:
		p = uint16(32768 + r.IntN(20))
	case 3:
		p = uint16(65530 + r.IntN(6))
	}
	if g.one(60, "port0") {
		p = 0
	}
	return p
}

// next makes the next act of a talk.
func (g *traffic) next(t *talk) act {
	r := g.r
	t.step++
	client := t.step == 1 || r.IntN(5) < 2
	if t.proto == flow.TCP && t.step <= 3 && r.IntN(20) > 0 {
		client = t.step != 2
	}
	if t.step > 2 && one(r, 9) {
		return g.fail(t, client)
	}
	a := act{talk: t, client: client, plain: true, from: t.from, what: fmt.Sprintf("proto %d", t.proto)}
	if !client {
		a.from ^= 1
	}
	id, seg, data := uint16(r.Uint32()), g.segment(t, client), g.payload(a.from)
	if seg.Flags&packet.SYN == 0 || one(r, 20) {
		seg.Payload = data
	}
	me := 0
	if !client {
		me = 1
	}
	t.seq[me] += uint32(len(seg.Payload)) + uint32(seg.Flags>>1&1) + uint32(seg.Flags&1)
	odd := g.oddities(a.from)
	if t.proto == flow.GRE && !on("gredamaged") {
		odd.spoil = 0
	}
	a.what += odd.what
	salt := r.Uint32()
	a.frames = func(w int) [][]byte {
		src, dst := t.client, t.server
		if !client {
			f := t.far[w]
			if f == nil {
				return nil
			}
			src, dst = netip.AddrPortFrom(f.dst, f.dport), netip.AddrPortFrom(f.src, f.sport)
		}
		ip := packet.IP{Src: src.Addr(), Dst: dst.Addr(), ID: id}
		return odd.to(dst.Addr()).frames(a.from, t.datagram(ip, src.Port(), dst.Port(), seg, client, salt))
	}
	return a
}

// segment chooses what a TCP segment is; other protocols take its payload.
func (g *traffic) segment(t *talk, client bool) packet.Segment {
	r := g.r
	flags := packet.ACK
	switch {
	case t.step == 1 && r.IntN(25) > 0:
		flags = packet.SYN
	case t.step == 2:
		flags = packet.SYN | packet.ACK
	case one(r, 12):
		flags = packet.FIN | packet.ACK
	case one(r, 40):
		flags = packet.RST | packet.ACK
	case one(r, 60):
		flags = pick(r, packet.SYN, packet.FIN, 0, packet.RST)
	case g.one(40, "tcpflags"):
		flags = packet.TCPFlags(r.IntN(256))
	}
	me, you := 0, 1
	if !client {
		me, you = 1, 0
	}
	seg := packet.Segment{Seq: t.seq[me], Ack: t.seq[you], Window: 60000, Flags: flags}
	if flags&packet.SYN != 0 {
		seg.Options = pick(r, nil, []byte{2, 4, 5, 180, 1, 1}, []byte{2, 4, 5, 180, 1, 1}, []byte{2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7})
		if flags == packet.SYN {
			seg.Ack = 0
		}
	}
	if g.one(50, "badtcpoptions") {
		seg.Options = pick(r, []byte{2, 4, 5}, []byte{3, 0, 1, 1}, []byte{254, 40, 1, 1}, []byte{0, 2, 4, 5, 180, 0, 0, 0}, []byte{1, 2, 4, 5, 180, 0, 0, 0})
	}
	return seg
}

// payload is of a length that matters to rules, or to the MTU of the next link.
func (g *traffic) payload(from Side) []byte {
	n := pick(g.r, 0, 0, 1, 10, 100, 700)
	if g.one(10, "long") {
		n = pick(g.r, 1000, 1200, 1300, 1399, 1440, 1460)
	}
	room := g.lab.mtuOf(from) - 100 // for headers and options
	if g.f == flow.IPv6 {
		room -= 80
	}
	return make([]byte, min(n, room))
}

func (t *talk) datagram(ip packet.IP, sport, dport uint16, seg packet.Segment, client bool, salt uint32) []byte {
	switch t.proto {
	case flow.TCP:
		return packet.AppendTCP(nil, ip, sport, dport, seg)
	case flow.UDP:
		return packet.AppendUDP(nil, ip, sport, dport, seg.Payload)
	case flow.UDPLite: // as the kernel verifies it: with the protocol number of UDP, and of IPv4 short ones only
		seg.Payload = seg.Payload[:min(len(seg.Payload), 200)]
		d := packet.AppendUDPLite(nil, ip, sport, dport, 8, seg.Payload)
		l4 := d[len(d)-len(seg.Payload)-8:]
		putSum(l4[6:], uint32(^binary.BigEndian.Uint16(l4[6:]))+0xffff-uint32(flow.UDPLite-flow.UDP))
		if l4[6]|l4[7] == 0 { // it would be none, which a port that was drawn may come to for one router only
			l4[6], l4[7] = 0xff, 0xff
		}
		return d
	case flow.SCTP:
		return packet.AppendSCTP(nil, ip, sport, dport, 0, packet.AppendChunk(nil, 1, 0, make([]byte, 16)))
	case flow.DCCP: // a Request, whose checksum nobody verifies on the way
		b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, sport), dport)
		return packet.AppendIP(nil, ip, t.proto, append(b, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0))
	case flow.ICMP, flow.ICMPv6:
		typ := uint8(8)
		if t.family == flow.IPv6 {
			typ = 128
		}
		if !client {
			typ ^= 8
			if t.family == flow.IPv6 {
				typ = 129
			}
		}
		id := sport
		if !client {
			id = dport
		}
		return packet.AppendICMP(nil, ip, typ, 0, uint32(id)<<16|1, seg.Payload)
	case flow.GRE:
		h := []byte{0, 0, 0x08, 0}
		if salt%2 == 0 { // of PPTP
			h = []byte{0x30, 1, 0x88, 0x0b, 0, 4, 0, byte(sport)}
		}
		return packet.AppendIP(nil, ip, t.proto, append(h, append(seg.Payload, make([]byte, 8)...)...))
	case 51:
		return packet.AppendIP(nil, ip, t.proto, append([]byte{17, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, make([]byte, 12)...))
	}
	return packet.AppendIP(nil, ip, t.proto, append(make([]byte, 8), seg.Payload...))
}

// fail makes an ICMP error about the last datagram that a side has seen.
func (g *traffic) fail(t *talk, client bool) act {
	r := g.r
	a := act{talk: t, from: t.from, what: "an error about proto " + fmt.Sprint(t.proto)}
	if !client {
		a.from ^= 1
	}
	other := one(r, 2)
	typ, code, rest := pick[uint8](r, 3, 3, 3, 11), pick[uint8](r, 1, 3, 4, 0), pick[uint32](r, 0, 0, 1300)
	if t.family == flow.IPv6 {
		typ, code, rest = pick[uint8](r, 1, 1, 2, 3), pick[uint8](r, 3, 4, 0), pick[uint32](r, 0, 1280)
	}
	if one(r, 6) {
		typ, code = pick[uint8](r, 3, 4, 11, 12), uint8(r.IntN(16))
		if t.family == flow.IPv6 {
			typ = pick[uint8](r, 1, 2, 3, 4, 100, 127)
		}
	}
	if t.family == flow.IPv4 && g.one(10, "redirect") {
		typ, code = 5, uint8(r.IntN(4))
	}
	quote, short := pick(r, 28, 60, 1000), g.one(6, "shortquote")
	if short {
		quote = pick(r, 0, 8, 19, 20, 21, 24, 27, 29)
	}
	if t.family == flow.IPv6 {
		quote += 20
	}
	odd := g.oddities(a.from)
	odd.fragment = 0
	a.what += odd.what
	a.frames = func(w int) [][]byte {
		s := t.far[w]
		if client {
			s = t.near[w]
		}
		if s == nil {
			return nil
		}
		src := s.dst
		if other {
			src = a.from.Host(3, t.family)
		}
		n := quote
		if h, ok := headerAt(s.datagram, 0); ok && !short {
			n = max(n, h.l4+8)
		}
		q := bytes.Clone(s.datagram[:min(len(s.datagram), n)])
		if h, _ := headerAt(q, 0); h.fragAt > 0 && h.fragAt+8 <= len(q) { // routers choose it
			copy(q[h.fragAt+4:], []byte{0, 0, 0, 1})
		}
		return odd.to(s.src).frames(a.from, packet.AppendICMP(nil, packet.IP{Src: src, Dst: s.src}, typ, code, rest, q))
	}
	return a
}
