package shard

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// oddHeaders are datagrams with options of all kinds, right and wrong.
func oddHeaders() (all [][]byte) {
	query := packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, 53, []byte("hello"))
	syn := packet.AppendTCP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, 80, packet.Segment{Flags: packet.SYN})
	query6 := packet.AppendUDP(nil, packet.IP{Src: client6, Dst: server6}, 4000, 53, []byte("hello"))
	for _, o := range []string{"070b04000000000000000001", "440c05010000000000000000", "00010203", "01070300", "8307040a02000100", "94040000", "4408091000000000"} {
		for _, d := range [][]byte{query, syn} {
			d = withHeader(d, 0, o)
			all = append(all, d)
			d = slices.Clone(d)
			d[8] = 1 // its time is up
			sumIP(d)
			all = append(all, d)
		}
	}
	for _, o := range []string{"0000010400000000", "00000502000001000000", "0000de0401020304", "00005e0401020304", "0000c20400010000", "0001010c00000000000000000000000000"} {
		if len(o)%16 == 0 {
			all = append(all, withHeader(query6, 0, o), withHeader(query6, 60, o), withHeader(withHeader(query6, 60, o), 0, o))
		}
	}
	return append(all, withHeader(query6, 44, "0000000001020304"), withHeader(withHeader(query6, 44, "0000000001020304"), 0, "0000010400000000"))
}

// slowSum sums bytes, big-endian words of them, one after the other (RFC 1071).
func slowSum(parts ...[]byte) uint16 {
	var c uint32
	for _, b := range parts {
		for i, x := range b {
			c += uint32(x) << (8 * uint(1-i&1))
		}
		c = c>>16 + c&0xffff
	}
	for c > 0xffff {
		c = c>>16 + c&0xffff
	}
	return uint16(c)
}

// transportSum sums the payload of a datagram, which is at an offset, with its pseudo
// header; ok is false if a protocol has no such sum, or the sender has made none.
func transportSum(d []byte, at int, proto flow.Proto) (sum uint16, ok bool) {
	if at < 20 || at > len(d) {
		return 0, false
	}
	b := d[at:]
	v6 := d[0]>>4 == 6
	switch {
	case proto == flow.TCP && len(b) >= 20, proto == flow.ICMPv6 && v6 && len(b) >= 8:
	case proto == flow.UDP && len(b) >= 8 && b[6]|b[7] != 0:
	case proto == flow.ICMP && !v6 && len(b) >= 8:
		return slowSum(b), true
	default:
		return 0, false
	}
	pseudo := bytes.Clone(d[12:20])
	if v6 {
		pseudo = bytes.Clone(d[8:40])
	}
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
	return slowSum(append(pseudo, 0, 0, 0, byte(proto)), b), true
}

// checkSums checks what leaves with sums of its own: that of an IPv4 header is right, and
// that of the payload as right or wrong as it came; and lengths agree.
func checkSums(t *testing.T, frame []byte, p *packet.Packet, v *Verdict) {
	t.Helper()
	if v.Action != Accept || p.Family == 0 || p.Kind == packet.Fragmented {
		return
	}
	d := p.Frame[p.L3 : int(p.L3)+int(p.Len)]
	if len(d) != len(p.Frame)-int(p.L3) {
		t.Fatalf("%x leaves with a trailer", frame)
	}
	if n := binary.BigEndian.Uint16(d[2:]); p.Family == flow.IPv4 && (int(n) != len(d) || slowSum(d[:int(d[0]&15)*4]) != 0xffff) {
		t.Fatalf("%x leaves as %x", frame, d)
	}
	if n := binary.BigEndian.Uint16(d[4:]); p.Family == flow.IPv6 && n != 0 && int(n) != len(d)-40 {
		t.Fatalf("%x leaves as %x", frame, d)
	}
	var in packet.Packet
	in.Parse(frame, len(frame), packet.Checks{})
	was, ok := transportSum(frame[in.L3:int(in.L3)+int(in.Len)], int(in.L4)-int(in.L3), in.Proto)
	now, still := transportSum(d, int(p.L4)-int(p.L3), p.Proto)
	if ok && still && was%0xffff != now%0xffff && (p.Kind != packet.Error || was == 0xffff) {
		t.Fatalf("the payload of %x summed up to %04x, and to %04x as it leaves as %x", frame, was, now, d)
	}
}

// checkBehind lets the frame into a shard that is like b with other bytes behind its
// datagram: they make no difference, for nobody reads them.
func checkBehind(t *testing.T, b, twin *natBox, port int, frame []byte, p *packet.Packet, v *Verdict) {
	t.Helper()
	var in packet.Packet
	in.Parse(frame, len(frame), packet.Checks{})
	other := slices.Clone(frame)
	if end := int(in.L3) + int(in.Len); in.Len != 0 {
		for i := range other[end:] {
			other[end+i] ^= 0x5a
		}
	}
	q, w := twin.passFrame(port, other)
	if w.Action != v.Action || w.Reason != v.Reason || w.State != v.State || in.Len != 0 && v.Action == Accept && !bytes.Equal(p.Frame, q.Frame) {
		t.Fatalf("%x: %v %v %x; with other bytes behind it %v %v %x", frame, v.Action, v.Reason, p.Frame, w.Action, w.Reason, q.Frame)
	}
	own, others := b.forward.own, twin.TakeOwn()
	if !slices.EqualFunc(own, others, func(a, b Own) bool { return bytes.Equal(a.Datagram, b.Datagram) }) {
		t.Fatalf("%x: %d datagrams of our own; with other bytes behind it %d, or others", frame, len(own), len(others))
	}
}

// TestHeadersForwarded draws datagrams with options, right and wrong, and lets them
// through every rule, by a bridge and by a router: all that leaves has right sums and
// lengths, and nobody reads behind a datagram.
func TestHeadersForwarded(t *testing.T) {
	boxes := map[bool][2]*natBox{}
	for _, router := range []bool{false, true} {
		var pair [2]*natBox
		for i := range pair {
			pair[i] = newForwarder(t, everyRule, everyRule6, nil)
			if router {
				pair[i] = newForwarder(t, everyRule, everyRule6, routesOfBoth())
			}
		}
		boxes[router] = pair
	}
	odd := oddHeaders()
	rapid.Check(t, func(r *rapid.T) {
		d := slices.Clone(rapid.SampledFrom(odd).Draw(r, "datagram"))
		for range rapid.IntRange(0, 3).Draw(r, "changes") {
			d[rapid.IntRange(0, len(d)-1).Draw(r, "at")] = rapid.SampledFrom([]byte{0, 1, 2, 4, 7, 8, 17, 44, 58, 68, 131, 255}).Draw(r, "byte")
		}
		frame := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)
		repair(frame[14:])
		frame = append(frame, bytes.Repeat([]byte{1}, rapid.IntRange(0, 9).Draw(r, "trailer"))...)
		for _, pair := range boxes {
			p, v := pair[0].passFrame(0, frame)
			checkBehind(t, pair[0], pair[1], 0, frame, &p, &v)
			checkSums(t, frame, &p, &v)
			checkPassed(t, pair[0], frame, &p, &v)
		}
	})
}
