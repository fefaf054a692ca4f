package helper

import (
	"bytes"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// sipAddr is an address in a SIP URI.
type sipAddr struct {
	// host is the address and its port as they were written. addr is them, and not valid if
	// the host is a name or the port below 1024, which no helper touches.
	host span
	addr netip.AddrPort
	// transport is that of the parameter, 0 if there is none; other says that it names
	// another than TCP and UDP.
	transport flow.Proto
	other     bool
	// expires is the parameter of a contact, in seconds.
	expires    uint64
	hasExpires bool
}

// sipVia is a Via header field value.
type sipVia struct {
	proto    flow.Proto // 0: neither UDP nor TCP
	sentBy   sipAddr
	received sipAddr // address without a port
	maddr    sipAddr // same
	rport    span    // digits, empty if there are none
	port     uint64  // that rport names
}

// parseNameAddr reads the first of a list of addresses, each with a display name, in angle
// brackets or without, and with parameters. next is where it ends: at a comma or v.End.
func parseNameAddr(b []byte, v span) (a sipAddr, next int, ok bool) {
	open, closed := -1, -1
	quoted := false
scan:
	for next = v.At; next < v.End; next++ {
		switch c := b[next]; {
		case quoted && c == '\\':
			next++
		case c == '"' && (open < 0 || closed >= 0):
			quoted = !quoted
		case quoted:
		case c == '<':
			if open >= 0 {
				return a, 0, false
			}
			open = next
		case c == '>':
			if open < 0 || closed >= 0 {
				return a, 0, false
			}
			closed = next
		case c == ',' && (open < 0) == (closed < 0):
			break scan
		}
	}
	next = min(next, v.End)
	if quoted || (open < 0) != (closed < 0) {
		return a, 0, false
	}
	if open >= 0 {
		if a, ok = parseURI(b, span{open + 1, closed}, true); !ok {
			return a, 0, false
		}
		return a, next, a.params(b, span{closed + 1, next})
	}
	uri := span{v.At, next}.trim(b)
	params := span{uri.End, uri.End}
	if n := bytes.IndexByte(uri.of(b), ';'); n >= 0 {
		params.At = uri.At + n
		uri.End = params.At
	}
	if a, ok = parseURI(b, uri.trim(b), false); !ok {
		return a, 0, false
	}
	return a, next, a.params(b, params)
}

// parseURI reads a URI. One that is not of the scheme sip has no address. Parameters are the
// URI's own only if it stands alone or in angle brackets (RFC 3261, 20).
func parseURI(b []byte, u span, own bool) (a sipAddr, ok bool) {
	uri := u.of(b)
	if !hasPrefixFold(uri, "SIP:") {
		return a, true
	}
	for _, c := range uri {
		if c <= ' ' || c == '<' || c == '>' || c == '"' {
			return a, false
		}
	}
	at := u.At + len("sip:")
	if n := bytes.IndexByte(b[at:u.End], '@'); n >= 0 {
		at += n + 1
		if bytes.IndexByte(b[at:u.End], '@') >= 0 {
			return a, false
		}
	}
	end := at
	for end < u.End && b[end] != ';' && b[end] != '?' {
		end++
	}
	if a.host = (span{at, end}); a.host.len() == 0 {
		return a, false
	}
	if a.addr, ok = parseHost(b[at:end]); !ok {
		return a, false
	}
	params := span{end, u.End}
	if n := bytes.IndexByte(params.of(b), '?'); n >= 0 {
		params.End = params.At + n
	}
	return a, !own || a.params(b, params)
}

// parseHost reads a host and a port: an address that a helper may touch, or none.
func parseHost(b []byte) (a netip.AddrPort, ok bool) {
	host, port := b, []byte(nil)
	switch {
	case b[0] == '[':
		n := bytes.IndexByte(b, ']')
		if n < 0 {
			return a, false
		}
		if host = b[1:n]; n+1 < len(b) {
			if b[n+1] != ':' {
				return a, false
			}
			port = b[n+2:]
		}
		if _, isAddr := parseIP(host); !isAddr {
			return a, false
		}
	case bytes.IndexByte(b, ':') >= 0:
		n := bytes.IndexByte(b, ':')
		host, port = b[:n], b[n+1:]
	}
	n := uint64(sipPort)
	if port != nil {
		if n, ok = number(port); !ok || n == 0 || n > 65535 {
			return a, false
		}
	}
	ip, isAddr := parseIP(host)
	if !isAddr || n < sipLowPort || b[0] != '[' && ip.Is6() {
		return a, len(host) > 0
	}
	return netip.AddrPortFrom(ip, uint16(n)), true
}

// parseIP reads an address and nothing but that.
func parseIP(b []byte) (a netip.Addr, ok bool) {
	const longest = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")
	if len(b) == 0 || len(b) > longest {
		return a, false
	}
	a, err := netip.ParseAddr(string(b))
	return a, err == nil && a.Zone() == ""
}

// params reads the parameters of an address, each behind a semicolon.
func (a *sipAddr) params(b []byte, p span) (ok bool) {
	return eachParam(b, p, func(name, value span) bool {
		v := value.of(b)
		switch n := name.of(b); {
		case equalFold(n, "TRANSPORT"):
			switch {
			case equalFold(v, "UDP"):
				a.transport = flow.UDP
			case equalFold(v, "TCP"):
				a.transport = flow.TCP
			default:
				a.other = true
			}
		case equalFold(n, "EXPIRES"):
			if a.expires, ok = number(v); !ok || a.hasExpires {
				return false
			}
			a.hasExpires = true
		}
		return true
	})
}

// eachParam calls f for each parameter of a list, until it returns false or what is there is
// none; it reports whether all were read.
func eachParam(b []byte, p span, f func(name, value span) bool) (ok bool) {
	for p = p.trim(b); p.len() > 0; {
		if b[p.At] != ';' {
			return false
		}
		end, quoted := p.At+1, false
		for ; end < p.End && (quoted || b[end] != ';'); end++ {
			switch {
			case quoted && b[end] == '\\':
				end++
			case b[end] == '"':
				quoted = !quoted
			}
		}
		if quoted || end > p.End {
			return false
		}
		name, value := span{p.At + 1, end}, span{end, end}
		if n := bytes.IndexByte(name.of(b), '='); n >= 0 {
			value.At = name.At + n + 1
			name.End = name.At + n
		}
		if !f(name.trim(b), value.trim(b)) {
			return false
		}
		p.At = end
	}
	return true
}

// parseVia reads the topmost Via: those below it are other elements' own.
func (s *sipMessage) parseVia(v span) (ok bool) {
	if s.via.sentBy.host.len() > 0 {
		return true
	}
	b := s.data
	end, quoted := v.At, false
	for ; end < v.End && (quoted || b[end] != ','); end++ {
		switch {
		case quoted && b[end] == '\\':
			end++
		case b[end] == '"':
			quoted = !quoted
		}
	}
	if quoted || end > v.End {
		return false
	}
	v.End = end
	// sent-protocol: name "/" version "/" transport, with white space around the slashes.
	slash := bytes.IndexByte(v.of(b), '/')
	if slash < 0 || !equalFold(span{v.At, v.At + slash}.trim(b).of(b), "SIP") {
		return false
	}
	v.At += slash + 1
	if slash = bytes.IndexByte(v.of(b), '/'); slash < 0 || !equalFold(span{v.At, v.At + slash}.trim(b).of(b), "2.0") {
		return false
	}
	v = span{v.At + slash + 1, v.End}.trim(b)
	end = v.At
	for end < v.End && !isSpace(b[end]) {
		end++
	}
	switch t := b[v.At:end]; {
	case equalFold(t, "UDP"):
		s.via.proto = flow.UDP
	case equalFold(t, "TCP"):
		s.via.proto = flow.TCP
	}
	host := span{end, v.End}.trim(b)
	params := span{host.End, host.End}
	if n := bytes.IndexByte(host.of(b), ';'); n >= 0 {
		params.At = host.At + n
		host = span{host.At, params.At}.trim(b)
	}
	if host.len() == 0 {
		return false
	}
	s.via.sentBy.host = host
	if !bytes.ContainsAny(host.of(b), " \t\r\n") { // white space in it is legal, and left alone
		if s.via.sentBy.addr, ok = parseHost(host.of(b)); !ok {
			return false
		}
	}
	return eachParam(b, params, s.viaParam)
}

func (s *sipMessage) viaParam(name, value span) (ok bool) {
	v := value.of(s.data)
	switch n := name.of(s.data); {
	case equalFold(n, "RECEIVED"):
		s.via.received = bareAddr(s.data, value)
	case equalFold(n, "MADDR"):
		s.via.maddr = bareAddr(s.data, value)
	case equalFold(n, "RPORT") && len(v) > 0:
		s.via.rport = value
		s.via.port, ok = number(v)
		return ok && s.via.port > 0 && s.via.port <= 65535
	}
	return true
}

// bareAddr reads an address without a port, in brackets or not; a name is none.
func bareAddr(b []byte, v span) (a sipAddr) {
	host := v.of(b)
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	if ip, ok := parseIP(host); ok {
		a.host, a.addr = v, netip.AddrPortFrom(ip, 0)
	}
	return a
}
