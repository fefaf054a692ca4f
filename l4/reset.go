package l4

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// synchronised tells the states in which both ends of a connection know what the other
// sends next, so that each can hold a RST to it (RFC 9293, 3.10.7.4).
func synchronised(s flow.TCPState) bool {
	switch s {
	case flow.TCPSynRecv, flow.TCPEstablished, flow.TCPFinWait, flow.TCPCloseWait, flow.TCPLastAck:
		return true
	}
	return false
}

// exactReset decides how far a RST in a synchronised state is to be believed if
// Config.TCPExactRST is set (RFC 5961, 3.2): it closes the connection if its sequence
// number is just what the other side has acknowledged, or just behind all that its own
// side has sent. Another one in the window is for its receiver to challenge: it passes,
// and leaves the connection, its timer included, as it is. What is not in the window is
// INVALID, as without.
func (cfg *Config) exactReset(c *flow.Conn, seg *packet.TCP, d flow.Direction, old flow.TCPState) (flow.TCPState, passage, Result) {
	t := &c.TCP
	own, other := &t.Seen[d], &t.Seen[d.Other()]
	acked := t.Flags[d.Other()]&flow.TCPMaxAckSet != 0
	if acked && seg.Seq == other.MaxAck || own.MaxWin != 0 && seg.Seq == own.End {
		return flow.TCPClose, inWindow, Result{}
	}
	if acked && before(seg.Seq, other.MaxAck) && !cfg.TCPIgnoreInvalidRST {
		return old, toVerdict, invalid(flow.ReasonTCPRst)
	}
	if own.MaxWin != 0 && t.Flags[d]&flow.TCPBeLiberal == 0 && !cfg.TCPBeLiberal {
		ack := seg.Ack
		if seg.Flags&packet.ACK == 0 || ack == 0 {
			ack = other.End
		}
		switch why := check(own, other, seg.Seq, seg.Seq+seg.SegLen, ack); why {
		case flow.ReasonTCPSeqAbove, flow.ReasonTCPAckAbove:
			return old, toVerdict, invalid(why)
		}
	}
	return old, toVerdict, keep(flow.ReasonTCPNotExact)
}
