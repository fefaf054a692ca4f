package flow

// SCTPState is enum sctp_conntrack, the state of an SCTP association.
type SCTPState uint8

// The SCTP states.
const (
	SCTPNone            SCTPState = iota // SCTP_CONNTRACK_NONE
	SCTPClosed                           // SCTP_CONNTRACK_CLOSED
	SCTPCookieWait                       // SCTP_CONNTRACK_COOKIE_WAIT
	SCTPCookieEchoed                     // SCTP_CONNTRACK_COOKIE_ECHOED
	SCTPEstablished                      // SCTP_CONNTRACK_ESTABLISHED
	SCTPShutdownSent                     // SCTP_CONNTRACK_SHUTDOWN_SENT
	SCTPShutdownRecd                     // SCTP_CONNTRACK_SHUTDOWN_RECD
	SCTPShutdownAckSent                  // SCTP_CONNTRACK_SHUTDOWN_ACK_SENT
	SCTPHeartbeatSent                    // SCTP_CONNTRACK_HEARTBEAT_SENT
	NumSCTPStates                        // the number of states above
)

var sctpStateNames = [NumSCTPStates]string{
	"NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED",
	"SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT",
}

func (s SCTPState) String() string {
	if s < NumSCTPStates {
		return sctpStateNames[s]
	}
	return "UNKNOWN"
}

// SCTPTrack is struct ip_ct_sctp: what the tracker remembers of an association
// beside its state.
type SCTPTrack struct {
	VTag [2]uint32 // by direction: the tag that packets in it carry, 0 if unknown
	Init [2]bool   // by direction: an INIT was seen, and no COOKIE ACK since
	// HeartbeatFailed says that a HEARTBEAT in direction LastDir had another
	// tag than expected (SCTP_FLAG_HEARTBEAT_VTAG_FAILED).
	HeartbeatFailed bool
	LastDir         Direction
}

// The bits of TCPTrack.Retrans while it serves an SCTP association.
const (
	sctpInitOriginal = 1 << iota
	sctpInitReply
	sctpHeartbeatFailed
	sctpLastReply
)

// SCTP returns what is remembered of an association. Valid iff c is SCTP.
func (c *Conn) SCTP() SCTPTrack {
	b := c.TCP.Retrans
	return SCTPTrack{
		VTag:            [2]uint32{c.TCP.LastSeq, c.TCP.LastAck},
		Init:            [2]bool{b&sctpInitOriginal != 0, b&sctpInitReply != 0},
		HeartbeatFailed: b&sctpHeartbeatFailed != 0,
		LastDir:         Direction(b / sctpLastReply & 1),
	}
}

// SetSCTP stores what SCTP returns, in the place of a TCPTrack.
func (c *Conn) SetSCTP(t SCTPTrack) {
	c.TCP.LastSeq, c.TCP.LastAck = t.VTag[0], t.VTag[1]
	b := uint8(t.LastDir) * sctpLastReply
	if t.Init[Original] {
		b |= sctpInitOriginal
	}
	if t.Init[Reply] {
		b |= sctpInitReply
	}
	if t.HeartbeatFailed {
		b |= sctpHeartbeatFailed
	}
	c.TCP.Retrans = b
}
