package helper

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strconv"

	"github.com/xdpct/xdpct/flow"
)

// ircID is the id of "irc" in the table of flow.
const ircID flow.HelperID = 2

// ircLine is the longest line that is read, in bytes without its LF (RFC 1459 2.3: 512 with
// CR LF; servers cut off what is beyond).
const ircLine = 512

// irc reads what a client of IRC sends (RFC 1459) for the offers of its DCC, a convention of
// clients that goes over a PRIVMSG (nf_conntrack_irc).
func irc() *Helper {
	return &Helper{
		ID: ircID, Protos: []flow.Proto{flow.TCP}, IPv4: true,
		// Linux has max_dcc_channels=8 and dcc_timeout=300.
		Classes: []Class{{Max: 4, Timeout: 180}},
		Limit:   ircLine,
		New:     func() Session { return new(ircSession) },
	}
}

// What the two sides may begin with: RFC 2812 and IRCv3. A server may also begin with a
// prefix, with tags or with a numeric.
var (
	ircCommands = wordSet("ADMIN AUTHENTICATE AWAY CAP CHATHISTORY ERROR HELP INFO INVITE ISON JOIN KICK KILL LINKS LIST LUSERS " +
		"MODE MOTD NAMES NICK NOTICE OPER PART PASS PING PONG PRIVMSG PROTOCTL QUIT SERVICE SILENCE STARTTLS STATS TIME " +
		"TOPIC TRACE USER USERHOST VERSION WATCH WEBIRC WHO WHOIS WHOWAS")
	ircAnswers = wordSet("AUTHENTICATE CAP ERROR NOTICE PING PONG 001 020 421 432 433 451 461 462 464 465")
)

const ircLongest = len("AUTHENTICATE")

// ircSpaces is how many spaces there may be in front of a message that is read.
const ircSpaces = 64

// ircSession is one connection of a client to a server.
type ircSession struct {
	lines    [2]lineReader
	begun    [2]bool
	starting bool // STARTTLS has been asked for
}

// Message reads one line.
func (s *ircSession) Message(m *Message) (int, error) {
	l := &s.lines[m.Dir]
	if l.inside {
		return l.pass(m.Data)
	}
	// Empty messages are ignored (RFC 1459 2.3.1), and spaces in front of one (nf_conntrack_irc).
	at := 0
	for at < len(m.Data) && (m.Data[at] == ' ' || m.Data[at] == '\r') {
		at++
	}
	switch {
	case at > ircSpaces:
		return l.pass(m.Data)
	case at == len(m.Data):
		return 0, nil
	case m.Data[at] == '\n':
		return at + 1, nil
	}
	if !s.begun[m.Dir] {
		switch s.first(m.Dir, m.Data[at:]) {
		case isNot:
			return 0, ErrProtocol
		case isMaybe:
			return 0, nil
		}
	}
	var n int
	var err error
	if m.Dir == flow.Original {
		n, err = s.command(m, l, at)
	} else {
		n, err = s.answer(m, l, at)
	}
	if n > 0 {
		s.begun[m.Dir] = true
	}
	return n, err
}

// first reports whether what a side begins with may be IRC.
func (s *ircSession) first(d flow.Direction, b []byte) is {
	switch {
	case d == flow.Original && b[0] != '@':
		return firstWord(b, ircCommands, ircLongest)
	case b[0] == ':' || b[0] == '@':
		return isSo
	}
	return firstWord(b, ircAnswers, ircLongest)
}

// command reads a line of the client.
func (s *ircSession) command(m *Message, l *lineReader, at int) (int, error) {
	say, tls := begins(m.Data[at:], "PRIVMSG "), begins(m.Data[at:], "STARTTLS")
	if say == isNot && tls == isNot {
		return l.pass(m.Data)
	}
	line, n, err := l.whole(m.Data, ircLine)
	switch {
	case line == nil:
		return n, err
	case tls == isSo && line[at+len("STARTTLS")] <= ' ':
		s.starting = true
	case say == isSo:
		s.say(m, line, at+len("PRIVMSG "))
	}
	return n, nil
}

// answer reads a line of the server, of which only what it says to STARTTLS is of interest.
func (s *ircSession) answer(m *Message, l *lineReader, at int) (int, error) {
	if !s.starting {
		return l.pass(m.Data)
	}
	line, n, err := l.whole(m.Data, ircLine)
	if line == nil {
		return n, err
	}
	rest := line[at:]
	for rest[0] == ':' || rest[0] == '@' { // prefix and tags
		i := bytes.IndexByte(rest, ' ')
		if i < 0 {
			return n, nil
		}
		rest = bytes.TrimLeft(rest[i:], " ")
	}
	switch {
	case begins(rest, "670 ") == isSo: // RPL_STARTTLS
		return 0, ErrEncrypted
	case begins(rest, "691 ") == isSo: // ERR_STARTTLS
		s.starting = false
	}
	return n, nil
}

// dccTypes are those that announce an address and a port.
var dccTypes = []string{"SEND ", "CHAT ", "MOVE ", "TSEND ", "SCHAT "}

// say reads the text of a PRIVMSG whose target begins at off.
func (s *ircSession) say(m *Message, line []byte, off int) {
	i := bytes.Index(line[off:], []byte(" :"))
	if i < 0 {
		return
	}
	rest, ok := bytes.CutPrefix(line[off+i+2:], []byte("\x01DCC "))
	if !ok {
		return
	}
	for _, typ := range dccTypes {
		if after, ok := bytes.CutPrefix(rest, []byte(typ)); ok {
			if arg := dccArgument(after); arg > 0 {
				s.offer(m, line, len(line)-len(after)+arg)
			}
			return
		}
	}
}

// dccArgument returns where the address begins behind the argument of a DCC request: a name
// without a space, or one in quotation marks. It is 0 if there is no such argument.
func dccArgument(b []byte) int {
	end, skip := []byte(" "), 1
	if b[0] == '"' {
		end, skip = []byte("\" "), 2
	}
	i := bytes.Index(b[1:], end)
	if i < 0 || b[0] == ' ' {
		return 0
	}
	return 1 + i + skip
}

// offer reads the address and port at off and expects who takes the offer, which may be anybody.
func (s *ircSession) offer(m *Message, line []byte, off int) {
	ip, n := decimal(line[off:], 1<<32-1)
	end := off + n
	if n == 0 || line[end] != ' ' {
		return
	}
	for line[end] == ' ' {
		end++
	}
	port, n := decimal(line[end:], 65535)
	if end += n; n == 0 || port == 0 { // 0: the other side is to make an offer (reverse DCC)
		return
	}
	if c := line[end]; c != ' ' && c != 1 && c != '\r' && c != '\n' {
		return
	}
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(ip))
	addr := netip.AddrFrom4(a)
	if addr == m.Conn.Seen(m.Dir).Addr() { // clients may ask the server for their address
		addr = m.Conn.Self(m.Dir).Addr()
	}
	told, err := m.Env.Expect(m, Expected{Proto: flow.TCP, To: netip.AddrPortFrom(addr, uint16(port))})
	if err != nil || !editable(m.Conn) {
		return
	}
	a = told.Addr().As4()
	b := strconv.AppendUint(nil, uint64(binary.BigEndian.Uint32(a[:])), 10)
	m.Replace(off, end-off, strconv.AppendUint(append(b, ' '), uint64(told.Port()), 10))
}
