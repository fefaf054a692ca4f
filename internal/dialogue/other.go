package dialogue

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// udp talks to and fro, or in one direction only.
type udp struct {
	pair
	port   uint16
	oneWay bool
	said   [2][]byte // the last datagram of each end, for errors to quote
}

func newUDP(r *rand.Rand, p pair) *udp {
	return &udp{pair: p, port: pick[uint16](r, 53, 123, 5004), oneWay: one(r, 3)}
}

func (c *udp) next(r *rand.Rand) (bool, []byte) {
	i := r.IntN(2)
	if c.oneWay || c.said[0] == nil {
		i = 0
	}
	if quoted := c.said[1-i]; quoted != nil && one(r, 6) {
		return icmpError(r, &c.pair, i, quoted)
	}
	sport, dport := c.id, c.port
	if i == 1 {
		sport, dport = dport, sport
	}
	d := packet.AppendUDP(nil, c.ip(i), sport, dport, make([]byte, r.IntN(600)))
	l4 := d[ipLen(d):]
	switch r.IntN(25) {
	case 0: // no checksum
		l4[6], l4[7] = 0, 0
	case 1: // a length that lies
		binary.BigEndian.PutUint16(l4[4:], uint16(r.IntN(1500)))
	}
	c.said[i] = d
	return c.fromB(i), d
}

func ipLen(d []byte) int {
	if d[0]>>4 == 6 {
		return 40
	}
	return 20
}

// icmpError makes an error that end i, or a router on its way, sends about a
// datagram of the other end.
func icmpError(r *rand.Rand, p *pair, i int, quoted []byte) (bool, []byte) {
	ip := p.ip(i)
	side := p.fromB(i)
	if one(r, 3) { // a router in the middle
		ip.Src = p.net.Host(side, 1+r.IntN(p.net.Hosts), p.f)
	}
	if one(r, 6) { // sent to somebody else
		ip.Dst = p.net.Host(!side, 1+r.IntN(p.net.Hosts), p.f)
	}
	q := append([]byte(nil), quoted...)
	switch r.IntN(6) {
	case 0:
		q = q[:r.IntN(len(q))]
	case 1:
		q = q[:min(len(q), ipLen(q)+8)]
	case 2:
		if n := len(q) - ipLen(q); n > 0 {
			q[ipLen(q)+r.IntN(n)] ^= 1
		}
	}
	if len(q) > 1000 {
		q = q[:1000]
	}
	if p.f == flow.IPv4 {
		return side, packet.AppendICMP(nil, ip, pick[uint8](r, 3, 3, 3, 4, 5, 11, 12), uint8(r.IntN(5)), r.Uint32(), q)
	}
	return side, packet.AppendICMP(nil, ip, pick[uint8](r, 1, 1, 2, 3, 4, 100, 127), uint8(r.IntN(5)), r.Uint32(), q)
}

// icmp asks and answers, and gets things wrong.
type icmp struct {
	pair
	query, reply uint8
	said         []byte
}

func newICMP(r *rand.Rand, p pair) *icmp {
	c := &icmp{pair: p, query: 8, reply: 0}
	if p.f == flow.IPv6 {
		c.query, c.reply = 128, 129
		if one(r, 6) {
			c.query, c.reply = 139, 140
		}
	} else if one(r, 3) {
		c.query = pick[uint8](r, 13, 15, 17)
		c.reply = c.query + 1
	}
	return c
}

func (c *icmp) next(r *rand.Rand) (bool, []byte) {
	i, typ, code := 0, c.query, uint8(0)
	if c.said != nil && one(r, 2) {
		i, typ = 1, c.reply
	}
	switch r.IntN(12) {
	case 0: // in the wrong direction
		i = 1 - i
	case 1:
		typ = uint8(r.IntN(256))
		if c.f == flow.IPv4 && one(r, 2) {
			typ = uint8(r.IntN(20))
		}
	case 2:
		code = uint8(r.IntN(3))
	case 3:
		if c.said != nil {
			return icmpError(r, &c.pair, 1, c.said)
		}
	}
	d := packet.AppendICMP(nil, c.ip(i), typ, code, uint32(c.id)<<16|uint32(r.IntN(5)), make([]byte, r.IntN(100)))
	if i == 0 {
		c.said = d
	}
	return c.fromB(i), d
}

// generic is a protocol that has no tracker, under extension headers for IPv6.
type generic struct {
	pair
	proto flow.Proto
	said  [2][]byte
}

func newGeneric(r *rand.Rand, p pair) *generic {
	return &generic{pair: p, proto: pick[flow.Proto](r, 50, 89, 94, 103, 112, 253)}
}

func (c *generic) next(r *rand.Rand) (bool, []byte) {
	i := r.IntN(2)
	if quoted := c.said[1-i]; quoted != nil && one(r, 6) {
		return icmpError(r, &c.pair, i, quoted)
	}
	proto, body := c.proto, make([]byte, r.IntN(200))
	if c.f == flow.IPv6 && one(r, 2) {
		proto, body = extensions(r, proto, body)
	}
	d := packet.AppendIP(nil, c.ip(i), proto, body)
	c.said[i] = d
	return c.fromB(i), d
}

// extensions puts IPv6 extension headers before a payload.
func extensions(r *rand.Rand, proto flow.Proto, body []byte) (flow.Proto, []byte) {
	for range 1 + r.IntN(3) {
		switch r.IntN(5) {
		case 0, 1: // destination options: a PadN that fills the header
			n := r.IntN(3)
			h := append([]byte{byte(proto), byte(n), 1, byte(4 + 8*n)}, make([]byte, 4+8*n)...)
			proto, body = 60, append(h, body...)
		case 2: // authentication header
			n := 4 + 2*r.IntN(2)
			h := append([]byte{byte(proto), byte(n - 2)}, make([]byte, 4*n-2)...)
			proto, body = 51, append(h, body...)
		case 3: // atomic fragment
			h := binary.BigEndian.AppendUint32([]byte{byte(proto), 0, 0, 0}, r.Uint32())
			proto, body = 44, append(h, body...)
		case 4:
			if one(r, 6) {
				proto = 59 // no next header
			}
		}
	}
	return proto, body
}

// udplite is udp with partial checksums.
type udplite struct {
	pair
	said [2][]byte
}

func newUDPLite(_ *rand.Rand, p pair) *udplite { return &udplite{pair: p} }

func (c *udplite) next(r *rand.Rand) (bool, []byte) {
	i := r.IntN(2)
	if quoted := c.said[1-i]; quoted != nil && one(r, 8) {
		return icmpError(r, &c.pair, i, quoted)
	}
	sport, dport := c.id, uint16(5004)
	if i == 1 {
		sport, dport = dport, sport
	}
	payload := make([]byte, r.IntN(200))
	covered := pick(r, 0, 0, 8, 8+len(payload), 8+r.IntN(len(payload)+1))
	if one(r, 20) {
		covered = pick(r, 1, 7, 9+len(payload), 0xffff)
	}
	d := packet.AppendUDPLite(nil, c.ip(i), sport, dport, uint16(covered), payload)
	l4 := d[ipLen(d):]
	if !one(r, 10) { // as the kernel verifies it: with the protocol number of UDP
		sum := uint32(^binary.BigEndian.Uint16(l4[6:])) + 0xffff - uint32(flow.UDPLite-flow.UDP)
		binary.BigEndian.PutUint16(l4[6:], ^uint16(sum+sum>>16))
	}
	if one(r, 20) {
		l4[6], l4[7] = 0, 0
	} else if at := 8 + r.IntN(len(payload)+1); at < len(l4) && one(r, 5) {
		l4[at] ^= 1 // covered by the checksum, or not
	}
	c.said[i] = d
	return c.fromB(i), d
}

// tunnel is GRE, plain or that of PPTP.
type tunnel struct {
	pair
	version1 bool
	said     [2][]byte
}

func newTunnel(r *rand.Rand, p pair) *tunnel { return &tunnel{pair: p, version1: one(r, 2)} }

func (c *tunnel) next(r *rand.Rand) (bool, []byte) {
	i := r.IntN(2)
	if quoted := c.said[1-i]; quoted != nil && one(r, 8) {
		return icmpError(r, &c.pair, i, quoted)
	}
	header := []byte{0, 0, 0x08, 0}
	if c.version1 {
		id := pick(r, c.id, 0)
		header = []byte{0x30, 1, 0x88, 0x0b, 0, 4, byte(id >> 8), byte(id)}
	}
	switch r.IntN(15) {
	case 0:
		header[1] = byte(r.IntN(8))
	case 1:
		header[2] = 8
	case 2:
		header = header[:r.IntN(len(header))]
	}
	d := packet.AppendIP(nil, c.ip(i), flow.GRE, append(header, make([]byte, r.IntN(60))...))
	if one(r, 20) {
		d = packet.AppendIP(nil, c.ip(i), flow.GRE, header)
	}
	c.said[i] = d
	return c.fromB(i), d
}
