package shard

import (
	"fmt"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/route"
)

// TestRulesAreNotWalked: packets of a known connection do not enter the pipeline, however many
// rules there are, where these come to a verdict and counters; they count all the same.
func TestRulesAreNotWalked(t *testing.T) {
	for _, routes := range map[string]*route.Table{"bridge": nil, "router": threeWays(1)} {
		for _, n := range []int{1, 100, 10_000} {
			var rules strings.Builder
			rules.WriteString("*filter\n:FORWARD DROP [0:0]\n")
			for i := range n {
				fmt.Fprintf(&rules, "-A FORWARD -s 192.0.%d.%d -p udp -j DROP\n", i>>8&255, i&255)
			}
			rules.WriteString("-A FORWARD -p udp -j ACCEPT\nCOMMIT\n")
			b := newForwarder(t, rules.String(), "", routes)
			there := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, udp(clientIP, serverIP, 4000, 53))
			back := packet.AppendEthernet(nil, packet.MAC{2, 1}, packet.MAC{4, 1}, udp(serverIP, clientIP, 53, 4000))
			const nobody = -77
			entered := func(in int, frame []byte) bool {
				b.forward.forwarded.n = nobody
				if _, v := b.passFrame(in, frame); v.Action != Accept {
					t.Fatalf("%d rules: %v %v", n, v.Action, v.Reason)
				}
				return b.forward.forwarded.n != nobody
			}
			if !entered(0, there) {
				t.Fatal("the first packet does not enter the pipeline: the test sees nothing")
			}
			for range 2 { // the code is made of the second in a direction
				entered(1, back)
				entered(0, there)
			}
			for range 10 {
				if entered(0, there) || entered(1, back) {
					t.Fatalf("%d rules: a packet of a known connection enters the pipeline", n)
				}
			}
			last := b.Counts()
			total := uint64(0)
			for _, c := range last {
				total += c.Packets
			}
			if total != 25 {
				t.Errorf("%d rules: they have counted %d packets of 25", n, total)
			}
		}
	}
}
