package helper

import (
	"bytes"
	"slices"
)

// maxPieces is how many pieces of a stream are kept that came before what precedes them.
const maxPieces = 16

// stream is one direction of a TCP connection, read in order from the first byte behind the
// handshake.
//
//	          read            next = read + len(buf)
//	───────────┼───────────────┼──────── ── ─────── ──▶ sequence numbers of the sender
//	 messages  │      buf      │         ahead
//	 read      │  incomplete   │  (never of a stream that can be edited)
type stream struct {
	adj   adjust
	paid  int    // what the budget was charged for adj, in bytes
	begun bool   // read is known
	start uint32 // the first byte
	read  uint32 // where the message begins that is not whole yet
	buf   []byte // what there is of it
	// held says that buf has not gone on to the receiver.
	held bool
	// passed says that the message that buf begins goes on as it is: a part of it has.
	passed bool
	// tries is how often the message at read was dropped since it was refused.
	tries int
	ahead []piece // in order, apart
}

// piece is a part of a stream.
type piece struct {
	seq  uint32
	data []byte
}

// next is the first byte that was not seen, or not in order.
func (s *stream) next() uint32 { return s.read + uint32(len(s.buf)) }

// agrees reports whether a segment says the same as what is kept of those bytes.
func (s *stream) agrees(seq uint32, payload []byte) bool {
	at := int(int32(seq - s.read)) // of the payload, in buf
	if at < 0 {
		payload = payload[min(-at, len(payload)):]
		at = 0
	}
	if at >= len(s.buf) {
		return true
	}
	n := min(len(payload), len(s.buf)-at)
	return bytes.Equal(payload[:n], s.buf[at:at+n])
}

// stash keeps a segment that came before what precedes it, as long as it lies within limit
// bytes of the next one. added is how many bytes were kept.
func (s *stream) stash(seq uint32, payload []byte, limit int) (added int) {
	end := seq + uint32(len(payload))
	if int(int32(end-s.next())) > limit || len(payload) == 0 {
		return 0
	}
	i, _ := slices.BinarySearchFunc(s.ahead, seq, func(p piece, seq uint32) int { return int(int32(p.seq - seq)) })
	if i > 0 {
		p := s.ahead[i-1]
		if over := int(int32(p.seq + uint32(len(p.data)) - seq)); over >= len(payload) {
			return 0
		} else if over > 0 {
			seq, payload = seq+uint32(over), payload[over:]
		}
	}
	j := i
	for j < len(s.ahead) && !before(end, s.ahead[j].seq+uint32(len(s.ahead[j].data))) {
		added -= len(s.ahead[j].data) // it lies within the new one
		j++
	}
	if j < len(s.ahead) && before(s.ahead[j].seq, end) {
		payload = payload[:s.ahead[j].seq-seq]
	}
	if len(payload) == 0 {
		return 0
	}
	if len(s.ahead)-(j-i) >= maxPieces {
		return 0
	}
	s.ahead = slices.Replace(s.ahead, i, j, piece{seq, bytes.Clone(payload)})
	return added + len(payload)
}

// join appends to work, whose bytes begin at read, the pieces that follow it without a gap,
// and takes them out of ahead. same is false if one says otherwise of bytes that work has;
// removed is how many bytes are kept no longer.
func (s *stream) join(work []byte) (joined []byte, removed int, same bool) {
	for len(s.ahead) > 0 {
		p := s.ahead[0]
		at := int(int32(p.seq - s.read))
		if at > len(work) {
			break
		}
		s.ahead = slices.Delete(s.ahead, 0, 1)
		removed += len(p.data)
		if at < 0 {
			continue
		}
		n := min(len(p.data), len(work)-at)
		if !bytes.Equal(p.data[:n], work[at:at+n]) {
			return work, removed, false
		}
		// work may lie in a packet: what follows it there is not ours.
		work = append(slices.Clip(work), p.data[n:]...)
	}
	return work, removed, true
}

// drop forgets what was kept to be read, and returns how many bytes that was.
func (s *stream) drop() (n int) {
	n = len(s.buf)
	for i := range s.ahead {
		n += len(s.ahead[i].data)
	}
	s.buf, s.ahead, s.held, s.passed = nil, nil, false, false
	return n
}
