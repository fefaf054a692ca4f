package perf

import (
	"encoding/binary"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// header offsets of the frames that generators make: no VLAN, no IP options.
const (
	etherLen = 14
	ipv4Len  = 20
	ipv6Len  = 40
)

// generator writes frames of numbered connections into chunks. Frames have right
// IP and transport checksums.
type generator struct {
	proto    flow.Proto
	v6       bool
	size     int // of the frame, without its checksum
	template [2][]byte
	conns    []tcpEnds // by connection, for TCP
	replies  []bool    // by connection: whose turn it is
}

// tcpEnds is how far the two sides of a connection have come.
type tcpEnds struct{ seq [2]uint32 }

func newGenerator(proto flow.Proto, v6 bool, size, conns int) *generator {
	g := &generator{proto: proto, v6: v6, size: size, replies: make([]bool, conns)}
	if proto == flow.TCP {
		g.conns = make([]tcpEnds, conns)
	}
	ip := packet.IP{Src: netip.MustParseAddr("10.0.0.0"), Dst: netip.MustParseAddr("11.0.0.1")}
	hdr := etherLen + ipv4Len
	if v6 {
		ip = packet.IP{Src: netip.MustParseAddr("2001:db8::"), Dst: netip.MustParseAddr("2001:db8:1::1")}
		hdr = etherLen + ipv6Len
	}
	for dir := range g.template {
		at := ip
		sport, dport := uint16(0), uint16(53)
		if dir == 1 {
			at.Src, at.Dst, sport, dport = ip.Dst, ip.Src, dport, sport
		}
		var d []byte
		switch proto {
		case flow.TCP:
			d = packet.AppendTCP(nil, at, sport, dport, packet.Segment{
				Flags: packet.ACK | packet.PSH, Window: 65535, Payload: make([]byte, max(size-hdr-20, 0)),
			})
		case flow.UDP:
			d = packet.AppendUDP(nil, at, sport, dport, make([]byte, max(size-hdr-8, 0)))
		}
		g.template[dir] = packet.AppendEthernet(nil, packet.MAC{2, 0, 0, 0, 0, 2}, packet.MAC{2, 0, 0, 0, 0, 1}, d)
	}
	return g
}

// write makes the next frame of connection n in chunk and returns its length.
func (g *generator) write(chunk []byte, n int) int {
	dir := 0
	if g.replies[n] {
		dir = 1
	}
	g.replies[n] = !g.replies[n]
	f := chunk[:len(g.template[dir])]
	copy(f, g.template[dir])
	g.address(f, n, dir)
	return len(f)
}

// address makes the frame f belong to connection n: the client's address and port
// tell it. Checksums are updated (RFC 1624).
func (g *generator) address(f []byte, n, dir int) {
	ip := f[etherLen:]
	l4, addrAt := ip[ipv4Len:], 12
	if g.v6 {
		l4, addrAt = ip[ipv6Len:], 8+12
	}
	portAt := 0
	if dir == 1 {
		portAt = 2
		if g.v6 {
			addrAt += 16
		} else {
			addrAt += 4
		}
	}
	var delta uint32
	add := func(b []byte, v uint16) { // adds v to a field that is zero, or whose sum does not matter
		binary.BigEndian.PutUint16(b, binary.BigEndian.Uint16(b)+v)
		delta += uint32(v)
	}
	add(ip[addrAt+2:], uint16(n>>16)) // 10.0.x.x: at most 2^32 connections
	ipDelta := delta
	add(l4[portAt:], uint16(n))
	if g.conns != nil {
		c := &g.conns[n]
		seq, ack := c.seq[dir], c.seq[1-dir]
		add(l4[4:], uint16(seq>>16))
		add(l4[6:], uint16(seq))
		add(l4[8:], uint16(ack>>16))
		add(l4[10:], uint16(ack))
		c.seq[dir] += uint32(len(l4) - 20)
	}
	if !g.v6 {
		adjust(ip[10:], ipDelta)
	}
	if g.conns != nil {
		adjust(l4[16:], delta)
	} else if l4[6]|l4[7] != 0 {
		adjust(l4[6:], delta)
	}
}

// adjust updates a checksum for delta more in what it covers.
func adjust(field []byte, delta uint32) {
	sum := uint32(^binary.BigEndian.Uint16(field)) + delta&0xffff + delta>>16
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(field, ^uint16(sum))
}

// open writes the i-th frame of the handshake of TCP connection n.
func (g *generator) open(chunk []byte, n, i int) int {
	dir := i & 1
	f := chunk[:etherLen+ipv4Len+20]
	if g.v6 {
		f = chunk[:etherLen+ipv6Len+20]
	}
	ip := packet.IP{Src: netip.AddrFrom4([4]byte{10, 0, byte(n >> 24), byte(n >> 16)}), Dst: netip.MustParseAddr("11.0.0.1")}
	if g.v6 {
		a := netip.MustParseAddr("2001:db8::").As16()
		a[14], a[15] = byte(n>>24), byte(n>>16)
		ip = packet.IP{Src: netip.AddrFrom16(a), Dst: netip.MustParseAddr("2001:db8:1::1")}
	}
	sport, dport := uint16(n), uint16(53)
	if dir == 1 {
		ip.Src, ip.Dst, sport, dport = ip.Dst, ip.Src, dport, sport
	}
	c := &g.conns[n]
	seg := packet.Segment{Window: 65535, Seq: c.seq[dir], Ack: c.seq[1-dir]}
	switch i {
	case 0:
		seg.Flags, seg.Ack = packet.SYN, 0
		c.seq[0]++
	case 1:
		seg.Flags = packet.SYN | packet.ACK
		c.seq[1]++
	case 2:
		seg.Flags = packet.ACK
	}
	d := packet.AppendTCP(nil, ip, sport, dport, seg)
	copy(f, packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{2}, d))
	return len(f)
}
