package nat

import (
	"slices"
	"sort"

	"github.com/xdpct/xdpct/flow"
)

// AddrRange is the addresses between two, both included, of one family.
type AddrRange struct{ Lo, Hi flow.Addr }

// AddrSet is a set of addresses: those that translation maps to. It is not changed once
// it is made. The nil AddrSet is empty.
type AddrSet struct {
	all    bool
	ranges []AddrRange // in order, and apart
	// some has a bit for each net of 2^8 IPv4 or 2^64 IPv6 addresses, by a hash: where
	// it is 0 no address of the net is in the set. One cache line or two of it are
	// what an address costs that has nothing to do with translation.
	some [someBits / 64]uint64
}

const someBits = 1 << 12

// NewAddrSet returns the set of the addresses in ranges; all: of every address.
func NewAddrSet(ranges []AddrRange, all bool) *AddrSet {
	s := &AddrSet{all: all}
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b AddrRange) int {
		switch {
		case a.Lo.Less(b.Lo):
			return -1
		case b.Lo.Less(a.Lo):
			return 1
		}
		return 0
	})
	for _, r := range ranges {
		if r.Hi.Less(r.Lo) {
			continue
		}
		if n := len(s.ranges); n > 0 && !s.ranges[n-1].Hi.Less(r.Lo) { // they overlap
			if s.ranges[n-1].Hi.Less(r.Hi) {
				s.ranges[n-1].Hi = r.Hi
			}
			continue
		}
		s.ranges = append(s.ranges, r)
	}
	for _, r := range s.ranges {
		s.note(r)
	}
	return s
}

// note sets the bits of the nets that a range lies in.
func (s *AddrSet) note(r AddrRange) {
	lo, hi := netOf(r.Lo), netOf(r.Hi)
	if r.Lo.Hi == 0 != (r.Hi.Hi == 0) || hi-lo >= someBits {
		for i := range s.some {
			s.some[i] = ^uint64(0)
		}
		return
	}
	for n := lo; ; n++ {
		i := someOf(n)
		s.some[i/64] |= 1 << (i % 64)
		if n == hi {
			return
		}
	}
}

// netOf numbers the net that an address lies in: its first 24 bits, IPv6: 64. Numbers of
// the two families may be the same.
func netOf(a flow.Addr) uint64 {
	if a.Hi == 0 {
		return a.Lo >> 8
	}
	return a.Hi
}

func someOf(net uint64) uint64 { return net * 0x9e3779b97f4a7c15 >> 52 }

// Has reports whether the set has an address.
func (s *AddrSet) Has(a flow.Addr) bool {
	if s == nil {
		return false
	}
	i := someOf(netOf(a))
	return s.all || s.some[i/64]>>(i%64)&1 != 0 && s.search(a)
}

func (s *AddrSet) search(a flow.Addr) bool {
	i := sort.Search(len(s.ranges), func(i int) bool { return !s.ranges[i].Hi.Less(a) })
	return i < len(s.ranges) && !a.Less(s.ranges[i].Lo)
}

// Touches reports whether one of the addresses of t, a tuple or its key, is in the set.
func (s *AddrSet) Touches(t *flow.Tuple) bool { return s.Has(t.Src) || s.Has(t.Dst) }

// Covers reports whether each address of o is in s.
func (s *AddrSet) Covers(o *AddrSet) bool {
	switch {
	case o == nil || s != nil && s.all:
		return true
	case o.all:
		return false
	}
	for _, r := range o.ranges {
		if s == nil {
			return false
		}
		i := sort.Search(len(s.ranges), func(i int) bool { return !s.ranges[i].Hi.Less(r.Lo) })
		if i == len(s.ranges) || r.Lo.Less(s.ranges[i].Lo) || s.ranges[i].Hi.Less(r.Hi) {
			return false // ranges that touch are one, or there is an address between them
		}
	}
	return true
}

// Union returns the set of what is in s or in o.
func (s *AddrSet) Union(o *AddrSet) *AddrSet {
	switch {
	case s == nil:
		return o
	case o == nil:
		return s
	}
	return NewAddrSet(append(slices.Clone(s.ranges), o.ranges...), s.all || o.all)
}
