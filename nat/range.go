package nat

import "github.com/xdpct/xdpct/flow"

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

// Has reports whether the source of t lies in r (nf_in_range).
func (r *Range) Has(t *flow.Tuple) bool {
	if r.Addrs && (t.Src.Less(r.Min) || r.Max.Less(t.Src)) {
		return false
	}
	return !r.Ports || r.hasPort(t, true)
}

// hasPort reports whether the port that is mapped lies in r (l4proto_in_range).
func (r *Range) hasPort(t *flow.Tuple, source bool) bool {
	p := port(t, source)
	return p >= r.MinPort && p <= r.MaxPort
}

// random reports whether a port is drawn for each connection, wanted or not
// (NF_NAT_RANGE_PROTO_RANDOM_ALL).
func (r *Range) random() bool { return r.Random || r.RandomFully }

func isICMP(p flow.Proto) bool { return p == flow.ICMP || p == flow.ICMPv6 }

// port returns what of a tuple is mapped besides the address: a port, or the
// identifier of an ICMP query.
func port(t *flow.Tuple, source bool) uint16 {
	if source || isICMP(t.L4.Proto()) {
		return t.L4.Src()
	}
	return t.L4.Dst()
}

func setPort(t *flow.Tuple, source bool, p uint16) {
	if source || isICMP(t.L4.Proto()) {
		t.L4 = t.L4&^0xffff | flow.L4(p)
		return
	}
	t.L4 = t.L4&^(0xffff<<16) | flow.L4(p)<<16
}
