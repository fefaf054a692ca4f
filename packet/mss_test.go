package packet

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// slowTCP sums a TCP segment and its pseudo header byte by byte (RFC 9293, 3.1).
func slowTCP(d []byte) uint16 {
	n := 20
	pseudo := bytes.Clone(d[12:20])
	if d[0]>>4 == 6 {
		n, pseudo = 40, bytes.Clone(d[8:40])
	}
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(d)-n))
	return slow16(d[n:], append(pseudo, 0, 0, 0, 6))
}

// TestAddMSS: an option more, in padding or where the frame has room, leaves all else of
// the segment as it was, and its checksum as right or as wrong.
func TestAddMSS(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ip := anyIP(t)
		options := rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "groups")
		options = bytes.Repeat([]byte{1, 1, 1, 0}, len(options))
		d := AppendTCP(nil, ip, 1000, 2000, Segment{Seq: rapid.Uint32().Draw(t, "seq"), Flags: SYN, Window: rapid.Uint16().Draw(t, "window"), Options: options})
		n := len(d) - 20 - len(options)
		if rapid.Bool().Draw(t, "damaged") {
			d[n+16] ^= rapid.Byte().Draw(t, "damage")
			d[n+17] ^= rapid.Byte().Draw(t, "damage")
		}
		was := slowTCP(d)
		padding := rapid.IntRange(0, 8).Draw(t, "padding")
		f := append(AppendEthernet(make([]byte, 0, 200), MAC{2}, MAC{4}, d), bytes.Repeat([]byte{0xee}, padding)...)
		p := &Packet{}
		p.Parse(f, len(f), Checks{})
		p.Trim()
		if !p.AddMSS(1234) {
			t.Fatal("there was room")
		}
		got := p.Frame[14:]
		if len(got) != len(d)+4 || int(p.Len) != len(got) || slowTCP(got) != was {
			t.Fatalf("%x became %x: the sum was %04x and is %04x", d, got, was, slowTCP(got))
		}
		if d[0]>>4 == 4 && !right4(got) {
			t.Fatalf("the IP header is wrong: %x", got)
		}
		if !bytes.Equal(got[n+20:n+24], []byte{2, 4, 1234 >> 8, 1234 & 255}) || !bytes.Equal(got[n+24:], options) || got[n+12]>>4 != d[n+12]>>4+1 {
			t.Fatalf("%x became %x", d, got)
		}
	})
}
