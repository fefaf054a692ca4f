package flow

import (
	"encoding/binary"
	"math/bits"
)

// Words returns an address as the kernel has it (union nf_inet_addr), in words as a
// little-endian machine reads them. Of an IPv4 address the first counts, the others are 0.
func (a Addr) Words(f Family) (w [4]uint32) {
	if f == IPv4 {
		w[0] = bits.ReverseBytes32(uint32(a.Lo))
		return w
	}
	for i, half := range []uint64{a.Hi, a.Lo} {
		w[2*i] = bits.ReverseBytes32(uint32(half >> 32))
		w[2*i+1] = bits.ReverseBytes32(uint32(half))
	}
	return w
}

// AddrFromWords is the inverse of Words.
func AddrFromWords(w [4]uint32, f Family) Addr {
	var b [16]byte
	for i, v := range w {
		binary.LittleEndian.PutUint32(b[4*i:], v)
	}
	if f == IPv4 {
		return AddrFrom4(b[:])
	}
	return AddrFrom16(b[:])
}

// JHash is the kernel's jhash2, and, of a single word, its jhash_1word: Bob Jenkins'
// lookup3 over words. It is for where Linux lets a hash choose and hosts are to keep what
// it chose for them; the hash of the table is Tuple.Hash.
func JHash(k []uint32, seed uint32) uint32 {
	const initval = 0xdeadbeef
	rol := bits.RotateLeft32
	a := initval + uint32(len(k))<<2 + seed
	b, c := a, a
	for len(k) > 3 { // __jhash_mix
		a, b, c = a+k[0], b+k[1], c+k[2]
		a, c = (a-c)^rol(c, 4), c+b
		b, a = (b-a)^rol(a, 6), a+c
		c, b = (c-b)^rol(b, 8), b+a
		a, c = (a-c)^rol(c, 16), c+b
		b, a = (b-a)^rol(a, 19), a+c
		c, b = (c-b)^rol(b, 4), b+a
		k = k[3:]
	}
	switch len(k) {
	case 3:
		c += k[2]
		fallthrough
	case 2:
		b += k[1]
		fallthrough
	case 1:
		a += k[0]
	default:
		return c
	}
	c = (c ^ b) - rol(b, 14) // __jhash_final
	a = (a ^ c) - rol(c, 11)
	b = (b ^ a) - rol(a, 25)
	c = (c ^ b) - rol(b, 16)
	a = (a ^ c) - rol(c, 4)
	b = (b ^ a) - rol(a, 14)
	return (c ^ b) - rol(b, 24)
}
