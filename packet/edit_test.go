package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// editedIP are the ends of the packets of these tests, of both families.
var editedIP = []IP{
	{Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("10.2.0.1")},
	{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2")},
}

// parsedWhole parses a datagram behind an Ethernet header, with room behind it.
func parsedWhole(t testing.TB, d []byte, room int) *Packet {
	t.Helper()
	f := AppendEthernet(make([]byte, 0, 14+len(d)+room), MAC{2}, MAC{4}, d)
	p := new(Packet)
	p.Parse(f, len(f), Checks{})
	if p.Kind != Data {
		t.Fatalf("it is %v: %v", p.Kind, p.Reason)
	}
	return p
}

// TestSetPayload: a packet with another payload is the one that would have been built with
// that, wherever it lies; and if its checksum was wrong it is wrong by as much.
func TestSetPayload(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		ip := rapid.SampledFrom(editedIP).Draw(rt, "ip")
		tcp := rapid.Bool().Draw(rt, "TCP")
		build := func(b []byte) []byte {
			if tcp {
				return AppendTCP(nil, ip, 1000, 21, Segment{Seq: 5, Ack: 6, Flags: ACK | PSH, Window: 7, Payload: b})
			}
			return AppendUDP(nil, ip, 1000, 69, b)
		}
		was := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(rt, "was")
		now := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(rt, "now")
		err := rapid.Uint16().Draw(rt, "error of the checksum")
		p := parsedWhole(t, build(was), rapid.IntRange(0, 100).Draw(rt, "room"))
		at := int(p.L4) + 6
		if tcp {
			at = int(p.L4) + 16
		}
		add := func(b []byte) { // in ones' complement
			c := uint32(binary.BigEndian.Uint16(b)) + uint32(err)
			binary.BigEndian.PutUint16(b, uint16(c>>16+c&0xffff))
		}
		if err != 0 && err != 0xffff {
			add(p.Frame[at:])
		}
		if !tcp && p.Frame[at]|p.Frame[at+1] == 0 {
			return // it says that there is none
		}
		moves := len(now) > p.Room()
		before := &p.Frame[0]
		p.SetPayload(now, make([]byte, 0, 2048))
		if moved := &p.Frame[0] != before; moved != moves {
			rt.Fatalf("moved %v, has to %v", moved, moves)
		}
		want := build(now)
		if err != 0 && err != 0xffff {
			add(want[at-14:])
		}
		got := p.Frame[14:]
		if !bytes.Equal(got, want) {
			c, d := binary.BigEndian.Uint16(got[at-14:]), binary.BigEndian.Uint16(want[at-14:])
			if c != ^d || c != 0 && d != 0 { // the two zeros
				rt.Fatalf("\n%x, not\n%x", got, want)
			}
		}
		if b, ok := p.Payload(); !ok || !bytes.Equal(b, now) || p.Len != uint32(len(want)) {
			rt.Fatalf("%x, length %d", b, p.Len)
		}
	})
}

// TestSegments: what is too long for the path leaves in segments that carry the same bytes,
// each at its place, with checksums that are right; the last one ends it.
func TestSegments(t *testing.T) {
	for _, ip := range editedIP {
		data := make([]byte, 3000)
		for i := range data {
			data[i] = byte(i * 7)
		}
		p := parsedWhole(t, AppendTCP(nil, ip, 1000, 21, Segment{Seq: 0xfffffff0, Ack: 6, Flags: ACK | PSH | FIN, Window: 7, Payload: data}), 0)
		var got []byte
		n := 0
		ok := p.Segments(1400, nil, func(d []byte) {
			f := AppendEthernet(nil, MAC{2}, MAC{4}, d)
			q := new(Packet)
			q.Parse(f, len(f), Checks{Transport: true})
			if q.Kind != Data || len(d) > 1400 || q.TCP.Seq != 0xfffffff0+uint32(len(got)) || q.TCP.Ack != 6 {
				t.Fatalf("segment %d: %v %v, %d bytes, seq %#x", n, q.Kind, q.Reason, len(d), q.TCP.Seq)
			}
			b, _ := q.Payload()
			got = append(got, b...)
			if last := len(got) == len(data); last != (q.TCP.Flags == ACK|PSH|FIN) {
				t.Errorf("segment %d has flags %v", n, q.TCP.Flags)
			}
			n++
		})
		if !ok || n != 3 || !bytes.Equal(got, data) {
			t.Errorf("%v, %d segments", ok, n)
		}
		if p.Segments(40, nil, func([]byte) { t.Error("a segment without data") }) {
			t.Error("cut for an MTU that leaves no room")
		}
	}
}

// TestSequenceNumbers: numbers are written with the checksum, SACK edges at odd offsets too.
func TestSequenceNumbers(t *testing.T) {
	for _, ip := range editedIP {
		for _, options := range [][]byte{
			{1, 1, 5, 18, 0, 0, 0, 10, 0, 0, 0, 20, 0, 0, 0, 30, 0, 0, 0, 40},
			{1, 5, 10, 0, 0, 0, 10, 0, 0, 0, 20, 0},
			{5, 9, 0, 0, 0, 10, 0, 0, 0, 20, 0, 0}, // no SACK of whole blocks
		} {
			segment := Segment{Seq: 100, Ack: 200, Flags: ACK, Window: 7, Options: options, Payload: []byte("hello")}
			p := parsedWhole(t, AppendTCP(nil, ip, 1000, 21, segment), 0)
			p.SetSeq(1000)
			p.SetAck(2000)
			p.MapSACK(func(left, right uint32) (uint32, uint32) { return left + 100_000, right + 200_000 })
			want := segment
			want.Seq, want.Ack, want.Options = 1000, 2000, bytes.Clone(options)
			for e, at := 0, 2+bytes.IndexByte(options, 5); options[at-1] != 9 && at+4 <= len(options) && e < int(options[at-1]-2)/4; e, at = e+1, at+4 {
				shift := uint32(100_000)
				if e%2 == 1 {
					shift = 200_000
				}
				binary.BigEndian.PutUint32(want.Options[at:], binary.BigEndian.Uint32(options[at:])+shift)
			}
			if d := AppendTCP(nil, ip, 1000, 21, want); !bytes.Equal(p.Frame[14:], d) {
				t.Errorf("options %x:\n%x, not\n%x", options, p.Frame[14:], d)
			}
			if p.TCP.Seq != 1000 || p.TCP.Ack != 2000 {
				t.Error("the packet does not know its numbers")
			}
		}
	}
}
