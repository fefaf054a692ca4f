package helper

import (
	"bytes"
	"net/netip"
)

// sdpMedia is how many media of a session are expected and rewritten (sdp_media_types).
const sdpMedia = 3

// sdpSession is a session description (RFC 4566).
type sdpSession struct {
	origin sdpAddr // o=
	conn   sdpAddr // c= in front of the media
	media  [sdpMedia]sdpMedium
	n      int // of them
}

// sdpAddr is an address of a line: at is empty if there is no such line, and addr is not
// valid if what is there is a name.
type sdpAddr struct {
	at   span
	addr netip.Addr
}

// sdpMedium is a media description whose type is known and whose port is not 0.
type sdpMedium struct {
	class int
	port  uint16 // 1024 and up
	at    span   // its digits
	conn  sdpAddr
	rtcp  sdpRTCP
}

// sdpRTCP is an attribute of RFC 3605: where RTCP goes, if it is not the port behind RTP's.
type sdpRTCP struct {
	port uint16 // 0: there is none
	at   span   // its digits
	conn sdpAddr
}

// parseSDP reads a session description, which is a part of b. ok is false if anything in it
// is not as it has to be; nothing of it is used then.
func parseSDP(b []byte, body span) (s sdpSession, ok bool) {
	open := (*sdpMedium)(nil) // the medium that lines belong to
	first, more := true, true
	inMedia := false
	for at := body.At; at < body.End; {
		end := body.End
		if n := bytes.IndexByte(b[at:end], '\n'); n >= 0 {
			end = at + n + 1
		}
		line := span{at, at + len(chomp(b[at:end]))}
		at = end
		if line.len() == 0 {
			more = false
			continue
		}
		text := line.of(b)
		if !more || len(text) < 2 || text[1] != '=' || !isText(text) || first != (text[0] == 'v') {
			return s, false
		}
		first = false
		value := span{line.At + 2, line.End}
		switch {
		case text[0] == 'm':
			inMedia = true
			if open, ok = s.medium(b, value); !ok {
				return s, false
			}
		case text[0] == 'c' && !inMedia:
			ok = s.conn.parse(b, value)
		case text[0] == 'c' && open != nil:
			ok = open.conn.parse(b, value)
		case text[0] == 'o' && !inMedia:
			ok = s.origin.parseOrigin(b, value)
		case text[0] == 'a' && open != nil && bytes.HasPrefix(text, []byte("a=rtcp:")):
			ok = open.rtcp.parse(b, span{line.At + len("a=rtcp:"), line.End})
		default:
			ok = true
		}
		if !ok {
			return s, false
		}
	}
	for i := range s.n {
		if s.media[i].conn.at.len() == 0 && s.conn.at.len() == 0 {
			return s, false
		}
	}
	return s, !first
}

// field takes the next field of a line off v: those are a space apart.
func field(b []byte, v *span) (f span) {
	f = *v
	if n := bytes.IndexByte(v.of(b), ' '); n >= 0 {
		f.End = f.At + n
		v.At = f.End + 1
	} else {
		v.At = v.End
	}
	return f
}

// medium reads an m= line. m is nil if it is none that is expected.
func (s *sdpSession) medium(b []byte, v span) (m *sdpMedium, ok bool) {
	typ, port := field(b, &v), field(b, &v)
	if typ.len() == 0 || port.len() == 0 || v.len() == 0 {
		return nil, false
	}
	class := 0
	switch string(typ.of(b)) {
	case "audio":
		class = sipAudio
	case "video":
		class = sipVideo
	case "image":
		class = sipImage
	default:
		return nil, true
	}
	if n := bytes.IndexByte(port.of(b), '/'); n >= 0 { // how many ports
		if _, ok = number(b[port.At+n+1 : port.End]); !ok {
			return nil, false
		}
		port.End = port.At + n
	}
	n, ok := number(port.of(b))
	if !ok || n > 65535 || n > 0 && n < sipLowPort {
		return nil, false
	}
	if n == 0 || s.n == sdpMedia {
		return nil, true
	}
	m = &s.media[s.n]
	s.n++
	m.class, m.port, m.at = class, uint16(n), port
	return m, true
}

// parse reads what follows c=: network type, address type and address. There is one for each
// medium and one in front of them.
func (a *sdpAddr) parse(b []byte, v span) (ok bool) {
	if a.at.len() > 0 {
		return false
	}
	net, typ := field(b, &v), field(b, &v)
	at := field(b, &v)
	if string(net.of(b)) != "IN" || at.len() == 0 || v.len() > 0 {
		return false
	}
	if n := bytes.IndexByte(at.of(b), '/'); n >= 0 { // the TTL and number of multicast addresses
		at.End = at.At + n
	}
	a.at = at
	ip, isAddr := parseIP(at.of(b))
	if !isAddr {
		// A name is left alone. Anything else might be taken for an address by its reader.
		return isFamily(typ.of(b)) && isHostName(at.of(b))
	}
	a.addr = ip
	return string(typ.of(b)) == "IP4" && ip.Is4() || string(typ.of(b)) == "IP6" && ip.Is6()
}

func isFamily(typ []byte) bool { return string(typ) == "IP4" || string(typ) == "IP6" }

// isHostName reports whether b may be the name of a host (FQDN of RFC 4566, 9).
func isHostName(b []byte) bool {
	for _, c := range b {
		if c != '-' && c != '.' && !('0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z') {
			return false
		}
	}
	return len(b) > 0
}

// parseOrigin reads what follows o=: a name, two numbers, and an address as in c=. The name
// should have no spaces.
func (a *sdpAddr) parseOrigin(b []byte, v span) (ok bool) {
	fields := 1 + bytes.Count(v.of(b), []byte(" "))
	for ; fields > 3; fields-- {
		field(b, &v)
	}
	return fields == 3 && a.parse(b, v)
}

// parse reads what follows a=rtcp: a port, and an address as in c= or nothing.
func (r *sdpRTCP) parse(b []byte, v span) (ok bool) {
	at := field(b, &v)
	n, ok := number(at.of(b))
	if !ok || n < sipLowPort || n > 65535 || r.port != 0 {
		return false
	}
	r.port, r.at = uint16(n), at
	return v.len() == 0 || r.conn.parse(b, v)
}

// where returns the address of a medium: its own or that of the session.
func (s *sdpSession) where(m *sdpMedium) netip.Addr {
	if m.conn.at.len() > 0 {
		return m.conn.addr
	}
	return s.conn.addr
}

// findSDP returns where the session description is in the body of a message; it is empty if
// there is none. A body without a type is one if it looks like one; of one in several parts
// (RFC 2046, 5.1) it is the first that says so.
func findSDP(s *sipMessage) (body span) {
	typ, _, _ := bytes.Cut(s.typ, []byte(";"))
	typ = bytes.TrimSpace(typ)
	switch {
	case equalFold(typ, "APPLICATION/SDP"):
		return s.body
	case len(typ) == 0 && bytes.HasPrefix(s.body.of(s.data), []byte("v=0")):
		return s.body
	case !hasPrefixFold(typ, "MULTIPART/"):
		return span{}
	}
	parts := bytes.Split(s.typ, []byte(";"))
	for _, p := range parts[1:] {
		name, value, _ := bytes.Cut(p, []byte("="))
		if equalFold(bytes.TrimSpace(name), "BOUNDARY") {
			return sdpPart(s.data, s.body, bytes.Trim(bytes.TrimSpace(value), `"`))
		}
	}
	return span{}
}

// sdpPart returns the first part of a body that is a session description.
func sdpPart(b []byte, body span, boundary []byte) span {
	if len(boundary) == 0 || len(boundary) > 70 {
		return span{}
	}
	mark := append([]byte("--"), boundary...)
	for at := body.At; ; {
		n := bytes.Index(b[at:body.End], mark)
		if n < 0 {
			return span{}
		}
		at += n + len(mark)
		head := lineEnd(b[:body.End], at)
		next := -1
		if head >= 0 {
			next = bytes.Index(b[head:body.End], mark)
		}
		if next < 0 {
			return span{}
		}
		isSDP := false
		for {
			var h span
			h, head = headerAt(b[:body.End], head, false)
			if head < 0 {
				return span{}
			}
			if h.len() == 0 {
				break
			}
			name, value, _ := bytes.Cut(h.of(b), []byte(":"))
			value, _, _ = bytes.Cut(value, []byte(";"))
			isSDP = isSDP || equalFold(bytes.TrimSpace(name), "CONTENT-TYPE") && equalFold(bytes.TrimSpace(value), "APPLICATION/SDP")
		}
		if n = bytes.Index(b[head:body.End], mark); n < 0 {
			return span{}
		}
		if isSDP {
			return span{head, head + n}
		}
		at = head + n
	}
}
