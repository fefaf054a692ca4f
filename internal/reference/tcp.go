package reference

import "strings"

// tcpState is what is known of a TCP connection.
type tcpState struct {
	state string
	side  [2]tcpSide

	// Of the last packet.
	lastClass  string
	lastReply  bool
	seq, ack   uint32
	end        uint32
	win        int
	retrans    uint8
	synScale   int // options of a SYN that was let through
	synHas     bool
	synSack    bool
	challenge  bool
	bothOpened bool
}

// tcpSide is one direction.
type tcpSide struct {
	end, maxEnd, maxWin, maxAck   uint32
	scale                         int
	hasScale, sack, closed        bool
	liberal, unacked, maxAckKnown bool
}

// table is the state table: rows by direction and class of packet, columns by
// old state. IG lets a packet through, IV makes it INVALID.
var table = readTable(`
            NONE      SYN_SENT  SYN_RECV    ESTABLISHED FIN_WAIT   CLOSE_WAIT LAST_ACK  TIME_WAIT CLOSE    SYN_SENT2
orig-SYN    SYN_SENT  SYN_SENT  IG          IG          IG         IG         IG        SYN_SENT  SYN_SENT SYN_SENT2
orig-SYNACK IV        IV        SYN_RECV    IV          IV         IV         IV        IV        IV       SYN_RECV
orig-FIN    IV        IV        FIN_WAIT    FIN_WAIT    LAST_ACK   LAST_ACK   LAST_ACK  TIME_WAIT CLOSE    IV
orig-ACK    ESTABLISHED IV      ESTABLISHED ESTABLISHED CLOSE_WAIT CLOSE_WAIT TIME_WAIT TIME_WAIT CLOSE    IV
orig-RST    IV        CLOSE     CLOSE       CLOSE       CLOSE      CLOSE      CLOSE     CLOSE     CLOSE    CLOSE
reply-SYN   IV        SYN_SENT2 IV          IV          IV         IV         IV        SYN_SENT  IV       SYN_SENT2
reply-SYNACK IV       SYN_RECV  IG          IG          IG         IG         IG        IG        IG       SYN_RECV
reply-FIN   IV        IV        FIN_WAIT    FIN_WAIT    LAST_ACK   LAST_ACK   LAST_ACK  TIME_WAIT CLOSE    IV
reply-ACK   IV        IG        SYN_RECV    ESTABLISHED CLOSE_WAIT CLOSE_WAIT TIME_WAIT TIME_WAIT CLOSE    IG
reply-RST   IV        CLOSE     CLOSE       CLOSE       CLOSE      CLOSE      CLOSE     CLOSE     CLOSE    CLOSE
`)

func readTable(text string) map[string]map[string]string {
	rows := strings.Split(strings.TrimSpace(text), "\n")
	columns := strings.Fields(rows[0])
	t := map[string]map[string]string{}
	for _, row := range rows[1:] {
		f := strings.Fields(row)
		t[f[0]] = map[string]string{}
		for i, c := range columns {
			t[f[0]][c] = f[1+i]
		}
	}
	return t
}

func (s segment) class() string {
	switch {
	case s.rst:
		return "RST"
	case s.syn && s.ack:
		return "SYNACK"
	case s.syn:
		return "SYN"
	case s.fin:
		return "FIN"
	case s.ack:
		return "ACK"
	}
	return "NONE"
}

func (s segment) end() uint32 {
	n := uint32(s.payload)
	if s.syn {
		n++
	}
	if s.fin {
		n++
	}
	return s.seq + n
}

func lookup(reply bool, class, state string) string {
	row := "orig-" + class
	if reply {
		row = "reply-" + class
	}
	return table[row][state]
}

// later reports whether a comes after b in sequence space.
func later(a, b uint32) bool { return before(b, a) }

func at(reply bool) int {
	if reply {
		return 1
	}
	return 0
}

func (t *Tracker) tcpNew(c *Connection, p parsed) bool {
	s := p.seg
	c.tcp = &tcpState{state: "NONE", lastClass: "NONE"}
	o := &c.tcp.side[0]
	o.end = s.end()
	o.maxWin = uint32(max(s.win, 1))
	switch lookup(false, s.class(), "NONE") {
	case "SYN_SENT":
		o.maxEnd = o.end
		o.readOptions(s.options)
		return true
	case "ESTABLISHED":
		if !t.Loose {
			return false
		}
		o.maxEnd = o.end + o.maxWin
		for i := range c.tcp.side {
			c.tcp.side[i].sack, c.tcp.side[i].liberal = true, true
		}
		return true
	}
	return false
}

// eachOption calls f for every whole option.
func eachOption(o []byte, f func(kind byte, body []byte) (more bool)) {
	for i := 0; i < len(o); {
		switch o[i] {
		case 0:
			return
		case 1:
			i++
			continue
		}
		if i+1 >= len(o) || o[i+1] < 2 || i+int(o[i+1]) > len(o) {
			return
		}
		if !f(o[i], o[i+2:i+int(o[i+1])]) {
			return
		}
		i += int(o[i+1])
	}
}

func synOptions(o []byte) (scale int, has, sack bool) {
	eachOption(o, func(kind byte, body []byte) bool {
		if kind == 4 && len(body) == 0 {
			sack = true
		}
		if kind == 3 && len(body) == 1 {
			scale, has = min(int(body[0]), 14), true
		}
		return true
	})
	return scale, has, sack
}

func (s *tcpSide) readOptions(o []byte) {
	if len(o) == 0 {
		return
	}
	liberal := s.liberal
	s.closed, s.unacked, s.maxAckKnown = false, false, false
	s.liberal = liberal
	s.scale, s.hasScale, s.sack = synOptions(o)
}

func (t *Tracker) tcpPacket(c *Connection, p parsed, reply bool, now int64) outcome {
	s, k := p.seg, c.tcp
	class := s.class()
	old := k.state
	next := lookup(reply, class, old)
	check := true
	switch next {
	case "IV", "":
		return outcome{what: "invalid"}
	case "SYN_SENT":
		if old != "TIME_WAIT" && old != "CLOSE" {
			break
		}
		if k.side[0].closed || k.side[1].closed || k.lastReply == reply && k.lastClass == "RST" {
			return outcome{what: "reopen"}
		}
		next = "IG"
	case "TIME_WAIT":
		if old == "LAST_ACK" && class == "ACK" && k.lastReply != reply && k.lastClass == "SYN" && k.challenge {
			k.challenge = false
			return outcome{what: "keep"}
		}
	case "SYN_SENT2":
		k.bothOpened = true
	case "SYN_RECV":
		if reply && class == "ACK" && k.bothOpened {
			next = "ESTABLISHED"
		}
	case "CLOSE":
		if class == "RST" {
			var ok bool
			if next, check, ok = t.rst(c, s, reply); !ok {
				return outcome{what: "invalid"}
			}
		}
	}
	if next == "IG" {
		if class == "SYNACK" && k.lastClass == "SYN" && k.lastReply != reply && s.ackn == k.end {
			k.takeSYN(reply)
			old, next = "SYN_SENT", "SYN_RECV"
		} else {
			k.rememberIgnored(s, reply)
			return outcome{what: "keep"}
		}
	}
	if check {
		switch t.window(c, s, reply) {
		case "ignore":
			return outcome{what: "keep"}
		case "invalid":
			t.ghost(c, class, reply, now)
			return outcome{what: "invalid"}
		}
	}
	k.lastClass, k.lastReply = class, reply
	k.state = next
	if next == "FIN_WAIT" && old != next {
		k.side[at(reply)].closed = true
	}
	return t.finish(c, class, old, next)
}

// takeSYN believes a SYN that was let through, since its SYN/ACK has come.
func (k *tcpState) takeSYN(reply bool) {
	syn := &k.side[at(k.lastReply)]
	syn.end, syn.maxEnd, syn.maxWin = k.end, k.end, uint32(max(k.win, 1))
	syn.scale = k.synScale
	k.challenge = false
	syn.hasScale, syn.sack = k.synHas, k.synSack
	syn.closed, syn.liberal, syn.unacked, syn.maxAckKnown = false, false, false, false
	k.side[at(reply)] = tcpSide{liberal: k.side[at(reply)].liberal}
}

func (k *tcpState) rememberIgnored(s segment, reply bool) {
	k.lastClass, k.lastReply = s.class(), reply
	k.seq, k.end, k.win = s.seq, s.end(), s.win
	if s.class() == "SYN" && !reply {
		k.synScale, k.synHas, k.synSack = synOptions(s.options)
		k.challenge = k.state == "LAST_ACK"
		k.bothOpened = false
	}
	if k.state == "SYN_SENT" && s.class() == "ACK" && reply {
		k.ack = s.ackn
	}
}

// rst decides about a RST that the table would let close the connection.
func (t *Tracker) rst(c *Connection, s segment, reply bool) (next string, check, ok bool) {
	k := c.tcp
	switch k.state {
	case "FIN_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "CLOSE_WAIT":
		return "CLOSE", false, true
	}
	next = "CLOSE"
	settled := k.state == "ESTABLISHED" && c.assured
	other := k.side[at(!reply)]
	if other.maxAckKnown && k.lastClass != "SYN" {
		if s.seq == 0 && !settled {
			return next, true, true
		}
		if later(other.maxAck, s.seq) && !t.IgnoreInvalidRST {
			return next, false, false
		}
		if !settled || s.seq == other.maxAck {
			return next, true, true
		}
		if k.lastClass == "ACK" && k.lastReply == reply && s.seq == k.end {
			return next, true, true
		}
		next = k.state
	}
	answersSYN := c.seen && k.lastClass == "SYN" && k.lastReply != reply
	answersACK := !c.assured && k.lastClass == "ACK"
	if (answersSYN || answersACK) && s.ackn == k.end {
		return next, false, true
	}
	if k.state == "SYN_SENT" && k.lastClass == "ACK" && k.lastReply && s.seq == k.ack {
		return next, false, true
	}
	return next, true, true
}

// window judges a segment by what both sides have said: accept, ignore, invalid.
func (t *Tracker) window(c *Connection, s segment, reply bool) string {
	k := c.tcp
	me, you := &k.side[at(reply)], &k.side[at(!reply)]
	seq, ack, end := s.seq, s.ackn, s.end()
	sack := ack
	if you.sack {
		sack = highestSack(s.options, ack)
	}
	opening := k.state == "SYN_SENT" || k.state == "SYN_RECV"
	switch {
	case me.maxWin == 0 && s.syn:
		k.fromSYN(s, reply)
		if !s.ack {
			return "accept"
		}
	case me.maxWin == 0:
		me.end = end
		me.maxWin = max(uint32(s.win)<<me.scale, 1)
		me.maxEnd = end + me.maxWin
		if you.maxWin == 0 {
			you.end, you.maxEnd = sack, sack
		} else if sack == you.end+1 {
			you.end++
		}
	case s.syn && later(end, me.end) && opening:
		k.fromSYN(s, reply)
		if reply && !s.ack {
			return "accept"
		}
	}
	if !s.ack || s.rst && ack == 0 {
		ack, sack = you.end, you.end
	}
	if s.rst && seq == 0 && k.state == "SYN_SENT" {
		seq, end = me.end, me.end
	}
	lowestAck := you.end - max(me.maxWin, 66000) - 1
	fresh := later(end, me.end-you.maxWin-1)
	result := "accept"
	switch {
	case !before(seq, me.maxEnd+1):
		over := end - me.maxEnd + 1
		result = "invalid"
		if you.maxWin != 0 && fresh && later(sack, lowestAck) && over <= you.maxWin && before(sack, you.end+1) {
			me.end, me.unacked = end, true
			result = "ignore"
		}
	case !before(sack, you.end+1):
		result = "invalid"
	case you.maxWin != 0 && !fresh, !later(sack, lowestAck):
		result = "ignore"
	}
	if result != "accept" {
		if me.liberal || t.Liberal {
			return "accept"
		}
		return result
	}
	win := uint32(s.win)
	if !s.syn {
		win <<= me.scale
	}
	me.maxWin = max(me.maxWin, win+(sack-ack))
	if later(end, me.end) {
		me.end, me.unacked = end, true
	}
	if s.ack && (!me.maxAckKnown || later(ack, me.maxAck)) {
		me.maxAck, me.maxAckKnown = ack, true
	}
	if you.maxWin != 0 && later(end, me.maxEnd) {
		you.maxWin += end - me.maxEnd
	}
	if later(sack+win, you.maxEnd-1) {
		you.maxEnd = sack + win
		if win == 0 {
			you.maxEnd++
		}
	}
	if ack == you.end {
		you.unacked = false
	}
	if s.class() == "ACK" {
		if k.lastReply == reply && k.seq == seq && k.ack == ack && k.end == end && k.win == s.win {
			k.retrans++
		} else {
			k.lastReply, k.seq, k.ack, k.end, k.win, k.retrans = reply, seq, ack, end, s.win, 0
		}
	}
	return "accept"
}

// before is not the same as a later that was turned round: half a circle away
// counts as before, whichever is which.
func before(a, b uint32) bool { return a != b && (a-b)&(1<<31) != 0 }

func (k *tcpState) fromSYN(s segment, reply bool) {
	me := &k.side[at(reply)]
	me.end, me.maxEnd, me.maxWin = s.end(), s.end(), uint32(max(s.win, 1))
	me.readOptions(s.options)
	if reply && (!k.side[0].hasScale || !k.side[1].hasScale) {
		k.side[0].scale, k.side[1].scale = 0, 0
	}
}

func highestSack(o []byte, ack uint32) uint32 {
	if len(o) == 12 && o[0] == 1 && o[1] == 1 && o[2] == 8 && o[3] == 10 {
		return ack
	}
	eachOption(o, func(kind byte, body []byte) bool {
		if kind != 5 || len(body) < 8 || len(body)%8 != 0 {
			return true
		}
		for ; len(body) > 0; body = body[8:] {
			if edge := be32(body[4:]); later(edge, ack) {
				ack = edge
			}
		}
		return false
	})
	return ack
}

// finish chooses the timeout.
func (t *Tracker) finish(c *Connection, class, old, next string) outcome {
	k := c.tcp
	timeout := timeouts[next]
	switch {
	case int(k.retrans) >= t.MaxRetrans && timeout > timeouts["retrans"]:
		timeout = timeouts["retrans"]
	case class == "RST":
		timeout = timeouts["CLOSE"]
	case (k.side[0].unacked || k.side[1].unacked) && timeout > timeouts["unack"]:
		timeout = timeouts["unack"]
	case k.win == 0 && timeout > timeouts["retrans"]:
		timeout = timeouts["retrans"]
	}
	if !c.seen {
		if class == "RST" {
			return outcome{what: "close"}
		}
		if class == "SYN" && old == "SYN_SENT" {
			return outcome{what: "keep"}
		}
		if next == "ESTABLISHED" {
			timeout = min(timeout, timeouts["unack"])
		}
	} else if next == "ESTABLISHED" && (old == "SYN_RECV" || old == "ESTABLISHED") {
		c.assured = true
	}
	return accept(timeout)
}

// ghost shortens the life of a connection whose both sides try to end it out of
// window.
func (t *Tracker) ghost(c *Connection, class string, reply bool, now int64) {
	k := c.tcp
	if !c.assured || class != "FIN" && class != "RST" {
		return
	}
	if k.lastReply == reply || k.lastClass != "FIN" && k.lastClass != "RST" {
		k.lastClass, k.lastReply = class, reply
		return
	}
	if left := c.expires - now; left >= 120*second && left > timeouts["unack"]*second {
		c.expires = now + timeouts["unack"]*second
	}
}
