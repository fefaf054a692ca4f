package perf

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// header offsets of the frames that generators make: no VLAN, no IP options.
const (
	etherLen = 14
	ipv4Len  = 20
	ipv6Len  = 40
	fcsLen   = 4 // the checksum of a frame, which counts in its size but is not in memory
)

// imix is the simple IMIX: frame sizes and how many of twelve frames have them.
var imix = []struct{ size, weight int }{{64, 7}, {594, 4}, {1518, 1}}

// mixed is the protocol of connection n of a mix: of 20, 14 are TCP, 5 UDP and
// one ICMP.
func mixed(n int) flow.Proto {
	switch n % 20 {
	case 0, 4, 8, 12, 16:
		return flow.UDP
	case 19:
		return flow.ICMP
	}
	return flow.TCP
}

// generator writes frames of numbered connections into chunks. Frames have right
// IP and transport checksums.
type generator struct {
	proto func(n int) flow.Proto
	v6    bool
	sizes []int // the templates' frame sizes, by class; the last is the shortest there can be
	// templates by protocol, class and direction
	templates map[flow.Proto][][2][]byte
	tcp       []tcpEnds // by connection
	controls  bool      // TCP says something in FTP
	turn      []uint8   // by connection: the direction of its next frame
}

// tcpEnds is how far the two sides of a connection have come.
type tcpEnds struct{ seq [2]uint32 }

func newGenerator(l *EngineLoad, conns int) *generator {
	g := &generator{
		proto: func(int) flow.Proto { return l.Proto }, v6: l.IPv6,
		templates: map[flow.Proto][][2][]byte{}, turn: make([]uint8, conns),
	}
	if l.Mix {
		g.proto = mixed
	}
	if l.controls > 0 {
		others := g.proto
		g.controls = true
		g.proto = func(n int) flow.Proto {
			if n < l.controls {
				return flow.TCP
			}
			return others(n)
		}
	}
	if l.Mix || l.Proto == flow.TCP || g.controls {
		g.tcp = make([]tcpEnds, conns)
	}
	g.sizes = []int{l.Size}
	if l.IMIX {
		g.sizes = nil
		for _, s := range imix {
			for range s.weight {
				g.sizes = append(g.sizes, s.size)
			}
		}
	}
	g.sizes = append(g.sizes, 0)
	for _, p := range []flow.Proto{flow.TCP, flow.UDP, flow.ICMP} {
		for _, size := range g.sizes {
			g.templates[p] = append(g.templates[p], [2][]byte{g.template(p, size, 0), g.template(p, size, 1)})
		}
	}
	return g
}

// template makes the frame of connection 0 in a direction, padded to a size.
func (g *generator) template(p flow.Proto, size, dir int) []byte {
	ip := packet.IP{Src: netip.MustParseAddr("10.0.0.0"), Dst: netip.MustParseAddr("11.0.0.1")}
	hdr := etherLen + ipv4Len
	echo := [2]byte{8, 0}
	if g.v6 {
		ip = packet.IP{Src: netip.MustParseAddr("2001:db8::"), Dst: netip.MustParseAddr("2001:db8:1::1")}
		hdr = etherLen + ipv6Len
		echo = [2]byte{128, 129}
	}
	sport, dport := uint16(0), uint16(53)
	if dir == 1 {
		ip.Src, ip.Dst, sport, dport = ip.Dst, ip.Src, dport, sport
	}
	payload := func(l4 int) []byte { return make([]byte, max(size-fcsLen-hdr-l4, 0)) }
	var d []byte
	switch p {
	case flow.TCP:
		data := payload(20)
		if g.controls && len(data) > 0 {
			data = []byte(ftpLines[dir])
		}
		d = packet.AppendTCP(nil, ip, sport, dport, packet.Segment{Flags: packet.ACK, Window: 65535, Payload: data})
	case flow.UDP:
		d = packet.AppendUDP(nil, ip, sport, dport, payload(8))
	case flow.ICMP:
		d = packet.AppendICMP(nil, ip, echo[dir], 0, 0, payload(8))
	}
	return packet.AppendEthernet(nil, packet.MAC{2, 0, 0, 0, 0, 2}, packet.MAC{2, 0, 0, 0, 0, 1}, d)
}

// next makes the next frame of connection n, which is established: the two
// sides take turns.
func (g *generator) next(chunk []byte, n int) int {
	dir := g.turn[n]
	g.turn[n] ^= 1
	class := 0
	if len(g.sizes) > 2 {
		class = rand.IntN(len(g.sizes) - 1)
	}
	return g.write(chunk, n, int(dir), class, packet.ACK)
}

// bare makes a frame without payload.
func (g *generator) bare(chunk []byte, n, dir int, flags packet.TCPFlags) int {
	return g.write(chunk, n, dir, len(g.sizes)-1, flags)
}

// write makes a frame of connection n: the client's address and port, or ICMP
// identifier, tell it. Checksums are updated (RFC 1624).
func (g *generator) write(chunk []byte, n, dir, class int, flags packet.TCPFlags) int {
	proto := g.proto(n)
	t := g.templates[proto][class][dir]
	f := chunk[:len(t)]
	copy(f, t)
	ip := f[etherLen:]
	l4, addrAt, idAt := ip[ipv4Len:], 12+4*dir, 2*dir
	if g.v6 {
		l4, addrAt = ip[ipv6Len:], 8+12+16*dir
	}
	if proto == flow.ICMP {
		idAt = 4
	}
	var delta uint32
	add := func(b []byte, v uint16) { // to a field that is zero
		binary.BigEndian.PutUint16(b, v)
		delta += uint32(v)
	}
	add(ip[addrAt+2:], uint16(n>>16)) // 10.0.x.x: at most 2^32 connections
	if !g.v6 {
		adjust(ip[10:], delta)
		if proto == flow.ICMP {
			delta = 0 // has no pseudo header
		}
	}
	add(l4[idAt:], uint16(n))
	switch proto {
	case flow.TCP:
		g.segment(l4, n, dir, flags, add)
		adjust(l4[16:], delta+uint32(flags)-uint32(packet.ACK)+0xffff)
	case flow.UDP:
		adjust(l4[6:], delta)
	case flow.ICMP:
		adjust(l4[2:], delta)
	}
	return len(f)
}

// segment fills in what makes a TCP header part of its connection.
func (g *generator) segment(l4 []byte, n, dir int, flags packet.TCPFlags, add func([]byte, uint16)) {
	c := &g.tcp[n]
	seq, ack := c.seq[dir], c.seq[1-dir]
	if flags&packet.ACK == 0 {
		ack = 0
	}
	add(l4[4:], uint16(seq>>16))
	add(l4[6:], uint16(seq))
	add(l4[8:], uint16(ack>>16))
	add(l4[10:], uint16(ack))
	l4[13] = byte(flags)
	c.seq[dir] += uint32(len(l4)-20) + uint32(flags>>1&1) + uint32(flags&1)
}

// adjust updates a checksum for delta more in what it covers.
func adjust(field []byte, delta uint32) {
	sum := uint32(^binary.BigEndian.Uint16(field)) + delta&0xffff + delta>>16
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(field, ^uint16(sum))
}

// handshake is a TCP connection's beginning: who sends what.
var handshake = []step{{0, packet.SYN}, {1, packet.SYN | packet.ACK}, {0, packet.ACK}}

// lifecycle is a whole TCP connection without data, as a monitor's probe makes
// it: six packets from SYN to the last ACK.
var lifecycle = append(handshake[:3:3],
	step{0, packet.FIN | packet.ACK}, step{1, packet.FIN | packet.ACK}, step{0, packet.ACK})

type step struct {
	dir   int
	flags packet.TCPFlags
}

// restart forgets what was sent of connection n.
func (g *generator) restart(n int) {
	g.turn[n] = 0
	if g.tcp != nil {
		g.tcp[n] = tcpEnds{}
	}
}
