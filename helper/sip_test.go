package helper

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// sipEnv is an Env that has a table: it holds limits of classes, and renews and forgets as the
// kernel's does.
type sipEnv struct {
	rows    []sipRow
	refresh uint32
	refuse  error
	shift   uint16 // translated ports are moved by so much
}

type sipRow struct {
	class    int
	from     netip.Addr
	to       netip.AddrPort // as the peer knows it
	timeout  uint32
	inactive bool
	always   bool // permanent
}

func (e *sipEnv) Expect(m *Message, xs ...Expected) (told netip.AddrPort, err error) {
	if e.refuse != nil {
		return told, e.refuse
	}
	classes := sip().Classes
	self, seen := m.Conn.Self(m.Dir), m.Conn.Seen(m.Dir)
	for i, x := range xs {
		to := x.To
		switch {
		case to.Addr() != self.Addr():
			return told, ErrForeign
		case to.Port() < 1024:
			return told, ErrLowPort
		case to == self:
			to = seen
		case self != seen:
			to = netip.AddrPortFrom(seen.Addr(), to.Port()+e.shift)
		}
		if x.From.Addr() != m.Conn.Peer(m.Dir).Addr() || x.From.Port() != 0 {
			return told, fmt.Errorf("from %v", x.From)
		}
		row := sipRow{x.Class, m.Conn.Self(m.Dir.Other()).Addr(), to, classes[x.Class].Timeout, x.Inactive, x.Permanent}
		e.rows = slices.DeleteFunc(e.rows, func(r sipRow) bool { return r.to == to })
		of := func(r sipRow) bool { return r.class == x.Class }
		for n := 0; ; n = 0 {
			for _, r := range e.rows {
				if of(r) {
					n++
				}
			}
			if n < classes[x.Class].Max {
				break
			}
			n = slices.IndexFunc(e.rows, of)
			e.rows = slices.Delete(e.rows, n, n+1)
		}
		e.rows = append(e.rows, row)
		if i == 0 {
			told = to
		}
	}
	return told, nil
}

func (e *sipEnv) Forget(_ *Message, class int, to netip.AddrPort) {
	e.rows = slices.DeleteFunc(e.rows, func(r sipRow) bool { return r.class == class && (!to.IsValid() || r.to == to) })
}

func (e *sipEnv) Renew(_ *Message, class int, to netip.AddrPort, seconds uint32) bool {
	for i := range e.rows {
		if r := &e.rows[i]; r.class == class && r.to == to {
			r.timeout, r.inactive = seconds, false
			return true
		}
	}
	return false
}

func (e *sipEnv) Hangup(*Message)                             { panic("not SIP's") }
func (e *sipEnv) Refresh(seconds uint32)                      { e.refresh = seconds }
func (e *sipEnv) Map(*Message, netip.AddrPort) netip.AddrPort { panic("not SIP's") }

// sipNet is a client and a server, and what they know each other as.
type sipNet struct {
	family     flow.Family
	proto      flow.Proto
	translated bool // the client, or
	inner      bool // the server, too if it is translated
}

const (
	sipClientPort = 5060
	sipSeenPort   = 1024 // of who is translated
)

// addrs returns the address of the client, as the server knows it, and that of the server.
func (n sipNet) addrs() (client, seen, server netip.Addr) {
	client, seen, server = netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("10.2.2.60"), netip.MustParseAddr("10.2.2.1")
	if n.family == flow.IPv6 {
		client, seen, server = netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:2::3c"), netip.MustParseAddr("2001:db8:2::1")
	}
	if !n.source() {
		seen = client
	}
	return client, seen, server
}

// source reports whether the client is translated.
func (n sipNet) source() bool { return n.translated && !n.inner }

// known returns what the client knows the server as.
func (n sipNet) known() netip.AddrPort {
	_, _, server := n.addrs()
	if n.translated && n.inner {
		m := n
		m.inner = false
		_, seen, _ := m.addrs()
		return netip.AddrPortFrom(seen, sipSeenPort)
	}
	return netip.AddrPortFrom(server, sipPort)
}

func (n sipNet) seenPort() uint16 {
	if n.source() {
		return sipSeenPort
	}
	return sipClientPort
}

func (n sipNet) String() string {
	s := n.proto.String() + " " + n.family.String()
	switch {
	case n.source():
		s += " translated"
	case n.translated:
		s += " to a translated server"
	}
	return s
}

func (n sipNet) conn() *Conn {
	a, x, b := n.addrs()
	client, server, seen := netip.AddrPortFrom(a, sipClientPort).String(), netip.AddrPortFrom(b, sipPort).String(), netip.AddrPortFrom(x, n.seenPort()).String()
	c := fakeConn(n.proto, client, n.known().String(), seen)
	c.Tuples[flow.Reply] = fakeConn(n.proto, server, seen, "").Tuples[flow.Original]
	return c
}

// expand makes bytes of a message that is written with names of the ends: <a> the client, <x>
// what the server knows it as, <b> the server, <c> somebody else; capitals with brackets, as in
// a URI; <y> is what the client knows the server as, <p> is the port of <x>, <q> that of <y>, IP4 the type of addresses, UDP the protocol, and LEN the length
// of the body of the last message.
func (n sipNet) expand(text string) string {
	a, x, b := n.addrs()
	c := a.Next().Next()
	p := strconv.Itoa(int(n.seenPort()))
	y := n.known()
	r := []string{"<p>", p, "<q>", strconv.Itoa(int(y.Port()))}
	for name, addr := range map[string]netip.Addr{"a": a, "x": x, "b": b, "c": c, "y": y.Addr()} {
		r = append(r, "<"+name+">", addr.String(), "<"+strings.ToUpper(name)+">", bracketed(addr))
	}
	if n.family == flow.IPv6 {
		r = append(r, "IP4", "IP6", "0.0.0.0", "::")
	}
	r = append(r, "UDP", strings.ToUpper(n.proto.String()), "\n", "\r\n")
	text = strings.NewReplacer(r...).Replace(text)
	return strings.ReplaceAll(text, "LEN", strconv.Itoa(len(text)-bodyAt(text)))
}

// bodyAt returns where the body of the last message of text begins: behind the first empty
// line behind its CSeq.
func bodyAt(text string) int {
	head := max(strings.LastIndex(text, "CSeq"), 0)
	if n := strings.Index(text[head:], "\r\n\r\n"); n >= 0 {
		return head + n + 4
	}
	return len(text)
}

// changed returns the lines of got that are not those of sent, "dropped" if nothing is left.
func changed(sent, got string) string {
	if got == "" {
		return "dropped"
	}
	was := strings.Split(sent, "\r\n")
	var out []string
	for i, line := range strings.Split(got, "\r\n") {
		if i >= len(was) || was[i] != line {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// rowString names an expectation by the ends of a connection.
func (n sipNet) rowString(class int, from netip.Addr, to netip.AddrPort, flags string) string {
	a, x, b := n.addrs()
	names := map[netip.Addr]string{a: "a", b: "b"}
	announced := map[netip.Addr]string{x: "x", n.known().Addr(): "y"}
	return strings.TrimSpace(fmt.Sprintf("%s %s>%s:%d %s", sip().Classes[class].Name, names[from], announced[to.Addr()], to.Port(), flags))
}

// list returns the table, in order of its text.
func (n sipNet) list(e *sipEnv) string {
	var rows []string
	for _, r := range e.rows {
		flags := ""
		if r.always {
			flags = "permanent"
		}
		if r.inactive {
			flags += " inactive"
		}
		rows = append(rows, n.rowString(r.class, r.from, r.to, flags))
	}
	slices.Sort(rows)
	return strings.Join(rows, "\n")
}

// say gives a session the bytes that are sent and returns what is received.
func say(t *testing.T, s Session, conn *Conn, d flow.Direction, sent string, env Env) string {
	t.Helper()
	var out strings.Builder
	for data := []byte(sent); len(data) > 0; {
		m := &Message{Conn: conn, Dir: d, Data: data, Env: env}
		n, err := s.Message(m)
		if err != nil || n == 0 {
			t.Fatalf("%d of %d bytes, %v", n, len(data), err)
		}
		out.WriteString(apply(data[:n], m.Edits))
		data = data[n:]
	}
	return out.String()
}

// TestSIP goes through the dialogues of sipFacts, over IPv4 and IPv6, translated and not.
func TestSIP(t *testing.T) {
	for _, c := range sipFacts {
		for _, net := range c.nets() {
			t.Run(c.name+"/"+net.String(), func(t *testing.T) {
				env := new(sipEnv)
				s, conn := sip().New(), net.conn()
				for i, step := range c.steps {
					sent := net.expand(step.text)
					got := say(t, s, conn, step.dir, sent, env)
					want := ""
					if net.translated {
						want = net.changes(step.changed, got)
					}
					if got := changed(sent, got); got != want {
						t.Errorf("step %d: changed\n%s\nwant\n%s", i, got, want)
					}
					if got, want := net.list(env), expandRows(step.expect, net); got != want {
						t.Errorf("step %d: expected is\n%s\nwant\n%s", i, got, want)
					}
					if env.refresh != sipTimeout {
						t.Errorf("step %d: the connection has %d s", i, env.refresh)
					}
				}
			})
		}
	}
}

// changes makes the lines of a message that are to be others; LEN is the length of the body
// of what was received.
func (n sipNet) changes(lines, got string) string {
	lines = strings.ReplaceAll(lines, "LEN", strconv.Itoa(len(got)-bodyAt(got)))
	return strings.ReplaceAll(n.expand(lines), "\r", "")
}
