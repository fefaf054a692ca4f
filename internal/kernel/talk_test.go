package kernel

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// A talk is a connection between a host on one side and whatever answers on the other:
// since translation may differ in its choice of ports, each world answers to what it
// has seen itself.
type talk struct {
	family flow.Family
	proto  flow.Proto
	from   Side
	client netip.AddrPort
	server netip.AddrPort
	seq    [2]uint32 // of client and server
	step   int
	far    [2]*end // by world: the last datagram of the client as the other side saw it
	near   [2]*end // the last datagram of the server as the client's side saw it
}

// end is a datagram as it was seen.
type end struct {
	src, dst     netip.Addr
	sport, dport uint16
	datagram     []byte
	proto        flow.Proto
}

func seen(frame []byte) *end {
	d := frame[14:]
	e := &end{datagram: d}
	var at int
	var proto flow.Proto
	if d[0]>>4 == 4 {
		e.src, e.dst = netip.AddrFrom4([4]byte(d[12:])), netip.AddrFrom4([4]byte(d[16:]))
		at, proto = int(d[0]&15)*4, flow.Proto(d[9])
	} else {
		e.src, e.dst = netip.AddrFrom16([16]byte(d[8:])), netip.AddrFrom16([16]byte(d[24:]))
		at, proto = 40, flow.Proto(d[6])
	}
	e.proto = proto
	if len(d) >= at+8 {
		e.sport, e.dport = binary.BigEndian.Uint16(d[at:]), binary.BigEndian.Uint16(d[at+2:])
		if proto == flow.ICMP || proto == flow.ICMPv6 {
			e.sport = binary.BigEndian.Uint16(d[at+4:])
			e.dport = e.sport
		}
	}
	return e
}

// act is one datagram of a talk: what each world sends, and from which side.
type act struct {
	talk   *talk
	from   Side
	client bool                   // of the client; it is seen as far, others as near
	plain  bool                   // an ordinary packet of the talk, to be seen
	make   func(world int) []byte // nil: nothing can be sent there
}

// next makes the next act of a talk.
func (t *talk) next(r *rand.Rand) act {
	t.step++
	client := t.step == 1 || r.IntN(5) < 2
	if t.proto == flow.TCP && t.step <= 3 && r.IntN(20) > 0 {
		client = t.step != 2
	}
	ttl := uint8(64)
	if r.IntN(30) == 0 {
		ttl = uint8(1 + r.IntN(3))
	}
	tos := []byte{0, 0, 0, 0x10, 0x08, 0xb8}[r.IntN(6)]
	if t.step > 2 && r.IntN(9) == 0 {
		return t.fail(r, client)
	}
	id, size := uint16(r.Uint32()), []int{0, 0, 1, 10, 100, 700}[r.IntN(6)]
	a := act{talk: t, client: client, plain: true, from: t.from}
	if !client {
		a.from ^= 1
	}
	flags := packet.ACK
	switch {
	case t.step == 1 && r.IntN(25) > 0:
		flags = packet.SYN
	case t.step == 2:
		flags = packet.SYN | packet.ACK
	case r.IntN(12) == 0:
		flags = packet.FIN | packet.ACK
	case r.IntN(40) == 0:
		flags = packet.RST | packet.ACK
	case r.IntN(60) == 0:
		flags = []packet.TCPFlags{packet.SYN, packet.FIN, 0, packet.RST}[r.IntN(4)]
	}
	me, you := 0, 1
	if !client {
		me, you = 1, 0
	}
	seg := packet.Segment{Seq: t.seq[me], Ack: t.seq[you], Window: 60000, Flags: flags, Payload: make([]byte, size)}
	if flags&packet.SYN != 0 {
		seg.Payload = nil
		if r.IntN(4) > 0 {
			seg.Options = []byte{2, 4, 5, 180, 1, 1}
		}
		if flags == packet.SYN {
			seg.Ack = 0
		}
	}
	t.seq[me] += uint32(len(seg.Payload)) + uint32(flags>>1&1) + uint32(flags&1)
	a.make = func(w int) []byte {
		src, dst := t.client, t.server
		if !client {
			if t.far[w] == nil {
				return nil
			}
			f := t.far[w]
			src, dst = netip.AddrPortFrom(f.dst, f.dport), netip.AddrPortFrom(f.src, f.sport)
		}
		ip := packet.IP{Src: src.Addr(), Dst: dst.Addr(), TTL: ttl, ID: id}
		d := t.datagram(ip, src.Port(), dst.Port(), seg, client)
		if t.family == flow.IPv4 {
			setTOS(d, tos)
		}
		return d
	}
	return a
}

func setTOS(d []byte, tos byte) {
	old := binary.BigEndian.Uint16(d)
	d[1] = tos
	c := uint32(^binary.BigEndian.Uint16(d[10:])) + uint32(^old) + uint32(binary.BigEndian.Uint16(d))
	c = c>>16 + c&0xffff
	c = c>>16 + c&0xffff
	binary.BigEndian.PutUint16(d[10:], ^uint16(c))
}

func (t *talk) datagram(ip packet.IP, sport, dport uint16, seg packet.Segment, client bool) []byte {
	switch t.proto {
	case flow.TCP:
		return packet.AppendTCP(nil, ip, sport, dport, seg)
	case flow.UDP:
		return packet.AppendUDP(nil, ip, sport, dport, seg.Payload)
	case flow.UDPLite:
		return packet.AppendUDPLite(nil, ip, sport, dport, 8, seg.Payload)
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
	}
	return packet.AppendIP(nil, ip, t.proto, append(make([]byte, 8), seg.Payload...))
}

// fail makes an ICMP error about the last datagram that a side has seen.
func (t *talk) fail(r *rand.Rand, client bool) act {
	a := act{talk: t, from: t.from}
	if !client {
		a.from ^= 1
	}
	other := r.IntN(2) == 0
	kind := r.IntN(4)
	quote := []int{28, 60, 1000}[r.IntN(3)]
	a.make = func(w int) []byte {
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
		ip := packet.IP{Src: src, Dst: s.src}
		if t.family == flow.IPv6 {
			q := s.datagram[:min(len(s.datagram), quote+20)]
			return packet.AppendICMP(nil, ip, []uint8{1, 1, 2, 3}[kind], []uint8{3, 4, 0, 0}[kind], []uint32{0, 0, 1280, 0}[kind], q)
		}
		q := s.datagram[:min(len(s.datagram), quote)]
		return packet.AppendICMP(nil, ip, []uint8{3, 3, 3, 11}[kind], []uint8{1, 3, 4, 0}[kind], []uint32{0, 0, 1300, 0}[kind], q)
	}
	return a
}

// newTalk makes a talk between hosts and ports of small pools.
func newTalk(r *rand.Rand, f flow.Family) *talk {
	t := &talk{family: f, from: Side(r.IntN(4) / 3), seq: [2]uint32{r.Uint32(), r.Uint32()}}
	protos := []flow.Proto{flow.TCP, flow.TCP, flow.TCP, flow.UDP, flow.UDP, flow.ICMP, flow.UDPLite, 99}
	t.proto = protos[r.IntN(len(protos))]
	if t.proto == flow.ICMP && f == flow.IPv6 {
		t.proto = flow.ICMPv6
	}
	cport, sport := uint16(2000+r.IntN(40)), ports[r.IntN(len(ports))]
	if r.IntN(8) == 0 {
		cport = uint16(520 + r.IntN(30))
	}
	server := (t.from ^ 1).Host(1+r.IntN(Hosts), f)
	if r.IntN(4) == 0 && f == flow.IPv4 { // the router's own address, or one that is only translated
		server = t.from.Host([]int{254, 60, 61}[r.IntN(3)], f)
	}
	t.client = netip.AddrPortFrom(t.from.Host(1+r.IntN(Hosts), f), cport)
	t.server = netip.AddrPortFrom(server, sport)
	return t
}

var ports = []uint16{22, 53, 80, 443, 5000, 8080}
