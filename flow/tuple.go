package flow

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Family is the address family of a tuple, as in Linux's AF_* and the second
// column of /proc/net/nf_conntrack.
type Family uint8

// The address families that are tracked.
const (
	IPv4 Family = 2  // AF_INET
	IPv6 Family = 10 // AF_INET6
)

// Index returns 0 for IPv4 and 1 for IPv6: the place of a family in an array of two.
func (f Family) Index() int { return int(f >> 3 & 1) }

// FamilyOf returns the family of an address, which is valid. An IPv4-mapped one is IPv6.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

func (f Family) String() string {
	switch f {
	case IPv4:
		return "ipv4"
	case IPv6:
		return "ipv6"
	}
	return "unknown"
}

// Proto is an IP protocol number (IPv4 Protocol, IPv6 Next Header).
type Proto uint8

// The protocols that have a name in the kernel's listings.
const (
	ICMP    Proto = 1
	TCP     Proto = 6
	UDP     Proto = 17
	DCCP    Proto = 33
	GRE     Proto = 47
	ICMPv6  Proto = 58
	SCTP    Proto = 132
	UDPLite Proto = 136
)

// HasPorts reports whether the transport header of p begins with a source and a
// destination port of 16 bits each.
func (p Proto) HasPorts() bool {
	return p.TracksPorts() || p == DCCP
}

// TracksPorts reports whether connections of p are told apart, and translated, by their
// ports: DCCP has them, but no tracker since Linux 6.16.
func (p Proto) TracksPorts() bool {
	switch p {
	case TCP, UDP, UDPLite, SCTP:
		return true
	}
	return false
}

// String returns the name that conntrack(8) prints for p, "unknown" where it
// has none.
func (p Proto) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case DCCP:
		return "dccp"
	case GRE:
		return "gre"
	case ICMPv6:
		return "icmpv6"
	case SCTP:
		return "sctp"
	case UDPLite:
		return "udplite"
	}
	return "unknown"
}

// Addr is an IP address as two big-endian words, an IPv4 address in its
// IPv4-mapped form (::ffff:a.b.c.d), so that both families share one layout.
type Addr struct{ Hi, Lo uint64 }

const mapped = 0xffff << 32

// AddrFrom4 reads an IPv4 address from the first four bytes of b.
func AddrFrom4(b []byte) Addr { return AddrFromUint32(binary.BigEndian.Uint32(b)) }

// AddrFromUint32 converts an IPv4 address in host byte order.
func AddrFromUint32(a uint32) Addr { return Addr{Lo: mapped | uint64(a)} }

// AddrFrom16 reads an IPv6 address from the first sixteen bytes of b.
func AddrFrom16(b []byte) Addr {
	return Addr{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

// AddrFrom converts a netip.Addr; its zone is dropped.
func AddrFrom(a netip.Addr) Addr {
	b := a.As16()
	return AddrFrom16(b[:])
}

// Netip converts a to a netip.Addr of family f.
func (a Addr) Netip(f Family) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	if f == IPv4 {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

// Less orders addresses of one family as numbers.
func (a Addr) Less(b Addr) bool {
	return a.Hi < b.Hi || a.Hi == b.Hi && a.Lo < b.Lo
}

// L4 is the non-address part of a tuple in one word, so that keys compare and
// hash in words:
//
//	bits  0-15  source id: port, or ICMP identifier
//	bits 16-31  destination id: port, or ICMP type<<8 | code
//	bits 32-47  zone
//	bits 48-55  protocol
//	bits 56-63  family
type L4 uint64

// MakeL4 packs the five fields.
func MakeL4(f Family, p Proto, zone Zone, src, dst uint16) L4 {
	return L4(src) | L4(dst)<<16 | L4(zone)<<32 | L4(p)<<48 | L4(f)<<56
}

// Src returns the source port, or the ICMP identifier.
func (l L4) Src() uint16 { return uint16(l) }

// Dst returns the destination port, or ICMP type<<8 | code.
func (l L4) Dst() uint16 { return uint16(l >> 16) }

// Zone returns the conntrack zone.
func (l L4) Zone() Zone { return Zone(l >> 32) }

// Proto returns the IP protocol.
func (l L4) Proto() Proto { return Proto(l >> 48) }

// Family returns the address family.
func (l L4) Family() Family { return Family(l >> 56) }

// ICMPType returns the ICMP type of an ICMP or ICMPv6 tuple.
func (l L4) ICMPType() uint8 { return uint8(l >> 24) }

// ICMPCode returns the ICMP code of an ICMP or ICMPv6 tuple.
func (l L4) ICMPCode() uint8 { return uint8(l >> 16) }

func (l L4) swapped() L4 {
	return l&^0xffffffff | L4(bits.RotateLeft32(uint32(l), 16))
}

func (l L4) withICMPType(t uint8) L4 { return l&^(0xff<<24) | L4(t)<<24 }

// WithZone returns l in another zone.
func (l L4) WithZone(z Zone) L4 { return l&^(0xffff<<32) | L4(z)<<32 }

// Tuple names one direction of a connection (struct nf_conntrack_tuple).
type Tuple struct {
	Src, Dst Addr
	L4       L4
}

// Equal reports whether t and u are the same tuple. It is written out in words
// because the compiler calls memequal for a 40-byte struct.
func (t *Tuple) Equal(u *Tuple) bool {
	return (t.L4^u.L4) == 0 &&
		(t.Src.Lo^u.Src.Lo)|(t.Dst.Lo^u.Dst.Lo)|(t.Src.Hi^u.Src.Hi)|(t.Dst.Hi^u.Dst.Hi) == 0
}

// Invert returns the tuple of the answer to t (nf_ct_invert_tuple). ok is false
// where the protocol knows no answer: ICMP types that are neither query nor
// reply.
func (t Tuple) Invert() (u Tuple, ok bool) {
	u = Tuple{Src: t.Dst, Dst: t.Src}
	switch t.L4.Proto() {
	case ICMP, ICMPv6:
		answer := invertICMP(t.L4.Proto(), t.L4.ICMPType())
		u.L4 = t.L4.withICMPType(answer)
		return u, answer != noAnswer
	}
	u.L4 = t.L4.swapped()
	return u, true
}

// Canonical returns the key that t shares with its inverse, and whether t had
// to be inverted to reach it. Valid iff t.Invert is ok.
func (t Tuple) Canonical() (key Tuple, flipped bool) {
	switch t.L4.Proto() {
	case ICMP, ICMPv6:
		if isICMPReply(t.L4.Proto(), t.L4.ICMPType()) {
			key, _ = t.Invert()
			return key, true
		}
		return t, false
	}
	if t.Dst.Less(t.Src) || t.Src == t.Dst && t.L4.Dst() < t.L4.Src() {
		return Tuple{Src: t.Dst, Dst: t.Src, L4: t.L4.swapped()}, true
	}
	return t, false
}

// noAnswer marks ICMP types without an inverse; no type of that number has one.
const noAnswer = 0xff

// invertICMP is the kernel's invmap of nf_conntrack_proto_icmp.c and
// nf_conntrack_proto_icmpv6.c.
func invertICMP(p Proto, typ uint8) uint8 {
	if p == ICMP {
		switch typ {
		case 0, 8: // echo
			return typ ^ 8
		case 13, 15, 17: // timestamp, information, address mask
			return typ + 1
		case 14, 16, 18:
			return typ - 1
		}
		return noAnswer
	}
	switch typ {
	case 128, 139: // echo request, node information query
		return typ + 1
	case 129, 140:
		return typ - 1
	}
	return noAnswer
}

func isICMPReply(p Proto, typ uint8) bool {
	if p == ICMP {
		return typ == 0 || typ == 14 || typ == 16 || typ == 18
	}
	return typ == 129 || typ == 140
}

// Hash mixes t with a secret. It is an order-dependent hash of a canonical key;
// callers hash keys, so both directions of a connection agree. The construction
// is the multiply-and-fold of wyhash with every constant secret: without the
// secret an attacker can neither aim at a bucket nor at a shard. Every word goes
// through two multiplications, since one alone leaves neighbouring ports in step.
//
// Bits 8 to 39 do not depend on the zone: a connection whose directions are in
// different zones has one owner all the same.
func (t *Tuple) Hash(s *Secret) uint64 {
	const zone = 0xffff << 32
	a := fold(t.Src.Lo^s[0], t.Dst.Lo^s[1])
	b := fold(t.Src.Hi^s[2], uint64(t.L4)&^zone^s[3])
	c := fold(t.Dst.Hi^s[4], s[5])
	h := fold(a^c, b^s[6])
	if z := uint64(t.L4) & zone; z != 0 {
		h ^= fold(z^s[5], s[3]) &^ (0xffffffff << 8)
	}
	return h
}

// Secret is the key of Hash. Fill it from crypto/rand; a fixed one is for tests
// and replays only.
type Secret [7]uint64

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// Compare orders tuples by family, protocol, addresses and ids.
func (t *Tuple) Compare(u *Tuple) int {
	return cmp.Or(
		cmp.Compare(t.L4.Family(), u.L4.Family()), cmp.Compare(t.L4.Proto(), u.L4.Proto()),
		cmp.Compare(t.Src.Hi, u.Src.Hi), cmp.Compare(t.Src.Lo, u.Src.Lo),
		cmp.Compare(t.Dst.Hi, u.Dst.Hi), cmp.Compare(t.Dst.Lo, u.Dst.Lo),
		cmp.Compare(t.L4.Src(), u.L4.Src()), cmp.Compare(t.L4.Dst(), u.L4.Dst()),
		cmp.Compare(t.L4.Zone(), u.L4.Zone()),
	)
}
