package reference

// sctpState is what is known of an SCTP association.
type sctpState struct {
	state     string
	tag       [2]uint32 // expected in packets, by direction
	init      [2]bool
	probing   bool // a heartbeat with a strange tag went in direction probedBy
	probedBy  int
	confirmed bool
}

var sctpNames = map[byte]string{
	0: "DATA", 1: "INIT", 2: "INIT_ACK", 4: "HEARTBEAT", 5: "HEARTBEAT_ACK", 6: "ABORT", 7: "SHUTDOWN",
	8: "SHUTDOWN_ACK", 9: "ERROR", 10: "COOKIE_ECHO", 11: "COOKIE_ACK", 14: "SHUTDOWN_COMPLETE",
}

// sctpChanges says what a chunk makes of a state: direction, chunk, state. What
// is not listed stays as it is; "" is invalid.
var sctpChanges = [2]map[string]map[string]string{
	{
		"INIT":              {"NONE": "CLOSED", "SHUTDOWN_SENT": "CLOSED", "SHUTDOWN_RECD": "CLOSED", "HEARTBEAT_SENT": "COOKIE_WAIT"},
		"INIT_ACK":          {"NONE": "CLOSED", "HEARTBEAT_SENT": "CLOSED"},
		"ABORT":             {"*": "CLOSED"},
		"SHUTDOWN":          {"NONE": "CLOSED", "ESTABLISHED": "SHUTDOWN_SENT", "HEARTBEAT_SENT": "CLOSED"},
		"SHUTDOWN_ACK":      {"NONE": "SHUTDOWN_ACK_SENT", "SHUTDOWN_SENT": "SHUTDOWN_ACK_SENT", "SHUTDOWN_RECD": "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT": "SHUTDOWN_ACK_SENT"},
		"ERROR":             {"NONE": "CLOSED", "HEARTBEAT_SENT": "CLOSED"},
		"COOKIE_ECHO":       {"NONE": "CLOSED", "COOKIE_WAIT": "COOKIE_ECHOED", "HEARTBEAT_SENT": "CLOSED"},
		"COOKIE_ACK":        {"NONE": "CLOSED", "COOKIE_ECHOED": "ESTABLISHED", "HEARTBEAT_SENT": "CLOSED"},
		"SHUTDOWN_COMPLETE": {"NONE": "CLOSED", "SHUTDOWN_ACK_SENT": "CLOSED", "HEARTBEAT_SENT": "CLOSED"},
		"HEARTBEAT":         {"NONE": "HEARTBEAT_SENT"},
		"HEARTBEAT_ACK":     {"NONE": "CLOSED"},
	},
	{
		"INIT":              {"HEARTBEAT_SENT": ""},
		"INIT_ACK":          {"CLOSED": "COOKIE_WAIT", "HEARTBEAT_SENT": ""},
		"ABORT":             {"*": "CLOSED", "HEARTBEAT_SENT": ""},
		"SHUTDOWN":          {"ESTABLISHED": "SHUTDOWN_RECD", "HEARTBEAT_SENT": ""},
		"SHUTDOWN_ACK":      {"SHUTDOWN_SENT": "SHUTDOWN_ACK_SENT", "SHUTDOWN_RECD": "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT": ""},
		"ERROR":             {"COOKIE_ECHOED": "CLOSED", "HEARTBEAT_SENT": ""},
		"COOKIE_ECHO":       {"COOKIE_WAIT": "COOKIE_ECHOED", "HEARTBEAT_SENT": ""},
		"COOKIE_ACK":        {"COOKIE_ECHOED": "ESTABLISHED", "HEARTBEAT_SENT": ""},
		"SHUTDOWN_COMPLETE": {"SHUTDOWN_ACK_SENT": "CLOSED", "HEARTBEAT_SENT": ""},
		"HEARTBEAT_ACK":     {"HEARTBEAT_SENT": "ESTABLISHED"},
	},
}

func sctpChange(dir int, chunk, state string) string {
	row := sctpChanges[dir][chunk]
	if s, ok := row[state]; ok {
		return s
	}
	if s, ok := row["*"]; ok {
		return s
	}
	return state
}

// sctpChunk is a chunk: its name, "" for one that says nothing of the
// association, its flags and the initiate tag, if it has room for one.
type sctpChunk struct {
	name   string
	flags  byte
	tag    uint32
	hasTag bool
}

// sctpChunks splits a packet; ok is false if its chunks may not be together.
func sctpChunks(body []byte) (list []sctpChunk, ok bool) {
	rest, loner := body[12:], false
	for len(rest) >= 4 {
		c := sctpChunk{name: sctpNames[rest[0]], flags: rest[1], hasTag: len(rest) >= 20}
		if c.hasTag {
			c.tag = be32(rest[4:])
		}
		first := c.name == "COOKIE_ECHO" || c.name == "COOKIE_ACK"
		loner = loner || c.name == "INIT" || c.name == "INIT_ACK" || c.name == "SHUTDOWN_COMPLETE"
		size := be16(rest[2:])
		if size == 0 || (first || loner) && len(list) > 0 {
			return nil, false
		}
		list = append(list, c)
		rest = rest[min((size+3)/4*4, len(rest)):]
	}
	return list, len(list) > 0
}

// sctpNew judges the first packet of an association.
func (c *Connection) sctpNew(body []byte) outcome {
	list, ok := sctpChunks(body)
	if !ok {
		return outcome{what: "invalid"}
	}
	tag, s := be32(body[4:]), c.sctp
	for _, ch := range list {
		switch ch.name {
		case "ABORT", "SHUTDOWN_COMPLETE", "COOKIE_ACK":
			return outcome{what: "invalid"}
		}
	}
	for _, ch := range list {
		if next := sctpChange(0, ch.name, "NONE"); next == "NONE" || ch.name == "" || ch.name == "INIT" && (tag != 0 || !ch.hasTag) {
			return outcome{what: "invalid"}
		}
		switch ch.name {
		case "INIT":
			s.tag[1] = ch.tag
		case "HEARTBEAT":
			s.tag[0] = tag
		case "SHUTDOWN_ACK":
			s.tag[1] = tag
		}
	}
	out := c.sctpPacket(body, false)
	s.confirmed = true
	return out
}

// sctpPacket judges a packet of an association. A chunk that makes it INVALID does not undo
// what those before it have changed.
func (c *Connection) sctpPacket(body []byte, reply bool) outcome {
	wrong := outcome{what: "invalid"}
	list, ok := sctpChunks(body)
	if !ok {
		return wrong
	}
	dir := 0
	if reply {
		dir = 1
	}
	tag, data, special := be32(body[4:]), false, false
	for _, ch := range list {
		switch ch.name {
		case "DATA":
			data = true
		case "INIT", "SHUTDOWN_COMPLETE", "COOKIE_ECHO", "ABORT", "SHUTDOWN_ACK", "HEARTBEAT", "HEARTBEAT_ACK":
			special = true
		}
	}
	s := c.sctp
	if !special && tag != s.tag[dir] {
		return wrong
	}
	still, next := false, "NONE"
	for _, ch := range list {
		mine, theirs := tag == s.tag[dir], tag == s.tag[1-dir]
		switch ch.name {
		case "INIT":
			if tag != 0 {
				return wrong
			}
		case "ABORT", "SHUTDOWN_COMPLETE":
			reflected := ch.flags&1 != 0
			if reflected && !theirs || !reflected && !mine {
				return wrong
			}
		case "COOKIE_ECHO":
			if !mine {
				return wrong
			}
		case "COOKIE_ACK":
			s.init = [2]bool{}
		case "HEARTBEAT", "HEARTBEAT_ACK":
			if s.tag[dir] == 0 {
				s.tag[dir] = tag
			} else if mine {
				s.probing = false
			} else if data || still {
				return wrong
			} else if ch.name == "HEARTBEAT" {
				s.probing, s.probedBy, still = true, dir, true
				continue
			} else if !s.probing || s.probedBy == dir {
				return wrong
			} else {
				s.probing = false
				s.tag[dir], s.tag[1-dir] = tag, 0
			}
		}
		next = sctpChange(dir, ch.name, s.state)
		if next == "" {
			return wrong
		}
		switch ch.name {
		case "INIT":
			if !ch.hasTag {
				return wrong
			}
			if again := s.confirmed && s.tag[1-dir] == ch.tag; !again {
				s.init[1-dir] = s.init[1-dir] && !s.init[dir]
				s.init[dir] = true
			}
			s.tag[1-dir] = ch.tag
			still = still || s.confirmed && s.state == "CLOSED" && next == "CLOSED"
		case "INIT_ACK":
			other := s.tag[1-dir]
			if !ch.hasTag || other != ch.tag && (!s.init[1-dir] && other != 0 || s.init[0] && s.init[1]) {
				return wrong
			}
			s.tag[1-dir] = ch.tag
		}
		c.assured = c.assured || next == "ESTABLISHED" && s.state != next
		s.state = next
	}
	if still {
		return outcome{what: "keep"}
	}
	if next == "ESTABLISHED" {
		next = "SCTP ESTABLISHED"
	}
	return accept(timeouts[next])
}
