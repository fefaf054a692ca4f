package policy

import (
	"encoding/binary"
	"math/bits"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy/syntax"
)

// hmark compiles HMARK (xt_HMARK): a hash of addresses, ports or SPI, and protocol, scaled
// to a number of marks. The same hash belongs to both directions.
func hmark(t *syntax.HMark) action {
	h := &hmarkRule{seed: uint32(t.Seed.N), mod: t.Mod.N, offset: uint32(t.Offset.N), protoMask: uint32(t.ProtoMask.N), ct: t.CT.Set}
	h.src, h.dst, h.portMask, h.portSet = t.Masks()
	return action{do: func(v *View) Verdict {
		if mark, ok := h.of(v); ok {
			v.Mark = mark
		}
		return Continue
	}}
}

type hmarkRule struct {
	src, dst                     flow.Addr // masks
	portMask, portSet, protoMask uint32
	seed, offset                 uint32
	mod                          uint64
	ct                           bool // of the connection's tuples
}

// of returns the mark of a packet; ok is false if it gets none.
func (h *hmarkRule) of(v *View) (mark uint32, ok bool) {
	var src, dst flow.Addr
	var ports uint32
	var proto flow.Proto
	if h.ct {
		if !v.Tracked || v.Conn == &template {
			return 0, false
		}
		o, r := v.Conn.Tuple(flow.Original, v.Extra), v.Conn.Tuple(flow.Reply, v.Extra)
		src, dst, proto = o.Src, r.Src, o.L4.Proto()
		if proto != flow.ICMP {
			a, b := o.L4.Src(), r.L4.Src()
			if !proto.TracksPorts() && proto != flow.GRE && proto != flow.ICMPv6 { // without a tracker: zero
				a, b = 0, 0
			}
			ports = h.swapped(uint32(a)<<16 | uint32(b))
		}
	} else {
		q, ok := quoteOf(v)
		if !ok {
			return 0, false
		}
		src, dst, proto = q.src, q.dst, q.proto
		if at, ok := hmarkPorts(proto); ok && !q.fragment && len(q.l4) >= at+4 {
			ports = h.swapped(binary.BigEndian.Uint32(q.l4[at:]))
		}
	}
	a, b := folded(masked(src, h.src), v.family()), folded(masked(dst, h.dst), v.family())
	if b < a {
		a, b = b, a
	}
	hash := flow.JHash([]uint32{a, b, ports}, h.seed) ^ uint32(proto)&h.protoMask
	return uint32(uint64(hash)*h.mod>>32) + h.offset, true
}

// swapped masks ports and puts the larger one first (hmark_swap_ports).
func (h *hmarkRule) swapped(ports uint32) uint32 {
	ports = ports&h.portMask | h.portSet
	return max(ports, bits.RotateLeft32(ports, 16))
}

// hmarkPorts returns where the ports or the SPI of a protocol are (proto_ports_offset).
func hmarkPorts(p flow.Proto) (at int, ok bool) {
	switch {
	case p.HasPorts() || p == protoESP:
		return 0, true
	case p == protoAH:
		return 4, true
	}
	return 0, false
}

// folded is an address in 32 bits: an IPv4 address, or the words of an IPv6 address,
// exclusive or (hmark_addr6_mask).
func folded(a flow.Addr, f flow.Family) uint32 {
	if f == flow.IPv4 {
		return uint32(a.Lo)
	}
	return uint32(a.Hi>>32) ^ uint32(a.Hi) ^ uint32(a.Lo>>32) ^ uint32(a.Lo)
}

// quoted is an IP packet as far as HMARK looks at it: that which a packet is, or which
// an ICMP error quotes.
type quoted struct {
	src, dst flow.Addr
	proto    flow.Proto
	l4       []byte // the transport header and what follows, as far as it is there
	fragment bool
}

// quoteOf returns what of a packet is hashed.
func quoteOf(v *View) (q quoted, ok bool) {
	q, ok = readIP(v.P.Frame[v.P.L3:min(int(v.P.L3)+int(v.P.Len), len(v.P.Frame))], v.family())
	if !ok || q.fragment || len(q.l4) < 8 {
		return q, ok
	}
	switch typ := q.l4[0]; {
	case q.proto == flow.ICMP && v.family() == flow.IPv4 && (typ == 3 || typ == 4 || typ == 5 || typ == 11 || typ == 12),
		q.proto == flow.ICMPv6 && v.family() == flow.IPv6 && typ > 0 && typ < 128:
		return readIP(q.l4[8:], v.family())
	}
	return q, true
}

// readIP reads an IP packet; ok is false if its header is cut off. Of an IPv6 packet the
// authentication header counts as the transport header, so that its SPI is found.
func readIP(b []byte, f flow.Family) (q quoted, ok bool) {
	if f == flow.IPv4 {
		if len(b) < 20 {
			return q, false
		}
		q.src, q.dst, q.proto = flow.AddrFrom4(b[12:16]), flow.AddrFrom4(b[16:20]), flow.Proto(b[9])
		q.fragment = binary.BigEndian.Uint16(b[6:])&0x3fff != 0
		q.l4 = b[min(int(b[0]&15)*4, len(b)):]
		return q, true
	}
	if len(b) < 40 {
		return q, false
	}
	q.src, q.dst = flow.AddrFrom16(b[8:24]), flow.AddrFrom16(b[24:40])
	next, rest := flow.Proto(b[6]), b[40:]
	for next == protoHopByHop || next == protoRouting || next == protoDstOpts || next == protoFragment {
		if len(rest) < 8 {
			return q, false
		}
		n := 8 * (int(rest[1]) + 1)
		if next == protoFragment {
			n = 8
			q.fragment = true
		}
		next, rest = flow.Proto(rest[0]), rest[min(n, len(rest)):]
	}
	q.proto, q.l4 = next, rest
	return q, true
}
