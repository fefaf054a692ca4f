package helper

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// tftpID is the id of "tftp" in the table of flow.
const tftpID flow.HelperID = 3

// tftp reads requests of TFTP (RFC 1350; nf_conntrack_tftp): the server answers from a port
// of its choice.
func tftp() *Helper {
	return &Helper{
		ID: tftpID, Protos: []flow.Proto{flow.UDP}, IPv4: true, IPv6: true,
		Classes: []Class{{Max: 1, Timeout: 300}},
		New:     func() Session { return new(tftpSession) },
	}
}

// tftpSession is one port of a client.
type tftpSession struct{ begun bool }

// The opcodes (RFC 1350 5, RFC 2347).
const (
	tftpRead    = 1
	tftpWrite   = 2
	tftpOptions = 6
)

// Message reads one datagram.
func (s *tftpSession) Message(m *Message) (int, error) {
	n := len(m.Data)
	if m.Dir != flow.Original {
		return n, nil
	}
	var opcode uint16
	if n >= 2 {
		opcode = binary.BigEndian.Uint16(m.Data)
	}
	if opcode != tftpRead && opcode != tftpWrite || !tftpRequest(m.Data[2:]) {
		if !s.begun || opcode == 0 || opcode > tftpOptions {
			return 0, ErrProtocol
		}
		return n, nil // with a server that answers from the port it was asked at
	}
	s.begun = true
	_, _ = m.Env.Expect(m, Expected{ // the request names nothing: there is nothing to rewrite
		Proto: flow.UDP,
		From:  netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), 0),
		To:    m.Conn.Self(m.Dir),
	})
	return n, nil
}

// tftpRequest reports whether b is a file name and a mode, each ended by a zero byte; options
// may follow. A mode is letters.
func tftpRequest(b []byte) bool {
	name, b, ok := bytes.Cut(b, []byte{0})
	if !ok || len(name) == 0 {
		return false
	}
	mode, _, ok := bytes.Cut(b, []byte{0})
	for _, c := range mode {
		if c = upper(c); c < 'A' || c > 'Z' {
			return false
		}
	}
	return ok && len(mode) > 0
}
