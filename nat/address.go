package nat

import (
	"encoding/binary"
	"math/bits"

	"github.com/xdpct/xdpct/flow"
)

// chooseAddr is find_best_ips_proto: it maps t to an address of r by a hash of the
// source, and, unless it is to persist, of destination and zone. It is the kernel's
// hash, so that hosts keep their addresses when a router changes from one to the
// other. zone is the number of the connection's zone, whichever directions it counts
// for.
func chooseAddr(t *flow.Tuple, r *Range, source bool, zone flow.Zone) {
	if !r.Addrs {
		return
	}
	at := &t.Dst
	if source {
		at = &t.Src
	}
	if r.Min == r.Max {
		*at = r.Min
		return
	}
	family := t.L4.Family()
	src, dst := wordsOf(t.Src, family), wordsOf(t.Dst, family)
	lo, hi := wordsOf(r.Min, family), wordsOf(r.Max, family)
	last := 0
	if family == flow.IPv6 {
		last = 3
	}
	seed := uint32(0)
	if !r.Persistent {
		seed = dst[last] ^ uint32(zone)
	}
	h := jhash2(src, seed)
	var out [4]uint32
	full := false
	for i := 0; i <= last; i++ {
		least, n := uint32(0), ^uint32(0)
		if !full {
			least = bits.ReverseBytes32(lo[i])
			n = bits.ReverseBytes32(hi[i]) - least + 1
		}
		out[i] = bits.ReverseBytes32(least + uint32(uint64(h)*uint64(n)>>32))
		if out[i] != hi[i] {
			full = true
		}
		if !source {
			dst[i] = out[i] // the kernel rewrites in place, and reads what it wrote
		}
		if !r.Persistent {
			h ^= dst[i]
		}
	}
	*at = addrOf(out, family)
}

// wordsOf is an address as the kernel has it in union nf_inet_addr, in words as a
// little-endian machine reads them.
func wordsOf(a flow.Addr, f flow.Family) (w [4]uint32) {
	if f == flow.IPv4 {
		w[0] = bits.ReverseBytes32(uint32(a.Lo))
		return w
	}
	for i, half := range []uint64{a.Hi, a.Lo} {
		w[2*i] = bits.ReverseBytes32(uint32(half >> 32))
		w[2*i+1] = bits.ReverseBytes32(uint32(half))
	}
	return w
}

func addrOf(w [4]uint32, f flow.Family) flow.Addr {
	var b [16]byte
	for i, v := range w {
		binary.LittleEndian.PutUint32(b[4*i:], v)
	}
	if f == flow.IPv4 {
		return flow.AddrFrom4(b[:])
	}
	return flow.AddrFrom16(b[:])
}

// jhash2 is the kernel's: Bob Jenkins' lookup3 over words.
func jhash2(k [4]uint32, seed uint32) uint32 {
	const golden = 0xdeadbeef
	a := golden + uint32(len(k))<<2 + seed
	b, c := a, a
	a, b, c = a+k[0], b+k[1], c+k[2]
	rol := bits.RotateLeft32
	a, c = (a-c)^rol(c, 4), c+b
	b, a = (b-a)^rol(a, 6), a+c
	c, b = (c-b)^rol(b, 8), b+a
	a, c = (a-c)^rol(c, 16), c+b
	b, a = (b-a)^rol(a, 19), a+c
	c, b = (c-b)^rol(b, 4), b+a
	a += k[3]
	c = (c ^ b) - rol(b, 14)
	a = (a ^ c) - rol(c, 11)
	b = (b ^ a) - rol(a, 25)
	c = (c ^ b) - rol(b, 16)
	a = (a ^ c) - rol(c, 4)
	b = (b ^ a) - rol(a, 14)
	return (c ^ b) - rol(b, 24)
}
