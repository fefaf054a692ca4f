package nat

import (
	"encoding/binary"
	"math/bits"

	"github.com/xdpct/xdpct/flow"
)

// Taken says whether a reply tuple cannot be had: another connection has it, or it
// is not this shard's. hard asks to look whether the connection that has it may
// make room (nf_nat_used_tuple_harder).
type Taken func(reply *flow.Tuple, hard bool) bool

// Alike finds a mapping of the source of t, into r, that another connection has
// already (find_appropriate_src).
type Alike func(t flow.Tuple, r *Range) (flow.Tuple, bool)

// Search bounds (nf_nat_core.c).
const (
	maxAttempts = 128 // NF_NAT_MAX_ATTEMPTS
	fewest      = 16  // below so many attempts it gives up
	hardFrom    = 32  // NF_NAT_HARDER_THRESH: attempts left
)

// Choose returns what becomes of tuple t, the one that packets in the original
// direction have so far, when its source (or destination) is mapped into r
// (get_unique_tuple). ok is false if each tuple that it tried is taken; it tries at
// most 248 after the first.
func Choose(t flow.Tuple, r *Range, source bool, taken Taken, alike Alike, rnd *Rand) (out flow.Tuple, ok bool) {
	free := func(t *flow.Tuple, hard bool) bool {
		reply, ok := t.Invert()
		return ok && !taken(&reply, hard)
	}
	random := r.Random || r.RandomFully
	if source && !random {
		if r.Has(&t) {
			if free(&t, false) {
				return t, true
			}
		} else if m, ok := alike(t, r); ok && free(&m, false) {
			return m, true
		}
	}
	out = t
	chooseAddr(&out, r, source)
	if !random {
		switch {
		case !r.Ports:
			if free(&out, false) {
				return out, true
			}
		case !r.Offset && portIn(port(&out, source), r):
			if r.MinPort == r.MaxPort || free(&out, false) {
				return out, free(&out, false)
			}
		}
	}
	return choosePort(out, r, source, free, rnd)
}

// Has reports whether the source of t lies in r (nf_in_range).
func (r *Range) Has(t *flow.Tuple) bool {
	if r.Addrs && (less(t.Src, r.Min) || less(r.Max, t.Src)) {
		return false
	}
	return !r.Ports || portIn(port(t, true), r)
}

func portIn(p uint16, r *Range) bool { return p >= r.MinPort && p <= r.MaxPort }

func less(a, b flow.Addr) bool { return a.Hi < b.Hi || a.Hi == b.Hi && a.Lo < b.Lo }

// port returns what of a tuple is mapped besides the address: a port, or the
// identifier of a query.
func port(t *flow.Tuple, source bool) uint16 {
	if p := t.L4.Proto(); source || p == flow.ICMP || p == flow.ICMPv6 {
		return t.L4.Src()
	}
	return t.L4.Dst()
}

func setPort(t *flow.Tuple, source bool, p uint16) {
	if proto := t.L4.Proto(); source || proto == flow.ICMP || proto == flow.ICMPv6 {
		t.L4 = t.L4&^0xffff | flow.L4(p)
		return
	}
	t.L4 = t.L4&^(0xffff<<16) | flow.L4(p)<<16
}

// chooseAddr is find_best_ips_proto: an address by a hash of the source, and, unless
// it is to persist, of destination and zone. It is the kernel's hash, so that hosts
// keep their addresses when a router changes from one to the other.
func chooseAddr(t *flow.Tuple, r *Range, source bool) {
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
	src, dst := wordsOf(t.Src, t.L4.Family()), wordsOf(t.Dst, t.L4.Family())
	lo, hi := wordsOf(r.Min, t.L4.Family()), wordsOf(r.Max, t.L4.Family())
	last := 0
	if t.L4.Family() == flow.IPv6 {
		last = 3
	}
	seed := uint32(0)
	if !r.Persistent {
		seed = dst[last] ^ uint32(t.L4.Zone())
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
		if !r.Persistent {
			h ^= dst[i]
		}
	}
	*at = addrOf(out, t.L4.Family())
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

// choosePort is nf_nat_l4proto_unique_tuple.
func choosePort(t flow.Tuple, r *Range, source bool, free func(*flow.Tuple, bool) bool, rnd *Rand) (flow.Tuple, bool) {
	least, size := uint32(r.MinPort), uint32(r.MaxPort)-uint32(r.MinPort)+1
	proto := t.L4.Proto()
	switch proto {
	case flow.ICMP, flow.ICMPv6:
		if !r.Ports {
			least, size = 0, 65536
		}
	case flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP:
		if r.Ports {
			break
		}
		if !source {
			return t, free(&t, false) // a destination keeps its port
		}
		switch p := port(&t, true); {
		case p < 512:
			least, size = 1, 511
		case p < 1024:
			least, size = 600, 424
		default:
			least, size = 1024, 64512
		}
	default: // nothing to tell connections apart by
		return t, free(&t, false)
	}
	off := uint32(0)
	switch {
	case r.Offset:
		off = uint32(port(&t, source) - r.BasePort)
	case source || r.RandomFully || r.Random:
		off = rnd.Uint32() & 0xffff
	}
	for attempts := min(size, maxAttempts); ; attempts /= 2 {
		for i := range attempts {
			setPort(&t, source, uint16(least+(off+i)%size))
			if free(&t, attempts-i <= hardFrom) {
				return t, true
			}
		}
		if attempts >= size || attempts < fewest {
			return t, false
		}
		off = rnd.Uint32() & 0xffff
	}
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
