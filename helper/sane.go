package helper

import (
	"encoding/binary"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// saneID is the id of "sane" in the table of flow.
const saneID flow.HelperID = 10

// sane reads the control connection of the network protocol of SANE (nf_conntrack_sane): the
// answer to START names the port from which the image is to be fetched.
func sane() *Helper {
	return &Helper{
		ID: saneID, Protos: []flow.Proto{flow.TCP}, IPv4: true, IPv6: true,
		Classes: []Class{{Max: 1, Timeout: 300}},
		Limit:   saneHead,
		New:     func() Session { return &saneSession{version: 3} },
	}
}

// The requests (SANE standard 5.2).
const (
	saneInit = iota
	saneGetDevices
	saneOpen
	saneClose
	saneGetOptionDescriptors
	saneControlOption
	saneGetParameters
	saneStart
	saneCancel
	saneAuthorize
	saneExit
	saneRequests
)

// saneHead is the longest beginning of a request that says how long the rest is.
const saneHead = 28

// saneRest is the most that a string or a value may have, in bytes. A table of colours has
// less than a tenth of it.
const saneRest = 1 << 24

// saneSession is one control connection. Requests and answers take turns.
type saneSession struct {
	begun   bool
	version uint32 // of the protocol: 2 has the values of options that 3 leaves out
	skip    uint64 // bytes of the request that are still to come
	strings int    // and then so many strings
	asked   bool   // a request has not been answered
	reads   bool   // and its answer is to be read
	last    uint32 // the request that it is to
}

// Message reads the head of a request or of an answer, or what is of no interest after it.
func (s *saneSession) Message(m *Message) (int, error) {
	if m.Dir == flow.Reply {
		return s.answer(m)
	}
	if s.skip > 0 {
		n := min(s.skip, uint64(len(m.Data)))
		s.skip -= n
		return int(n), nil
	}
	if s.strings > 0 {
		return s.text(m.Data)
	}
	n, err := s.request(m.Data)
	if err != nil && !s.begun {
		err = ErrProtocol
	}
	if n > 0 {
		s.begun = true
	}
	return n, err
}

// text reads the length of a string, which has its zero byte; that of none is 0.
func (s *saneSession) text(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, nil
	}
	n := word32(b, 0)
	if n > saneRest {
		return 0, ErrMalformed
	}
	s.skip = uint64(n)
	s.strings--
	return 4, nil
}

// request reads the head of a request.
func (s *saneSession) request(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, nil
	}
	code := word32(b, 0)
	need, strings := 4, 0
	switch code {
	case saneInit:
		need, strings = 8, 1
	case saneOpen:
		strings = 1
	case saneAuthorize:
		strings = 3
	case saneGetDevices, saneExit:
	case saneClose, saneGetOptionDescriptors, saneGetParameters, saneStart, saneCancel:
		need = 8
	case saneControlOption:
		return s.option(b)
	default:
		return 0, ErrMalformed
	}
	if len(b) < need {
		return 0, nil
	}
	s.strings = strings
	s.sent(code)
	return need, nil
}

// sent notes a request. The answer to one that was sent before the last one had been answered
// is not read: where it begins is unknown.
func (s *saneSession) sent(code uint32) {
	if !s.asked && (code == saneInit || code == saneStart) {
		s.reads, s.last = true, code
	}
	s.asked = true
}

// The fields of CONTROL_OPTION, at their offsets, and what they may be.
const (
	saneAction    = 12
	saneType      = 16
	saneCount     = 24
	saneSetAuto   = 2
	saneTypeFixed = 2 // BOOL, INT and FIXED are words
	saneString    = 3
	saneGroup     = 5 // BUTTON and GROUP are nothing
)

// option reads the head of CONTROL_OPTION, up to the number of the value's elements.
func (s *saneSession) option(b []byte) (int, error) {
	if len(b) < saneType {
		return 0, nil
	}
	if s.version >= 3 && word32(b, saneAction) == saneSetAuto {
		s.sent(saneControlOption)
		return saneType, nil
	}
	if len(b) < saneHead {
		return 0, nil
	}
	typ, size := word32(b, saneType), uint64(word32(b, saneCount))
	switch {
	case typ <= saneTypeFixed:
		size *= 4
	case typ == saneString:
	case typ <= saneGroup:
		size = 0
	default:
		return 0, ErrMalformed
	}
	if size > saneRest {
		return 0, ErrMalformed
	}
	s.skip = size
	s.sent(saneControlOption)
	return saneHead, nil
}

// answer reads the answers to INIT and START: a status, and the version or the port.
func (s *saneSession) answer(m *Message) (int, error) {
	const need = 8
	if !s.reads {
		s.asked = false
		return len(m.Data), nil
	}
	if len(m.Data) < need {
		return 0, nil
	}
	status, value := word32(m.Data, 0), word32(m.Data, 4)
	s.asked, s.reads = false, false
	switch {
	case status != 0: // SANE_STATUS_GOOD
	case s.last == saneInit:
		s.version = value & 0xffff // SANE_VERSION_BUILD
	case value <= 65535:
		told, err := m.Env.Expect(m, Expected{
			Proto: flow.TCP,
			From:  netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), 0),
			To:    netip.AddrPortFrom(m.Conn.Self(m.Dir).Addr(), uint16(value)),
		})
		if err == nil {
			m.Replace(4, 4, binary.BigEndian.AppendUint32(nil, uint32(told.Port())))
		}
	}
	return need, nil
}

// Undo implements Undoer: the answer is read again.
func (s *saneSession) Undo() { s.asked, s.reads = true, true }

// word32 returns the word at offset i, most significant byte first.
func word32(b []byte, i int) uint32 { return binary.BigEndian.Uint32(b[i:]) }
