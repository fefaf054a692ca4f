package helper

import "bytes"

// span is a part of a message: from At up to End.
type span struct{ At, End int }

func (s span) len() int                 { return s.End - s.At }
func (s span) of(b []byte) []byte       { return b[s.At:s.End] }
func (s span) trim(b []byte) span       { return trimSpace(b, s.At, s.End) }
func isSpace(c byte) bool               { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }
func isDigit(c byte) bool               { return '0' <= c && c <= '9' }
func equalFold(b []byte, s string) bool { return len(b) == len(s) && hasPrefixFold(b, s) }

// hasPrefixFold reports whether b begins with s, which is of capital ASCII letters and signs,
// in whatever case.
func hasPrefixFold(b []byte, s string) bool {
	if len(b) < len(s) {
		return false
	}
	for i := range len(s) {
		c := b[i]
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

// trimSpace returns the part between at and end without white space around it; that of a
// folded line counts as such (RFC 3261, 25.1, LWS).
func trimSpace(b []byte, at, end int) span {
	for at < end && isSpace(b[at]) {
		at++
	}
	for end > at && isSpace(b[end-1]) {
		end--
	}
	return span{at, end}
}

// number reads decimal digits and nothing else. What is larger than 2^60 is that: no count
// of digits wraps around (CVE-2026-23457).
func number(b []byte) (n uint64, ok bool) {
	const most = 1 << 60
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		if n < most {
			n = n*10 + uint64(c-'0')
		}
		n = min(n, most)
	}
	return n, len(b) > 0
}

// A message may name as many contacts, more are not read.
const sipContacts = 32

// sipMessage is a message of SIP (RFC 3261) that has been read as a whole: only what was
// found in it is ever rewritten.
type sipMessage struct {
	data    []byte
	request bool
	uri     sipAddr // of a request
	code    int     // of a response, 100 to 699
	method  []byte  // of CSeq, which a request's is equal to
	cseq    uint64

	via      sipVia // the topmost one
	from, to sipAddr
	contacts []sipAddr
	expires  uint64 // seconds
	length   span   // the digits of Content-Length, empty if there is none
	typ      []byte // of the body, empty if not said
	body     span

	seen uint16 // headers that may be there once, a bit of sipOnce each
}

// Ports of SIP.
const (
	sipPort    = 5060 // where none is written
	sipLowPort = 1024 // none below is read
)

// parseStart reads the start line of a message. ok is false if it is none of SIP.
func (s *sipMessage) parseStart(line []byte) (ok bool) {
	if hasPrefixFold(line, "SIP/2.0 ") {
		rest := line[len("SIP/2.0 "):]
		if len(rest) < 3 || len(rest) > 3 && rest[3] != ' ' || !isDigit(rest[0]) || !isDigit(rest[1]) || !isDigit(rest[2]) {
			return false
		}
		s.code = int(rest[0]-'0')*100 + int(rest[1]-'0')*10 + int(rest[2]-'0')
		return 100 <= s.code && s.code <= 699
	}
	method := bytes.IndexByte(line, ' ')
	if method <= 0 || !isToken(line[:method]) {
		return false
	}
	uri := bytes.IndexByte(line[method+1:], ' ')
	if uri <= 0 || !equalFold(line[method+1+uri+1:], "SIP/2.0") {
		return false
	}
	s.request, s.method = true, line[:method]
	at := method + 1
	s.uri, ok = parseURI(s.data, span{at, at + uri}, true)
	return ok
}

func isToken(b []byte) bool {
	for _, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', isDigit(c):
		case bytes.IndexByte([]byte("-.!%*_+`'~"), c) >= 0:
		default:
			return false
		}
	}
	return len(b) > 0
}

// parseSIP reads a message that is complete. A message of a stream has lines that end in CRLF; a
// datagram's may end in LF (RFC 2543). ok is false if anything in it is not as it has to be.
func parseSIP(data []byte, stream bool) (s sipMessage, ok bool) {
	s.data = data
	end := lineEnd(data, 0)
	if end < 0 || !s.parseStart(chomp(data[:end])) {
		return s, false
	}
	method := s.method
	for at := end; ; {
		h, next := headerAt(data, at, stream)
		if next < 0 {
			return s, false
		}
		if h.len() == 0 {
			s.body = span{next, len(data)}
			break
		}
		if !s.header(h) {
			return s, false
		}
		at = next
	}
	if s.seen&onceCSeq == 0 || s.request && !bytes.Equal(method, s.method) {
		return s, false
	}
	if s.length.len() > 0 {
		n, _ := number(s.length.of(data))
		if n > uint64(s.body.len()) { // cut short, or never so long
			return s, false
		}
		s.body.End = s.body.At + int(n)
	}
	return s, true
}

// contentLength reads the one header field that says how long a message of a stream is, which
// the header fields head begin. ok is false if there is none, or two, or anything that is read
// one way by one and another way by others.
func contentLength(head []byte) (n uint64, ok bool) {
	for at := lineEnd(head, 0); ; {
		h, next := headerAt(head, at, true)
		if next < 0 {
			return 0, false
		}
		if h.len() == 0 {
			return n, ok
		}
		name, value, _ := bytes.Cut(h.of(head), []byte(":"))
		name = bytes.TrimSpace(name)
		if equalFold(name, "CONTENT-LENGTH") || equalFold(name, "L") {
			if ok {
				return 0, false
			}
			if n, ok = number(bytes.TrimSpace(value)); !ok {
				return 0, false
			}
		}
		at = next
	}
}

// lineEnd returns where the line at at ends, behind its LF, -1 if it does not.
func lineEnd(b []byte, at int) int {
	if n := bytes.IndexByte(b[at:], '\n'); n >= 0 {
		return at + n + 1
	}
	return -1
}

func chomp(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
}

// headerAt returns the header that begins at at with its continuation lines, without the end
// of the last one, and where the next begins. It is empty for the line that ends the header
// fields. next is -1 if there is no end, or a byte that no header may have.
func headerAt(b []byte, at int, crlf bool) (h span, next int) {
	h = span{at, at}
	for next = at; ; {
		end := lineEnd(b, next)
		if end < 0 {
			return h, -1
		}
		line := chomp(b[next:end])
		if crlf && end-next-len(line) != 2 || !isText(line) {
			return h, -1
		}
		h.End, next = next+len(line), end
		if h.len() == 0 || next == len(b) || b[next] != ' ' && b[next] != '\t' {
			return h, next
		}
	}
}

// isText reports whether a line has no control bytes but tabs.
func isText(line []byte) bool {
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// Headers that a message has at most once. A second one may be read instead of the first by
// who receives it, so that no message with two is touched.
const (
	onceFrom = 1 << iota
	onceTo
	onceCSeq
	onceCallID
	onceLength
	onceType
	onceExpires
)

func (s *sipMessage) once(bit uint16) bool {
	first := s.seen&bit == 0
	s.seen |= bit
	return first
}

// header reads one header field. Those that are not named here may hold anything.
func (s *sipMessage) header(h span) (ok bool) {
	colon := bytes.IndexByte(h.of(s.data), ':')
	if colon <= 0 || isSpace(s.data[h.At]) {
		return false
	}
	name := span{h.At, h.At + colon}.trim(s.data).of(s.data)
	if !isToken(name) {
		return false
	}
	value := span{h.At + colon + 1, h.End}.trim(s.data)
	switch {
	case equalFold(name, "VIA"), equalFold(name, "V"):
		return s.parseVia(value)
	case equalFold(name, "FROM"), equalFold(name, "F"):
		s.from, _, ok = parseNameAddr(s.data, value)
		return ok && s.once(onceFrom)
	case equalFold(name, "TO"), equalFold(name, "T"):
		s.to, _, ok = parseNameAddr(s.data, value)
		return ok && s.once(onceTo)
	case equalFold(name, "CONTACT"), equalFold(name, "M"):
		return s.parseContacts(value)
	case equalFold(name, "CSEQ"):
		return s.parseCSeq(value) && s.once(onceCSeq)
	case equalFold(name, "CALL-ID"), equalFold(name, "I"):
		return s.once(onceCallID)
	case equalFold(name, "EXPIRES"):
		// A date (RFC 2543) is no number of seconds: as if there was none.
		s.expires, _ = number(value.of(s.data))
		return s.once(onceExpires)
	case equalFold(name, "CONTENT-LENGTH"), equalFold(name, "L"):
		_, ok = number(value.of(s.data))
		s.length = value
		return ok && s.once(onceLength)
	case equalFold(name, "CONTENT-TYPE"), equalFold(name, "C"):
		s.typ = value.of(s.data)
		return s.once(onceType)
	}
	return true
}

func (s *sipMessage) parseCSeq(v span) (ok bool) {
	b := v.of(s.data)
	n := 0
	for n < len(b) && isDigit(b[n]) {
		n++
	}
	if s.cseq, ok = number(b[:n]); !ok || s.cseq >= 1<<31 || n == len(b) || !isSpace(b[n]) {
		return false
	}
	s.method = trimSpace(b, n, len(b)).of(b)
	return isToken(s.method)
}

func (s *sipMessage) parseContacts(v span) (ok bool) {
	for {
		c, next, ok := parseNameAddr(s.data, v)
		if !ok || len(s.contacts) == sipContacts {
			return false
		}
		s.contacts = append(s.contacts, c)
		if next == v.End {
			return true
		}
		v = span{next + 1, v.End}.trim(s.data)
	}
}
