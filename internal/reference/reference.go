// Package reference is a connection tracker written for clarity alone: maps,
// strings and one rule after the other, as the rules are told in prose. It
// shares no code with the real one and exists to disagree with it in tests.
//
// It knows no limits: no maximum, no eviction, no shards. Expired connections
// are dropped when they are looked at.
package reference

import "net/netip"

// Verdict is what the tracker says of a datagram.
type Verdict struct {
	Drop    bool
	State   string // NEW, ESTABLISHED, RELATED, INVALID, UNTRACKED
	Known   bool   // there is a connection; what follows describes it
	Reply   bool
	Seen    bool // SEEN_REPLY
	Assured bool
	L4State string
	Expires int64 // milliseconds
}

// Connection is an entry of the table.
type Connection struct {
	orig, reply   tuple
	expires       int64
	seen, assured bool
	streamAt      int64
	tcp           *tcpState
	sctp          *sctpState
	Packets       [2]uint64
	Bytes         [2]uint64
}

// tuple is one direction of a connection.
type tuple struct {
	src, dst netip.Addr
	proto    int
	a, b     int // ports; ICMP: id, and type<<8|code
}

// Tracker is the table. Make it with New.
type Tracker struct {
	conns map[tuple]*Connection // under both tuples

	Loose, Liberal, IgnoreInvalidRST bool
	MaxRetrans                       int
}

// New makes an empty tracker with Linux's defaults.
func New() *Tracker {
	return &Tracker{conns: map[tuple]*Connection{}, Loose: true, MaxRetrans: 3}
}

// Len counts the connections that are alive.
func (t *Tracker) Len(now int64) int {
	n := 0
	for k, c := range t.conns {
		if c.expires > now && k == c.orig {
			n++
		}
	}
	return n
}

const second = 1000

// timeouts in seconds, by state or protocol.
var timeouts = map[string]int64{
	"SYN_SENT": 120, "SYN_RECV": 60, "ESTABLISHED": 432000, "FIN_WAIT": 120, "CLOSE_WAIT": 60,
	"LAST_ACK": 30, "TIME_WAIT": 120, "CLOSE": 10, "SYN_SENT2": 120,
	"retrans": 300, "unack": 300,
	"udp": 30, "udp stream": 120, "gre": 30, "gre stream": 180,
	"CLOSED": 10, "COOKIE_WAIT": 3, "COOKIE_ECHOED": 3, "SCTP ESTABLISHED": 210, "SHUTDOWN_SENT": 3,
	"SHUTDOWN_RECD": 3, "SHUTDOWN_ACK_SENT": 3, "HEARTBEAT_SENT": 30,
	"icmp": 30, "generic": 600,
}

func (t *Tracker) find(k tuple, now int64) *Connection {
	c := t.conns[k]
	if c != nil && c.expires <= now {
		t.remove(c)
		return nil
	}
	return c
}

func (t *Tracker) remove(c *Connection) {
	delete(t.conns, c.orig)
	delete(t.conns, c.reply)
}

// isReply reports whether a packet that is not the first has the direction of replies:
// all have, if the two tuples are equal.
func (c *Connection) isReply(t tuple) bool { return t != c.orig || c.orig == c.reply }

func (c *Connection) verdict(state string, reply bool) Verdict {
	v := Verdict{State: state, Known: true, Reply: reply, Seen: c.seen, Assured: c.assured, Expires: c.expires}
	if c.tcp != nil {
		v.L4State = c.tcp.state
	}
	if c.sctp != nil {
		v.L4State = c.sctp.state
	}
	return v
}

// Datagram judges an IP datagram that arrives at the given time in milliseconds.
func (t *Tracker) Datagram(now int64, d []byte) Verdict {
	p := parse(d)
	switch p.kind {
	case "malformed":
		return Verdict{Drop: true, State: "INVALID"}
	case "invalid":
		return Verdict{State: "INVALID"}
	case "untracked":
		return Verdict{State: "UNTRACKED"}
	case "error":
		c := t.find(p.tuple, now)
		if c == nil || p.outerDst != p.tuple.dst {
			return Verdict{State: "INVALID"}
		}
		return c.verdict("RELATED", c.isReply(p.tuple))
	}
	c := t.find(p.tuple, now)
	if c == nil {
		return t.begin(now, p)
	}
	reply := c.isReply(p.tuple)
	state := "NEW"
	if reply || c.seen {
		state = "ESTABLISHED"
	}
	var out outcome
	switch {
	case c.tcp != nil:
		out = t.tcpPacket(c, p, reply, now)
	case p.tuple.proto == 17:
		out = accept(timeouts["udp"])
		if c.seen && (c.assured || now > c.streamAt) {
			out = accept(timeouts["udp stream"])
			c.assured = true
		}
	case p.tuple.proto == 136 || p.tuple.proto == 47:
		kind := map[int]string{136: "udp", 47: "gre"}[p.tuple.proto]
		out = accept(timeouts[kind])
		if c.seen {
			c.assured = true
			out = accept(timeouts[kind+" stream"])
		}
	case c.sctp != nil:
		out = c.sctpPacket(p.body, reply)
	case p.tuple.proto == 1 || p.tuple.proto == 58:
		out = accept(timeouts["icmp"])
	default:
		out = accept(timeouts["generic"])
	}
	switch out.what {
	case "invalid":
		return Verdict{State: "INVALID"}
	case "reopen":
		t.remove(c)
		return t.begin(now, p)
	}
	if reply {
		c.seen = true
	}
	if out.what == "accept" {
		c.expires = now + out.timeout*second
	}
	if out.what != "keep" {
		c.count(reply, p.length)
	}
	if out.what == "close" {
		c.expires = now // it has no life left
	}
	v := c.verdict(state, reply)
	if out.what == "close" {
		t.remove(c)
	}
	return v
}

func (c *Connection) count(reply bool, n int) {
	d := 0
	if reply {
		d = 1
	}
	c.Packets[d]++
	c.Bytes[d] += uint64(n)
}

// begin judges a datagram that belongs to no connection.
func (t *Tracker) begin(now int64, p parsed) Verdict {
	reply, ok := p.tuple.inverse()
	if !ok {
		return Verdict{State: "INVALID"}
	}
	c := &Connection{orig: p.tuple, reply: reply, streamAt: now + 2*second}
	var out outcome
	switch p.tuple.proto {
	case 6:
		if !t.tcpNew(c, p) {
			return Verdict{State: "INVALID"}
		}
		out = t.tcpPacket(c, p, false, now)
	case 17, 136:
		out = accept(timeouts["udp"])
	case 47:
		out = accept(timeouts["gre"])
	case 132:
		c.sctp = &sctpState{state: "NONE"}
		out = c.sctpNew(p.body)
	case 1, 58:
		switch typ := p.tuple.b >> 8; {
		case p.tuple.proto == 1 && (typ == 8 || typ == 13 || typ == 15 || typ == 17):
		case p.tuple.proto == 58 && (typ == 128 || typ == 139):
		default:
			return Verdict{State: "INVALID"}
		}
		out = accept(timeouts["icmp"])
	default:
		out = accept(timeouts["generic"])
	}
	if out.what != "accept" {
		return Verdict{State: "INVALID"}
	}
	c.expires = now + out.timeout*second
	c.count(false, p.length)
	t.conns[c.orig], t.conns[c.reply] = c, c
	return c.verdict("NEW", false)
}

// outcome is what a packet does to its connection.
type outcome struct {
	what    string // accept, keep, close, invalid, reopen
	timeout int64  // seconds, of accept
}

func accept(timeout int64) outcome { return outcome{"accept", timeout} }

var icmpAnswer = map[int]int{8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
var icmp6Answer = map[int]int{128: 129, 129: 128, 139: 140, 140: 139}

// inverse is the tuple of the answer.
func (t tuple) inverse() (tuple, bool) {
	u := tuple{src: t.dst, dst: t.src, proto: t.proto, a: t.b, b: t.a}
	answers := map[int]map[int]int{1: icmpAnswer, 58: icmp6Answer}[t.proto]
	if answers != nil {
		answer, ok := answers[t.b>>8]
		u.a, u.b = t.a, answer<<8|t.b&0xff
		return u, ok
	}
	return u, true
}
