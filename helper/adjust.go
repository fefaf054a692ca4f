package helper

// Bounds of the edits that a direction remembers.
const (
	maxEdits     = 128      // in all
	maxEditBytes = 16 << 10 // bytes put in, in all
	lateEdits    = 16       // acknowledged ones that are kept for late duplicates
	messageEdits = 48       // of one message: as many must be free before it is read
	editCost     = 48       // bytes of memory of an entry besides the bytes put in
	// farEnough is a distance at which everything has been acknowledged: no window is wider
	// (RFC 7323, 2.3).
	farEnough = 1 << 30
)

// logged is an edit of a stream: del bytes from at on are read as with by the receiver. Neither
// is empty, so that every byte of one space has a counterpart in the other.
type logged struct {
	at, del uint32 // in the sender's space
	shift   uint32 // what is added to at for the receiver's space, modulo 2^32
	with    []byte
}

func (e *logged) end() uint32     { return e.at + e.del }
func (e *logged) seenAt() uint32  { return e.at + e.shift }
func (e *logged) seenEnd() uint32 { return e.seenAt() + uint32(len(e.with)) }

// after is what is added to the sequence numbers behind the edit.
func (e *logged) after() uint32 { return e.shift + uint32(len(e.with)) - e.del }

// adjust is what the edits of one direction have made of its sequence numbers (struct
// nf_ct_seqadj, which remembers one edit). There are two spaces: the sender's, and the
// receiver's, in which the stream is as long as it is with the edits made.
//
// Edits are entered in the order of the stream, before any byte behind them has gone on. An
// edit that the receiver has acknowledged may be forgotten: base takes its place, for what
// lies before it too. That is exact at the end of the edit and wrong before it, but there by
// no more than brings a byte up to the end: whatever is sent again, or acknowledged late,
// still lies among the acknowledged bytes, which nobody reads again.
type adjust struct {
	base  uint32 // shift of what lies before the first edit of the log
	log   []logged
	bytes int // put in by the edits of the log

	top     uint32 // end of what was sent, the sender's space
	acked   uint32 // end of what was acknowledged, the receiver's space
	started bool   // top is set
	heard   bool   // acked is set
	edited  bool   // there has been an edit
}

// seen notes that the sender has sent up to end. What lies further ahead than any window is
// wide it has not sent.
func (a *adjust) seen(end uint32) {
	if !a.started || before(a.top, end) && end-a.top < farEnough {
		a.top, a.started = end, true
	}
	for len(a.log) > 0 && a.top-a.log[0].end() > farEnough && !before(a.top, a.log[0].end()) {
		a.forget(1)
	}
}

// ack notes that the receiver has everything before ack (its space).
func (a *adjust) ack(ack uint32) {
	if !a.heard || before(a.acked, ack) {
		a.acked, a.heard = ack, true
	}
	a.fold(lateEdits)
}

// fold forgets acknowledged edits until no more than keep are left.
func (a *adjust) fold(keep int) {
	n := 0
	for len(a.log)-n > keep && a.heard && !before(a.acked, a.log[n].seenEnd()) {
		n++
	}
	a.forget(n)
}

// forget forgets the first n edits.
func (a *adjust) forget(n int) {
	if n == 0 {
		return
	}
	a.base = a.log[n-1].after()
	for i := range a.log[:n] {
		a.bytes -= len(a.log[i].with)
	}
	a.log = append(a.log[:0], a.log[n:]...)
	clear(a.log[len(a.log):cap(a.log)]) // of the bytes put in
}

// room reports whether the edits of another message can be remembered.
func (a *adjust) room() bool {
	if len(a.log)+messageEdits > maxEdits || a.bytes > maxEditBytes/2 {
		a.fold(0)
	}
	return len(a.log)+messageEdits <= maxEdits && a.bytes <= maxEditBytes/2
}

// fits reports whether edits can be remembered, once room has said so for some.
func (a *adjust) fits(edits []Edit) bool {
	n := a.bytes
	for i := range edits {
		n += len(edits[i].With)
	}
	return len(a.log)+len(edits) <= maxEdits && n <= maxEditBytes
}

// enter remembers the edits of a message that begins at seq.
func (a *adjust) enter(seq uint32, edits []Edit) {
	for i := range edits {
		e := &edits[i]
		a.log = append(a.log, logged{seq + uint32(e.Off), uint32(e.Len), a.last(), e.With})
		a.bytes += len(e.With)
		a.edited = true
	}
}

// last is the shift behind all edits.
func (a *adjust) last() uint32 {
	if n := len(a.log); n > 0 {
		return a.log[n-1].after()
	}
	return a.base
}

// cost is the memory of the log in bytes.
func (a *adjust) cost() int { return len(a.log)*editCost + a.bytes }

// seq returns a sequence number as the receiver is to read it. Within what was replaced it
// counts from the end of that, so that a probe one below the next number stays one.
func (a *adjust) seq(seq uint32) uint32 {
	for i := len(a.log) - 1; i >= 0; i-- {
		if e := &a.log[i]; before(e.at, seq) {
			return seq + e.after()
		}
	}
	return seq + a.base
}

// unseq returns a number of the receiver's space as the sender counts. Within what was put
// in it is the beginning of what was replaced, or, if up is set, the end.
func (a *adjust) unseq(seq uint32, up bool) uint32 {
	for i := len(a.log) - 1; i >= 0; i-- {
		e := &a.log[i]
		switch {
		case !before(seq, e.seenEnd()):
			return seq - e.after()
		case !before(e.seenAt(), seq):
		case up:
			return e.end()
		default:
			return e.at
		}
	}
	return seq - a.base
}

// edits appends to dst the edits of the bytes from begin to end, with offsets from begin, and
// returns the receiver's number of the first byte that then goes out. An edit of which only a
// part lies between them is made in full: no receiver reads half of one.
func (a *adjust) edits(dst []Edit, begin, end uint32) ([]Edit, uint32) {
	first := a.seq(begin)
	if begin == end {
		return dst, first
	}
	for i := range a.log {
		e := &a.log[i]
		if !before(e.at, end) {
			break
		}
		if !before(begin, e.end()) {
			continue
		}
		from, to := e.at, e.end()
		if before(from, begin) {
			from, first = begin, e.seenAt()
		}
		if before(end, to) {
			to = end
		}
		dst = append(dst, Edit{int(from - begin), int(to - from), e.with})
	}
	return dst, first
}

// tidy returns the edits of a message in the form that adjust takes: in order, apart, and none
// that puts in or takes out nothing; such a one takes a byte beside it along. ok is false if
// they are not edits of the message, or leave nothing of it.
func tidy(edits []Edit, message []byte) (tidied []Edit, ok bool) {
	tidied = edits[:0]
	end := 0
	for _, e := range edits {
		if e.Off < end || e.Len < 0 || e.Off+e.Len > len(message) {
			return nil, false
		}
		end = e.Off + e.Len
		if n := len(tidied); n > 0 && tidied[n-1].Off+tidied[n-1].Len == e.Off {
			tidied[n-1].Len += e.Len
			tidied[n-1].With = append(tidied[n-1].With, e.With...)
		} else if e.Len > 0 || len(e.With) > 0 {
			tidied = append(tidied, e)
		}
	}
	whole := tidied
	tidied = tidied[:0]
	for _, e := range whole {
		n := len(tidied)
		switch {
		case n > 0 && tidied[n-1].Off+tidied[n-1].Len == e.Off: // the one before took a byte along
			tidied[n-1].Len += e.Len
			tidied[n-1].With = append(tidied[n-1].With, e.With...)
			continue
		case e.Len > 0 && len(e.With) > 0:
		case e.Off > 0:
			e.Off, e.Len = e.Off-1, e.Len+1
			e.With = append([]byte{message[e.Off]}, e.With...)
		case e.Len < len(message):
			e.With = append(e.With, message[e.Len])
			e.Len++
		default:
			return nil, false
		}
		tidied = append(tidied, e)
	}
	return tidied, true
}

// before compares sequence numbers (RFC 9293, 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }
