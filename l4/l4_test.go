package l4

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// stateKeys are the abbreviations of the table in reference/netfilter.md.
var stateKeys = map[string]flow.TCPState{
	"none": sNO, "SS": sSS, "SR": sSR, "ES": sES, "FW": sFW, "CW": sCW, "LA": sLA, "TW": sTW, "CL": sCL, "S2": sS2,
	"IG": sIG, "IV": sIV,
}

var indexKeys = map[string]flow.TCPIndex{
	"SYN": flow.TCPSyn, "SYNACK": flow.TCPSynAck, "FIN": flow.TCPFin, "ACK": flow.TCPAck, "RST": flow.TCPRst,
}

// TestTransitions compares every cell of the state table with the one that was
// read from the kernel's source.
func TestTransitions(t *testing.T) {
	text, err := os.ReadFile(testenv.Shared(t, "reference/netfilter.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "| from state → |")
	if !ok {
		t.Fatal("the table is gone from netfilter.md")
	}
	rows := strings.Split(after, "\n")
	var columns []flow.TCPState
	for _, c := range strings.Split(strings.Trim(rows[0], " |"), "|") {
		columns = append(columns, stateKeys[strings.TrimSpace(c)])
	}
	if len(columns) != int(flow.NumTCPStates) {
		t.Fatalf("%d columns", len(columns))
	}
	row := regexp.MustCompile(`^\| (orig|reply) (\w+) \|(.*)\|$`)
	cells := 0
	for _, r := range rows {
		m := row.FindStringSubmatch(r)
		if m == nil {
			continue
		}
		d := flow.Original
		if m[1] == "reply" {
			d = flow.Reply
		}
		for i, c := range strings.Split(m[3], "|") {
			want, ok := stateKeys[strings.Trim(c, " *")]
			if !ok {
				t.Fatalf("cell %q", c)
			}
			cells++
			if got := tcpTransitions[d][indexKeys[m[2]]][columns[i]]; got != want {
				t.Errorf("%v %s in %v: %d, want %d", d, m[2], columns[i], got, want)
			}
		}
	}
	if cells != 100 {
		t.Errorf("%d cells compared, want 100", cells)
	}
	for d := range tcpTransitions {
		for st, got := range tcpTransitions[d][flow.TCPNoFlags] {
			if got != sIV {
				t.Errorf("no flags in %v: %d", flow.TCPState(st), got)
			}
		}
	}
}

// TestTotal calls the TCP tracker with every flag byte in every state, direction and
// status, in the window and out of it: it must always answer, an INVALID packet must leave
// state, status and expiry alone, and one that is accepted must lead to the state that the
// table of transitions has. That segments in the window reach the cells is held by how many
// of each there are.
func TestTotal(t *testing.T) {
	cfg := Linux()
	outcomes := map[bool]map[Outcome]int{true: {}, false: {}}
	reached := map[[3]int]bool{}
	for st := flow.TCPSynSent; st < flow.NumTCPStates; st++ {
		for d := flow.Original; d <= flow.Reply; d++ {
			for status := flow.Status(0); status < 8; status++ {
				for flags := range 512 {
					in := flags&256 == 0
					c := flow.Conn{State: uint8(st), Status: status, Expires: 1000_000}
					c.TCP.Seen[0] = flow.TCPSeen{End: 1000, MaxEnd: 9000, MaxWin: 8000}
					c.TCP.Seen[1] = flow.TCPSeen{End: 5000, MaxEnd: 9000, MaxWin: 8000}
					before := c
					p := packet.Packet{Proto: flow.TCP, TCP: packet.TCP{
						Seq: 20000, Ack: 5000, Window: 100, Flags: packet.TCPFlags(flags), HeaderLen: 20,
					}}
					if in {
						p.TCP.Seq, p.TCP.Ack = c.TCP.Seen[d].End, c.TCP.Seen[d.Other()].End
					}
					r := cfg.Packet(&c, &p, d, 0)
					outcomes[in][r.Outcome]++
					index := p.TCP.Flags.Index()
					switch r.Outcome {
					case Accept:
						if r.Timeout == 0 || c.State == 0 || flow.TCPState(c.State) >= flow.NumTCPStates {
							t.Fatalf("%v %v %08b: %+v, state %d", st, d, flags, r, c.State)
						}
						if want := tcpTransitions[d][index][st]; want < flow.NumTCPStates && flow.TCPState(c.State) != want {
							t.Fatalf("%v %v %08b: state %v, the table has %v", st, d, flags, flow.TCPState(c.State), want)
						}
						reached[[3]int{int(d), int(index), int(st)}] = true
					case Invalid:
						if r.Reason == flow.NoReason {
							t.Fatalf("%v %v %08b: INVALID without a reason", st, d, flags)
						}
						if c.State != before.State || c.Status != before.Status || c.Expires != before.Expires {
							t.Fatalf("%v %v %08b: INVALID, but changed", st, d, flags)
						}
					case Keep, Close, Reopen, Shorten:
					default:
						t.Fatalf("outcome %d", r.Outcome)
					}
				}
			}
		}
	}
	t.Logf("in the window %v, out of it %v, %d cells accept", outcomes[true], outcomes[false], len(reached))
	if len(reached) < 50 || outcomes[true][Accept] < 2*outcomes[false][Accept] {
		t.Errorf("hardly a segment was accepted: in the window %v, out of it %v, %d cells", outcomes[true], outcomes[false], len(reached))
	}
}
