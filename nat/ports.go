package nat

import "github.com/xdpct/xdpct/flow"

// PortSet is a set of ports for each of the protocols that have them. What is not in
// it belongs to the host.
type PortSet struct {
	bits [numPortProtos][1024]uint64
}

const numPortProtos = 4

// portProto returns the number of a protocol's set, -1 if it has no ports.
func portProto(p flow.Proto) int {
	switch p {
	case flow.TCP:
		return 0
	case flow.UDP:
		return 1
	case flow.UDPLite:
		return 2
	case flow.SCTP:
		return 3
	}
	return -1
}

// Add adds ports from lo to hi for all protocols.
func (s *PortSet) Add(lo, hi uint16) {
	for i := range s.bits {
		for p := int(lo); p <= int(hi); p++ {
			s.bits[i][p/64] |= 1 << (p % 64)
		}
	}
}

// AddFor adds ports from lo to hi for one protocol; it reports whether that has any.
func (s *PortSet) AddFor(proto flow.Proto, lo, hi uint16) bool {
	i := portProto(proto)
	if i < 0 {
		return false
	}
	for p := int(lo); p <= int(hi); p++ {
		s.bits[i][p/64] |= 1 << (p % 64)
	}
	return true
}

// Remove takes a port out.
func (s *PortSet) Remove(proto flow.Proto, port uint16) {
	if i := portProto(proto); i >= 0 {
		s.bits[i][port/64] &^= 1 << (port % 64)
	}
}

// Has reports whether a port is in the set; a protocol without ports always is.
func (s *PortSet) Has(proto flow.Proto, port uint16) bool {
	i := portProto(proto)
	return i < 0 || s.bits[i][port/64]>>(port%64)&1 != 0
}

// Words returns the set of a protocol, by the number that the XDP program has for
// it: TCP, UDP, UDP-Lite, SCTP.
func (s *PortSet) Words(i int) *[1024]uint64 { return &s.bits[i] }
