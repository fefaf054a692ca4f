package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// The headers of an IPv6 packet that announce the next one (ipv6_ext_hdr). All but
// noNext are walked over.
const (
	hopByHop    = 0
	routing     = 43
	fragment    = 44
	authHeader  = 51
	noNext      = 59
	destOptions = 60
)

// isExtension is the kernel's ipv6_ext_hdr, No Next Header left out.
func isExtension(proto flow.Proto) bool {
	switch proto {
	case hopByHop, routing, authHeader, destOptions, fragment:
		return true
	}
	return false
}

// extensionLen returns the length in bytes that an extension header says it has. b
// begins with it and has at least two bytes.
func extensionLen(proto flow.Proto, b []byte) int {
	switch proto {
	case fragment:
		return fragmentLen
	case authHeader:
		return (int(b[1]) + 2) * 4
	}
	return (int(b[1]) + 1) * 8
}

const fragmentLen = 8 // of an IPv6 fragment header

// Extension is a header between the fixed IP header of a packet and its payload, or
// the payload's own.
type Extension struct {
	Proto flow.Proto
	At    int // offset in Frame, perhaps beyond its end
	// Len is the length in bytes that the header says it has: it may end behind the
	// datagram. Of the last header of the chain it is the rest of the datagram.
	Len int
	// Last says that no header of the chain follows: Proto is a transport protocol
	// or No Next Header, or this is the fragment header of a later fragment.
	Last bool
	// Cut says that the datagram ends before the fields by which the walk goes on: no
	// header follows, though one should (ipv6_find_hdr: EBADMSG).
	Cut bool
}

// Extensions calls yield with each header that follows the fixed IP header, in order,
// until yield returns false: `for x := range p.Extensions`. It neither allocates nor
// reads behind the datagram. The order and the end are those of the kernel's
// ipv6_find_hdr. An IPv4 packet has one header, that of its protocol: neither Linux nor
// this walks over an Authentication Header there.
//
// Valid iff p has a Family.
func (p *Packet) Extensions(yield func(Extension) bool) {
	b := p.Frame[:min(int(p.L3)+int(p.Len), len(p.Frame))]
	end := int(p.L3) + int(p.Len)
	var x Extension
	if p.Family == flow.IPv4 {
		x.Proto, x.At = flow.Proto(b[p.L3+9]), int(p.L3)+int(b[p.L3]&15)*4
		x.Len, x.Last = end-x.At, true
		yield(x)
		return
	}
	x.Proto, x.At = flow.Proto(b[p.L3+6]), int(p.L3)+ipv6Len
	for {
		if !isExtension(x.Proto) {
			x.Len, x.Last = max(end-x.At, 0), true
			yield(x)
			return
		}
		least := 2
		if x.Proto == fragment {
			least = 4
		}
		if x.At+least > len(b) {
			x.Len, x.Last, x.Cut = max(end-x.At, 0), true, true
			yield(x)
			return
		}
		h := b[x.At:]
		x.Len = extensionLen(x.Proto, h)
		x.Last = x.Proto == fragment && binary.BigEndian.Uint16(h[2:])&^7 != 0
		if !yield(x) || x.Last {
			return
		}
		x.Proto, x.At = flow.Proto(h[0]), x.At+x.Len
	}
}

// Extension returns the first header of a protocol in the chain; ok is false if there
// is none, and cut true if the chain breaks off before one was found (ipv6_find_hdr).
func (p *Packet) Extension(proto flow.Proto) (x Extension, ok, cut bool) {
	for x = range p.Extensions {
		if x.Proto == proto && !x.Cut {
			return x, true, false
		}
	}
	return Extension{}, false, x.Cut
}

// extensions is what the walk over extension headers found.
type extensions struct {
	proto    flow.Proto // the transport protocol, or that of the header where the walk ended
	at       int        // its offset in the packet, perhaps beyond its end
	fragAt   int        // offset of the first fragment header, 0 if there is none
	fragNext int        // offset of the byte that announces it
	fragment bool       // a fragment, and not an atomic one; the walk ended there
	cut      bool       // the chain is cut off, or ends in No Next Header
}

// skipExtensions walks over the headers of the packet b, the first of which is
// proto at offset off.
func skipExtensions(b []byte, proto flow.Proto, off int) extensions {
	x := extensions{proto: proto, at: off}
	announced := 6 // in the fixed header
	for {
		if x.proto == noNext {
			x.cut = true
			return x
		}
		if !isExtension(x.proto) {
			return x
		}
		if x.proto == fragment && x.fragAt == 0 {
			x.fragAt, x.fragNext = x.at, announced
		}
		if len(b) < x.at+2 || x.proto == fragment && len(b) < x.at+4 { // the kernel asks for no more than it reads
			x.cut = true
			return x
		}
		h := b[x.at:]
		if x.proto == fragment {
			x.fragment = binary.BigEndian.Uint16(h[2:])&^6 != 0 // MF or an offset
		}
		size := extensionLen(x.proto, h)
		x.proto, announced = flow.Proto(h[0]), x.at
		x.at += size
		if x.fragment {
			return x
		}
	}
}
