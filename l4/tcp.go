package l4

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// newTCP follows tcp_new: a SYN begins a connection, an ACK picks one up.
func (cfg *Config) newTCP(c *flow.Conn, p *packet.Packet) Result {
	t, seg := &c.TCP, &p.TCP
	s := &t.Seen[flow.Original]
	s.End = seg.Seq + seg.SegLen
	s.MaxWin = max(uint32(seg.Window), 1)
	t.Last.SetPacket(flow.Original, flow.TCPNoFlags)
	switch tcpTransitions[flow.Original][seg.Flags.Index()][flow.TCPNone] {
	case flow.TCPSynSent:
		s.MaxEnd = s.End
		readSYNOptions(t, p, flow.Original)
	case flow.TCPEstablished:
		if !cfg.TCPLoose {
			return invalid(flow.ReasonTCPNotLoose)
		}
		s.MaxEnd = s.End + s.MaxWin
		// The window scale is unknown, so neither side can be held to a window.
		const pickedUp = flow.TCPSackPerm | flow.TCPBeLiberal
		t.Flags = [2]flow.TCPFlags{pickedUp, pickedUp}
	default:
		return invalid(flow.ReasonTCPNoConnection)
	}
	return accept(0)
}

// passage is how a segment gets past the state table.
type passage uint8

const (
	toWindow  passage = iota // check it against the window
	inWindow                 // take it as in window
	toVerdict                // the state table has decided already
)

// tcp follows nf_conntrack_tcp_packet.
func (cfg *Config) tcp(c *flow.Conn, p *packet.Packet, d flow.Direction, now flow.Millis) Result {
	t, seg := &c.TCP, &p.TCP
	index := seg.Flags.Index()
	old := flow.TCPState(c.State)
	next := tcpTransitions[d&1][index][old]

	var pass passage
	var r Result
	switch next {
	case flow.TCPEstablished:
		// Nearly every segment: the window is all there is to look at.
	case flow.TCPSynSent:
		if old >= flow.TCPTimeWait {
			if closedBefore(t, d) {
				return Result{Outcome: Reopen}
			}
			old, next, pass, r = ignoredState(c, p, d, index, next)
		}
	case tcpIgnore:
		old, next, pass, r = ignoredState(c, p, d, index, next)
	case tcpInvalid:
		return invalid(flow.ReasonTCPState)
	case flow.TCPTimeWait:
		if isChallengeACK(t, d, index, old) {
			t.Last.SetOptions(t.Last.Scale(), t.Last.Flags()&^flow.TCPChallengeAck)
			return keep(flow.ReasonTCPChallenge)
		}
	case flow.TCPSynSent2:
		// The table alone cannot follow a simultaneous open.
		t.Last.SetOptions(t.Last.Scale(), t.Last.Flags()|flow.TCPSimultaneous)
	case flow.TCPSynRecv:
		if d == flow.Reply && index == flow.TCPAck && t.Last.Flags()&flow.TCPSimultaneous != 0 {
			next = flow.TCPEstablished
		}
	case flow.TCPClose:
		if index == flow.TCPRst {
			if cfg.TCPExactRST && synchronised(old) {
				next, pass, r = cfg.exactReset(c, seg, d, old)
			} else {
				next, pass, r = cfg.reset(c, seg, d, old)
			}
		}
	}
	if pass == toVerdict {
		return r
	}
	if pass == toWindow {
		// A SYN/ACK that brings an ignored SYN back in step is judged in its new
		// state by the table, but the window check looks at the stored one.
		switch r := cfg.inWindow(c, p, d, index); r.Outcome {
		case Keep:
			return r
		case Invalid:
			return cfg.shortenGhost(c, d, index, now, r)
		}
	}
	t.Last.SetPacket(d, index)
	c.State = uint8(next)
	if old != next && next == flow.TCPFinWait {
		t.Flags[d] |= flow.TCPCloseInit
	}
	return cfg.tcpVerdict(c, index, old, next)
}

// closedBefore reports whether a SYN in TIME_WAIT or CLOSE opens the connection
// anew: one side had begun to close, or the sender had reset it.
func closedBefore(t *flow.TCPTrack, d flow.Direction) bool {
	return (t.Flags[0]|t.Flags[1])&flow.TCPCloseInit != 0 ||
		t.Last.Dir() == d && t.Last.Index() == flow.TCPRst
}

// isChallengeACK recognises the answer to a SYN that was let through in
// LAST_ACK (RFC 5961): it must not be taken for the ACK of the last FIN.
func isChallengeACK(t *flow.TCPTrack, d flow.Direction, index flow.TCPIndex, old flow.TCPState) bool {
	return old == flow.TCPLastAck && index == flow.TCPAck &&
		t.Last.Dir() != d && t.Last.Index() == flow.TCPSyn &&
		t.Last.Flags()&flow.TCPChallengeAck != 0
}

// ignoredState handles a packet that the state table lets through unjudged
// (TCP_CONNTRACK_IGNORE). Client and server may be in step while we are not, so
// it is remembered: a SYN/ACK that answers a remembered SYN brings us back.
func ignoredState(c *flow.Conn, p *packet.Packet, d flow.Direction, index flow.TCPIndex,
	next flow.TCPState) (flow.TCPState, flow.TCPState, passage, Result) {
	t, seg := &c.TCP, &p.TCP
	old := flow.TCPState(c.State)
	if index == flow.TCPSynAck && t.Last.Index() == flow.TCPSyn &&
		t.Last.Dir() != d && seg.Ack == t.LastEnd {
		resync(t, d)
		return flow.TCPSynSent, flow.TCPSynRecv, toWindow, Result{}
	}
	t.Last.SetPacket(d, index)
	t.LastSeq = seg.Seq
	t.LastEnd = seg.Seq + seg.SegLen
	t.LastWin = seg.Window
	if index == flow.TCPSyn && d == flow.Original {
		scale, flags := synOptions(p.Options())
		if old == flow.TCPLastAck {
			flags |= flow.TCPChallengeAck
		}
		t.Last.SetOptions(scale, flags)
	}
	if old == flow.TCPSynSent && index == flow.TCPAck && d == flow.Reply {
		t.LastAck = seg.Ack // perhaps a challenge ACK: a RST may follow from it
	}
	return old, next, toVerdict, keep(flow.ReasonTCPIgnoredState)
}

// resync takes over the remembered SYN of the other direction and forgets what
// was known of direction d, whose SYN/ACK has come.
func resync(t *flow.TCPTrack, d flow.Direction) {
	syn := t.Last.Dir()
	s := &t.Seen[syn]
	s.End, s.MaxEnd = t.LastEnd, t.LastEnd
	s.MaxWin = max(uint32(t.LastWin), 1)
	t.SetScale(syn, t.Last.Scale())
	t.Last.SetOptions(t.Last.Scale(), t.Last.Flags()&^flow.TCPChallengeAck)
	t.Flags[syn] = t.Last.Flags()
	t.Seen[d] = flow.TCPSeen{}
	t.Flags[d] &= flow.TCPBeLiberal
	t.SetScale(d, 0)
}

// reset decides how far a RST that the state table would let close the
// connection is to be believed.
func (cfg *Config) reset(c *flow.Conn, seg *packet.TCP, d flow.Direction, old flow.TCPState) (flow.TCPState, passage, Result) {
	t := &c.TCP
	if closing(old) {
		// The tuple may be in use again by now: nothing to compare with.
		return flow.TCPClose, inWindow, Result{}
	}
	next := flow.TCPClose
	established := old == flow.TCPEstablished && c.Status&flow.Assured != 0
	last := t.Last.Index()
	if t.Flags[d.Other()]&flow.TCPMaxAckSet != 0 && last != flow.TCPSyn {
		acked := t.Seen[d.Other()].MaxAck
		switch {
		case seg.Seq == 0 && !established:
			// Most likely the answer to a SYN that was let through.
			return next, toWindow, Result{}
		case before(seg.Seq, acked) && !cfg.TCPIgnoreInvalidRST:
			return next, toVerdict, invalid(flow.ReasonTCPRst)
		case !established || seg.Seq == acked:
			return next, toWindow, Result{}
		case last == flow.TCPAck && t.Last.Dir() == d && seg.Seq == t.LastEnd:
			// It follows the sender's data directly.
			return next, toWindow, Result{}
		}
		next = old // leave room for a challenge ACK
	}
	if seg.Ack == t.LastEnd &&
		(c.Status&flow.SeenReply != 0 && last == flow.TCPSyn && t.Last.Dir() != d ||
			c.Status&flow.Assured == 0 && last == flow.TCPAck) {
		return next, inWindow, Result{} // it answers what was let through unjudged
	}
	if old == flow.TCPSynSent && last == flow.TCPAck && t.Last.Dir() == flow.Reply && seg.Seq == t.LastAck {
		return next, inWindow, Result{} // it answers a challenge ACK
	}
	return next, toWindow, Result{}
}

// closing is tcp_can_early_drop.
func closing(s flow.TCPState) bool {
	switch s {
	case flow.TCPFinWait, flow.TCPLastAck, flow.TCPTimeWait, flow.TCPClose, flow.TCPCloseWait:
		return true
	}
	return false
}

// tcpVerdict chooses the timeout of a packet in window and marks the connection
// ASSURED where it has become so.
func (cfg *Config) tcpVerdict(c *flow.Conn, index flow.TCPIndex, old, next flow.TCPState) Result {
	t, to := &c.TCP, &cfg.Timeouts
	timeout := to.TCP[next]
	unacked := (t.Flags[0]|t.Flags[1])&flow.TCPUnacked != 0
	switch {
	case t.Retrans >= cfg.TCPMaxRetrans && timeout > to.TCPMaxRetrans:
		timeout = to.TCPMaxRetrans
	case index == flow.TCPRst:
		timeout = to.TCP[flow.TCPClose]
	case unacked && timeout > to.TCPUnacknowledged:
		timeout = to.TCPUnacknowledged
	case t.LastWin == 0 && timeout > to.TCPMaxRetrans:
		timeout = to.TCPMaxRetrans
	}
	if c.Status&flow.SeenReply == 0 {
		switch {
		case index == flow.TCPRst:
			return Result{Outcome: Close}
		case index == flow.TCPSyn && old == flow.TCPSynSent:
			// A repeated SYN must not keep the connection (and its NAT) alive.
			return keep(flow.NoReason)
		case next == flow.TCPEstablished:
			timeout = min(timeout, to.TCPUnacknowledged)
		}
	} else if c.Status&flow.Assured == 0 && next == flow.TCPEstablished &&
		(old == flow.TCPSynRecv || old == flow.TCPEstablished) {
		c.Status |= flow.Assured
	}
	return accept(timeout)
}

// ghostAge is the remaining life below which shortenGhost leaves a timer alone,
// in seconds.
const ghostAge = 120

// shortenGhost follows nf_tcp_handle_invalid: when both sides send FIN or RST
// that we hold to be out of window, it is we who are out of step, and the
// connection must not linger for days.
func (cfg *Config) shortenGhost(c *flow.Conn, d flow.Direction, index flow.TCPIndex, now flow.Millis, r Result) Result {
	t := &c.TCP
	if c.Status&flow.Assured == 0 || c.Status&flow.FixedTimeout != 0 ||
		index != flow.TCPFin && index != flow.TCPRst {
		return r
	}
	if last := t.Last.Index(); t.Last.Dir() == d || last != flow.TCPFin && last != flow.TCPRst {
		t.Last.SetPacket(d, index)
		return r
	}
	left := c.Expires.Until(now)
	if left >= ghostAge*1000 && uint32(left) > cfg.Timeouts.TCPUnacknowledged*1000 {
		r.Outcome, r.Timeout = Shorten, cfg.Timeouts.TCPUnacknowledged
	}
	return r
}

// The TCP options that are read (RFC 9293 3.2, RFC 7323, RFC 2018).
const (
	optEnd         = 0
	optNOP         = 1
	optWindowScale = 3
	optSackPerm    = 4
	optSack        = 5
	maxWindowScale = 14
)

// readSYNOptions follows tcp_options: a segment without options leaves what was
// known, any other replaces it.
func readSYNOptions(t *flow.TCPTrack, p *packet.Packet, d flow.Direction) {
	opts := p.Options()
	if len(opts) == 0 {
		return
	}
	scale, flags := synOptions(opts)
	t.SetScale(d, scale)
	t.Flags[d] = t.Flags[d]&flow.TCPBeLiberal | flags
}

// synOptions returns the window scale and the flags that the options set.
func synOptions(opts []byte) (scale uint8, flags flow.TCPFlags) {
	for kind, body := range options(opts) {
		switch {
		case kind == optSackPerm && len(body) == 0:
			flags |= flow.TCPSackPerm
		case kind == optWindowScale && len(body) == 1:
			scale = min(body[0], maxWindowScale)
			flags |= flow.TCPWindowScale
		}
	}
	return scale, flags
}

// timestampsOnly is the word that begins an option block of NOP, NOP and a
// timestamp: the usual block, which carries no SACK.
const timestampsOnly = 1<<24 | 1<<16 | 8<<8 | 10

// highestSack follows tcp_sack: the highest right edge of the first SACK option
// in opts that is beyond ack.
func highestSack(opts []byte, ack uint32) uint32 {
	if len(opts) == 12 && binary.BigEndian.Uint32(opts) == timestampsOnly {
		return ack
	}
	for kind, body := range options(opts) {
		if kind != optSack || len(body) == 0 || len(body)%8 != 0 {
			continue
		}
		for ; len(body) > 0; body = body[8:] {
			if edge := binary.BigEndian.Uint32(body[4:]); after(edge, ack) {
				ack = edge
			}
		}
		break
	}
	return ack
}

// options yields the TCP options with their bodies, up to the first that is cut
// off.
func options(opts []byte) func(yield func(kind uint8, body []byte) bool) {
	return func(yield func(uint8, []byte) bool) {
		for len(opts) > 0 {
			kind := opts[0]
			if kind == optEnd {
				return
			}
			if kind == optNOP {
				opts = opts[1:]
				continue
			}
			if len(opts) < 2 || opts[1] < 2 || int(opts[1]) > len(opts) {
				return
			}
			if !yield(kind, opts[2:opts[1]]) {
				return
			}
			opts = opts[opts[1]:]
		}
	}
}

// before and after compare sequence numbers modulo 2^32 (RFC 9293 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }
func after(a, b uint32) bool  { return before(b, a) }
