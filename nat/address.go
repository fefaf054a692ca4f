package nat

import (
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
	src, dst := t.Src.Words(family), t.Dst.Words(family)
	lo, hi := r.Min.Words(family), r.Max.Words(family)
	last := 0
	if family == flow.IPv6 {
		last = 3
	}
	seed := uint32(0)
	if !r.Persistent {
		seed = dst[last] ^ uint32(zone)
	}
	h := flow.JHash(src[:], seed)
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
	*at = flow.AddrFromWords(out, family)
}
