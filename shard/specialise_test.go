package shard

import (
	"testing"

	"github.com/xdpct/xdpct/policy"
)

// TestCodesFull: once a shard remembers as many codes as it can, a connection whose
// packets come to rules that others came to has their code still; one that would need
// another is judged by the rules, and has it tried once.
func TestCodesFull(t *testing.T) {
	const rules = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p udp --dport 53 -j ACCEPT\n-A FORWARD -p udp --sport 53 -j ACCEPT\n" +
		"-A FORWARD -p udp --dport 54 -j ACCEPT\nCOMMIT\n"
	b := newForwarder(t, rules, "", threeWays(1))
	ask := func(sport, dport uint16) path {
		t.Helper()
		for range 3 {
			if _, v := b.pass(0, udp(clientIP, serverIP, sport, dport)); v.Action != Accept {
				t.Fatalf("from %d to %d: %v %v", sport, dport, v.Action, v.Reason)
			}
		}
		for i, p := range b.forward.paths {
			if c := b.table.Conn(uint32(i)); c.Tuple(0, nil).L4.Src() == sport {
				return p[0]
			}
		}
		t.Fatalf("no connection from %d", sport)
		return path{}
	}
	first := ask(4000, 53)
	if first.code <= noCode {
		t.Fatalf("the first connection has code %d", first.code)
	}
	f := &b.forward
	f.codes.all = append(f.codes.all, make([]*policy.Code, maxCodes-len(f.codes.all))...)
	if got := ask(4001, 53); got.code != first.code {
		t.Errorf("a connection of the same rules has code %d, not %d", got.code, first.code)
	}
	if got := ask(4002, 54); got.code != noCode {
		t.Errorf("a connection of other rules has code %d", got.code)
	}
	if n := len(f.codes.all); n != maxCodes {
		t.Errorf("%d codes are remembered, of %d at most", n, maxCodes)
	}
}
