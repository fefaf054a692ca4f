package reference

import "net/netip"

// parsed is a datagram as far as the tracker cares.
type parsed struct {
	kind     string // malformed, invalid, untracked, error, data
	tuple    tuple
	outerDst netip.Addr // of an error: where it goes
	length   int
	seg      segment
	body     []byte // of SCTP: from the common header on
}

// segment is a TCP segment.
type segment struct {
	syn, ack, fin, rst bool
	seq, ackn          uint32
	win                int
	payload            int
	options            []byte
}

func be16(b []byte) int { return int(b[0])<<8 | int(b[1]) }

func be32(b []byte) uint32 { return uint32(be16(b))<<16 | uint32(be16(b[2:])) }

// internetSum is RFC 1071, word by word.
func internetSum(parts ...[]byte) int {
	sum, odd := 0, false
	for _, p := range parts {
		for _, c := range p {
			if odd {
				sum += int(c)
			} else {
				sum += int(c) << 8
			}
			odd = !odd
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}

var malformed, invalid = parsed{kind: "malformed"}, parsed{kind: "invalid"}

// parse reads a datagram whose version is that of its first nibble.
func parse(d []byte) parsed {
	if len(d) > 0 && d[0]>>4 == 6 {
		return parse6(d)
	}
	if len(d) < 20 || d[0]>>4 != 4 {
		return malformed
	}
	header := int(d[0]&15) * 4
	if header < 20 || header > len(d) || internetSum(d[:header]) != 0xffff {
		return malformed
	}
	total := be16(d[2:])
	if total > len(d) || total < header {
		return malformed
	}
	if be16(d[6:])&0x3fff != 0 {
		return invalid
	}
	src, _ := netip.AddrFromSlice(d[12:16])
	dst, _ := netip.AddrFromSlice(d[16:20])
	p := transport(d[:total], src, dst, int(d[9]), header, 0)
	p.length = total
	return p
}

func parse6(d []byte) parsed {
	if len(d) < 40 {
		return malformed
	}
	total := 40 + be16(d[4:])
	if total > len(d) {
		return malformed
	}
	if total == 40 && d[6] == 0 {
		total = len(d)
	}
	d = d[:total]
	src, _ := netip.AddrFromSlice(d[8:24])
	dst, _ := netip.AddrFromSlice(d[24:40])
	next, at, fragAt := int(d[6]), 40, 0
	for next == 0 || next == 43 || next == 44 || next == 51 || next == 59 || next == 60 {
		need := 2
		if next == 44 {
			need = 4
			if fragAt == 0 {
				fragAt = at
			}
		}
		if next == 59 || at+need > total {
			// A fragment header that is cut off; without any payload it is not looked
			// for (nf_ct_frag6_gather: a jumbogram has none), nor behind what is cut.
			if fragAt > 0 && fragAt <= total && total <= fragAt+8 && total > 40 {
				return malformed
			}
			return invalid
		}
		size := 8 + 8*int(d[at+1])
		switch next {
		case 44:
			size = 8
			if offset := be16(d[at+2:]); offset&0xfff9 != 0 {
				return invalid
			}
		case 51:
			size = 8 + 4*int(d[at+1])
		}
		next, at = int(d[at]), at+size
	}
	if at > 0xffff {
		return invalid
	}
	p := transport(d, src, dst, next, at, int(d[7]))
	p.length = total
	return p
}

// transport reads what is at an offset of the datagram d.
func transport(d []byte, src, dst netip.Addr, proto, at, hops int) parsed {
	body := d[min(at, len(d)):]
	p := parsed{kind: "data", tuple: tuple{src: src, dst: dst, proto: proto}}
	goodSum := func(pseudo bool) bool {
		n := len(body)
		if !pseudo {
			return internetSum(body) == 0xffff
		}
		s, t := src.As16(), dst.As16()
		if src.Is4() {
			return internetSum(s[12:], t[12:], []byte{0, byte(proto), byte(n >> 8), byte(n)}, body) == 0xffff
		}
		return internetSum(s[:], t[:], []byte{0, 0, byte(n >> 8), byte(n), 0, 0, 0, byte(proto)}, body) == 0xffff
	}
	switch proto {
	case 6:
		if len(body) < 20 {
			return invalid
		}
		header := int(body[12]>>4) * 4
		if header < 20 || header > len(body) || !goodSum(true) || !knownFlags(body[13]) {
			return invalid
		}
		f := body[13]
		p.seg = segment{
			fin: f&1 != 0, syn: f&2 != 0, rst: f&4 != 0, ack: f&16 != 0,
			seq: be32(body[4:]), ackn: be32(body[8:]), win: be16(body[14:]),
			payload: len(body) - header, options: body[20:header],
		}
		p.tuple.a, p.tuple.b = be16(body), be16(body[2:])
	case 17:
		if len(body) < 8 || be16(body[4:]) > len(body) || be16(body[4:]) < 8 ||
			be16(body[6:]) != 0 && !goodSum(true) {
			return invalid
		}
		p.tuple.a, p.tuple.b = be16(body), be16(body[2:])
	case 132:
		if len(body) < 12 || !goodCRC(body) {
			return invalid
		}
		p.tuple.a, p.tuple.b, p.body = be16(body), be16(body[2:]), body
	case 136:
		if len(body) < 8 {
			return invalid
		}
		whole, covered := body, be16(body[4:])
		if covered == 0 {
			covered = len(body)
		}
		if covered < 8 || covered > len(body) || be16(body[6:]) == 0 {
			return invalid
		}
		// The pseudo header has the whole length, and the wrong protocol.
		proto = 17
		body = append([]byte(nil), body...)
		for i := covered; i < len(body); i++ {
			body[i] = 0
		}
		if !goodSum(true) {
			return invalid
		}
		p.tuple.a, p.tuple.b = be16(whole), be16(whole[2:])
	case 47:
		if !greTuple(&p.tuple, body) {
			return invalid
		}
	case 1, 58:
		if len(body) < 8 || (proto == 1) != src.Is4() || !goodSum(proto == 58) {
			return invalid
		}
		return icmp(p, body, hops)
	}
	return p
}

// greTuple names a tunnel: by the call id if it is one of PPTP.
func greTuple(t *tuple, b []byte) bool {
	if len(b) >= 8 && b[1]&7 == 1 {
		t.b = be16(b[6:])
		return be16(b[2:]) == 0x880b
	}
	return true
}

// goodCRC is the CRC-32C of RFC 9260, appendix A, a bit at a time.
func goodCRC(b []byte) bool {
	crc := ^uint32(0)
	for i, c := range b {
		if i >= 8 && i < 12 {
			c = 0
		}
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0x82f63b78*(crc&1)
		}
	}
	crc = ^crc
	return b[8] == byte(crc) && b[9] == byte(crc>>8) && b[10] == byte(crc>>16) && b[11] == byte(crc>>24)
}

// knownFlags tells the combinations of flags that stacks send.
func knownFlags(f byte) bool {
	const fin, syn, rst, psh, ack, urg, ece, cwr = 1, 2, 4, 8, 16, 32, 64, 128
	switch f &^ (psh | ece | cwr) {
	case syn, syn | urg, syn | ack, rst, rst | ack, fin | ack, fin | ack | urg, ack, ack | urg:
		return true
	}
	return false
}

func icmp(p parsed, body []byte, hops int) parsed {
	typ := int(body[0])
	p.tuple.a, p.tuple.b = be16(body[4:]), be16(body)
	quote := body[8:]
	if p.tuple.proto == 1 {
		if typ != 3 && typ != 4 && typ != 5 && typ != 11 && typ != 12 {
			return query(p)
		}
	} else {
		switch {
		case typ >= 130 && typ <= 136, typ == 143, typ == 151, typ == 152:
			return parsed{kind: "untracked"}
		case typ == 137:
			if len(body) < 40 {
				return invalid
			}
			if body[1] != 0 {
				return query(p)
			}
			if hops != 255 || !p.tuple.src.IsLinkLocalUnicast() || len(body) < 42 || body[41] == 0 {
				return invalid
			}
			if body[40] != 4 {
				return query(p)
			}
			quote = body[min(48, len(body)):]
		case typ >= 128:
			return query(p)
		}
	}
	inner, ok := quoted(quote, p.tuple.src.Is4())
	if ok {
		inner, ok = inner.inverse()
	}
	if !ok {
		return invalid
	}
	return parsed{kind: "error", tuple: inner, outerDst: p.tuple.dst}
}

func query(p parsed) parsed {
	if _, ok := p.tuple.inverse(); !ok {
		return invalid
	}
	return p
}

// quoted reads the tuple of a datagram that may be cut anywhere.
func quoted(q []byte, v4 bool) (t tuple, ok bool) {
	at := 0
	if v4 {
		if len(q) < 20 || be16(q[6:])&0x1fff != 0 {
			return t, false
		}
		t.src, _ = netip.AddrFromSlice(q[12:16])
		t.dst, _ = netip.AddrFromSlice(q[16:20])
		t.proto, at = int(q[9]), int(q[0]&15)*4
		if at > len(q) {
			return t, false
		}
	} else {
		if len(q) < 40 {
			return t, false
		}
		t.src, _ = netip.AddrFromSlice(q[8:24])
		t.dst, _ = netip.AddrFromSlice(q[24:40])
		t.proto, at = int(q[6]), 40
		for t.proto == 0 || t.proto == 43 || t.proto == 44 || t.proto == 51 || t.proto == 59 || t.proto == 60 {
			need, size := 2, 0
			if t.proto == 44 {
				need = 4
			}
			if t.proto == 59 || at+need > len(q) {
				return t, false
			}
			switch t.proto {
			case 44:
				size = 8
				if be16(q[at+2:])&0xfff8 != 0 {
					return t, false
				}
			case 51:
				size = 8 + 4*int(q[at+1])
			default:
				size = 8 + 8*int(q[at+1])
			}
			t.proto, at = int(q[at]), at+size
		}
	}
	rest := q[min(at, len(q)):]
	switch t.proto {
	case 6, 17, 132, 136:
		if len(rest) < 4 {
			return t, false
		}
		t.a, t.b = be16(rest), be16(rest[2:])
	case 47:
		if !greTuple(&t, rest) {
			return t, false
		}
	case 1, 58:
		if len(rest) < 8 {
			return t, false
		}
		t.a, t.b = be16(rest[4:]), be16(rest)
	}
	return t, true
}
