package packet

import (
	"testing"

	"pgregory.net/rapid"
)

// TestParseDatagram holds a datagram without a link header to what it is behind one of
// Ethernet: the same verdict and key, with all offsets 14 less, whatever is cut off or
// changed.
func TestParseDatagram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ip := anyIP(t)
		payload := rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "payload")
		var d []byte
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			d = AppendTCP(nil, ip, 1234, 80, Segment{Flags: SYN, Payload: payload})
		case 1:
			d = AppendUDP(nil, ip, 1234, 53, payload)
		default:
			d = AppendICMP(nil, ip, 8, 0, 1, payload)
		}
		if rapid.Bool().Draw(t, "change") {
			// Not the version: Ethernet says it twice, and the two may differ.
			d[rapid.IntRange(1, len(d)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "by"))
		}
		d = d[:rapid.IntRange(1, len(d)).Draw(t, "len")]

		var bare, framed Packet
		bare.ParseDatagram(d, len(d), whole)
		f := AppendEthernet(nil, MAC{1}, MAC{2}, d)
		framed.Parse(f, len(f), whole)
		if bare.Kind != framed.Kind || bare.Reason != framed.Reason || bare.Family != framed.Family || bare.Len != framed.Len {
			t.Fatalf("%x: %v %v, framed %v %v", d, bare.Kind, bare.Reason, framed.Kind, framed.Reason)
		}
		if bare.L3 != 0 || framed.L4 != 0 && bare.L4 != framed.L4-14 {
			t.Fatalf("%x: headers at %d and %d, framed at %d and %d", d, bare.L3, bare.L4, framed.L3, framed.L4)
		}
		if bare.Kind == Data && (bare.Key != framed.Key || bare.Flipped != framed.Flipped || bare.TCP != framed.TCP) {
			t.Fatalf("%x: key %v, framed %v", d, bare.Key, framed.Key)
		}
	})
	var p Packet
	p.ParseDatagram(nil, 0, whole)
	if p.Kind != Malformed {
		t.Errorf("nothing at all is %v", p.Kind)
	}
}

// TestDatagramLen leaves padding out, and trusts no length field beyond what is there.
func TestDatagramLen(t *testing.T) {
	for _, ip := range []IP{{Src: a4, Dst: b4}, {Src: a6, Dst: b6}} {
		d := AppendUDP(nil, ip, 1, 2, []byte("abc"))
		if got := DatagramLen(append(d[:len(d):len(d)], make([]byte, 9)...)); got != len(d) {
			t.Errorf("padded: %d bytes, not %d", got, len(d))
		}
		if got := DatagramLen(d[:len(d)-1]); got != len(d)-1 {
			t.Errorf("cut: %d bytes, not %d", got, len(d)-1)
		}
	}
}
