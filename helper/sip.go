package helper

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/xdpct/xdpct/flow"
)

// sipID is the id of "sip" in the table of flow.
const sipID flow.HelperID = 5

// The classes of SIP's expectations (enum sip_expectation_classes).
const (
	sipSignalling = iota
	sipAudio
	sipVideo
	sipImage
)

const (
	sipTimeout  = 3600      // seconds of a connection of which something has been read (SIP_TIMEOUT)
	sipLongest  = 300       // seconds of an expectation
	sipLimit    = 16 * 1024 // bytes of a message of a stream
	sipShortest = len("SIP/2.0 200")
)

// sip reads SIP (RFC 3261, nf_conntrack_sip, nf_nat_sip) over UDP and TCP, usually to port
// 5060. Expected are the RTP and RTCP (RFC 3550) of the media that a session description
// (RFC 4566) announces, and calls to a client that has registered; both from the other end of
// the connection only (sip_direct_media, sip_direct_signalling).
func sip() *Helper {
	return &Helper{
		ID: sipID, Protos: []flow.Proto{flow.UDP, flow.TCP}, IPv4: true, IPv6: true,
		Classes: []Class{
			sipSignalling: {Name: "signalling", Max: 1, Timeout: 180},
			sipAudio:      {Name: "audio", Max: 4, Timeout: 180, Media: true},
			sipVideo:      {Name: "video", Max: 4, Timeout: 180, Media: true},
			sipImage:      {Name: "image", Max: 2, Timeout: 180, Media: true},
		},
		Limit: sipLimit, Strangers: true,
		New: func() Session { return new(sipSession) },
	}
}

// sipSession is what is known of one connection (struct nf_ct_sip_master).
type sipSession struct {
	begun    [2]bool // a message of SIP has been read, by direction
	invite   sipRequest
	register sipRequest
}

// sipRequest is the last one of a method, so that the response to it is known.
type sipRequest struct {
	sent bool
	dir  flow.Direction
	cseq uint64
}

func (r *sipRequest) answeredBy(m *Message, s *sipMessage) bool {
	return r.sent && r.dir != m.Dir && r.cseq == s.cseq
}

func (s *sipSession) Message(m *Message) (n int, err error) {
	if m.Conn.Proto == flow.UDP {
		return len(m.Data), s.datagram(m)
	}
	return s.stream(m)
}

// datagram reads a datagram. What is too short for a message, or a STUN message (RFC 5626,
// 4.4), keeps a connection alive.
func (s *sipSession) datagram(m *Message) error {
	d := m.Data
	blank := len(bytes.Trim(d, "\r\n \x00")) == 0
	stun := len(d) >= 20 && d[0]&0xc0 == 0 && string(d[4:8]) == "\x21\x12\xa4\x42"
	if len(d) < sipShortest || blank || stun && s.begun[m.Dir] {
		if s.begun[m.Dir] {
			m.Env.Refresh(sipTimeout)
		}
		return nil
	}
	if lineEnd(d, 0) < 0 || !startsSIP(d) {
		if s.begun[m.Dir] {
			return nil // whoever sent it
		}
		return ErrProtocol
	}
	s.begun = [2]bool{true, true} // what is forged as the other side's first must not turn it off
	m.Env.Refresh(sipTimeout)
	s.read(m, d)
	return nil
}

// startsSIP reports whether what begins with b is a message of SIP, as far as it can be seen:
// by its first line, if that is complete, and by its first word until then.
func startsSIP(b []byte) bool {
	if end := lineEnd(b, 0); end >= 0 {
		msg := sipMessage{data: b}
		return msg.parseStart(chomp(b[:end]))
	}
	word, _, _ := bytes.Cut(b, []byte(" "))
	return isToken(word) || hasPrefixFold(word, "SIP/2.0") || bytes.HasPrefix([]byte("SIP/2.0"), bytes.ToUpper(word))
}

// stream reads the next message of a stream, by its Content-Length (RFC 3261, 18.3). One
// without cannot be told from what follows.
func (s *sipSession) stream(m *Message) (n int, err error) {
	d := m.Data
	if n = len(d) - len(bytes.TrimLeft(d, "\r\n")); n > 0 { // RFC 3261, 7.5
		if s.begun[m.Dir] {
			m.Env.Refresh(sipTimeout)
		}
		return n, nil
	}
	if !startsSIP(d) {
		if s.begun[m.Dir] {
			return 0, ErrMalformed
		}
		return 0, ErrProtocol
	}
	head := bytes.Index(d, []byte("\r\n\r\n"))
	if head < 0 {
		return 0, tooLong(len(d))
	}
	head += len("\r\n\r\n")
	length, ok := contentLength(d[:head])
	if !ok {
		return 0, ErrMalformed
	}
	if length > sipLimit || head+int(length) > sipLimit {
		return 0, ErrTooLong
	}
	if n = head + int(length); n > len(d) {
		return 0, nil
	}
	s.begun[m.Dir] = true
	m.Env.Refresh(sipTimeout)
	s.read(m, d[:n])
	return n, nil
}

func tooLong(n int) error {
	if n > sipLimit {
		return ErrTooLong
	}
	return nil
}

// read reads a message that is complete, and has it rewritten. Of one that is not as it has to
// be nothing is expected and nothing rewritten.
func (s *sipSession) read(m *Message, data []byte) {
	msg, ok := parseSIP(data, m.Conn.Proto == flow.TCP)
	if !ok {
		return
	}
	var sdp sdpSession
	if body := findSDP(&msg); body.len() > 0 {
		if sdp, ok = parseSDP(data, body); !ok {
			return
		}
	}
	w := sipWriter{m: m, msg: &msg}
	if msg.request {
		ok = s.request(&w, &sdp)
	} else {
		ok = s.response(&w, &sdp)
	}
	if ok {
		w.headers()
		w.write()
	}
}

// request does what a request asks for. ok is false if something could not be expected: the
// message is to be left as it is.
func (s *sipSession) request(w *sipWriter, sdp *sdpSession) (ok bool) {
	switch string(bytes.ToUpper(w.msg.method)) {
	case "INVITE":
		forgetMedia(w.m)
		if ok = w.media(sdp); ok {
			s.invite = sipRequest{true, w.m.Dir, w.msg.cseq}
		}
		return ok
	case "UPDATE", "ACK", "PRACK":
		return w.media(sdp)
	case "BYE":
		forgetMedia(w.m)
	case "CANCEL": // of an INVITE, whose number it bears (RFC 3261, 9.1)
		if s.invite.sent && s.invite.dir == w.m.Dir && s.invite.cseq == w.msg.cseq {
			forgetMedia(w.m)
		}
	case "REGISTER":
		return s.registers(w)
	}
	return true
}

// response does what a response says of the request that it answers.
func (s *sipSession) response(w *sipWriter, sdp *sdpSession) (ok bool) {
	switch string(bytes.ToUpper(w.msg.method)) {
	case "INVITE", "UPDATE", "PRACK":
		if w.msg.code < 300 {
			return w.media(sdp)
		}
		if s.invite.answeredBy(w.m, w.msg) {
			forgetMedia(w.m)
		}
	case "REGISTER":
		s.registered(w)
	}
	return true
}

func forgetMedia(m *Message) {
	for class := sipAudio; class <= sipImage; class++ {
		m.Env.Forget(m, class, netip.AddrPort{})
	}
}

// registers reads a REGISTER: calls to its contact are expected from the registrar, as soon
// as that agrees. A connection that was itself expected registers nothing, and nobody
// registers another.
func (s *sipSession) registers(w *sipWriter) (ok bool) {
	m, msg := w.m, w.msg
	i := slices.IndexFunc(msg.contacts, func(c sipAddr) bool { return c.addr.IsValid() })
	if m.Conn.Expected || i < 0 {
		return true
	}
	c := &msg.contacts[i]
	if c.addr.Addr() != m.Conn.Self(m.Dir).Addr() || !c.over(m.Conn.Proto) {
		return true
	}
	if c.lifetime(msg) > 0 {
		told, err := m.Env.Expect(m, Expected{
			Class: sipSignalling, Proto: m.Conn.Proto,
			From: netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), 0), To: c.addr,
			Permanent: true, Inactive: true, Helper: sipID,
		})
		if err != nil {
			return false
		}
		w.told(c.host, c.addr, told)
		c.host = span{} // is done
	}
	s.register = sipRequest{true, m.Dir, msg.cseq}
	return true
}

// registered reads a response to a REGISTER: it lists what is registered now.
func (s *sipSession) registered(w *sipWriter) {
	m, msg := w.m, w.msg
	if !s.register.answeredBy(m, msg) || msg.code < 200 {
		return
	}
	if msg.code < 300 {
		for i := range msg.contacts {
			c := &msg.contacts[i]
			if c.addr.Addr() != m.Conn.Peer(m.Dir).Addr() || !c.over(m.Conn.Proto) {
				continue
			}
			life := c.lifetime(msg)
			if life == 0 {
				break
			}
			if m.Env.Renew(m, sipSignalling, c.addr, uint32(min(life, sipLongest))) {
				return
			}
		}
	}
	m.Env.Forget(m, sipSignalling, netip.AddrPort{})
}

// over reports whether a contact is reached by the protocol of the connection.
func (a *sipAddr) over(p flow.Proto) bool { return !a.other && (a.transport == 0 || a.transport == p) }

// lifetime returns for how many seconds a contact is registered, 0 if it is not.
func (a *sipAddr) lifetime(s *sipMessage) uint64 {
	if a.hasExpires {
		return a.expires
	}
	return s.expires
}
