package nat

import (
	"github.com/xdpct/xdpct/flow"
)

// Range is what a rule lets a mapping be (struct nf_nat_range2). Of one family; the
// zero Range maps nothing and only asks for a reply tuple that is free (the null
// binding).
type Range struct {
	Min, Max         flow.Addr // valid iff Addrs
	MinPort, MaxPort uint16    // valid iff Ports; ICMP: identifiers
	BasePort         uint16    // valid iff Offset
	Addrs            bool      // NF_NAT_RANGE_MAP_IPS
	Ports            bool      // NF_NAT_RANGE_PROTO_SPECIFIED
	Random           bool      // NF_NAT_RANGE_PROTO_RANDOM
	RandomFully      bool      // NF_NAT_RANGE_PROTO_RANDOM_FULLY
	Persistent       bool      // NF_NAT_RANGE_PERSISTENT
	Offset           bool      // NF_NAT_RANGE_PROTO_OFFSET: ports shift by the distance to BasePort
}

// Rand is a stream of random numbers (splitmix64) from a seed that is random
// itself. The zero Rand is a stream like any other.
type Rand struct{ state uint64 }

// NewRand returns a stream that seed alone determines.
func NewRand(seed uint64) *Rand { return &Rand{seed} }

// Uint64 returns the next number.
func (r *Rand) Uint64() uint64 {
	r.state += 0x9e3779b97f4a7c15
	z := r.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Uint32 returns 32 bits of the next number.
func (r *Rand) Uint32() uint32 { return uint32(r.Uint64() >> 32) }
