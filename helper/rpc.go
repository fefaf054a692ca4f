package helper

import (
	"encoding/binary"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// rpcID is the id of "rpc" in the table of flow.
const rpcID flow.HelperID = 15

// rpcRecord is the longest record of TCP that is read, in bytes behind its mark: a call of
// GETPORT with two authenticators of the greatest length has less.
const rpcRecord = 1024

// rpc reads calls of GETPORT to the port mapper (RFC 1833 3, version 2, UDP and TCP 111) and
// what it answers: the port of another program.
func rpc() *Helper {
	return &Helper{
		ID: rpcID, Protos: []flow.Proto{flow.UDP, flow.TCP}, IPv4: true,
		Classes: []Class{{Max: 4, Timeout: 60}},
		Limit:   4 + rpcRecord,
		New:     func() Session { return new(rpcSession) },
	}
}

// rpcCall is a call of GETPORT that has not been answered.
type rpcCall struct {
	xid   uint32
	proto flow.Proto // of the port that is asked for, 0 for no call
}

// rpcSession is one client's port.
type rpcSession struct {
	begun [2]bool
	skip  [2]uint64 // bytes of a record of no interest that are still to come
	more  [2]bool   // and then its next fragment
	calls [8]rpcCall
	next  int // of calls: the one that is replaced next
	last  struct {
		call  *rpcCall // that was answered
		proto flow.Proto
	}
}

// Message reads one datagram, or one fragment of a record (RFC 5531 11).
func (s *rpcSession) Message(m *Message) (int, error) {
	d := m.Dir
	if m.Conn.Proto == flow.UDP {
		return len(m.Data), s.read(m, 0, len(m.Data))
	}
	if s.skip[d] > 0 {
		n := min(s.skip[d], uint64(len(m.Data)))
		s.skip[d] -= n
		return int(n), nil
	}
	if len(m.Data) < 4 {
		return 0, nil
	}
	mark := word32(m.Data, 0)
	n, last := int(mark&^(1<<31)), mark>>31 != 0
	if !s.begun[d] && (n < 24 || n > 1<<20) { // no call has less, no port mapper's more
		return 0, ErrProtocol
	}
	if s.more[d] || !last || n > rpcRecord {
		// What is cut into fragments, or long, is no GETPORT.
		if !s.begun[d] {
			return 0, ErrProtocol
		}
		s.skip[d], s.more[d] = uint64(n), !last
		return 4, nil
	}
	if len(m.Data) < 4+n {
		return 0, nil
	}
	return 4 + n, s.read(m, 4, n)
}

// Of RFC 5531 9 and RFC 1833 3.
const (
	rpcVersion     = 2
	portMapper     = 100000
	portMapVersion = 2
	portMapGetPort = 3
	rpcAuth        = 400 // the longest authenticator
)

// read reads the message of n bytes at off.
func (s *rpcSession) read(m *Message, off, n int) error {
	b := m.Data[off : off+n]
	ok := false
	if m.Dir == flow.Original {
		ok = s.call(b)
	} else {
		ok = s.answer(m, off, b)
	}
	if !ok && !s.begun[m.Dir] {
		return ErrProtocol
	}
	s.begun[m.Dir] = true
	return nil
}

// call notes a call of GETPORT. It reports whether b is a call to the port mapper.
func (s *rpcSession) call(b []byte) bool {
	if len(b) < 24 || word32(b, 4) != 0 || word32(b, 8) != rpcVersion || word32(b, 12) != portMapper {
		return false
	}
	if word32(b, 16) != portMapVersion || word32(b, 20) != portMapGetPort {
		return true
	}
	xid := word32(b, 0)
	b, ok := skipAuth(b[24:])
	if ok {
		b, ok = skipAuth(b)
	}
	if !ok || len(b) < 16 {
		return true
	}
	proto := flow.Proto(0)
	switch word32(b, 8) { // behind the program and its version
	case uint32(flow.TCP):
		proto = flow.TCP
	case uint32(flow.UDP):
		proto = flow.UDP
	default:
		return true
	}
	for i := range s.calls { // sent again
		if s.calls[i].proto != 0 && s.calls[i].xid == xid {
			s.calls[i].proto = proto
			return true
		}
	}
	s.calls[s.next] = rpcCall{xid, proto}
	s.next = (s.next + 1) % len(s.calls)
	return true
}

// answer reads the answer to a call that was noted. It reports whether b is an answer.
func (s *rpcSession) answer(m *Message, off int, b []byte) bool {
	if len(b) < 12 || word32(b, 4) != 1 {
		return false
	}
	for i := range s.calls {
		c := &s.calls[i]
		if c.proto == 0 || c.xid != word32(b, 0) {
			continue
		}
		proto := c.proto
		s.last.call, s.last.proto = c, proto
		c.proto = 0
		if word32(b, 8) != 0 { // denied
			return true
		}
		rest, ok := skipAuth(b[12:])
		if !ok || len(rest) != 8 || word32(rest, 0) != 0 { // not SUCCESS
			return true
		}
		port := word32(rest, 4)
		if port == 0 || port > 65535 { // 0: there is no such program
			return true
		}
		told, err := m.Env.Expect(m, Expected{
			Proto: proto,
			From:  netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), 0),
			To:    netip.AddrPortFrom(m.Conn.Self(m.Dir).Addr(), uint16(port)),
		})
		if err == nil {
			m.Replace(off+len(b)-4, 4, binary.BigEndian.AppendUint32(nil, uint32(told.Port())))
		}
		return true
	}
	return true
}

// Undo implements Undoer: the call is unanswered again.
func (s *rpcSession) Undo() { s.last.call.proto = s.last.proto }

// skipAuth skips an authenticator: a kind, a length and as many bytes, up to a multiple of 4.
func skipAuth(b []byte) (rest []byte, ok bool) {
	if len(b) < 8 {
		return nil, false
	}
	n := word32(b, 4)
	if n > rpcAuth || 8+(int(n)+3)&^3 > len(b) {
		return nil, false
	}
	return b[8+(int(n)+3)&^3:], true
}
