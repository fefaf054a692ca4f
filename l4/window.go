package l4

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// maxAckWindow is the least window within which acknowledgements may lag
// (MAXACKWINCONST).
const maxAckWindow = 66000

// inWindow follows tcp_in_window: it checks a segment against what both sides
// have sent and advertised so far, and if it holds takes it into account. The
// outcome is Accept, Keep or Invalid.
//
// With S the sender and R the receiver, a segment [seq, end) that acknowledges
// sack is in window iff
//
//	I    seq  <= S.MaxEnd                       not over the window of R
//	II   end  >  S.End - R.MaxWin - 1           not acknowledged long ago
//	III  sack <= R.End                          acknowledges only what R has sent
//	IV   sack >  R.End - max(S.MaxWin, 66000) - 1   not overly delayed
//
// (van Rooij, Real Stateful TCP Packet Filtering in IP Filter, 2001).
func (cfg *Config) inWindow(c *flow.Conn, p *packet.Packet, d flow.Direction, index flow.TCPIndex) Result {
	t, seg := &c.TCP, &p.TCP
	own, other := d&1, d&1^1 // the compiler sees that these are 0 and 1
	s, r := &t.Seen[own], &t.Seen[other]
	flags := &t.Flags[own]

	seq, ack := seg.Seq, seg.Ack
	sack, end := ack, seq+seg.SegLen
	if t.Flags[other]&flow.TCPSackPerm != 0 && seg.HeaderLen > 20 {
		sack = highestSack(p.Options(), ack)
	}

	if s.MaxWin == 0 || seg.Flags&(packet.SYN|packet.RST|packet.ACK) != packet.ACK {
		if done := initSender(c, p, d, end, sack); done {
			return Result{Outcome: Accept}
		}
		if seg.Flags&packet.ACK == 0 || seg.Flags&packet.RST != 0 && ack == 0 {
			// No acknowledgement, or one of a broken stack: take it as right.
			ack, sack = r.End, r.End
		}
		if seg.Flags&packet.RST != 0 && seq == 0 && flow.TCPState(c.State) == flow.TCPSynSent {
			seq, end = s.End, s.End // a RST that answers a SYN
		}
	}

	if why := check(s, r, seq, end, sack); why != flow.NoReason {
		if *flags&flow.TCPBeLiberal != 0 || cfg.TCPBeLiberal {
			if why == flow.ReasonTCPSeqBeyond {
				s.End = end
				*flags |= flow.TCPUnacked
			}
			return Result{Outcome: Accept}
		}
		switch why {
		case flow.ReasonTCPSeqBeyond:
			// If it passes and is acknowledged, the ACK must not be INVALID.
			s.End = end
			*flags |= flow.TCPUnacked
			return keep(why)
		case flow.ReasonTCPSeqBelow, flow.ReasonTCPAckBelow:
			return keep(why)
		}
		return invalid(why)
	}

	win := uint32(seg.Window)
	if seg.Flags&packet.SYN == 0 {
		win <<= t.Scale(d)
	}
	s.MaxWin = max(s.MaxWin, win+(sack-ack))
	if after(end, s.End) {
		s.End = end
		*flags |= flow.TCPUnacked
	}
	if seg.Flags&packet.ACK != 0 {
		if *flags&flow.TCPMaxAckSet == 0 || after(ack, s.MaxAck) {
			s.MaxAck = ack
			*flags |= flow.TCPMaxAckSet
		}
	}
	if r.MaxWin != 0 && after(end, s.MaxEnd) {
		r.MaxWin += end - s.MaxEnd
	}
	if after(sack+win, r.MaxEnd-1) {
		r.MaxEnd = sack + win
		if win == 0 {
			r.MaxEnd++
		}
	}
	if ack == r.End {
		t.Flags[other] &^= flow.TCPUnacked
	}
	if index == flow.TCPAck {
		countRetransmission(t, d, seq, ack, end, seg.Window)
	}
	return Result{Outcome: Accept}
}

// initSender takes the first segment of a side as it comes: a SYN tells
// everything, any other is the middle of a connection whose history is lost.
// A second SYN that goes beyond the first replaces it. done is true where
// nothing is left to check: a SYN of a simultaneous open.
func initSender(c *flow.Conn, p *packet.Packet, d flow.Direction, end, sack uint32) (done bool) {
	t, seg := &c.TCP, &p.TCP
	s, r := &t.Seen[d], &t.Seen[d.Other()]
	syn, ack := seg.Flags&packet.SYN != 0, seg.Flags&packet.ACK != 0
	switch {
	case s.MaxWin == 0 && syn:
		initFromSYN(t, p, d, end)
		return !ack
	case s.MaxWin == 0:
		s.End = end
		s.MaxWin = max(uint32(seg.Window)<<t.Scale(d), 1)
		s.MaxEnd = end + s.MaxWin
		if r.MaxWin == 0 {
			r.End, r.MaxEnd = sack, sack // nothing is known of the other side either
		} else if sack == r.End+1 {
			r.End++ // likely the answer to a keepalive
		}
	case syn && after(end, s.End) &&
		(flow.TCPState(c.State) == flow.TCPSynSent || flow.TCPState(c.State) == flow.TCPSynRecv):
		initFromSYN(t, p, d, end)
		return d == flow.Reply && !ack
	}
	return false
}

// initFromSYN follows tcp_init_sender.
func initFromSYN(t *flow.TCPTrack, p *packet.Packet, d flow.Direction, end uint32) {
	s := &t.Seen[d]
	s.End, s.MaxEnd = end, end
	s.MaxWin = max(uint32(p.TCP.Window), 1)
	readSYNOptions(t, p, d)
	if d == flow.Reply && t.Flags[0]&t.Flags[1]&flow.TCPWindowScale == 0 {
		// RFC 7323 2.2: both sides must offer it.
		t.SetScale(flow.Original, 0)
		t.SetScale(flow.Reply, 0)
	}
}

// check tests the four bounds and returns NoReason iff all hold.
func check(s, r *flow.TCPSeen, seq, end, sack uint32) flow.Reason {
	ackFloor := r.End - max(s.MaxWin, maxAckWindow) - 1
	recent := after(end, s.End-r.MaxWin-1)
	switch {
	case !before(seq, s.MaxEnd+1):
		overshot := end - s.MaxEnd + 1
		if r.MaxWin != 0 && recent && after(sack, ackFloor) &&
			overshot <= r.MaxWin && before(sack, r.End+1) {
			return flow.ReasonTCPSeqBeyond
		}
		return flow.ReasonTCPSeqAbove
	case !before(sack, r.End+1):
		return flow.ReasonTCPAckAbove
	case r.MaxWin != 0 && !recent:
		return flow.ReasonTCPSeqBelow
	case !after(sack, ackFloor):
		return flow.ReasonTCPAckBelow
	}
	return flow.NoReason
}

// countRetransmission counts how often the same ACK was repeated. The caller
// records the packet's direction.
func countRetransmission(t *flow.TCPTrack, d flow.Direction, seq, ack, end uint32, win uint16) {
	if t.Last.Dir() == d && t.LastSeq == seq && t.LastAck == ack && t.LastEnd == end && t.LastWin == win {
		t.Retrans++
		return
	}
	t.LastSeq, t.LastAck, t.LastEnd, t.LastWin, t.Retrans = seq, ack, end, win, 0
}
