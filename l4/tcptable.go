package l4

import "github.com/xdpct/xdpct/flow"

// Two pseudo states of the table below, as in nf_conntrack_proto_tcp.c.
const (
	tcpIgnore  = flow.NumTCPStates + iota // sIG: let the packet through, keep the state
	tcpInvalid                            // sIV: the packet is INVALID
)

const (
	sNO = flow.TCPNone
	sSS = flow.TCPSynSent
	sSR = flow.TCPSynRecv
	sES = flow.TCPEstablished
	sFW = flow.TCPFinWait
	sCW = flow.TCPCloseWait
	sLA = flow.TCPLastAck
	sTW = flow.TCPTimeWait
	sCL = flow.TCPClose
	sS2 = flow.TCPSynSent2
	sIG = tcpIgnore
	sIV = tcpInvalid
)

// tcpTransitions is the state table of Linux (tcp_conntracks): the new state by
// direction, class of packet and old state. docs/parity.md names the two cells
// in which it differs from the table that older kernels had.
var tcpTransitions = [2][flow.NumTCPIndexes][flow.NumTCPStates]flow.TCPState{
	flow.Original: {
		//               sNO, sSS, sSR, sES, sFW, sCW, sLA, sTW, sCL, sS2
		flow.TCPSyn:     {sSS, sSS, sIG, sIG, sIG, sIG, sIG, sSS, sSS, sS2},
		flow.TCPSynAck:  {sIV, sIV, sSR, sIV, sIV, sIV, sIV, sIV, sIV, sSR},
		flow.TCPFin:     {sIV, sIV, sFW, sFW, sLA, sLA, sLA, sTW, sCL, sIV},
		flow.TCPAck:     {sES, sIV, sES, sES, sCW, sCW, sTW, sTW, sCL, sIV},
		flow.TCPRst:     {sIV, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL},
		flow.TCPNoFlags: {sIV, sIV, sIV, sIV, sIV, sIV, sIV, sIV, sIV, sIV},
	},
	flow.Reply: {
		//               sNO, sSS, sSR, sES, sFW, sCW, sLA, sTW, sCL, sS2
		flow.TCPSyn:     {sIV, sS2, sIV, sIV, sIV, sIV, sIV, sSS, sIV, sS2},
		flow.TCPSynAck:  {sIV, sSR, sIG, sIG, sIG, sIG, sIG, sIG, sIG, sSR},
		flow.TCPFin:     {sIV, sIV, sFW, sFW, sLA, sLA, sLA, sTW, sCL, sIV},
		flow.TCPAck:     {sIV, sIG, sSR, sES, sCW, sCW, sTW, sTW, sCL, sIG},
		flow.TCPRst:     {sIV, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL, sCL},
		flow.TCPNoFlags: {sIV, sIV, sIV, sIV, sIV, sIV, sIV, sIV, sIV, sIV},
	},
}
