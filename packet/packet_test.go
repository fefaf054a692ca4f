package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
)

var (
	a4, b4 = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	a6, b6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	whole  = Checks{Transport: true}
)

// anyIP draws a pair of addresses of one family.
func anyIP(t *rapid.T) IP {
	if rapid.Bool().Draw(t, "v6") {
		return IP{Src: a6, Dst: b6}
	}
	return IP{Src: a4, Dst: b4}
}

// TestBuiltSegmentsAreRight has another library read what we build: headers,
// lengths and checksums.
func TestBuiltSegmentsAreRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ip := anyIP(t)
		s := Segment{
			Seq: rapid.Uint32().Draw(t, "seq"), Ack: rapid.Uint32().Draw(t, "ack"),
			Window: rapid.Uint16().Draw(t, "win"), Flags: ACK | PSH,
			Options: []byte{2, 4, 5, 180}, Payload: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "payload"),
		}
		frame := AppendEthernet(nil, MAC{1}, MAC{2}, AppendTCP(nil, ip, 1234, 80, s))
		pkt := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
		tcp, ok := pkt.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok {
			t.Fatalf("no TCP in %x: %v", frame, pkt.ErrorLayer())
		}
		if tcp.Seq != s.Seq || tcp.Ack != s.Ack || tcp.Window != s.Window || !bytes.Equal(tcp.Payload, s.Payload) {
			t.Fatalf("read back %+v", tcp)
		}
		if err := tcp.SetNetworkLayerForChecksum(pkt.NetworkLayer()); err != nil {
			t.Fatal(err)
		}
		if err, bad := pkt.VerifyChecksums(); err != nil || len(bad) > 0 {
			t.Fatalf("checksums: %v %v", err, bad)
		}
		var p Packet
		p.Parse(frame, len(frame), whole)
		if p.Kind != Data || p.TCP.Seq != s.Seq || p.TCP.SegLen != uint32(len(s.Payload)) || p.TCP.HeaderLen != 24 {
			t.Fatalf("parsed %+v", p)
		}
	})
}

// TestTags parses a datagram under 0 to 3 VLAN tags.
func TestTags(t *testing.T) {
	d := AppendUDP(nil, IP{Src: a4, Dst: b4}, 1000, 53, []byte("hello"))
	for tags, want := range []Kind{Data, Data, Data, Untracked} {
		f := append([]byte(nil), make([]byte, 12)...)
		for i := range tags {
			f = binary.BigEndian.AppendUint16(f, []uint16{0x88a8, 0x8100, 0x8100}[i])
			f = append(f, 0, 7)
		}
		f = append(binary.BigEndian.AppendUint16(f, 0x0800), d...)
		var p Packet
		p.Parse(f, len(f), whole)
		if p.Kind != want {
			t.Errorf("%d tags: kind %d, %v", tags, p.Kind, p.Reason)
		}
		for cut := range len(f) {
			p.Parse(f[:cut], cut, whole)
			if p.Kind == Data {
				t.Errorf("%d tags: a frame cut at %d of %d counts as whole", tags, cut, len(f))
			}
		}
	}
}

// TestReasons makes one frame for each thing that can be wrong.
func TestReasons(t *testing.T) {
	udp := func(change func(ip []byte)) []byte {
		f := AppendEthernet(nil, MAC{}, MAC{}, AppendUDP(nil, IP{Src: a4, Dst: b4}, 1, 2, []byte("hello")))
		change(f[14:])
		return f
	}
	header := func(change func(ip []byte)) []byte { // with the header checksum put right
		return udp(func(ip []byte) {
			change(ip)
			ip[10], ip[11] = 0, 0
			binary.BigEndian.PutUint16(ip[10:], ^sum(ip[:20], 0))
		})
	}
	for _, c := range []struct {
		want  flow.Reason
		frame []byte
	}{
		{flow.ReasonFrameTooShort, make([]byte, 13)},
		{flow.ReasonIPTooShort, udp(func([]byte) {})[:30]},
		{flow.ReasonIPVersion, udp(func(ip []byte) { ip[0] = 0x55 })},
		{flow.ReasonIPHeaderLength, udp(func(ip []byte) { ip[0] = 0x44 })},
		{flow.ReasonIPHeaderChecksum, udp(func(ip []byte) { ip[8]++ })},
		{flow.ReasonIPTotalLength, header(func(ip []byte) { ip[3]++ })},
		{flow.ReasonIPTotalLength, header(func(ip []byte) { ip[3] = 19 })},
		{flow.ReasonFragmentLength, header(func(ip []byte) { ip[6] = 0x20 })},
		{flow.ReasonFragmentTiny, header(func(ip []byte) { ip[3], ip[6] = 28, 0x20; ip[9] = 6 })},
		{flow.ReasonFragmentTiny, header(func(ip []byte) { ip[7] = 1; ip[9] = 6 })},
		{flow.ReasonFragmentTooLong, header(func(ip []byte) { ip[6], ip[7] = 0x1f, 0xff })},
		{flow.ReasonL4TooShort, header(func(ip []byte) { ip[3] = 27 })},
		{flow.ReasonL4Length, udp(func(ip []byte) { ip[25] = 7 })},
		{flow.ReasonL4Checksum, udp(func(ip []byte) { ip[28]++ })},
		{flow.ReasonTCPFlags, AppendEthernet(nil, MAC{}, MAC{},
			AppendTCP(nil, IP{Src: a4, Dst: b4}, 1, 2, Segment{Flags: SYN | FIN}))},
		{flow.ReasonICMPType, AppendEthernet(nil, MAC{}, MAC{}, AppendICMP(nil, IP{Src: a4, Dst: b4}, 9, 0, 0, nil))},
		{flow.ReasonICMPErrorQuote, AppendEthernet(nil, MAC{}, MAC{}, AppendICMP(nil, IP{Src: a4, Dst: b4}, 3, 0, 0, make([]byte, 19)))},
		{flow.ReasonICMPRedirect, AppendEthernet(nil, MAC{}, MAC{}, AppendICMP(nil, IP{Src: a6, Dst: b6}, 137, 0, 0, make([]byte, 40)))},
	} {
		var p Packet
		p.Parse(c.frame, len(c.frame), whole)
		if p.Reason != c.want || p.Kind != Malformed && p.Kind != Invalid && p.Kind != Fragmented || (p.Kind == Malformed) != c.want.Malformed() {
			t.Errorf("%v: kind %d, reason %v", c.want, p.Kind, p.Reason)
		}
	}
}

// TestPartialChecksum leaves checksums to the device and has them completed.
func TestPartialChecksum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ip := anyIP(t)
		payload := rapid.SliceOfN(rapid.Byte(), 0, 1400).Draw(t, "payload")
		var d []byte
		at, proto := 16, flow.TCP
		if rapid.Bool().Draw(t, "udp") {
			at, proto = 6, flow.UDP
			d = AppendUDP(nil, ip, 1234, 80, payload)
		} else {
			d = AppendTCP(nil, ip, 1234, 80, Segment{Flags: ACK, Payload: payload})
		}
		right := AppendEthernet(nil, MAC{1}, MAC{2}, d)
		hdr, f := 40, flow.IPv6
		if ip.Src.Is4() {
			hdr, f = 20, flow.IPv4
		}
		frame := bytes.Clone(right)
		pseudo := fold16(pseudoSum(flow.AddrFrom(ip.Src), flow.AddrFrom(ip.Dst), f, uint32(len(d)-hdr), proto))
		binary.BigEndian.PutUint16(frame[14+hdr+at:], pseudo)
		var p Packet
		p.Parse(frame, len(frame), whole)
		if bytes.Equal(frame, right) != (p.Kind == Data) {
			t.Fatalf("a partial checksum passes for a whole one")
		}
		p.Parse(frame, len(frame), Checks{Transport: true, Partial: true})
		if p.Kind != Data {
			t.Fatalf("kind %d, reason %v", p.Kind, p.Reason)
		}
		p.CompleteChecksum()
		if !bytes.Equal(frame, right) {
			t.Fatalf("completed to %x, want %x", frame, right)
		}
		if p.CompleteChecksum() {
			t.Fatal("a whole checksum was changed")
		}
	})
}

// sameAsGeneral compares p, which Parse made, with what the general path makes.
func sameAsGeneral(t interface{ Fatalf(string, ...any) }, p Packet, frame []byte, wire int) {
	if len(frame) < ethernetLen {
		return
	}
	var q Packet
	q.ParseFrom(frame, wire, ethernetLen, EtherType(binary.BigEndian.Uint16(frame[12:])), whole)
	p.Frame, q.Frame = nil, nil
	if p.Kind != Data || p.Proto != flow.TCP {
		p.TCP, q.TCP = TCP{}, TCP{} // not valid
	}
	if !reflect.DeepEqual(p, q) {
		t.Fatalf("%x:\nParse     %+v\nParseFrom %+v", frame, p, q)
	}
}

// TestPlainPath holds the short path through Parse to the general one, on frames
// that are plain or nearly so.
func TestPlainPath(t *testing.T) {
	for _, a := range []string{"10.0.0.1", "2000::1"} {
		ip := IP{Src: netip.MustParseAddr(a), Dst: netip.MustParseAddr(a).Next()}
		for _, d := range [][]byte{AppendUDP(nil, ip, 1, 2, make([]byte, 40)), AppendTCP(nil, ip, 1, 2, Segment{Flags: SYN})} {
			var p Packet
			if !p.parsePlain(AppendEthernet(nil, MAC{1}, MAC{2}, d), whole) {
				t.Errorf("not plain: %x", d)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		ip := IP{Src: anyAddr(t, v6, "src"), Dst: anyAddr(t, v6, "dst")}
		sport, dport := rapid.Uint16().Draw(t, "sport"), rapid.Uint16Range(0, 3).Draw(t, "dport")
		payload := rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "payload")
		d := AppendUDP(nil, ip, sport, dport, payload)
		if rapid.Bool().Draw(t, "tcp") {
			d = AppendTCP(nil, ip, sport, dport, Segment{
				Seq: rapid.Uint32().Draw(t, "seq"), Ack: rapid.Uint32().Draw(t, "ack"), Window: rapid.Uint16().Draw(t, "win"),
				Flags:   rapid.SampledFrom([]TCPFlags{SYN, ACK, ACK | PSH, FIN | ACK, RST, SYN | FIN}).Draw(t, "flags"),
				Options: make([]byte, 4*rapid.IntRange(0, 10).Draw(t, "options")), Payload: payload,
			})
		}
		frame := AppendEthernet(nil, MAC{1}, MAC{2}, d)
		frame = append(frame, make([]byte, rapid.IntRange(0, 8).Draw(t, "padding"))...)
		if rapid.IntRange(0, 3).Draw(t, "damage") == 0 {
			at := rapid.IntRange(12, min(len(frame), 60)-1).Draw(t, "at")
			frame[at] = rapid.Byte().Draw(t, "byte")
			if !v6 { // or nothing further is looked at
				binary.BigEndian.PutUint16(frame[24:], 0)
				binary.BigEndian.PutUint16(frame[24:], ^sum(frame[14:34], 0))
			}
		}
		frame = frame[:len(frame)-rapid.IntRange(0, 3).Draw(t, "cut")]
		var p Packet
		p.Parse(frame, len(frame), whole)
		sameAsGeneral(t, p, frame, len(frame))
	})
}

// anyAddr draws one of a few neighbouring addresses.
func anyAddr(t *rapid.T, v6 bool, name string) netip.Addr {
	n := rapid.ByteRange(1, 3).Draw(t, name)
	if v6 {
		return netip.AddrFrom16([16]byte{0: 0x20, 7: n & 1, 15: n})
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, n})
}

// FuzzParse feeds frames of arbitrary bytes: no panic, no field outside of the
// frame, and completing a checksum never makes a good frame bad.
func FuzzParse(f *testing.F) {
	f.Add(AppendEthernet(nil, MAC{}, MAC{}, AppendUDP(nil, IP{Src: a4, Dst: b4}, 1, 2, []byte("hello"))), 0)
	f.Add(AppendEthernet(nil, MAC{}, MAC{}, AppendTCP(nil, IP{Src: a6, Dst: b6}, 1, 2, Segment{Flags: SYN, Options: []byte{3, 3, 7}})), 3)
	f.Add(AppendEthernet(nil, MAC{}, MAC{}, AppendICMP(nil, IP{Src: a4, Dst: b4}, 3, 1, 0, AppendUDP(nil, IP{Src: b4, Dst: a4}, 2, 1, nil))), 0)
	f.Fuzz(func(t *testing.T, frame []byte, more int) {
		var p Packet
		wire := len(frame) + more&0xff
		p.Parse(frame, wire, whole)
		if p.Kind == Data && (int(p.L4) > int(p.L3)+int(p.Len) && p.Proto == flow.TCP || int(p.L3)+int(p.Len) > wire) {
			t.Fatalf("fields beyond the frame: %+v", p)
		}
		if p.Kind == Data && p.Proto == flow.TCP {
			_ = p.Options()
		}
		sameAsGeneral(t, p, frame, wire)
		walkHeaders(t, &p)
		if wire == len(frame) {
			good := p.Kind
			p.CompleteChecksum()
			p.Parse(frame, wire, whole)
			if good == Data && p.Kind != Data {
				t.Fatal("completing the checksum broke the packet")
			}
		}
	})
}

// walkHeaders reads what is between the IP header and the payload of any packet, which a
// capture may have cut: nothing behind the datagram, and nothing twice.
func walkHeaders(t *testing.T, p *Packet) {
	if p.Family == 0 || p.Kind == Malformed {
		return
	}
	last := -1
	for x := range p.Extensions {
		if x.At <= last || x.Len < 0 {
			t.Fatalf("%x: a header at %d, behind one at %d", p.Frame, x.At, last)
		}
		last = x.At
	}
	if p.Family == flow.IPv6 {
		p.HopByHop()
	}
}

func BenchmarkParse(b *testing.B) {
	for name, d := range map[string][]byte{
		"udp4": AppendUDP(nil, IP{Src: a4, Dst: b4}, 1000, 53, make([]byte, 18)),
		"tcp4": AppendTCP(nil, IP{Src: a4, Dst: b4}, 1000, 53, Segment{Flags: ACK}),
		"udp6": AppendUDP(nil, IP{Src: a6, Dst: b6}, 1000, 53, make([]byte, 18)),
	} {
		frame := AppendEthernet(nil, MAC{}, MAC{}, d)
		for _, checks := range []Checks{{}, whole} {
			mode := "checksum=off"
			if checks.Transport {
				mode = "checksum=on"
			}
			b.Run(name+"/"+mode, func(b *testing.B) {
				b.ReportAllocs()
				var p Packet
				for range b.N {
					p.Parse(frame, len(frame), checks)
				}
			})
		}
	}
}

// TestFarFragment: a fragment header beyond what an offset in a frame can say is
// INVALID, and not read from somewhere else.
func TestFarFragment(t *testing.T) {
	var body []byte
	for range 32 { // destination options of 2048 bytes each
		body = append(body, append([]byte{60, 255}, make([]byte, 2046)...)...)
	}
	body[31*2048] = fragment
	body = append(body, 17, 0, 0, 1, 0, 0, 0, 9)
	d := AppendIP(nil, IP{Src: a6, Dst: b6}, 60, append(body, make([]byte, 16)...))
	binary.BigEndian.PutUint16(d[4:], 0) // a jumbogram: the frame's length rules
	d[6] = hopByHop
	var p Packet
	p.ParseFrom(d, len(d), 0, EtherIPv6, whole)
	if p.Kind != Invalid || p.Reason != flow.ReasonIPv6ExtHeader {
		t.Errorf("kind %d, %v", p.Kind, p.Reason)
	}
}
