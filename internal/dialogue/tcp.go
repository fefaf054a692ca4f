package dialogue

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/xdpct/xdpct/packet"
)

// tcp is a conversation whose ends mostly behave: each keeps its sequence
// numbers and answers the other, and now and then says something else.
type tcp struct {
	pair
	port   uint16
	ends   [2]end
	script []func(*rand.Rand) (bool, []byte) // what comes before free talk
	last   packet.Segment                    // the last segment sent, and by whom
	lastBy int
	sloppy int // one in this many segments is off
}

// end is one side of a TCP conversation.
type end struct {
	isn, nxt uint32
	una      uint32 // lowest number of its own that was not acknowledged
	win      uint16
	opts     []byte
	sack, ts bool
	fin      bool
}

func newTCP(r *rand.Rand, p pair) *tcp {
	c := &tcp{pair: p, port: pick[uint16](r, 80, 443, 22, 25), sloppy: pick(r, 4, 8, 20, 100)}
	for i := range c.ends {
		c.ends[i] = newEnd(r)
	}
	switch r.IntN(12) {
	case 0: // pick-up: no handshake seen
		c.ends[0].nxt++
		c.ends[1].nxt++
	case 1: // simultaneous open
		c.script = append(c.script, c.say(0, packet.SYN), c.say(1, packet.SYN),
			c.say(1, packet.SYN|packet.ACK), c.say(0, packet.SYN|packet.ACK), c.say(0, packet.ACK), c.say(1, packet.ACK))
	case 2: // an old SYN/ACK or challenge ACK comes first
		c.script = append(c.script, c.say(0, packet.SYN), c.forge(1), c.forge(0), c.say(0, packet.SYN),
			c.say(1, packet.SYN|packet.ACK), c.say(0, packet.ACK))
	case 3: // split handshake
		c.script = append(c.script, c.say(0, packet.SYN), c.say(1, packet.ACK), c.say(1, packet.SYN),
			c.say(0, packet.SYN|packet.ACK), c.say(1, packet.ACK))
	default:
		c.script = append(c.script, c.say(0, packet.SYN), c.say(1, packet.SYN|packet.ACK), c.say(0, packet.ACK))
		if one(r, 8) {
			c.script = append(c.script[:1], append([]func(*rand.Rand) (bool, []byte){c.say(0, packet.SYN)}, c.script[1:]...)...)
		}
	}
	return c
}

func newEnd(r *rand.Rand) end {
	e := end{win: pick[uint16](r, 65535, 65535, 8192, 1000, 100), sack: one(r, 2), ts: one(r, 2)}
	e.isn = pick(r, r.Uint32(), r.Uint32(), 0xffffff00+r.Uint32N(0x200), 0)
	e.nxt, e.una = e.isn, e.isn
	if one(r, 8) {
		return e // no options at all
	}
	e.opts = append(e.opts, 2, 4, 5, 180)
	if e.sack {
		e.opts = append(e.opts, 4, 2)
	}
	if e.ts {
		e.opts = append(e.opts, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0)
	}
	if !one(r, 3) {
		e.opts = append(e.opts, 1, 3, 3, pick[byte](r, 0, 1, 7, 14, 15, 255))
	}
	if one(r, 20) {
		e.opts = append(e.opts, pick[byte](r, 3, 4, 5, 8), pick[byte](r, 0, 1, 3, 40)) // a broken one
	}
	return e
}

// say returns a step in which end i sends flags as it should.
func (c *tcp) say(i int, flags packet.TCPFlags) func(*rand.Rand) (bool, []byte) {
	return func(r *rand.Rand) (bool, []byte) { return c.send(i, c.regular(r, i, flags, 0)) }
}

// forge returns a step in which somebody sends a segment in the name of end i.
func (c *tcp) forge(i int) func(*rand.Rand) (bool, []byte) {
	return func(r *rand.Rand) (bool, []byte) {
		s := c.regular(r, i, pick(r, packet.ACK, packet.SYN|packet.ACK, packet.RST, packet.RST|packet.ACK, packet.SYN), 0)
		c.twist(r, i, &s)
		return c.emit(i, s)
	}
}

func (c *tcp) next(r *rand.Rand) (bool, []byte) {
	if len(c.script) > 0 {
		step := c.script[0]
		c.script = c.script[1:]
		if one(r, 15) && len(c.script) > 0 { // lost, or overtaken by what follows
			step = c.script[0]
		}
		return step(r)
	}
	i := r.IntN(2)
	switch {
	case one(r, 12) && c.last.Flags != 0: // the same again
		return c.emit(c.lastBy, c.last)
	case one(r, c.sloppy):
		return c.forge(i)(r)
	case one(r, 25):
		c.ends[i].fin = true
		return c.send(i, c.regular(r, i, packet.FIN|packet.ACK, r.IntN(2)*100))
	case one(r, 60):
		return c.send(i, c.regular(r, i, pick(r, packet.RST, packet.RST|packet.ACK), 0))
	case c.ends[0].fin && c.ends[1].fin && one(r, 4): // the ports are used again
		i = r.IntN(2)
		c.ends[0], c.ends[1] = newEnd(r), newEnd(r)
		c.script = append(c.script, c.say(1-i, packet.SYN|packet.ACK), c.say(i, packet.ACK))
		return c.send(i, c.regular(r, i, packet.SYN, 0))
	case one(r, 40): // a new SYN on a live connection, as after a crash
		e := newEnd(r)
		s := packet.Segment{Seq: e.isn, Flags: packet.SYN, Window: e.win, Options: e.opts}
		if one(r, 2) {
			c.ends[i] = e
			c.ends[1-i].una = c.ends[1-i].nxt
			return c.send(i, s)
		}
		return c.emit(i, s)
	case one(r, 15): // keepalive
		s := c.regular(r, i, packet.ACK, 0)
		s.Seq--
		return c.emit(i, s)
	case one(r, 10): // retransmission
		s := c.regular(r, i, packet.ACK|packet.PSH, 1+r.IntN(200))
		s.Seq = c.ends[i].una
		return c.emit(i, s)
	}
	return c.send(i, c.regular(r, i, packet.ACK, pick(r, 0, 0, 1, 100, 536, 1400)))
}

// regular is the segment that end i would send.
func (c *tcp) regular(r *rand.Rand, i int, flags packet.TCPFlags, n int) packet.Segment {
	e, peer := &c.ends[i], &c.ends[1-i]
	s := packet.Segment{Seq: e.nxt, Flags: flags, Window: e.win, Payload: make([]byte, n)}
	if flags&packet.SYN != 0 {
		s.Seq, s.Options = e.isn, e.opts
	} else if one(r, 30) {
		s.Window = pick[uint16](r, 0, 1, 10, 40000)
	}
	if flags&packet.ACK != 0 {
		s.Ack = peer.nxt
		if flags&packet.SYN != 0 && peer.nxt == peer.isn {
			s.Ack = peer.isn + 1
		}
		if one(r, 6) && flags&packet.SYN == 0 { // a lagging acknowledgement
			s.Ack = peer.una
		}
		if n > 0 && one(r, 2) {
			s.Flags |= packet.PSH
		}
	}
	if flags&packet.SYN == 0 {
		s.Options = c.midOptions(r, i, s.Ack)
	}
	return s
}

// midOptions are the options of a segment without SYN.
func (c *tcp) midOptions(r *rand.Rand, i int, ack uint32) (o []byte) {
	e, peer := &c.ends[i], &c.ends[1-i]
	if e.ts && peer.ts || one(r, 30) {
		o = append(o, 1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8)
	}
	if e.sack && one(r, 6) || one(r, 40) {
		blocks := 1 + r.IntN(2)
		o = append(o, 1, 1, 5, byte(2+8*blocks))
		for range blocks {
			left := ack + r.Uint32N(3000)
			o = binary.BigEndian.AppendUint32(o, left)
			o = binary.BigEndian.AppendUint32(o, pick(r, left+r.Uint32N(1500), peer.nxt, peer.nxt+1))
		}
	}
	return o
}

// send is emit for a segment that the end itself remembers.
func (c *tcp) send(i int, s packet.Segment) (bool, []byte) {
	e, peer := &c.ends[i], &c.ends[1-i]
	seqLen := uint32(len(s.Payload))
	if s.Flags&(packet.SYN|packet.FIN) != 0 {
		seqLen++
	}
	if n := s.Seq + seqLen; int32(n-e.nxt) > 0 {
		e.nxt = n
	}
	if s.Flags&packet.ACK != 0 && int32(s.Ack-peer.una) > 0 {
		peer.una = s.Ack
	}
	return c.emit(i, s)
}

func (c *tcp) emit(i int, s packet.Segment) (bool, []byte) {
	c.last, c.lastBy = s, i
	sport, dport := c.id, c.port
	if i == 1 {
		sport, dport = dport, sport
	}
	return c.fromB(i), packet.AppendTCP(nil, c.ip(i), sport, dport, s)
}

// twist puts something about a segment wrong, with a liking for the edges of
// windows.
func (c *tcp) twist(r *rand.Rand, i int, s *packet.Segment) {
	e, peer := &c.ends[i], &c.ends[1-i]
	near := func(v uint32) uint32 { return v + pick[uint32](r, 0, 1, 2, 0xffffffff, 0xfffffffe, 100, 0xffffff9c) }
	for range 1 + r.IntN(2) {
		switch r.IntN(8) {
		case 0, 1:
			s.Seq = near(pick(r, e.nxt, e.una, e.isn, e.nxt+uint32(peer.win), e.nxt-uint32(peer.win), 0,
				e.nxt+uint32(peer.win)<<7, e.nxt+66000, peer.nxt))
		case 2, 3:
			s.Ack = near(pick(r, peer.nxt, peer.una, peer.isn, 0, peer.nxt-66000, peer.nxt-uint32(e.win), peer.nxt+70000, e.nxt))
		case 4:
			s.Flags = pick(r, packet.RST, packet.RST|packet.ACK, packet.FIN|packet.ACK, packet.ACK, packet.SYN,
				packet.SYN|packet.ACK, packet.ACK|packet.URG, packet.FIN|packet.ACK|packet.URG, packet.SYN|packet.URG,
				packet.FIN|packet.ACK|packet.PSH, packet.RST|packet.PSH, packet.SYN|packet.ECE|packet.CWR)
		case 5:
			s.Flags = packet.TCPFlags(r.Uint32N(256))
		case 6:
			s.Window = pick[uint16](r, 0, 1, 65535)
		case 7:
			s.Payload = make([]byte, r.IntN(1400))
		}
	}
	if s.Flags&packet.SYN != 0 && one(r, 2) {
		s.Options = newEnd(r).opts
	}
	if len(s.Options) > 40 {
		s.Options = s.Options[:40]
	}
}
