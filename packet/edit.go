package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// What replaces payload (nf_nat_mangle_tcp_packet, nf_nat_mangle_udp_packet), and moves
// sequence numbers (nf_ct_seq_adjust).

// udpLen is the length of a UDP header.
const udpLen = 8

// Payload returns what a TCP segment or UDP datagram carries, and ok false if that is not
// whole. Valid iff Kind is Data.
func (p *Packet) Payload() (b []byte, ok bool) {
	at, end := p.payloadAt(), int(p.L3)+int(p.Len)
	if at == 0 || at > end || end > len(p.Frame) {
		return nil, false
	}
	return p.Frame[at:end], true
}

// payloadAt returns where the payload begins, 0 for other protocols.
func (p *Packet) payloadAt() int {
	switch p.Proto {
	case flow.TCP:
		return int(p.L4) + int(p.TCP.HeaderLen)
	case flow.UDP:
		return int(p.L4) + udpLen
	}
	return 0
}

// Room returns how many bytes of payload there is room for where the packet lies.
func (p *Packet) Room() int { return min(cap(p.Frame), int(p.L3)+MaxDatagram) - p.payloadAt() }

// SetPayload has the packet carry other bytes, which are not part of its frame: lengths
// and checksums follow, and a checksum that was wrong stays wrong. Where there is no Room
// for them the packet moves into buf, which is empty and has it. Valid iff Payload is ok,
// and the datagram is not longer than MaxDatagram afterwards.
func (p *Packet) SetPayload(b, buf []byte) {
	at, end := p.payloadAt(), int(p.L3)+int(p.Len)
	h := p.Header()
	check := h.sum()
	var wrong uint16
	if check != nil {
		wrong = p.transportSum()
	}
	if len(b) > p.Room() {
		p.Frame = append(buf[:0], p.Frame[:at]...)
		h.Frame = p.Frame
	}
	grown := at + len(b) - end
	p.Frame = p.Frame[:at+len(b)]
	copy(p.Frame[at:], b)
	p.setLength(grown)
	if check == nil {
		return
	}
	h.Frame = p.Frame
	check = h.sum()
	binary.BigEndian.PutUint16(check, 0)
	// Over a packet whose checksum is right the sum is all ones; over this one it is to be
	// what it was.
	c := uint32(^p.transportSum())
	if wrong != 0xffff {
		c += uint32(wrong)
		c = c>>16 + c&0xffff
	}
	binary.BigEndian.PutUint16(check, uint16(c))
	udpZero(check, p.Proto)
}

// transportSum returns the ones' complement sum of the packet and its pseudo header.
func (p *Packet) transportSum() uint16 {
	body := p.Frame[p.L4 : int(p.L3)+int(p.Len)]
	src, dst := p.Addrs()
	return sum(body, pseudoSum(src, dst, p.Family, uint32(len(body)), p.Proto))
}

// setLength adds n to the lengths in the headers.
func (p *Packet) setLength(n int) {
	p.Len = uint32(int(p.Len) + n)
	if p.Proto == flow.TCP {
		p.TCP.SegLen += uint32(n)
	} else {
		l := p.Frame[p.L4+4:]
		binary.BigEndian.PutUint16(l, uint16(int(p.Len)+int(p.L3)-int(p.L4)))
	}
	h := p.Frame[p.L3:]
	if p.Family == flow.IPv4 {
		was := binary.BigEndian.Uint16(h[2:])
		binary.BigEndian.PutUint16(h[2:], uint16(p.Len))
		update(h[10:], was, uint16(p.Len))
		return
	}
	binary.BigEndian.PutUint16(h[4:], uint16(p.Len-ipv6Len))
}

// SetSeq writes the sequence number of a TCP segment.
func (p *Packet) SetSeq(seq uint32) {
	p.setLong(4, seq)
	p.TCP.Seq = seq
}

// SetAck writes the acknowledgement number of a TCP segment.
func (p *Packet) SetAck(ack uint32) {
	p.setLong(8, ack)
	p.TCP.Ack = ack
}

// setLong writes a 32-bit word at any offset of the transport header.
func (p *Packet) setLong(at int, v uint32) {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	if at%2 == 0 {
		p.SetTransportWord(at, binary.BigEndian.Uint16(b[:]))
		p.SetTransportWord(at+2, binary.BigEndian.Uint16(b[2:]))
		return
	}
	for i, c := range b {
		p.SetTransportByte(at+i, c)
	}
}

// MapSACK replaces the edges of every block in the SACK options of a TCP segment
// (nf_ct_sack_adjust).
func (p *Packet) MapSACK(block func(left, right uint32) (l, r uint32)) {
	const nop, sack = 1, 5
	opts, start := p.Options(), 20
	for at := 0; at < len(opts) && opts[at] != 0; {
		if opts[at] == nop {
			at++
			continue
		}
		if at+1 >= len(opts) || opts[at+1] < 2 || at+int(opts[at+1]) > len(opts) {
			return
		}
		n := int(opts[at+1])
		if opts[at] == sack && n > 2 && (n-2)%8 == 0 {
			for e := at + 2; e < at+n; e += 8 {
				l, r := block(binary.BigEndian.Uint32(opts[e:]), binary.BigEndian.Uint32(opts[e+4:]))
				p.setLong(start+e, l)
				p.setLong(start+e+4, r)
			}
		}
		at += n
	}
}

// Segments yields a TCP segment that is longer than the MTU as several that are not, each
// as a datagram that is valid during the call only; buf is where they are made. It returns
// false, and yields none, if the MTU leaves no room for data.
func (p *Packet) Segments(mtu int, buf []byte, yield func(datagram []byte)) (ok bool) {
	data, ok := p.Payload()
	head := p.Frame[p.L3:p.payloadAt()]
	room := mtu - len(head)
	if !ok || room < 1 {
		return false
	}
	q := *p
	q.L4, q.L3 = p.L4-p.L3, 0
	for at := 0; at < len(data); at += room {
		piece := data[at:min(at+room, len(data))]
		q.Frame, q.Len, q.TCP = append(append(buf[:0], head...), data...), p.Len, p.TCP
		q.SetPayload(piece, nil)
		q.SetSeq(p.TCP.Seq + uint32(at))
		if p.Family == flow.IPv4 {
			id := binary.BigEndian.Uint16(q.Frame[4:])
			binary.BigEndian.PutUint16(q.Frame[4:], id+uint16(at/room))
			update(q.Frame[10:], id, id+uint16(at/room))
		}
		if at+room < len(data) { // what ends the segment is for the last one
			flags := q.Frame[q.L4+13]
			q.SetTransportByte(13, flags&^uint8(FIN|PSH))
		}
		yield(q.Frame)
	}
	return true
}

// Seq returns the sequence number of a TCP header. Valid iff its first eight bytes are there.
func (h Header) Seq() uint32 { return binary.BigEndian.Uint32(h.Frame[h.L4+4:]) }

// SetSeq writes it.
func (h Header) SetSeq(seq uint32) {
	b := h.Frame[h.L4+4 : h.L4+8]
	was := [4]byte(b)
	binary.BigEndian.PutUint32(b, seq)
	if sum := h.sum(); sum != nil {
		updateBytes(sum, was[:], b)
	}
}
