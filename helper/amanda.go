package helper

import (
	"bytes"
	"net/netip"
	"strconv"

	"github.com/xdpct/xdpct/flow"
)

// amandaID is the id of "amanda" in the table of flow.
const amandaID flow.HelperID = 4

// amandaMaster is the timeout of the master, in seconds: a backup client may take minutes to
// answer (master_timeout).
const amandaMaster = 300

// amanda reads the answers to a backup server's requests (nf_conntrack_amanda): the line
// CONNECT names the ports at which the client of the backup, which is asked, waits.
func amanda() *Helper {
	return &Helper{
		ID: amandaID, Protos: []flow.Proto{flow.UDP}, IPv4: true, IPv6: true,
		Classes: []Class{{Max: 4, Timeout: 180}},
		New:     func() Session { return new(amandaSession) },
	}
}

// amandaSession is one request and what comes after it.
type amandaSession struct{ begun [2]bool }

// amandaStreams are the streams that a CONNECT may name, in the order in which they are
// expected.
var amandaStreams = [...]string{"DATA", "MESG", "INDEX", "STATE"}

// amandaPort is where a port of a CONNECT was written.
type amandaPort struct {
	off, len int
	port     uint16 // 0: the stream is not used
}

// Message reads one datagram.
func (s *amandaSession) Message(m *Message) (int, error) {
	n := len(m.Data)
	if !s.begun[m.Dir] {
		if begins(m.Data, "AMANDA ") != isSo {
			return 0, ErrProtocol
		}
		s.begun[m.Dir] = true
	}
	if m.Dir == flow.Original {
		return n, nil
	}
	m.Env.Refresh(amandaMaster)
	var ports [len(amandaStreams)]amandaPort
	if !amandaConnect(m.Data, &ports) {
		return n, nil
	}
	type change struct {
		at   amandaPort
		told netip.AddrPort
	}
	var changes []change
	for _, p := range ports {
		if p.port == 0 {
			continue
		}
		told, err := m.Env.Expect(m, Expected{
			Proto: flow.TCP,
			From:  netip.AddrPortFrom(m.Conn.Peer(m.Dir).Addr(), 0),
			To:    netip.AddrPortFrom(m.Conn.Self(m.Dir).Addr(), p.port),
		})
		if err == nil && editable(m.Conn) {
			i := len(changes)
			changes = append(changes, change{p, told})
			for ; i > 0 && changes[i-1].at.off > p.off; i-- { // a line may have them in another order
				changes[i], changes[i-1] = changes[i-1], changes[i]
			}
		}
	}
	for _, c := range changes {
		m.Replace(c.at.off, c.at.len, strconv.AppendUint(nil, uint64(c.told.Port()), 10))
	}
	return n, nil
}

// amandaConnect reads the first line CONNECT of a datagram: pairs of a stream's name and a
// port, with a space between any two. It reports whether there is one, whole and sound; a port
// of 0 or -1 is that of a stream which is not used.
func amandaConnect(data []byte, ports *[len(amandaStreams)]amandaPort) bool {
	const word = "CONNECT "
	at := bytes.Index(data, []byte("\n"+word))
	if at < 0 {
		return false
	}
	at += 1 + len(word)
	end := bytes.IndexByte(data[at:], '\n')
	if end < 0 {
		return false
	}
	line := data[at : at+end]
	for len(line) > 0 {
		name, rest, ok := bytes.Cut(line, []byte(" "))
		if !ok {
			return false
		}
		off := at + end - len(rest)
		if bytes.HasPrefix(rest, []byte("-1")) {
			rest = rest[2:]
		} else {
			port, n := decimal(rest, 65535)
			if n == 0 || n > 5 {
				return false
			}
			for i, s := range amandaStreams {
				if string(name) != s {
					continue
				}
				if ports[i].len != 0 {
					return false // twice
				}
				ports[i] = amandaPort{off, n, uint16(port)}
			}
			rest = rest[n:]
		}
		if len(rest) > 0 && rest[0] != ' ' {
			return false
		}
		line = bytes.TrimLeft(rest, " ")
	}
	return true
}
