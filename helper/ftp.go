package helper

import (
	"net/netip"
	"strconv"

	"github.com/xdpct/xdpct/flow"
)

// ftpID is the id of "ftp" in the table of flow.
const ftpID flow.HelperID = 1

// ftpLine is the longest line that is read, in bytes without its LF: the announcements of
// RFC 959 and 2428 have less than 100 and a text that is free.
const ftpLine = 512

// ftp reads the control connection of FTP (RFC 959, RFC 2428; nf_conntrack_ftp, loose=0).
func ftp() *Helper {
	return &Helper{
		ID: ftpID, Protos: []flow.Proto{flow.TCP}, IPv4: true, IPv6: true,
		Classes: []Class{{Max: 1, Timeout: 300}},
		Limit:   ftpLine,
		New:     func() Session { return new(ftpSession) },
	}
}

// ftpCommands are those by which a client may begin: RFC 5797 and what is in use besides.
var ftpCommands = wordSet("ABOR ACCT ADAT ALGS ALLO APPE AUTH AVBL CCC CDUP CLNT CONF CSID CWD DELE DSIZ ENC EPRT EPSV " +
	"FEAT HASH HELP HOST LANG LIST LPRT LPSV MDTM MFCT MFF MFMT MIC MKD MLSD MLST MODE NLST NOOP OPTS PASS PASV PBSZ PORT " +
	"PROT PWD QUIT REIN REST RETR RMD RNFR RNTO SITE SIZE SMNT STAT STOR STOU STRU SYST TYPE USER XCUP XMKD XPWD XRMD XCWD")

const ftpLongest = 4 // of the commands

// ftpSession is one control connection.
type ftpSession struct {
	lines [2]lineReader
	begun [2]bool
	// multi is the code of the reply of several lines of which the last is to come
	// (RFC 959 4.2), 0 if none: what its text looks like is no reply.
	multi [3]byte
}

// Message reads one line.
func (s *ftpSession) Message(m *Message) (int, error) {
	l := &s.lines[m.Dir]
	if l.inside {
		return l.pass(m.Data)
	}
	if m.Dir == flow.Original {
		return s.command(m, l)
	}
	return s.reply(m, l)
}

// command reads a line of the client: PORT and EPRT.
func (s *ftpSession) command(m *Message, l *lineReader) (int, error) {
	if !s.begun[m.Dir] {
		switch firstWord(m.Data, ftpCommands, ftpLongest) {
		case isNot:
			return 0, ErrProtocol
		case isMaybe:
			return 0, nil
		}
	}
	port, eprt := begins(m.Data, "PORT "), begins(m.Data, "EPRT ")
	if port == isNot && eprt == isNot {
		s.begun[m.Dir] = true
		return l.pass(m.Data)
	}
	line, n, err := l.whole(m.Data, ftpLine)
	if n == 0 {
		return 0, err
	}
	s.begun[m.Dir] = true
	switch {
	case line == nil: // too long
	case port == isSo && m.Conn.Family == flow.IPv4:
		if to, end := hostPort(line[5:]); end > 0 && line[5+end] == '\r' {
			s.announced(m, to, 5, end, port959)
		}
	case eprt == isSo:
		if to, end := extendedPort(line[5:], m.Conn.Family); end > 0 {
			s.announced(m, to, 5, end, portExtended)
		}
	}
	return n, nil
}

// reply reads a line of the server: 227 and 229, and 234 and 334, after which the stream is
// encrypted or wrapped (RFC 2228).
func (s *ftpSession) reply(m *Message, l *lineReader) (int, error) {
	head := m.Data
	for i, c := range head {
		if c == '\n' || i == 3 {
			head = head[:i+1]
			break
		}
	}
	if len(head) < 4 && (len(head) == 0 || head[len(head)-1] != '\n') {
		return 0, nil
	}
	code, sep := replyCode(head)
	if !s.begun[m.Dir] && code != [3]byte{'2', '2', '0'} && code != [3]byte{'1', '2', '0'} {
		return 0, ErrProtocol
	}
	final := sep != '-' && code != [3]byte{}
	if s.multi != [3]byte{} && (code != s.multi || !final) {
		return l.pass(m.Data) // text
	}
	if final && (code == [3]byte{'2', '3', '4'} || code == [3]byte{'3', '3', '4'}) {
		return 0, ErrEncrypted
	}
	passive, extended := final && code == [3]byte{'2', '2', '7'}, final && code == [3]byte{'2', '2', '9'}
	if sep == ' ' && (passive || extended) {
		line, n, err := l.whole(m.Data, ftpLine)
		if n == 0 {
			return 0, err
		}
		if line != nil {
			s.passive(m, line, extended)
		}
		s.begun[m.Dir], s.multi = true, [3]byte{}
		return n, nil
	}
	s.begun[m.Dir], s.multi = true, [3]byte{}
	if sep == '-' {
		s.multi = code
	}
	return l.pass(m.Data)
}

// replyCode returns the code at the beginning of a reply and what follows it: ' ' or '-', or
// the end of the line. The code is zero if there is none.
func replyCode(head []byte) (code [3]byte, sep byte) {
	if len(head) < 4 || !digit(head[0]) || !digit(head[1]) || !digit(head[2]) {
		return code, 0
	}
	switch sep = head[3]; sep {
	case ' ', '-', '\r', '\n':
		return [3]byte(head), sep
	}
	return code, 0
}

// passive reads the line of a 227 or 229.
func (s *ftpSession) passive(m *Message, line []byte, extended bool) {
	at := 4
	if extended { // the text up to the first bracket is free
		for line[at] != '(' {
			if at++; at == len(line) {
				return
			}
		}
		at++
		if port, end := delimitedPort(line[at:]); end > 0 {
			s.announced(m, netip.AddrPortFrom(m.Conn.Self(m.Dir).Addr(), port), at, end, portAlone)
		}
		return
	}
	if m.Conn.Family != flow.IPv4 {
		return
	}
	for !digit(line[at]) { // brackets are usual and not required (RFC 1123 4.1.2.6)
		if at++; at == len(line) {
			return
		}
	}
	if to, end := hostPort(line[at:]); end > 0 && line[at+end] != ',' {
		s.announced(m, to, at, end, port959)
	}
}

// announced expects a data connection, and rewrites the n bytes at off, which name where it
// goes to, by form.
func (s *ftpSession) announced(m *Message, to netip.AddrPort, off, n int, form func(netip.AddrPort) []byte) {
	told, err := m.Env.Expect(m, Expected{
		Proto: flow.TCP,
		From:  netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), 0),
		To:    to,
	})
	if err == nil && editable(m.Conn) {
		m.Replace(off, n, form(told))
	}
}

// hostPort reads h1,h2,h3,h4,p1,p2 (RFC 959 HOST-PORT) and returns its length, 0 if it is none.
func hostPort(b []byte) (to netip.AddrPort, end int) {
	var v [6]byte
	for i := range v {
		if i > 0 {
			if end == len(b) || b[end] != ',' {
				return to, 0
			}
			end++
		}
		x, n := decimal(b[end:], 255)
		if n == 0 {
			return to, 0
		}
		v[i] = byte(x)
		end += n
	}
	if end == len(b) {
		return to, 0
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(v[:4])), uint16(v[4])<<8|uint16(v[5])), end
}

// delimiter reports whether c may separate the fields of RFC 2428: 33 to 126, and no digit.
func delimiter(c byte) bool { return 33 <= c && c <= 126 && !digit(c) }

// delimitedPort reads <d><d><d>port<d> (RFC 2428 3).
func delimitedPort(b []byte) (port uint16, end int) {
	if len(b) < 5 || !delimiter(b[0]) || b[1] != b[0] || b[2] != b[0] {
		return 0, 0
	}
	v, n := decimal(b[3:], 65535)
	if end = 3 + n; n == 0 || v == 0 || end == len(b) || b[end] != b[0] {
		return 0, 0
	}
	return uint16(v), end + 1
}

// extendedPort reads <d>family<d>address<d>port<d> (RFC 2428 2).
func extendedPort(b []byte, f flow.Family) (to netip.AddrPort, end int) {
	if len(b) < 4 || !delimiter(b[0]) || b[2] != b[0] {
		return to, 0
	}
	if f == flow.IPv4 && b[1] != '1' || f == flow.IPv6 && b[1] != '2' {
		return to, 0
	}
	end = 3
	for b[end] != b[0] {
		if end++; end == len(b) || end > 3+len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255") {
			return to, 0
		}
	}
	addr, ok := address(b[3:end], f)
	if !ok {
		return to, 0
	}
	end++
	v, n := decimal(b[end:], 65535)
	if end += n; n == 0 || v == 0 || end == len(b) || b[end] != b[0] {
		return to, 0
	}
	return netip.AddrPortFrom(addr, uint16(v)), end + 1
}

// address reads an address of a family as text. One of IPv4 may have leading zeros, which
// mean nothing.
func address(b []byte, f flow.Family) (a netip.Addr, ok bool) {
	if f == flow.IPv6 {
		a, err := netip.ParseAddr(string(b))
		return a, err == nil && a.Is6() && a.Zone() == ""
	}
	var v [4]byte
	for i := range v {
		if i > 0 {
			if len(b) == 0 || b[0] != '.' {
				return a, false
			}
			b = b[1:]
		}
		x, n := decimal(b, 255)
		if n == 0 {
			return a, false
		}
		v[i] = byte(x)
		b = b[n:]
	}
	return netip.AddrFrom4(v), len(b) == 0
}

// port959 writes HOST-PORT.
func port959(a netip.AddrPort) []byte {
	ip, port := a.Addr().As4(), a.Port()
	var b []byte
	for i, v := range [...]byte{ip[0], ip[1], ip[2], ip[3], byte(port >> 8), byte(port)} {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(v), 10)
	}
	return b
}

// portAlone writes what a 229 has in its brackets.
func portAlone(a netip.AddrPort) []byte {
	return append(strconv.AppendUint([]byte("|||"), uint64(a.Port()), 10), '|')
}

// portExtended writes what follows EPRT; an address of IPv6 in full, as Linux does.
func portExtended(a netip.AddrPort) []byte {
	family := "|2|"
	if a.Addr().Is4() {
		family = "|1|"
	}
	b := append([]byte(family), a.Addr().StringExpanded()...)
	return append(strconv.AppendUint(append(b, '|'), uint64(a.Port()), 10), '|')
}

// wordSet returns the words of a string.
func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for at, i := 0, 0; i <= len(words); i++ {
		if i == len(words) || words[i] == ' ' {
			set[words[at:i]] = true
			at = i + 1
		}
	}
	return set
}
