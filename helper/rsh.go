package helper

import (
	"net/netip"
	"strconv"

	"github.com/xdpct/xdpct/flow"
)

// rshID is the id of "rsh" in the table of flow.
const rshID flow.HelperID = 14

// rsh reads what a client of rsh and its like (rcmd(3), TCP 514) begins with: the decimal
// number of the port to which the server is to connect for the standard error, and a zero
// byte. Both ports of that connection are reserved ones.
func rsh() *Helper {
	return &Helper{
		ID: rshID, Protos: []flow.Proto{flow.TCP}, IPv4: true, IPv6: true,
		Classes: []Class{{Max: 1, Timeout: 60}},
		Limit:   len("65535\x00"),
		New:     func() Session { return new(rshSession) },
	}
}

// rshSession is one command.
type rshSession struct{ begun bool }

// Undo implements Undoer.
func (s *rshSession) Undo() { s.begun = false }

// Message reads the port, and nothing else.
func (s *rshSession) Message(m *Message) (int, error) {
	if s.begun || m.Dir != flow.Original {
		return len(m.Data), nil
	}
	n := 0
	for n < len(m.Data) && n <= 5 && digit(m.Data[n]) {
		n++
	}
	switch {
	case n == len(m.Data) && n <= 5:
		return 0, nil
	case n > 5 || m.Data[n] != 0:
		return 0, ErrProtocol
	}
	port, digits := decimal(m.Data[:n], 65535)
	if digits != n {
		return 0, ErrProtocol
	}
	s.begun = true
	if port == 0 { // there is none, and the standard error comes with the output
		return n + 1, nil
	}
	told, err := m.Env.Expect(m, Expected{
		Proto: flow.TCP,
		From:  netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), 0),
		To:    netip.AddrPortFrom(m.Conn.Self(m.Dir).Addr(), uint16(port)),
		Low:   true,
	})
	if err == nil && editable(m.Conn) {
		m.Replace(0, n, strconv.AppendUint(nil, uint64(told.Port()), 10))
	}
	return n + 1, nil
}
