package kernel

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/shard"
)

// TestBlindResets asks the kernel what a RST does that is not at the next sequence number,
// as an attacker sends it who does not see the connection (RFC 5961, 3): a shard does the
// same, and with TCPExactRST only the exact ones close, while others in the window change
// nothing.
func TestBlindResets(t *testing.T) {
	testenv.Root(t)
	o, err := NewOracle(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	const syn, ack, fin, rst = packet.SYN, packet.ACK, packet.FIN, packet.RST
	open := []said{
		tcpSegment(A, 1000, 80, syn, 100, 0), tcpSegment(B, 80, 1000, syn|ack, 500, 101), tcpSegment(A, 1000, 80, ack, 101, 501),
		tcpSegment(B, 80, 1000, ack, 501, 101),
	}
	half := append(append([]said(nil), open...), tcpSegment(A, 1000, 80, fin|ack, 101, 501), tcpSegment(B, 80, 1000, ack, 501, 102))
	shorter := 0
	for _, c := range []struct {
		name   string
		script []said
		next   [2]uint32 // sequence numbers that A and B send next
	}{{"ESTABLISHED", open, [2]uint32{101, 501}}, {"CLOSE_WAIT", half, [2]uint32{102, 501}}} {
		for from := range Side(2) {
			for _, off := range []int{-70000, -1, 0, 1, 7, 900, 999, 1000, 1001, 70000} {
				for _, flags := range []packet.TCPFlags{rst, rst | ack} {
					name := fmt.Sprintf("%s side %d %+d %v", c.name, from, off, flags)
					sport, dport := uint16(1000), uint16(80)
					if from == B {
						sport, dport = dport, sport
					}
					number := uint32(0)
					if flags&ack != 0 {
						number = c.next[from^1]
					}
					last := tcpSegment(from, sport, dport, flags, c.next[from]+uint32(off), number)
					script := append(append([]said(nil), c.script...), last)
					if err := o.Flush(); err != nil {
						t.Fatal(err)
					}
					var v Verdict
					for _, s := range script {
						if v, _, err = o.Send(s.from, s.d); err != nil {
							t.Fatal(err)
						}
					}
					state, left := kernelEntry(t, o)
					before := entryOf(t, l4.Linux(), c.script)
					plain := entryOf(t, l4.Linux(), script)
					exactly := l4.Linux()
					exactly.TCPExactRST = true
					exact := entryOf(t, exactly, script)

					if plain.verdict.State != v.State || plain.state != state || plain.left-left > 2 || left-plain.left > 2 {
						t.Errorf("%s: %v %s %d s, the kernel has %v %s %d s", name, plain.verdict.State, plain.state, plain.left, v.State, state, left)
					}
					switch {
					case off == 0:
						if exact.state != flow.TCPClose.String() {
							t.Errorf("%s: an exact RST leaves the connection %s", name, exact.state)
						}
					case exact.state != before.state || exact.left != before.left:
						t.Errorf("%s: %s %d s becomes %s %d s", name, before.state, before.left, exact.state, exact.left)
					case exact.verdict.Action != shard.Accept:
						t.Errorf("%s: %v", name, exact.verdict.Action)
					case off > 0 && off < 1000 && (exact.verdict.State != flow.Established || exact.verdict.Reason != flow.ReasonTCPNotExact):
						t.Errorf("%s: %v %v", name, exact.verdict.State, exact.verdict.Reason)
					case (off < 0 || off > 60000) && exact.verdict.State != flow.Invalid:
						t.Errorf("%s: %v, out of the window", name, exact.verdict.State)
					}
					if off != 0 && left < 60 {
						shorter++
					}
				}
			}
		}
	}
	if shorter == 0 {
		t.Error("the kernel is left as it is by blind RSTs: the setting is of no use any more")
	}
}

// entry is what a tracker has of a connection, and its verdict on the last packet.
type entry struct {
	state   string
	left    int // seconds
	verdict shard.Verdict
}

// entryOf runs a script through a shard that has no connections.
func entryOf(t *testing.T, cfg l4.Config, script []said) (e entry) {
	t.Helper()
	s, err := shard.New(shard.Config{L4: cfg, Checks: packet.Checks{Transport: true}, MaxConns: 64, Shards: 1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Tick(1)
	for _, d := range script {
		var p [1]packet.Packet
		var v [1]shard.Verdict
		frame := Frame(d.from, d.d)
		p[0].Parse(frame, len(frame), packet.Checks{Transport: true})
		s.Hash(&p[0])
		s.Process(p[:], v[:])
		e.verdict = v[0]
	}
	s.Walk(0, 64, func(_ uint32, c *flow.Conn) bool {
		e.state, e.left = flow.TCPState(c.State).String(), int(c.Expires.Until(1)/1000)
		return false
	})
	return e
}

// kernelEntry reads the one TCP connection in the kernel's table.
func kernelEntry(t *testing.T, o *Oracle) (state string, left int) {
	t.Helper()
	table, err := o.Table()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if w := strings.Fields(line); len(w) > 5 && w[2] == "tcp" {
			if left, err = strconv.Atoi(w[4]); err != nil {
				t.Fatal(err)
			}
			return w[5], left
		}
	}
	return "", 0
}
