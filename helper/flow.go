package helper

import (
	"errors"
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// Flow is one connection that a helper reads: its Session, both its streams, and what edits
// have made of its sequence numbers. It is used by one goroutine.
//
// For each packet of a TCP connection, in the window and with valid checksums, the owner calls
//
//  1. Answer, if it is a SYN that has ACK set: it says where both streams begin
//  2. Acked, if it has ACK set: with the number as the packet has it
//  3. Segment, if it has a payload or FIN: what becomes of that
//  4. Seq, if there was no Segment to say it, and Ack and Sack, if Adjusted: the numbers as
//     they are to be written
//
// Segments without ACK are not read (SYN, RST). Answered says who is to be charged, and Close is
// called when the connection ends. Seq, Ack, Sack and the edits of what is sent again go on
// for as long as the connection lives, whether its helper is on or off.
type Flow struct {
	h       *Helper
	session Session
	budget  *Budget
	share   *share    // of the host that is charged, nil: none
	from    flow.Addr // that host
	streams [2]stream // by direction of the data
	err     error     // the helper is off
	closed  bool

	msg     Message
	env     watch
	scratch []Edit
}

// Drop is why a packet must not go on; 0: it may. It is one of flow.ReasonHelper...
type Drop = flow.Reason

// tries is how often a message is dropped whose expectation was refused by a limit, or for
// want of a port, before it goes on without one.
const tries = 3

// Result is what becomes of a packet. It is valid until the next call of the flow.
type Result struct {
	// Drop is why the packet must not go on; the rest is without meaning then.
	Drop Drop
	// Seq is the sequence number of the first byte that goes out, as the receiver reads it
	// (Segment only). It is not always f.Seq of the packet's own: bytes may go in front, and
	// an edit of which the packet has only the end is made in full.
	Seq uint32
	// Held are bytes that were kept back and go out in front of the payload.
	Held []byte
	// Edits are changes of Held and the payload behind it, with offsets from the beginning of
	// Held. They are in order and apart.
	Edits []Edit
	// Cut is how many bytes at the end of the payload do not go out with it: they were kept, or
	// are to be sent again. Without them the packet has no FIN and no PSH either.
	Cut int
}

// Same reports whether the payload goes out as it came.
func (r *Result) Same() bool { return len(r.Held) == 0 && len(r.Edits) == 0 && r.Cut == 0 }

// Len returns how long a payload of n bytes goes out.
func (r *Result) Len(n int) int {
	n += len(r.Held) - r.Cut
	for i := range r.Edits {
		n += len(r.Edits[i].With) - r.Edits[i].Len
	}
	return n
}

// Append appends to dst what goes out instead of payload. It may be longer than a link takes:
// see Split.
func (r *Result) Append(dst, payload []byte) []byte {
	payload = payload[:len(payload)-r.Cut]
	at := 0 // of Held and payload
	copyTo := func(end int) {
		if at < len(r.Held) {
			n := min(end, len(r.Held))
			dst = append(dst, r.Held[at:n]...)
			at = n
		}
		if at < end {
			dst = append(dst, payload[at-len(r.Held):end-len(r.Held)]...)
			at = end
		}
	}
	for i := range r.Edits {
		e := &r.Edits[i]
		copyTo(e.Off)
		dst = append(dst, e.With...)
		at = e.Off + e.Len
	}
	copyTo(len(r.Held) + len(payload))
	return dst
}

// NewFlow returns a flow that is charged to nobody; see Budget.Open.
func NewFlow(h *Helper) *Flow { return new(Budget).Open(h) }

// Close gives back what the flow has used of its budget.
func (f *Flow) Close() {
	if f.closed {
		return
	}
	f.closed = true
	f.budget.flows--
	defer f.unshare()
	for i := range f.streams {
		s := &f.streams[i]
		s.adj = adjust{}
		f.settle(s)
		f.charge(-s.drop())
	}
}

// Answered charges the host that has begun the connection with it: from is its address, or what
// stands for all that it has. It is called when the other side has answered, since who sends
// first may not be who it says. ok is false if it has as many flows as it may: the flow is to be
// closed.
func (f *Flow) Answered(from flow.Addr) (ok bool) {
	b := f.budget
	s := b.shares[from]
	if s == nil {
		if b.shares == nil {
			b.shares = map[flow.Addr]*share{}
		}
		s = new(share)
		b.shares[from] = s
	}
	if b.Source > 0 && s.flows >= b.Source {
		b.Stats.Crowded++
		return false
	}
	s.flows++
	f.share, f.from = s, from
	return true
}

// unshare has the host charged no longer.
func (f *Flow) unshare() {
	if s := f.share; s != nil {
		if s.flows--; s.flows == 0 {
			delete(f.budget.shares, f.from)
		}
	}
}

// charge takes n bytes, or gives back -n. ok is false if there are not as many.
func (f *Flow) charge(n int) (ok bool) {
	if n > 0 && !f.budget.fits(f.share, n) {
		return false
	}
	f.use(n)
	return true
}

// use takes n bytes, whether there are as many or not, or gives back -n.
func (f *Flow) use(n int) {
	f.budget.bytes += n
	if f.share != nil {
		f.share.bytes += n
	}
}

// Off returns why the flow is read no further, nil as long as it is.
func (f *Flow) Off() error { return f.err }

// Adjusted reports whether anything was edited: if not, all numbers stay as they are.
func (f *Flow) Adjusted() bool { return f.streams[0].adj.edited || f.streams[1].adj.edited }

// Seq returns the sequence number of a packet of direction d as the receiver is to read it: of
// one without payload, and of an urgent pointer (of the sum of both).
func (f *Flow) Seq(d flow.Direction, seq uint32) uint32 { return f.streams[d].adj.seq(seq) }

// Ack returns an acknowledgement number of a packet of direction d as the sender of the data
// knows it. Of an edit that is acknowledged in part it is the beginning.
func (f *Flow) Ack(d flow.Direction, ack uint32) uint32 {
	return f.streams[d.Other()].adj.unseq(ack, false)
}

// Sack returns the edges of a SACK block (RFC 2018) of a packet of direction d as the sender
// of the data knows them: of what the block says has come, no more than has. A block of a part
// of an edit becomes an empty one, which senders ignore.
func (f *Flow) Sack(d flow.Direction, left, right uint32) (l, r uint32) {
	a := &f.streams[d.Other()].adj
	l, r = a.unseq(left, true), a.unseq(right, false)
	if before(r, l) {
		return r, r
	}
	return l, r
}

// Answer says that a SYN of direction d, with seq behind it, has acknowledged that of the other
// side by ack, both as the packet has them: there the streams begin. Without it nothing is read.
// The same again changes nothing. Other numbers mean that the connection has begun anew, and
// so does what is read; the numbers of each side stay as far from those that the other one
// reads as they were.
func (f *Flow) Answer(d flow.Direction, seq, ack uint32) {
	o := d.Other()
	start := f.Ack(d, ack)
	own, other := &f.streams[d], &f.streams[o]
	if own.begun && other.begun && own.start == seq && other.start == start {
		return
	}
	if own.begun || other.begun {
		f.session, f.err = f.h.New(), nil
	}
	shift := f.Seq(d, seq) - seq
	f.begin(d, seq, shift)
	f.begin(o, start, ack-start)
}

// begin has direction d begin at seq, which the receiver reads as seq+shift.
func (f *Flow) begin(d flow.Direction, seq, shift uint32) {
	s := &f.streams[d]
	f.charge(-s.drop())
	*s = stream{
		begun: true, start: seq, read: seq, paid: s.paid,
		adj: adjust{top: seq, started: true, base: shift, edited: s.adj.edited},
	}
	f.settle(s)
}

// Acked says that a packet of direction d acknowledges everything before ack, the number as
// the packet has it. If that is more than was seen the flow can be read no further.
func (f *Flow) Acked(d flow.Direction, ack uint32) {
	s := &f.streams[d.Other()]
	if !s.begun {
		return
	}
	s.adj.ack(ack)
	f.settle(s)
	if f.err != nil {
		return
	}
	known := s.next() + 1 // a FIN
	if s.held {
		known = s.read
	}
	if before(known, s.adj.unseq(ack, false)) {
		f.off(ErrGap)
	}
}

// Datagram reads a datagram of a UDP connection. What Result says of edits is all or none: a
// datagram that they would make too long for its path is dropped or goes on as it came, which
// the caller counts.
func (f *Flow) Datagram(c *Conn, env Env, d flow.Direction, payload []byte) Result {
	if f.err != nil {
		return Result{}
	}
	_, edits, err := f.ask(c, env, d, payload, false)
	if err != nil {
		f.off(err)
		return Result{}
	}
	if f.env.refused {
		f.budget.Stats.Refused++
		f.undo()
		return Result{Drop: flow.ReasonHelperRefused}
	}
	f.budget.Stats.Messages++
	f.budget.Stats.Edits += uint64(len(edits))
	return Result{Edits: edits}
}

// Segment reads a segment of a TCP connection that has a payload or FIN; seq is that of its
// first byte. A payload of a SYN has the number behind it.
//
// What is read goes on edited, and so does what is sent again. If the connection is translated
// what cannot be read yet does not go on: bytes that come before what precedes them are dropped
// to be sent again, and what there is of an incomplete message is kept and goes out with the
// rest of it. If it is sent again without the rest it goes on as it is. If nothing is
// translated there is nothing to edit, and nothing is dropped but for want of room for an
// expectation.
func (f *Flow) Segment(c *Conn, env Env, d flow.Direction, seq uint32, payload []byte) Result {
	s := &f.streams[d]
	end := seq + uint32(len(payload))
	if f.err == nil && !s.begun {
		f.off(ErrMidstream)
	}
	next := s.next()
	if f.err != nil || !before(next, seq) {
		s.adj.seen(end)
		f.settle(s)
	}
	switch {
	case f.err != nil:
		return f.emit(s, seq, nil, payload, end, flow.NoReason)
	case before(next, seq):
		return f.early(c, s, seq, payload)
	case !s.agrees(seq, payload):
		f.off(ErrConflict)
		return f.emit(s, seq, nil, payload, end, flow.NoReason)
	case !before(next, end):
		return f.again(s, seq, payload)
	}
	return f.fresh(c, env, d, seq, payload)
}

// early is Segment of bytes that come before what precedes them.
func (f *Flow) early(c *Conn, s *stream, seq uint32, payload []byte) Result {
	if editable(c) {
		f.budget.Stats.Early++
		return Result{Drop: flow.ReasonHelperEarly}
	}
	if f.budget.fits(f.share, len(payload)) {
		f.charge(s.stash(seq, payload, f.h.Limit))
	}
	return f.emit(s, seq, nil, payload, seq+uint32(len(payload)), flow.NoReason)
}

// again is Segment of bytes that were there before, and of a FIN.
func (f *Flow) again(s *stream, seq uint32, payload []byte) Result {
	end := seq + uint32(len(payload))
	var held []byte
	if s.held && before(s.read, end) {
		if before(s.read, seq) {
			held = s.buf[:seq-s.read]
		}
		f.pass(s)
	}
	return f.emit(s, seq, held, payload, end, flow.NoReason)
}

// pass lets the message that buf begins go on as it is.
func (f *Flow) pass(s *stream) {
	s.held, s.passed = false, true
	f.budget.Stats.Passed++
}

// fresh is Segment of bytes of which some are new, and none is missing before them.
func (f *Flow) fresh(c *Conn, env Env, d flow.Direction, seq uint32, payload []byte) Result {
	s := &f.streams[d]
	begin, end, old := s.read, seq+uint32(len(payload)), len(s.buf)
	work := payload[s.next()-seq:]
	if old > 0 {
		work = append(s.buf, work...)
	}
	edit, sentAgain := editable(c), before(seq, s.next())
	var held []byte
	wasHeld := s.held && old > 0
	if wasHeld && before(begin, seq) {
		held = work[:seq-begin]
	}
	joined, removed, same := s.join(work)
	f.charge(-removed)
	if !same {
		f.off(ErrConflict)
		return f.emit(s, seq, held, payload, end, flow.NoReason)
	}
	pos, why, err := f.parse(c, env, d, joined, edit, removed == 0) // pieces have gone on
	work = joined
	switch {
	case err != nil:
	case why != flow.NoReason: // the message at pos is to be sent again
		if f.keep(s, work[pos:max(pos, old)], old) {
			return f.emit(s, seq, held, payload, s.read, why)
		}
		err = ErrBudget
	case len(work)-pos > f.h.Limit:
		err = ErrTooLong
	case !f.keep(s, work[pos:], old):
		err = ErrBudget
	case pos == 0 && wasHeld && sentAgain:
		f.pass(s)
	case edit && !s.passed && pos < len(work):
		s.held = true
		f.budget.Stats.Held++
		return f.emit(s, seq, held, payload, s.read, flow.ReasonHelperHeld)
	default:
		s.held = false
	}
	if err != nil {
		f.off(err)
	}
	return f.emit(s, seq, held, payload, end, flow.NoReason)
}

// parse reads the messages of data, the first of which begins at read, and moves read behind
// them. It returns how many bytes they have; why says that the next one must not go on. edit
// says that they may be edited, mayDrop that nothing of data but buf has gone on.
func (f *Flow) parse(c *Conn, env Env, d flow.Direction, data []byte, edit, mayDrop bool) (pos int, why Drop, err error) {
	s := &f.streams[d]
	stats, old := &f.budget.Stats, len(s.buf)
	for pos < len(data) {
		if edit && !s.passed && !s.adj.room() {
			stats.Waited++
			return pos, flow.ReasonHelperWaits, nil
		}
		f.settle(s)
		n, edits, err := f.ask(c, env, d, data[pos:], s.passed)
		switch {
		case err != nil:
			return pos, flow.NoReason, err
		case n == 0:
			return pos, flow.NoReason, nil
		case f.env.refused && mayDrop && s.tries < tries:
			s.tries++
			stats.Refused++
			f.undo()
			return pos, flow.ReasonHelperRefused, nil
		}
		if len(edits) > 0 && edit && !s.passed {
			if err := f.enter(s, edits); err != nil {
				return pos, flow.NoReason, err
			}
		}
		stats.Messages++
		pos += n
		s.read += uint32(n)
		if s.tries = 0; s.passed {
			// What was looked at beyond the end of the message has gone on with it.
			if s.passed = pos < old; s.passed {
				stats.Passed++
			}
		}
	}
	return pos, flow.NoReason, nil
}

// undo has the session forget the message that it was given last, which is dropped.
func (f *Flow) undo() {
	if u, ok := f.session.(Undoer); ok {
		u.Undo()
	}
}

// enter makes edits of the message at read.
func (f *Flow) enter(s *stream, edits []Edit) error {
	cost := len(edits) * editCost
	for i := range edits {
		cost += len(edits[i].With)
	}
	if !s.adj.fits(edits) || !f.budget.fits(f.share, cost) {
		return ErrEdits
	}
	s.adj.enter(s.read, edits)
	f.settle(s)
	f.budget.Stats.Edits += uint64(len(edits))
	return nil
}

// settle charges the budget with the edits that are remembered: enter has seen to it that they
// fit, and the peer has been told of them.
func (f *Flow) settle(s *stream) {
	n := s.adj.cost() - s.paid
	s.paid += n
	f.use(n)
}

// keep keeps rest, which begins at read, of a stream that had old bytes before. ok is false if
// the budget does not allow it.
func (f *Flow) keep(s *stream, rest []byte, old int) (ok bool) {
	if !f.charge(len(rest) - old) {
		s.buf = s.buf[:old]
		return false
	}
	if len(rest) == 0 {
		s.buf, s.held = nil, false
	} else {
		s.buf = append(make([]byte, 0, len(rest)), rest...)
	}
	return true
}

// emit says how the bytes of a packet that lie before upto go on, with held in front of them.
// If nothing does, why is the reason.
func (f *Flow) emit(s *stream, seq uint32, held, payload []byte, upto uint32, why Drop) Result {
	begin, end := seq-uint32(len(held)), seq+uint32(len(payload))
	if why != flow.NoReason && !before(begin, upto) {
		return Result{Drop: why}
	}
	r := Result{Held: held, Cut: min(int(end-upto), len(payload))}
	if before(upto, seq) {
		r.Held = held[:upto-begin]
	}
	f.scratch, r.Seq = s.adj.edits(f.scratch[:0], begin, upto)
	r.Edits = f.scratch
	return r
}

// editable reports whether anything of a connection's payload may have to be rewritten.
func editable(c *Conn) bool { return c.Translated(flow.Original) || c.Translated(flow.Reply) }

// off turns the helper off. What was kept back comes by itself: the sender has no
// acknowledgement for it.
func (f *Flow) off(err error) {
	f.err = err
	f.budget.Stats.Off[indexOf(offErrors[:], err)]++
	for i := range f.streams {
		f.charge(-f.streams[i].drop())
	}
}

// ask has the session read a message.
func (f *Flow) ask(c *Conn, env Env, d flow.Direction, data []byte, passed bool) (n int, edits []Edit, err error) {
	f.env = watch{Env: env, stats: &f.budget.Stats, passed: passed}
	f.msg = Message{Conn: c, Dir: d, Data: data, Env: &f.env, Edits: f.msg.Edits[:0]}
	defer func() {
		f.msg.Conn, f.msg.Data, f.msg.Env, f.env.Env = nil, nil, nil, nil
		if !f.env.outside && recover() != nil {
			n, edits, err = 0, nil, ErrPanic
		}
	}()
	n, err = f.session.Message(&f.msg)
	if err != nil {
		return 0, nil, err
	}
	if c.Proto == flow.UDP {
		n = len(data)
	}
	if n < 0 || n > len(data) || n == 0 && len(f.msg.Edits) > 0 {
		return 0, nil, ErrPanic
	}
	edits, ok := tidy(f.msg.Edits, data[:n])
	if !ok {
		return 0, nil, ErrPanic
	}
	return n, edits, nil
}

// watch is an Env that counts what is refused.
type watch struct {
	Env
	stats   *Stats
	passed  bool // a part of the message has gone on
	outside bool // Env.Expect runs
	refused bool // for want of room or of a port: the message is to be sent again
}

func (w *watch) Expect(m *Message, x ...Expected) (told netip.AddrPort, err error) {
	if w.passed {
		err = ErrPassed
	} else {
		w.outside = true // a panic there is none of the parser
		told, err = w.Env.Expect(m, x...)
		w.outside = false
	}
	if err != nil {
		w.stats.Expects[indexOf(refusals[:], err)]++
		w.refused = w.refused || errors.Is(err, ErrLimit) || errors.Is(err, ErrNoPort)
	}
	return told, err
}

// Map leaves a message alone that can be rewritten no more.
func (w *watch) Map(m *Message, a netip.AddrPort) netip.AddrPort {
	if w.passed {
		return a
	}
	return w.Env.Map(m, a)
}
