package helper

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// fakeEnv is an Env that writes down what it is asked for. It translates the sender's own
// address as its connection says, and moves ports by shift.
type fakeEnv struct {
	shift uint16 // added to the ports of what is expected, if the sender is translated
	err   error  // what Expect returns
	gone  bool   // there is nothing for Renew
	// strict has it refuse what an environment refuses: an address that is not the sender's
	// own, and a low port where that is not the protocol's.
	strict bool
	log    []string
}

func (e *fakeEnv) Expect(m *Message, xs ...Expected) (netip.AddrPort, error) {
	for _, x := range xs {
		line := fmt.Sprintf("%d/%v %v>%v", x.Class, x.Proto, x.From, x.To)
		if x.Either {
			line += fmt.Sprintf(" seen %d", x.Seen)
		}
		if x.Helper != 0 {
			line += " " + x.Helper.String()
		}
		if x.FromNet != 0 {
			line += fmt.Sprintf(" of /%d", x.FromNet)
		}
		if x.Permanent {
			line += " permanent"
		}
		e.log = append(e.log, line)
		var why error
		switch {
		case !e.strict:
		case x.To.Addr() != m.Conn.Self(m.Dir).Addr():
			why = ErrForeign
		case x.To.Port() < 1024 && !x.Low:
			why = ErrLowPort
		}
		if why != nil {
			e.log[len(e.log)-1] += ": " + why.Error()
			return netip.AddrPort{}, why
		}
	}
	if e.err != nil {
		return netip.AddrPort{}, e.err
	}
	told := e.Map(m, xs[0].To)
	if told.Addr() != xs[0].To.Addr() {
		told = netip.AddrPortFrom(told.Addr(), xs[0].To.Port()+e.shift)
	}
	return told, nil
}

func (e *fakeEnv) Forget(_ *Message, class int, to netip.AddrPort) {
	e.log = append(e.log, fmt.Sprintf("forget %d %v", class, to))
}

func (e *fakeEnv) Hangup(*Message) { e.log = append(e.log, "hangup") }

func (e *fakeEnv) Renew(_ *Message, class int, to netip.AddrPort, seconds uint32) bool {
	e.log = append(e.log, fmt.Sprintf("renew %d %v %d s", class, to, seconds))
	return !e.gone
}

func (e *fakeEnv) Refresh(s uint32) { e.log = append(e.log, fmt.Sprintf("refresh %d", s)) }

func (e *fakeEnv) Map(m *Message, a netip.AddrPort) netip.AddrPort {
	self, seen := m.Conn.Self(m.Dir), m.Conn.Seen(m.Dir)
	switch {
	case a.Addr() != self.Addr():
		return a
	case a.Port() == self.Port():
		return seen
	}
	return netip.AddrPortFrom(seen.Addr(), a.Port())
}

// fakeConn is a connection from src to dst; seen is what dst knows src as, and the zero
// AddrPort means src.
func fakeConn(p flow.Proto, src, dst, seen string) *Conn {
	from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	as := from
	if seen != "" {
		as = netip.MustParseAddrPort(seen)
	}
	c := &Conn{Family: flow.FamilyOf(from.Addr()), Proto: p}
	tuple := func(a, b netip.AddrPort) flow.Tuple {
		return flow.Tuple{
			Src: flow.AddrFrom(a.Addr()), Dst: flow.AddrFrom(b.Addr()),
			L4: flow.MakeL4(c.Family, p, 0, a.Port(), b.Port()),
		}
	}
	c.Tuples[flow.Original], c.Tuples[flow.Reply] = tuple(from, to), tuple(to, as)
	return c
}

// dialogue gives a session the bytes of a stream, in pieces, as a Stream does, and returns
// what the receiver reads and what was expected.
type dialogue struct {
	t    *testing.T
	h    *Helper
	s    Session
	c    *Conn
	env  fakeEnv
	rest [2][]byte // of incomplete messages
	err  error     // the helper is off
}

func newDialogue(t *testing.T, h *Helper, c *Conn) *dialogue {
	t.Helper()
	return &dialogue{t: t, h: h, s: h.New(), c: c}
}

// say sends bytes in direction d. It returns them as the receiver reads them, once their
// messages are complete.
func (g *dialogue) say(d flow.Direction, bytes string) string {
	g.t.Helper()
	if g.err != nil {
		return bytes
	}
	data := append(g.rest[d], bytes...)
	g.rest[d] = nil
	var out strings.Builder
	for len(data) > 0 {
		m := &Message{Conn: g.c, Dir: d, Data: data, Env: &g.env}
		n, err := g.s.Message(m)
		if err != nil {
			g.err = err
			break
		}
		if g.c.Proto == flow.UDP {
			n = len(data)
		}
		if n == 0 {
			if len(m.Edits) > 0 {
				g.t.Fatal("edits of an incomplete message")
			}
			if len(data) > g.h.Limit {
				g.err = ErrTooLong
				break
			}
			g.rest[d] = append([]byte(nil), data...)
			return out.String()
		}
		out.WriteString(apply(data[:n], m.Edits))
		data = data[n:]
	}
	out.Write(data)
	return out.String()
}

// apply returns a message with its edits made.
func apply(data []byte, edits []Edit) string {
	var out strings.Builder
	at := 0
	for _, e := range edits {
		out.Write(data[at:e.Off])
		out.Write(e.With)
		at = e.Off + e.Len
	}
	out.Write(data[at:])
	return out.String()
}
