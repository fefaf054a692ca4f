package engine

import (
	"context"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/rx"
)

// TestGluedBelowMTU has the stack of a host glue segments into packets that the port it is
// at takes whole (MTU 9000), and the way on does not (1500): they are cut all the same, also
// after the port has another MTU.
func TestGluedBelowMTU(t *testing.T) {
	testenv.Root(t)
	for _, routed := range []bool{true, false} {
		name, to, rules4 := "bridge", netlab.PeerIP, ""
		if routed {
			name, to, rules4 = "router", netlab.RightIP, portRules4
		}
		t.Run(name, func(t *testing.T) {
			h, err := netlab.NewHosts(netlab.HostsOptions{Left: netlab.Veth, Right: netlab.Veth, Routed: routed})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(h.Close)
			setMTU := func(ns *netlab.NS, link string, mtu int) {
				t.Helper()
				l, err := ns.Link(link)
				if err != nil {
					t.Fatal(err)
				}
				if err := ns.Netlink().LinkSetMTU(l, mtu); err != nil {
					t.Fatal(err)
				}
			}
			setMTU(h.Box, "left", 9000)
			setMTU(h.Left, "eth0", 9000)
			e := startBetween(t, h, routed, rules4, "", func(c *Config) { c.XDP = rx.ModeGeneric })
			serveTCP(t, h.Right, to+":80")
			send := func() {
				t.Helper()
				c, _ := dial(t, h.Left, to+":80")
				echo(t, c, 4<<20)
			}
			send()
			s, err := e.Stats(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			reasons := s.Total().Reasons
			if big, large := reasons[flow.ReasonTooBig], reasons[flow.ReasonFrameTooLarge]; big+large > 0 {
				t.Errorf("%d packets were too big, %d frames too large", big, large)
			}
			if s.Ports[0].Program.Large == 0 {
				t.Error("nothing was glued: the test tests nothing")
			}
			setMTU(h.Left, "eth0", 1500)
			setMTU(h.Box, "left", 1500)
			send()
			if s, err = e.Stats(context.Background()); err != nil {
				t.Fatal(err)
			}
			reasons = s.Total().Reasons
			if big, large := reasons[flow.ReasonTooBig], reasons[flow.ReasonFrameTooLarge]; big+large > 0 {
				t.Errorf("with another MTU %d packets were too big, %d frames too large", big, large)
			}
		})
	}
}
