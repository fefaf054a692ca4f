package kernel

import (
	"encoding/binary"
	"fmt"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// The verification tags of the associations: what packets in the original direction and in
// that of replies carry, what they carry once it was made anew, and one that nobody gave.
const (
	tagO  = 0x22222222
	tagR  = 0x11111111
	newO  = 0x44444444
	newR  = 0x33333333
	wrong = 0x99999999
)

// chunkType is a chunk type of RFC 9260, 3.2, or another.
type chunkType uint8

const (
	chData             chunkType = 0
	chInit             chunkType = 1
	chInitAck          chunkType = 2
	chSack             chunkType = 3
	chHeartbeat        chunkType = 4
	chHeartbeatAck     chunkType = 5
	chAbort            chunkType = 6
	chShutdown         chunkType = 7
	chShutdownAck      chunkType = 8
	chError            chunkType = 9
	chCookieEcho       chunkType = 10
	chCookieAck        chunkType = 11
	chECNE             chunkType = 12
	chCWR              chunkType = 13
	chShutdownComplete chunkType = 14
	chAuth             chunkType = 15
	chLast             chunkType = 63 // the last that the kernel's bitmap of types may hold
	chForwardTSN       chunkType = 192
)

// chunkTypes are those of every cell; all but the rest of the first sixteen are such as
// a tracker does not know.
var chunkTypes = []chunkType{
	chData, chInit, chInitAck, chSack, chHeartbeat, chHeartbeatAck, chAbort, chShutdown, chShutdownAck, chError,
	chCookieEcho, chCookieAck, chECNE, chCWR, chShutdownComplete, chAuth, chLast, chForwardTSN,
}

var chunkNames = map[chunkType]string{
	chData: "DATA", chInit: "INIT", chInitAck: "INIT ACK", chSack: "SACK", chHeartbeat: "HEARTBEAT",
	chHeartbeatAck: "HEARTBEAT ACK", chAbort: "ABORT", chShutdown: "SHUTDOWN", chShutdownAck: "SHUTDOWN ACK",
	chError: "ERROR", chCookieEcho: "COOKIE ECHO", chCookieAck: "COOKIE ACK", chShutdownComplete: "SHUTDOWN COMPLETE",
}

func (c chunkType) String() string {
	if s := chunkNames[c]; s != "" {
		return s
	}
	return fmt.Sprintf("chunk %d", uint8(c))
}

// isInit reports whether the chunk has an initiate tag.
func (c chunkType) isInit() bool { return c == chInit || c == chInitAck }

// chunk makes a chunk. tag is the initiate tag of those that have one.
func (c chunkType) chunk(flags uint8, tag uint32) []byte {
	body := make([]byte, 8)
	if c.isInit() {
		body = binary.BigEndian.AppendUint32(nil, tag)
		body = append(body, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1)
	}
	return packet.AppendChunk(nil, uint8(c), flags, body)
}

// sctpPacket is a packet of an association.
type sctpPacket struct {
	what   string
	dir    flow.Direction
	vtag   uint32
	chunks []byte // and padding; all behind the common header
	cut    int    // bytes that are taken from the end of the datagram
}

func (p *sctpPacket) String() string { return fmt.Sprintf("%v, tag %#x: %s", p.dir, p.vtag, p.what) }

// datagram is the packet in IPv4. Its identification is 0.
func (p *sctpPacket) datagram(port uint16) []byte {
	var d []byte
	if p.dir == flow.Original {
		d = packet.AppendSCTP(nil, between(A, 1, 1, flow.IPv4), port, 80, p.vtag, p.chunks)
	} else {
		d = packet.AppendSCTP(nil, between(B, 1, 1, flow.IPv4), 80, port, p.vtag, p.chunks)
	}
	if p.cut > 0 {
		d = finish(d[:len(d)-p.cut])
	}
	return d
}

// oneChunk is a packet of one chunk.
func oneChunk(d flow.Direction, vtag uint32, c chunkType, tag uint32) sctpPacket {
	what := c.String()
	if c.isInit() {
		what += fmt.Sprintf(" of %#x", tag)
	}
	return sctpPacket{what: what, dir: d, vtag: vtag, chunks: c.chunk(0, tag)}
}

// sctpContext is what an association has come to.
type sctpContext struct {
	name  string
	state flow.SCTPState // SCTPNone: there is no connection
	tags  [2]uint32      // of its packets, by direction; 0: not known
	path  []sctpPacket   // leads there
}

// then is the context after one more packet of the same tags.
func (c *sctpContext) then(name string, s flow.SCTPState, p ...sctpPacket) *sctpContext {
	return &sctpContext{name, s, c.tags, append(c.path[:len(c.path):len(c.path)], p...)}
}

// tagged is a context with other tags.
func (c *sctpContext) tagged(o, r uint32) *sctpContext {
	c.tags = [2]uint32{o, r}
	return c
}

// sctpContexts returns contexts in every state: first one for each state, by the usual
// path, then others, in which the tracker remembers something beside the state.
func sctpContexts() (states, others []*sctpContext) {
	const o, r = flow.Original, flow.Reply
	none := &sctpContext{name: "nothing", tags: [2]uint32{tagO, tagR}}
	closed := none.then("after INIT", flow.SCTPClosed, oneChunk(o, 0, chInit, tagR)).tagged(0, tagR)
	wait := closed.then("after INIT ACK", flow.SCTPCookieWait, oneChunk(r, tagR, chInitAck, tagO)).tagged(tagO, tagR)
	echoed := wait.then("after COOKIE ECHO", flow.SCTPCookieEchoed, oneChunk(o, tagO, chCookieEcho, 0))
	up := echoed.then("after COOKIE ACK", flow.SCTPEstablished, oneChunk(r, tagR, chCookieAck, 0))
	sent := up.then("after SHUTDOWN", flow.SCTPShutdownSent, oneChunk(o, tagO, chShutdown, 0))
	received := up.then("after SHUTDOWN of the other", flow.SCTPShutdownRecd, oneChunk(r, tagR, chShutdown, 0))
	ack := sent.then("after SHUTDOWN ACK", flow.SCTPShutdownAckSent, oneChunk(r, tagR, chShutdownAck, 0))
	beat := none.then("after HEARTBEAT", flow.SCTPHeartbeatSent, oneChunk(o, tagO, chHeartbeat, 0)).tagged(tagO, 0)
	states = []*sctpContext{none, closed, wait, echoed, up, sent, received, ack, beat}

	again := up.then("INIT again", flow.SCTPEstablished, oneChunk(o, 0, chInit, newR)).tagged(tagO, newR)
	other := up.then("INIT again of the other", flow.SCTPEstablished, oneChunk(r, 0, chInit, newO)).tagged(newO, tagR)
	others = []*sctpContext{
		ack.then("after SHUTDOWN COMPLETE", flow.SCTPClosed, oneChunk(o, tagO, chShutdownComplete, 0)),
		up.then("after ABORT", flow.SCTPClosed, oneChunk(r, tagR, chAbort, 0)),
		closed.then("INIT again", flow.SCTPClosed, oneChunk(o, 0, chInit, newR)).tagged(0, newR),
		closed.then("INITs cross", flow.SCTPClosed, oneChunk(r, 0, chInit, tagO)).tagged(tagO, tagR),
		wait.then("INITs cross later", flow.SCTPCookieWait, oneChunk(r, 0, chInit, newO)).tagged(newO, tagR),
		wait.then("INIT again", flow.SCTPCookieWait, oneChunk(o, 0, chInit, newR)).tagged(tagO, newR),
		again, other,
		again.then("INITs again of both", flow.SCTPEstablished, oneChunk(r, 0, chInit, newO)).tagged(newO, newR),
		other.then("INITs again of both, the other first", flow.SCTPEstablished, oneChunk(o, 0, chInit, newR)).tagged(newO, newR),
		again.then("INIT and INIT ACK again", flow.SCTPEstablished, oneChunk(r, newR, chInitAck, newO)).tagged(newO, newR),
		beat.then("after HEARTBEAT ACK", flow.SCTPEstablished, oneChunk(r, tagR, chHeartbeatAck, 0)).tagged(tagO, tagR),
		up.then("HEARTBEAT of a new tag", flow.SCTPEstablished, oneChunk(o, newO, chHeartbeat, 0)),
		up.then("HEARTBEAT of a new tag of the other", flow.SCTPEstablished, oneChunk(r, newR, chHeartbeat, 0)),
		up.then("another path", flow.SCTPEstablished, oneChunk(o, newO, chHeartbeat, 0), oneChunk(r, newR, chHeartbeatAck, 0)).tagged(0, newR),
		up.then("HEARTBEATs of a new tag and the old", flow.SCTPEstablished, oneChunk(o, newO, chHeartbeat, 0), oneChunk(o, tagO, chHeartbeat, 0)),
		none.then("SHUTDOWN ACK out of the blue", flow.SCTPShutdownAckSent, oneChunk(o, tagO, chShutdownAck, 0)).tagged(0, tagO),
		none.then("COOKIE ECHO out of the blue", flow.SCTPClosed, oneChunk(o, 0, chCookieEcho, 0)).tagged(0, 0),
	}
	return states, others
}

// sctpCell is a context and the packet that it meets, by a connection of its own.
type sctpCell struct {
	context *sctpContext
	tested  sctpPacket
	port    uint16 // of the client
}

func (c *sctpCell) String() string {
	return fmt.Sprintf("%v (%s), %v", c.context.state, c.context.name, &c.tested)
}

// sctpCells returns every cell: state and direction, chunk type, tag and T flag, in all
// contexts; two chunks in a packet, and damaged ones, in those of the states.
func sctpCells() (all []*sctpCell) {
	states, others := sctpContexts()
	for i, c := range append(states[:len(states):len(states)], others...) {
		for d := flow.Original; d <= flow.Reply; d++ {
			tested := sctpSingles(c, d)
			if i < len(states) {
				tested = append(append(tested, sctpPairs(c, d)...), sctpDamaged(c, d)...)
			}
			for _, p := range tested {
				all = append(all, &sctpCell{c, p, uint16(firstPort + len(all))})
			}
		}
	}
	return all
}

// firstPort is the client's port in the first cell.
const firstPort = 1024

// sctpSingles are the packets of one chunk in a direction.
func sctpSingles(c *sctpContext, d flow.Direction) (all []sctpPacket) {
	for _, vtag := range distinct(c.tags[d], 0, wrong, c.tags[d.Other()]) {
		for _, typ := range chunkTypes {
			if typ.isInit() {
				for _, tag := range distinct(c.tags[d.Other()], 0, wrong, c.tags[d]) {
					all = append(all, oneChunk(d, vtag, typ, tag))
				}
				continue
			}
			all = append(all, oneChunk(d, vtag, typ, 0))
			if typ == chAbort || typ == chShutdownComplete || typ == chShutdownAck {
				p := oneChunk(d, vtag, typ, 0)
				p.what, p.chunks = p.what+" T", typ.chunk(1, 0)
				all = append(all, p)
			}
		}
	}
	return all
}

// sctpPairs are the packets of two chunks in a direction: with the right tag, and with a
// wrong one where a chunk keeps the kernel from looking at it before the chunks themselves.
func sctpPairs(c *sctpContext, d flow.Direction) (all []sctpPacket) {
	pair := func(vtag uint32, first, second chunkType) {
		p := oneChunk(d, vtag, first, c.tags[d.Other()])
		p.what += ", " + second.String()
		p.chunks = append(p.chunks, second.chunk(0, c.tags[d.Other()])...)
		all = append(all, p)
	}
	types := []chunkType{
		chData, chSack, chHeartbeat, chHeartbeatAck, chAbort, chShutdown, chShutdownAck, chError, // in any place
		chCookieEcho, chCookieAck, // the first
		chInit, chInitAck, chShutdownComplete, // alone
	}
	for i, first := range types {
		for k, second := range types {
			pair(c.tags[d], first, second)
			if i < 10 && k < 8 && (first.excused() || second.excused()) {
				pair(wrong, first, second)
			}
		}
	}
	return all
}

// excused reports whether a packet with such a chunk may have a tag of its own (RFC 9260,
// 8.5.1), so that each chunk is judged by itself.
func (c chunkType) excused() bool {
	switch c {
	case chInit, chAbort, chShutdownAck, chShutdownComplete, chCookieEcho, chHeartbeat, chHeartbeatAck:
		return true
	}
	return false
}

// sctpDamaged are packets whose chunks are cut off, or have lengths that are wrong, and
// some of three chunks.
func sctpDamaged(c *sctpContext, d flow.Direction) (all []sctpPacket) {
	add := func(what string, vtag uint32, cut int, chunks ...byte) {
		all = append(all, sctpPacket{what, d, vtag, chunks, cut})
	}
	right, peer := c.tags[d], c.tags[d.Other()]
	add("no chunk", right, 0)
	add("half a common header", right, 4)
	add("three bytes of a chunk", right, 0, 0, 0, 0)
	for _, typ := range []chunkType{chData, chInit, chInitAck, chHeartbeat, chAbort, chShutdown, chCookieEcho, chCookieAck} {
		for _, n := range []byte{0, 3, 4, 5, 17, 21, 255} { // as the length of the first of two
			vtag := right
			if typ == chInit {
				vtag = 0
			}
			b := typ.chunk(0, peer)
			b[3] = n
			add(fmt.Sprintf("%v of length %d, SHUTDOWN", typ, n), vtag, 0, append(b, chShutdown.chunk(0, 0)...)...)
		}
	}
	for _, typ := range []chunkType{chInit, chInitAck} {
		for _, n := range []int{4, 8, 16, 19} {
			vtag := right
			if typ == chInit {
				vtag = 0
			}
			add(fmt.Sprintf("%d bytes of %v", n, typ), vtag, 0, typ.chunk(0, peer)[:n]...)
		}
	}
	for _, three := range [][3]chunkType{
		{chCookieEcho, chData, chSack}, {chCookieAck, chSack, chData}, {chData, chSack, chShutdown},
		{chShutdown, chShutdownAck, chData}, {chHeartbeat, chHeartbeat, chData}, {chSack, chError, chAbort},
	} {
		var b []byte
		for _, typ := range three {
			b = append(b, typ.chunk(0, 0)...)
		}
		add(fmt.Sprintf("%v, %v, %v", three[0], three[1], three[2]), right, 0, b...)
	}
	return all
}

// distinct removes repetitions.
func distinct(tags ...uint32) (all []uint32) {
	seen := map[uint32]bool{}
	for _, t := range tags {
		if !seen[t] {
			seen[t] = true
			all = append(all, t)
		}
	}
	return all
}

// sctpQuestions are packets that show what a tracker remembers beside the state: the tags
// of both directions (DATA), and whether INITs cross or a HEARTBEAT had a new tag.
func sctpQuestions(c *sctpContext) (all []sctpPacket) {
	for d := flow.Original; d <= flow.Reply; d++ {
		for _, vtag := range []uint32{c.tags[d], wrong} {
			all = append(all, oneChunk(d, vtag, chData, 0))
		}
	}
	return append(all,
		oneChunk(flow.Reply, newR, chHeartbeatAck, 0), oneChunk(flow.Original, newO, chHeartbeatAck, 0),
		oneChunk(flow.Reply, newR, chInitAck, newO), oneChunk(flow.Original, newO, chData, 0),
	)
}
