package policy

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy/syntax"
)

const (
	protoHopByHop flow.Proto = 0
	protoRouting  flow.Proto = 43
	protoFragment flow.Proto = 44
	protoNone     flow.Proto = 59
	protoDstOpts  flow.Proto = 60
)

// find walks the extension headers to the first one of a protocol, or to the transport
// header, as ipv6_find_hdr does. cut says that the chain breaks off before that.
func (v *View) find(proto flow.Proto, transport bool) (x packet.Extension, found, cut bool) {
	end := int(v.P.L3) + int(v.P.Len)
	for x = range v.P.Extensions {
		if x.Cut || x.Proto == protoRouting && end-x.At < 4 {
			return x, false, true
		}
		if transport && x.Last || !transport && x.Proto == proto {
			return x, true, false
		}
	}
	return x, false, false
}

// chainCut reports whether the extension headers break off before the protocol of an
// IPv6 packet is known: then it is Invalid.
func (v *View) chainCut() bool {
	if v.P.Family != flow.IPv6 {
		return false
	}
	_, _, cut := v.find(0, true)
	return cut
}

// extension returns the first extension header of a protocol, up to the end of the
// datagram, and the length that it says it has. ok is false if there is none; if the
// chain is broken, or least bytes of the header are not there, the packet is dropped.
func (v *View) extension(proto flow.Proto, least int) (h []byte, length int, ok bool) {
	x, found, cut := v.find(proto, false)
	end := min(int(v.P.L3)+int(v.P.Len), len(v.P.Frame))
	switch {
	case cut, found && x.At+least > end:
		return nil, 0, v.hotdrop()
	case !found:
		return nil, 0, false
	}
	return v.P.Frame[x.At:end], x.Len, true
}

// headerOptions compiles ip6t_hbh and ip6t_dst.
func headerOptions(m *syntax.Opts) []condition {
	proto := protoHopByHop
	if m.Dst {
		proto = protoDstOpts
	}
	return []condition{varying(func(v *View) bool {
		h, length, ok := v.extension(proto, 2)
		if ok && length > len(h) {
			return v.hotdrop()
		}
		return ok && (!m.Len.Set || (m.Len.N == uint64(length)) != m.Len.Not) &&
			(!m.Opts.Set || beginsWith(h[2:], length-2, m.Opts.All))
	})}
}

// beginsWith reports whether a list of options in the next n bytes of b begins with
// some, as hbh_mt6 walks it.
func beginsWith(b []byte, n int, opts []syntax.Opt) bool {
	for i, o := range opts {
		if n < 1 || len(b) < 1 || b[0] != o.Type {
			return false
		}
		step := 1
		if b[0] != 0 {
			if n < 2 || len(b) < 2 || !o.AnyLen && o.Len != b[1] {
				return false
			}
			step = int(b[1]) + 2
		}
		if last := i == len(opts)-1; !last && (step >= len(b) && step > len(b) || n < step) {
			return false
		}
		b, n = b[min(step, len(b)):], n-step
	}
	return true
}

// ipv6Header compiles ip6t_ipv6header.
func ipv6Header(m *syntax.IPv6Header) []condition {
	want, soft, not := m.Header.Bits, m.Soft.Set, m.Header.Not
	return []condition{varying(func(v *View) bool {
		has, ok := v.headers()
		switch {
		case !ok:
			return false
		case soft && not:
			return (has^want^want)&want == 0
		case soft:
			return (has^want)&want == 0
		}
		return (has == want) != not
	})}
}

// headers returns which headers an IPv6 packet has, as ipv6header_mt6 walks them. ok is
// false if they are cut off.
func (v *View) headers() (has uint8, ok bool) {
	end := min(int(v.P.L3)+int(v.P.Len), len(v.P.Frame))
	for x := range v.P.Extensions {
		if x.Cut && end-x.At < 2 {
			return 0, false
		}
		switch x.Proto {
		case protoNone:
			return has | syntax.HeaderNone, true
		case protoESP:
			if end-x.At < 2 {
				return 0, false
			}
			return has | syntax.HeaderESP, true
		case protoHopByHop:
			has |= syntax.HeaderHopByHop
		case protoRouting:
			has |= syntax.HeaderRouting
		case protoFragment:
			has |= syntax.HeaderFragment
		case protoAH:
			has |= syntax.HeaderAH
		case protoDstOpts:
			has |= syntax.HeaderDstOpts
		}
		if x.Cut { // two bytes are enough for this walk, and it ends behind the datagram
			if next := flow.Proto(v.P.Frame[x.At]); next == protoNone || next == protoESP {
				return has, true
			}
		}
	}
	return has | syntax.HeaderProto, true
}

// routingHeader compiles ip6t_rt.
func routingHeader(m *syntax.RT) []condition {
	return []condition{varying(func(v *View) bool {
		h, length, ok := v.extension(protoRouting, 4)
		if ok && length > len(h) {
			return v.hotdrop()
		}
		if !ok || !m.SegsLeft.Has(uint64(h[3])) ||
			m.Len.Set && (m.Len.N == uint64(length)) == m.Len.Not || m.Type.Set && (uint64(h[2]) == m.Type.N) == m.Type.Not {
			return false
		}
		if m.Reserved.Set && h[4]|h[5]|h[6]|h[7] != 0 {
			return false
		}
		return !m.Addrs.Set || hasAddrs(h[8:length], m)
	})}
}

// hasAddrs reports whether a routing header of type 0 lists some addresses in their
// order: these and no others, or perhaps others between them.
func hasAddrs(list []byte, m *syntax.RT) bool {
	n, found := len(list)/16, 0
	if len(m.Addrs.All) > n {
		return false
	}
	for i := range n {
		same := flow.AddrFrom16(list[i*16:]) == m.Addrs.All[found]
		if same {
			if found++; found == len(m.Addrs.All) {
				return m.NotStrict.Set || found == n
			}
		} else if !m.NotStrict.Set {
			return false
		}
	}
	return false
}

// mobility compiles ip6t_mh.
func mobility(m *syntax.MH) []condition {
	return []condition{varying(func(v *View) bool {
		h, ok := v.header(6)
		if !ok {
			return false
		}
		if flow.Proto(h[0]) != protoNone {
			return v.hotdrop()
		}
		return m.Type.Has(uint64(h[2]))
	})}
}

// eui64 compiles ip6t_eui64.
func eui64(*syntax.EUI64) []condition {
	return []condition{varying(func(v *View) bool {
		f := v.P.Frame
		if v.P.L3 < 14 {
			return v.hotdrop()
		}
		if v.family() != flow.IPv6 || f[12] != byte(packet.EtherIPv6>>8) || f[13] != byte(packet.EtherIPv6&0xff) {
			return false
		}
		id := uint64(f[6]^2)<<56 | uint64(f[7])<<48 | uint64(f[8])<<40 | 0xfffe<<24 | uint64(f[9])<<16 | uint64(f[10])<<8 | uint64(f[11])
		return v.Src.Lo == id
	})}
}
