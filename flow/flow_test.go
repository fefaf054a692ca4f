package flow

import (
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func anyTuple(t *rapid.T) Tuple {
	p := rapid.SampledFrom([]Proto{TCP, UDP, ICMP, ICMPv6, 50}).Draw(t, "proto")
	addr := rapid.Custom(func(t *rapid.T) Addr {
		return Addr{rapid.Uint64Range(0, 2).Draw(t, "hi"), rapid.Uint64Range(0, 2).Draw(t, "lo")}
	})
	src, dst := rapid.Uint16Range(0, 3).Draw(t, "a"), rapid.Uint16().Draw(t, "b")
	if p == ICMP || p == ICMPv6 { // mostly the types that matter
		dst = rapid.SampledFrom([]uint16{0, 8, 13, 14, 17, 18, 3, 19, 128, 129, 139, 140, 255}).Draw(t, "type") << 8
	} else if rapid.Bool().Draw(t, "near") {
		dst = rapid.Uint16Range(0, 3).Draw(t, "b'")
	}
	return Tuple{addr.Draw(t, "src"), addr.Draw(t, "dst"), MakeL4(IPv4, p, Zone(rapid.Uint16().Draw(t, "zone")), src, dst)}
}

// answers are the ICMP types that are query or reply (RFC 792, 950, 4443, 4620).
var answers = map[Proto]map[uint8]bool{
	ICMP:   {0: true, 8: true, 13: true, 14: true, 15: true, 16: true, 17: true, 18: true},
	ICMPv6: {128: true, 129: true, 139: true, 140: true},
}

// TestCanonical: a tuple and its inverse have one key, and it is one of them; two
// tuples that are not each other's inverse have different keys.
func TestCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyTuple(t), anyTuple(t)
		inv, ok := a.Invert()
		if isICMP := a.L4.Proto() == ICMP || a.L4.Proto() == ICMPv6; ok != (!isICMP || answers[a.L4.Proto()][a.L4.ICMPType()]) {
			t.Fatalf("Invert of %v: %v", a, ok)
		}
		if !ok {
			return
		}
		if back, ok := inv.Invert(); !ok || back != a {
			t.Fatalf("inverting twice: %v", back)
		}
		ka, fa := a.Canonical()
		ki, fi := inv.Canonical()
		if ka != ki || !ka.Equal(&ki) {
			t.Fatalf("keys %v and %v", ka, ki)
		}
		if a != inv && fa == fi {
			t.Fatal("both directions count as the same one")
		}
		if fa && ka != inv || !fa && ka != a {
			t.Fatal("the key is neither the tuple nor its inverse")
		}
		if _, ok := b.Invert(); ok && b != a && b != inv {
			if kb, _ := b.Canonical(); kb == ka {
				t.Fatalf("%v and %v have one key", a, b)
			}
		}
	})
}

// TestL4Fields: what goes in comes out.
func TestL4Fields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, p := rapid.SampledFrom([]Family{IPv4, IPv6}).Draw(t, "f"), Proto(rapid.Uint8().Draw(t, "p"))
		z, a, b := Zone(rapid.Uint16().Draw(t, "z")), rapid.Uint16().Draw(t, "a"), rapid.Uint16().Draw(t, "b")
		l := MakeL4(f, p, z, a, b)
		if l.Family() != f || l.Proto() != p || l.Zone() != z || l.Src() != a || l.Dst() != b {
			t.Fatalf("%x", l)
		}
		if l.ICMPType() != uint8(b>>8) || l.ICMPCode() != uint8(b) {
			t.Fatalf("type %d code %d of %x", l.ICMPType(), l.ICMPCode(), b)
		}
	})
}

func TestAddr(t *testing.T) {
	for _, s := range []string{"10.1.2.3", "0.0.0.0", "255.255.255.255"} {
		a := netip.MustParseAddr(s)
		if b := a.As4(); AddrFrom4(b[:]) != AddrFrom(a) || AddrFrom(a).Netip(IPv4) != a {
			t.Errorf("%s does not survive", s)
		}
	}
	a := netip.MustParseAddr("2001:db8::1")
	if b := a.As16(); AddrFrom16(b[:]) != AddrFrom(a) || AddrFrom(a).Netip(IPv6) != a {
		t.Errorf("%s does not survive", a)
	}
}

// TestHashSpread hashes tuples that differ in few bits, under random secrets: the
// upper, the middle and the lower bits, which pick bucket, shard and tag, must
// each be spread evenly.
func TestHashSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Secret
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for i := range s {
			s[i] = r.Uint64()
		}
		shift := rapid.IntRange(0, 4).Draw(t, "shift")
		const n, cells = 1 << 14, 256
		var top, mid, low [cells]int
		for i := range uint64(n) {
			u := Tuple{Src: Addr{Lo: mapped | 10<<24}, Dst: Addr{Lo: mapped | 11<<24}}
			switch shift {
			case 0:
				u.L4 = MakeL4(IPv4, UDP, 0, uint16(i), 53)
			case 1:
				u.L4 = MakeL4(IPv4, UDP, 0, 53, uint16(i))
			case 2:
				u.Src.Lo += i
			case 3:
				u.Dst.Lo += i << 8
			case 4:
				u.Src.Hi = i << 40
			}
			h := u.Hash(&s)
			top[h>>56]++
			mid[h>>20&0xff]++
			low[h&0xff]++
		}
		for name, c := range map[string]*[cells]int{"top": &top, "middle": &mid, "low": &low} {
			var chi float64
			for _, k := range c {
				d := float64(k) - n/cells
				chi += d * d / (n / cells)
			}
			// 255 degrees of freedom: mean 255, deviation 23.
			if chi > 255+12*23 {
				t.Fatalf("%s bits are uneven: chi square %.0f with secret %x", name, chi, s)
			}
		}
	})
}

// TestCountersAt64Bits: the parts of the counters carry into each other and into nothing
// else, against counters of 64 bits.
func TestCountersAt64Bits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		near := func(label string) uint64 { // mostly a little before a carry
			bits := rapid.SampledFrom([]int{0, 8, 24, 32, 40, 48, 62}).Draw(t, label)
			return uint64(1)<<bits - uint64(rapid.IntRange(0, 3).Draw(t, label))*uint64(min(bits, 1))
		}
		var c Conn
		var x Extra
		var want [2]Counters
		number := uint16(rapid.Uint32().Draw(t, "number"))
		c.SetPathNumber(number)
		for d := range want {
			want[d] = Counters{near("packets"), near("bytes")}
			c.packetsPaths |= want[d].Packets & packetsLoMask << (packetsLoBits * d)
			c.packetsHi[d], x.PacketsHi[d] = uint16(want[d].Packets>>packetsLoBits), uint32(want[d].Packets>>packetsBits)
			c.bytesLo[d], c.upper[d] = uint32(want[d].Bytes), uint32(want[d].Bytes>>32)
		}
		for range rapid.IntRange(1, 9).Draw(t, "count") {
			d, n := Direction(rapid.IntRange(0, 1).Draw(t, "direction")), rapid.Uint32Range(0, 1<<16).Draw(t, "bytes")
			switch carry := c.Count(d, n); carry {
			case 0:
			case CarryPackets:
				x.PacketsHi[d]++
			default:
				t.Fatalf("a connection that is not queued hands on %d", carry)
			}
			want[d].Packets++
			want[d].Bytes += uint64(n)
			for d := range want {
				if got := c.Counters(Direction(d), &x); got != want[d] {
					t.Fatalf("direction %d: %+v, want %+v", d, got, want[d])
				}
			}
			if got := c.PathNumber(); got != number {
				t.Fatalf("counting made path number %d of %d", got, number)
			}
		}
		c.ZeroCounters(&x)
		if c.Counters(Original, &x) != (Counters{}) || c.Counters(Reply, &x) != (Counters{}) || c.PathNumber() != number {
			t.Fatalf("after zeroing: %+v", c)
		}
	})
}

// TestBytesOfQueued: the byte count of a queued connection is handed on where it needs
// the space of the links.
func TestBytesOfQueued(t *testing.T) {
	c := Conn{bytesLo: [2]uint32{1<<32 - 1, 0}}
	c.SetLink(7, 9)
	if got := c.Counters(Original, nil).Bytes; got != 1<<32-1 {
		t.Fatalf("links show in the counters: %d", got)
	}
	if c.Count(Original, 1) != CarryBytes {
		t.Fatal("the carry was lost")
	}
	c.Unlink()
	c.CarryBytes(Original)
	if got := c.Counters(Original, nil); got != (Counters{1, 1 << 32}) {
		t.Fatalf("%+v", got)
	}
}

// TestReasonsHaveNames: every reason has a name of its own and a text.
func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]Reason{}
	for r := NoReason + 1; r < NumReasons; r++ {
		if r.String() == "" || r.Text() == "" {
			t.Errorf("reason %d has no name or text", r)
		}
		if o, ok := seen[r.String()]; ok {
			t.Errorf("%d and %d are both %s", r, o, r)
		}
		seen[r.String()] = r
	}
	if bits.Len(uint(NumReasons)) > 8 {
		t.Error("too many reasons")
	}
}
