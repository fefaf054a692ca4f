package dialogue

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/xdpct/xdpct/packet"
)

// The chunk types that are spoken.
const (
	chData = iota
	chInit
	chInitAck
	chSack
	chHeartbeat
	chHeartbeatAck
	chAbort
	chShutdown
	chShutdownAck
	chError
	chCookieEcho
	chCookieAck
	chShutdownComplete = 14
)

// sctp is an association whose ends mostly behave.
type sctp struct {
	pair
	port   uint16
	tag    [2]uint32 // that each end wants to see
	script []func(*rand.Rand) (bool, []byte)
	said   [2][]byte
}

func newSCTP(r *rand.Rand, p pair) *sctp {
	c := &sctp{pair: p, port: pick[uint16](r, 5060, 3868, 2905), tag: [2]uint32{r.Uint32(), r.Uint32()}}
	switch r.IntN(6) {
	case 0: // both begin at once
		c.script = append(c.script, c.say(0, chInit), c.say(1, chInit), c.say(1, chInitAck), c.say(0, chInitAck),
			c.say(0, chCookieEcho), c.say(1, chCookieAck))
		if one(r, 2) { // and a late INIT ACK of an older attempt
			c.script = append(c.script[:4:4], append([]func(*rand.Rand) (bool, []byte){c.stale(1)}, c.script[4:]...)...)
		}
	case 1: // another path of an association
		c.script = append(c.script, c.say(0, chHeartbeat), c.say(1, chHeartbeatAck))
	case 2:
		c.script = append(c.script, c.odd)
	default:
		c.script = append(c.script, c.say(0, chInit), c.say(1, chInitAck), c.say(0, chCookieEcho), c.say(1, chCookieAck))
	}
	return c
}

func (c *sctp) next(r *rand.Rand) (bool, []byte) {
	if len(c.script) > 0 {
		step := c.script[0]
		c.script = c.script[1:]
		if one(r, 15) {
			return c.odd(r)
		}
		return step(r)
	}
	i := r.IntN(2)
	if quoted := c.said[1-i]; quoted != nil && one(r, 12) {
		return icmpError(r, &c.pair, i, quoted)
	}
	switch {
	case one(r, 6):
		return c.odd(r)
	case one(r, 12): // the end of it
		c.script = append(c.script, c.say(1-i, chShutdownAck), c.say(i, chShutdownComplete))
		return c.say(i, chShutdown)(r)
	case one(r, 20): // a restart with new tags
		c.tag = [2]uint32{r.Uint32(), r.Uint32()}
		c.script = append(c.script, c.say(1-i, chInitAck), c.say(i, chCookieEcho), c.say(1-i, chCookieAck))
		return c.say(i, chInit)(r)
	case one(r, 20): // the tag has changed, and a heartbeat finds out
		c.tag[1-i] = r.Uint32()
		c.script = append(c.script, c.say(1-i, chHeartbeatAck))
		return c.say(i, chHeartbeat)(r)
	}
	return c.say(i, pick[uint8](r, chData, chData, chSack, chHeartbeat, chHeartbeatAck))(r)
}

// say returns a step in which end i sends a chunk as it should.
func (c *sctp) say(i int, typ uint8) func(*rand.Rand) (bool, []byte) {
	return func(r *rand.Rand) (bool, []byte) {
		vtag := c.tag[1-i]
		if typ == chInit {
			vtag = 0
		}
		chunks := c.chunk(r, i, typ)
		if typ == chCookieEcho && one(r, 2) || typ == chData && one(r, 3) {
			chunks = append(chunks, c.chunk(r, i, chData)...)
		}
		return c.emit(i, vtag, chunks)
	}
}

// stale returns a step in which an INIT ACK of an older attempt of end i arrives.
func (c *sctp) stale(i int) func(*rand.Rand) (bool, []byte) {
	return func(r *rand.Rand) (bool, []byte) {
		value := binary.BigEndian.AppendUint32(nil, r.Uint32())
		value = append(value, make([]byte, 12)...)
		return c.emit(i, c.tag[1-i], packet.AppendChunk(nil, chInitAck, 0, value))
	}
}

// odd sends something that may be out of place.
func (c *sctp) odd(r *rand.Rand) (bool, []byte) {
	i := r.IntN(2)
	vtag := pick(r, 0, c.tag[0], c.tag[1], c.tag[1-i], c.tag[1-i], r.Uint32())
	typ := uint8(r.IntN(16))
	if one(r, 10) {
		typ = pick[uint8](r, 130, 192, 193)
	}
	chunks := c.chunk(r, i, typ)
	switch r.IntN(12) {
	case 0: // chunks that must be alone, or first, are neither
		chunks = append(c.chunk(r, i, chData), chunks...)
		if typ != chInit && typ != chInitAck && typ != chShutdownComplete && typ != chCookieEcho && typ != chCookieAck {
			chunks = c.chunk(r, i, chInit)
		}
	case 1:
		binary.BigEndian.PutUint16(chunks[2:], 0)
	case 2:
		chunks = chunks[:r.IntN(min(len(chunks), 20))]
	}
	return c.emit(i, vtag, chunks)
}

func (c *sctp) chunk(r *rand.Rand, i int, typ uint8) []byte {
	value := make([]byte, 16+r.IntN(100))
	if typ == chInit || typ == chInitAck {
		binary.BigEndian.PutUint32(value, c.tag[i])
	}
	return packet.AppendChunk(nil, typ, uint8(r.IntN(2)), value)
}

func (c *sctp) emit(i int, vtag uint32, chunks []byte) (bool, []byte) {
	sport, dport := c.id, c.port
	if i == 1 {
		sport, dport = dport, sport
	}
	d := packet.AppendSCTP(nil, c.ip(i), sport, dport, vtag, chunks)
	c.said[i] = d
	return c.fromB(i), d
}
