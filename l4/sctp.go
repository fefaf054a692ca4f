package l4

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// The chunk types that the tracker knows (RFC 9260, 3.2).
const (
	sctpData             = 0
	sctpInit             = 1
	sctpInitAck          = 2
	sctpHeartbeat        = 4
	sctpHeartbeatAck     = 5
	sctpAbort            = 6
	sctpShutdown         = 7
	sctpShutdownAck      = 8
	sctpError            = 9
	sctpCookieEcho       = 10
	sctpCookieAck        = 11
	sctpShutdownComplete = 14

	sctpFlagT = 1 // ABORT, SHUTDOWN COMPLETE: the tag is the sender's own
)

const sctpHeaderLen = 12

// chunk is a chunk header and what follows it, as far as there is anything.
type chunk struct {
	typ, flags uint8
	rest       []byte // from the header on, to the end of the packet
}

// initTag reads the initiate tag of an INIT or INIT ACK, whose fixed part must
// be whole.
func (c chunk) initTag() (tag uint32, ok bool) {
	if len(c.rest) < 4+16 {
		return 0, false
	}
	return binary.BigEndian.Uint32(c.rest[4:]), true
}

// chunks iterates over the chunks of a packet (for_each_sctp_chunk). body is the
// packet from its common header on.
func chunks(body []byte) func(yield func(n int, c chunk) bool) {
	return func(yield func(int, chunk) bool) {
		for n, at := 0, sctpHeaderLen; at+4 <= len(body); n++ {
			b := body[at:]
			if !yield(n, chunk{b[0], b[1], b}) {
				return
			}
			size := int(binary.BigEndian.Uint16(b[2:]))
			at += (size + 3) &^ 3
			if size == 0 {
				return
			}
		}
	}
}

// chunkSet is a set of chunk types up to 63; the tracker asks for no others.
type chunkSet uint64

func (s chunkSet) has(typ ...uint8) bool {
	for _, t := range typ {
		if s>>t&1 != 0 {
			return true
		}
	}
	return false
}

// sctpBasics makes the checks of do_basic_checks: INIT, INIT ACK and SHUTDOWN
// COMPLETE are alone, COOKIE ECHO and COOKIE ACK are first, no length is zero.
func sctpBasics(body []byte) (set chunkSet, ok bool) {
	alone := false
	for n, c := range chunks(body) {
		first := c.typ == sctpCookieAck || c.typ == sctpCookieEcho
		if c.typ == sctpInit || c.typ == sctpInitAck || c.typ == sctpShutdownComplete {
			alone = true
		}
		if (first || alone) && n != 0 || binary.BigEndian.Uint16(c.rest[2:]) == 0 {
			return 0, false
		}
		if c.typ < 64 {
			set |= 1 << c.typ
		}
	}
	return set, len(body) >= sctpHeaderLen+4
}

// sctp follows nf_conntrack_sctp_packet.
func (cfg *Config) sctp(c *flow.Conn, p *packet.Packet, d flow.Direction) Result {
	body, first := p.Body(), c.Status&flow.Confirmed == 0
	set, ok := sctpBasics(body)
	if !ok {
		return invalid(flow.ReasonSCTPChunks)
	}
	vtag := binary.BigEndian.Uint32(body[4:])
	t := c.SCTP()
	if first && (set.has(sctpAbort, sctpShutdownComplete, sctpCookieAck) || !sctpNew(&t, body, vtag)) {
		return invalid(flow.ReasonSCTPNoAssociation)
	}
	if vtag != t.VTag[d] && !set.has(sctpInit, sctpShutdownComplete, sctpCookieEcho, sctpAbort,
		sctpShutdownAck, sctpHeartbeat, sctpHeartbeatAck) {
		return invalid(flow.ReasonSCTPTag)
	}

	a := association{track: t, state: flow.SCTPState(c.State), confirmed: !first}
	next, reason := a.chunks(body, set, vtag, d)
	// What the chunks before a bad one have changed stays, as it does in Linux.
	c.SetSCTP(a.track)
	c.State = uint8(a.state)
	if a.assured {
		c.Status |= flow.Assured
	}
	switch {
	case reason != flow.NoReason:
		return invalid(reason)
	case a.ignore:
		return keep(flow.ReasonSCTPIgnored)
	}
	return accept(cfg.Timeouts.SCTP[next])
}

// sctpNew is sctp_new: whether a packet may begin an association, and the tags
// to expect then.
func sctpNew(t *flow.SCTPTrack, body []byte, vtag uint32) bool {
	for _, c := range chunks(body) {
		if next := sctpNext(flow.Original, flow.SCTPNone, c.typ); next == flow.SCTPNone || next == sctpIV {
			return false
		}
		switch c.typ {
		case sctpInit:
			tag, ok := c.initTag()
			if vtag != 0 || !ok { // RFC 9260, 8.5.1 (A)
				return false
			}
			t.VTag[flow.Reply] = tag
		case sctpHeartbeat: // another path of an association
			t.VTag[flow.Original] = vtag
		case sctpShutdownAck: // out of the blue: a SHUTDOWN COMPLETE or an ABORT comes back
			t.VTag[flow.Reply] = vtag
		}
	}
	return true
}

// association is an association while the chunks of a packet are judged.
type association struct {
	track     flow.SCTPTrack
	state     flow.SCTPState
	confirmed bool
	assured   bool // it has become ESTABLISHED
	ignore    bool // the packet passes, but renews no timer
	bad       flow.Reason
}

// chunks judges the chunks of a packet one after the other, and returns the state after the
// last that counts, SCTPNone if none does. It ends at the first that is bad, whose reason it
// returns.
func (a *association) chunks(body []byte, set chunkSet, vtag uint32, d flow.Direction) (next flow.SCTPState, r flow.Reason) {
	for _, ch := range chunks(body) {
		if a.skip(ch, set, vtag, d) {
			continue
		}
		if a.bad != flow.NoReason {
			return next, a.bad
		}
		old := a.state
		if next = sctpNext(d, old, ch.typ); next == sctpIV {
			return next, flow.ReasonSCTPState
		}
		if a.note(ch, d, next); a.bad != flow.NoReason {
			return next, a.bad
		}
		a.state = next
		a.assured = a.assured || next == flow.SCTPEstablished && old != next
	}
	return next, flow.NoReason
}

// skip checks the verification tag as RFC 9260, 8.5.1, has it for some chunks.
// It reports whether the chunk is to be passed over; if it is wrong, bad is set.
func (a *association) skip(c chunk, set chunkSet, vtag uint32, d flow.Direction) bool {
	t := &a.track
	switch c.typ {
	case sctpInit:
		a.require(vtag == 0)
	case sctpAbort, sctpShutdownComplete: // the tag may be the sender's own
		whose := d ^ flow.Direction(c.flags&sctpFlagT)
		a.require(vtag == t.VTag[whose])
	case sctpCookieEcho:
		a.require(vtag == t.VTag[d])
	case sctpCookieAck:
		t.Init = [2]bool{}
	case sctpHeartbeat:
		switch {
		case t.VTag[d] == 0:
			t.VTag[d] = vtag
		case vtag != t.VTag[d]:
			if a.require(!set.has(sctpData) && !a.ignore) {
				t.HeartbeatFailed, t.LastDir = true, d
				a.ignore = true
				return true
			}
		default:
			t.HeartbeatFailed = false
		}
	case sctpHeartbeatAck:
		switch {
		case t.VTag[d] == 0:
			t.VTag[d] = vtag
		case vtag != t.VTag[d]:
			// The answer to a HEARTBEAT with a new tag: the association has been
			// made anew on another path.
			if a.require(!set.has(sctpData) && !a.ignore && t.HeartbeatFailed && t.LastDir != d) {
				t.HeartbeatFailed = false
				t.VTag[d], t.VTag[d^1] = vtag, 0
			}
		default:
			t.HeartbeatFailed = false
		}
	}
	return false
}

func (a *association) require(ok bool) bool {
	if !ok {
		a.bad = flow.ReasonSCTPTag
	}
	return ok
}

// note remembers what INIT and INIT ACK say of tags. With INITs from both sides
// under way, only the INIT ACK that fits is taken.
func (a *association) note(c chunk, d flow.Direction, next flow.SCTPState) {
	t := &a.track
	switch c.typ {
	case sctpInit:
		tag, ok := c.initTag()
		if !ok {
			a.bad = flow.ReasonSCTPChunks
			return
		}
		if !a.confirmed || t.VTag[d^1] != tag { // not just the same again
			if t.Init[d] {
				t.Init[d^1] = false
			}
			t.Init[d] = true
			t.VTag[d^1] = tag
		}
		// A client that uses its port again must not keep an entry alive.
		if next == flow.SCTPClosed && a.state == flow.SCTPClosed && a.confirmed {
			a.ignore = true
		}
	case sctpInitAck:
		tag, ok := c.initTag()
		if !ok {
			a.bad = flow.ReasonSCTPChunks
			return
		}
		known := t.VTag[d^1]
		if !t.Init[d^1] && known != 0 && known != tag || t.Init[d] && t.Init[d^1] && known != tag {
			a.bad = flow.ReasonSCTPCollision
			return
		}
		t.VTag[d^1] = tag
	}
}
