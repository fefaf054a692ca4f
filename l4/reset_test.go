package l4

import (
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// TestExactRST sweeps RSTs over a connection in each synchronised state: only those at one
// of the two numbers that RFC 5961 (3.2) and the sender's own SND.NXT allow may change
// anything, with TCPExactRST; without, others do.
func TestExactRST(t *testing.T) {
	const acked, sent, window = 5000, 5300, 20000
	for _, exact := range []bool{false, true} {
		cfg := Linux()
		cfg.TCPExactRST = exact
		changed := 0
		for st := flow.TCPSynSent; st < flow.NumTCPStates; st++ {
			if !synchronised(st) {
				continue
			}
			for d := flow.Original; d <= flow.Reply; d++ {
				for seq := uint32(acked - 100); seq < acked+window+1000; seq++ {
					c := flow.Conn{State: uint8(st), Status: flow.SeenReply | flow.Assured | flow.Confirmed, Expires: 1000_000}
					c.TCP.Seen[d] = flow.TCPSeen{End: sent, MaxEnd: acked + window, MaxWin: 8000}
					c.TCP.Seen[d.Other()] = flow.TCPSeen{End: 700, MaxEnd: 9000, MaxWin: window, MaxAck: acked}
					c.TCP.Flags[d.Other()] = flow.TCPMaxAckSet
					before := c
					p := packet.Packet{Proto: flow.TCP, TCP: packet.TCP{Seq: seq, Flags: packet.RST, HeaderLen: 20}}
					r := cfg.Packet(&c, &p, d, 0)
					same := c == before && (r.Outcome == Keep || r.Outcome == Invalid)
					hit := seq == acked || seq == sent
					switch {
					case hit && (flow.TCPState(c.State) != flow.TCPClose || r.Outcome != Accept) && exact:
						t.Fatalf("%v %v: an exact RST at %d: %+v, state %d", st, d, seq, r, c.State)
					case exact && !hit && !same:
						t.Fatalf("%v %v: a RST at %d: %+v, state %d", st, d, seq, r, c.State)
					case exact && r.Outcome == Invalid && seq >= acked && seq <= acked+window:
						t.Fatalf("%v %v: a RST at %d, in the window, is INVALID", st, d, seq)
					case !same && !hit:
						changed++
					}
				}
			}
		}
		if changed > 0 == exact {
			t.Errorf("exact %v: %d RSTs that are not exact changed something", exact, changed)
		}
	}
}
