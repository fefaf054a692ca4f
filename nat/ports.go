package nat

import (
	"math/bits"

	"github.com/xdpct/xdpct/flow"
)

// PortSet is a set of ports for each of the protocols whose ports the host shares with
// translation: TCP, UDP, UDP-Lite and SCTP. The zero PortSet is empty.
type PortSet struct {
	bits [numPortProtos]portBits
}

const numPortProtos = 4

// portBits is a set of ports, a bit each.
type portBits [1024]uint64

// portProto returns the number of a protocol's set, -1 if it has none.
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

// add adds ports from lo to hi.
func (b *portBits) add(lo, hi uint16) {
	for p := int(lo); p <= int(hi); p++ {
		b[p/64] |= 1 << (p % 64)
	}
}

func (b *portBits) has(p uint16) bool { return b[p/64]>>(p%64)&1 != 0 }

// Add adds ports from lo to hi for all protocols. Valid iff lo <= hi.
func (s *PortSet) Add(lo, hi uint16) {
	for i := range s.bits {
		s.bits[i].add(lo, hi)
	}
}

// AddFor adds ports from lo to hi for one protocol; it reports whether there is a set
// for that.
func (s *PortSet) AddFor(proto flow.Proto, lo, hi uint16) bool {
	i := portProto(proto)
	if i < 0 {
		return false
	}
	s.bits[i].add(lo, hi)
	return true
}

// Remove takes a port out.
func (s *PortSet) Remove(proto flow.Proto, port uint16) {
	if i := portProto(proto); i >= 0 {
		s.bits[i][port/64] &^= 1 << (port % 64)
	}
}

// Has reports whether a port is in the set; of a protocol that there is no set for
// every port is.
func (s *PortSet) Has(proto flow.Proto, port uint16) bool {
	i := portProto(proto)
	return i < 0 || s.bits[i].has(port)
}

// Union adds what is in o.
func (s *PortSet) Union(o *PortSet) {
	for i := range s.bits {
		for k, w := range o.bits[i] {
			s.bits[i][k] |= w
		}
	}
}

// Subtract takes out what is in o.
func (s *PortSet) Subtract(o *PortSet) {
	for i := range s.bits {
		for k, w := range o.bits[i] {
			s.bits[i][k] &^= w
		}
	}
}

// Words returns the set of a protocol, by the number that the XDP program has for
// it: TCP, UDP, UDP-Lite, SCTP.
func (s *PortSet) Words(i int) *[1024]uint64 { return (*[1024]uint64)(&s.bits[i]) }

// pool is a set of ports that can be counted and numbered: what a search goes through.
type pool struct {
	portBits
	below [1025]uint32 // below[i] is the number of ports in the first i words
}

func newPool(b *portBits) *pool {
	p := &pool{portBits: *b}
	for i, w := range b {
		p.below[i+1] = p.below[i] + uint32(bits.OnesCount64(w))
	}
	return p
}

// every is the pool of all numbers from 0 to 65535.
var every = func() *pool {
	var b portBits
	b.add(0, 65535)
	return newPool(&b)
}()

// rank returns how many ports of the pool are below port, 0..65536.
func (p *pool) rank(port int) uint32 {
	if port > 65535 {
		return p.below[1024]
	}
	return p.below[port/64] + uint32(bits.OnesCount64(p.portBits[port/64]&(1<<(port%64)-1)))
}

// nth returns the port that n others of the pool are below. Valid iff there is one.
func (p *pool) nth(n uint32) uint16 {
	lo, hi := 0, 1024 // the word lies in [lo, hi)
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; p.below[mid] <= n {
			lo = mid
		} else {
			hi = mid
		}
	}
	w := p.portBits[lo]
	for range n - p.below[lo] {
		w &= w - 1
	}
	return uint16(lo*64 + bits.TrailingZeros64(w))
}

// window is the part of a pool between two ports, both included.
type window struct {
	of     *pool
	lo, hi uint16
}

// size returns the number of ports in the window.
func (w window) size() uint32 {
	if w.lo > w.hi {
		return 0
	}
	return w.of.rank(int(w.hi)+1) - w.of.rank(int(w.lo))
}

func (w window) has(p uint16) bool { return p >= w.lo && p <= w.hi && w.of.has(p) }

// at returns port n of the window. Valid iff n is below its size.
func (w window) at(n uint32) uint16 { return w.of.nth(w.of.rank(int(w.lo)) + n) }

// next returns the first port of the window, from p on and around, that skip (nil:
// nothing) does not have. It looks at no more than 1025 words. Valid iff p lies
// between the window's ends.
func (w window) next(p uint16, skip *crowd) (uint16, bool) {
	if q, ok := w.seek(int(p), int(w.hi), skip); ok {
		return q, true
	}
	return w.seek(int(w.lo), int(p)-1, skip)
}

// seek looks for a port between two, both included.
func (w window) seek(from, to int, skip *crowd) (uint16, bool) {
	for i := from / 64; from <= to && i <= to/64; i++ {
		m := w.of.portBits[i]
		if skip != nil {
			m &^= skip.bits[i].Load()
		}
		if i == from/64 {
			m &= ^uint64(0) << (from % 64)
		}
		if i == to/64 {
			m &= ^uint64(0) >> (63 - to%64)
		}
		if m != 0 {
			return uint16(i*64 + bits.TrailingZeros64(m)), true
		}
	}
	return 0, false
}

// HostPorts are the ports of the host's own addresses that translation may use. It is
// not changed once it is made.
type HostPorts struct {
	free   [numPortProtos]*pool // for mappings that a rule names no ports for
	unused [numPortProtos]*pool // that no socket of the host is bound to
}

// NewHostPorts returns the ports that mappings may have: those of free where a rule names
// no ports, those that a rule names otherwise; but none of bound, which sockets have,
// unless it is the only one that the rule names.
func NewHostPorts(free, bound *PortSet) *HostPorts {
	h := &HostPorts{}
	for i := range numPortProtos {
		f, u := free.bits[i], every.portBits
		for k, w := range bound.bits[i] {
			f[k] &^= w
			u[k] &^= w
		}
		f[0] &^= 1 // nobody has port 0
		h.free[i], h.unused[i] = newPool(&f), newPool(&u)
	}
	return h
}
