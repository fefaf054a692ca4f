package l4

import "github.com/xdpct/xdpct/flow"

// The abbreviations of the kernel's table; sctpIV is invalid.
const (
	uNO    = flow.SCTPNone
	uCL    = flow.SCTPClosed
	uCW    = flow.SCTPCookieWait
	uCE    = flow.SCTPCookieEchoed
	uES    = flow.SCTPEstablished
	uSS    = flow.SCTPShutdownSent
	uSR    = flow.SCTPShutdownRecd
	uSA    = flow.SCTPShutdownAckSent
	uHS    = flow.SCTPHeartbeatSent
	sctpIV = flow.NumSCTPStates
)

// sctpRows gives the rows of sctpTransitions for the chunk types that have one.
var sctpRows = [...]struct{ row, known uint8 }{
	sctpInit: {0, 1}, sctpInitAck: {1, 1}, sctpAbort: {2, 1}, sctpShutdown: {3, 1}, sctpShutdownAck: {4, 1},
	sctpError: {5, 1}, sctpCookieEcho: {6, 1}, sctpCookieAck: {7, 1}, sctpShutdownComplete: {8, 1},
	sctpHeartbeat: {9, 1}, sctpHeartbeatAck: {10, 1},
}

// sctpNext returns the state after a chunk (sctp_new_state). Chunks that are not
// about the association itself, DATA and SACK say, change nothing.
func sctpNext(d flow.Direction, s flow.SCTPState, typ uint8) flow.SCTPState {
	if int(typ) >= len(sctpRows) || sctpRows[typ].known == 0 {
		return s
	}
	return sctpTransitions[d][sctpRows[typ].row][s]
}

// sctpTransitions is the state machine (sctp_conntracks): by direction, chunk
// and state.
var sctpTransitions = [2][11][flow.NumSCTPStates]flow.SCTPState{
	flow.Original: {
		/*                    NO   CL   CW   CE   ES   SS   SR   SA   HS */
		/* INIT          */ {uCL, uCL, uCW, uCE, uES, uCL, uCL, uSA, uCW},
		/* INIT ACK      */ {uCL, uCL, uCW, uCE, uES, uSS, uSR, uSA, uCL},
		/* ABORT         */ {uCL, uCL, uCL, uCL, uCL, uCL, uCL, uCL, uCL},
		/* SHUTDOWN      */ {uCL, uCL, uCW, uCE, uSS, uSS, uSR, uSA, uCL},
		/* SHUTDOWN ACK  */ {uSA, uCL, uCW, uCE, uES, uSA, uSA, uSA, uSA},
		/* ERROR         */ {uCL, uCL, uCW, uCE, uES, uSS, uSR, uSA, uCL},
		/* COOKIE ECHO   */ {uCL, uCL, uCE, uCE, uES, uSS, uSR, uSA, uCL},
		/* COOKIE ACK    */ {uCL, uCL, uCW, uES, uES, uSS, uSR, uSA, uCL},
		/* SHUTD. COMPL. */ {uCL, uCL, uCW, uCE, uES, uSS, uSR, uCL, uCL},
		/* HEARTBEAT     */ {uHS, uCL, uCW, uCE, uES, uSS, uSR, uSA, uHS},
		/* HEARTBEAT ACK */ {uCL, uCL, uCW, uCE, uES, uSS, uSR, uSA, uHS},
	},
	flow.Reply: {
		/* INIT          */ {sctpIV, uCL, uCW, uCE, uES, uSS, uSR, uSA, sctpIV},
		/* INIT ACK      */ {sctpIV, uCW, uCW, uCE, uES, uSS, uSR, uSA, sctpIV},
		/* ABORT         */ {sctpIV, uCL, uCL, uCL, uCL, uCL, uCL, uCL, sctpIV},
		/* SHUTDOWN      */ {sctpIV, uCL, uCW, uCE, uSR, uSS, uSR, uSA, sctpIV},
		/* SHUTDOWN ACK  */ {sctpIV, uCL, uCW, uCE, uES, uSA, uSA, uSA, sctpIV},
		/* ERROR         */ {sctpIV, uCL, uCW, uCL, uES, uSS, uSR, uSA, sctpIV},
		/* COOKIE ECHO   */ {sctpIV, uCL, uCE, uCE, uES, uSS, uSR, uSA, sctpIV},
		/* COOKIE ACK    */ {sctpIV, uCL, uCW, uES, uES, uSS, uSR, uSA, sctpIV},
		/* SHUTD. COMPL. */ {sctpIV, uCL, uCW, uCE, uES, uSS, uSR, uCL, sctpIV},
		/* HEARTBEAT     */ {sctpIV, uCL, uCW, uCE, uES, uSS, uSR, uSA, uHS},
		/* HEARTBEAT ACK */ {sctpIV, uCL, uCW, uCE, uES, uSS, uSR, uSA, uES},
	},
}
