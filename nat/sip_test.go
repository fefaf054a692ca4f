package nat

import "testing"

// TestSipHash compares with the vectors of the reference implementation: the key is the
// bytes 00 to 0f, the message 00, 01, 02 and so on (vectors.h, 8, 16 and 24 bytes).
func TestSipHash(t *testing.T) {
	k := Key{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	words := []uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908, 0x1716151413121110}
	for n, want := range []uint64{0x93f5f5799a932462, 0x3f2acc7f57c29bdb, 0xb8ad50c6f649af94} {
		if got := k.sum(words[0], words[1:n+1]...); got != want {
			t.Errorf("%d bytes: %#x, not %#x", 8*(n+1), got, want)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	k := Key{1, 2}
	x := uint64(0)
	for i := range b.N {
		x += k.sum(domainStart, uint64(i), 2, 3, 4, 5, 6, 7)
	}
	if x == 0 {
		b.Fatal(x)
	}
}
