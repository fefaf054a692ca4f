package engine

import (
	"context"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx"
)

// TestBridgeMTU: a bridge drops what is longer than the port out takes, by name, as
// is_skb_forwardable does, and follows the MTU of an interface that changes.
func TestBridgeMTU(t *testing.T) {
	w := newWire(t, rx.DriverXSK, 1, nil)
	setMTU := func(mtu int) {
		t.Helper()
		link, err := w.box.Link("right")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.box.Netlink().LinkSetMTU(link, mtu); err != nil {
			t.Fatal(err)
		}
	}
	frame := packet.AppendEthernet(nil, macB, macA, packet.AppendUDP(nil, packet.IP{Src: ipA, Dst: ipB, ID: 7}, 1000, 53, make([]byte, 1300)))
	tooBig := func() uint64 {
		t.Helper()
		s, err := w.e.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return s.Total().Reasons[flow.ReasonTooBig]
	}
	// passes sends the frame and reports whether it came out; if not it was counted.
	passes := func() bool {
		t.Helper()
		before := tooBig()
		if err := w.raw[0].Send(frame); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			f, err := w.raw[1].Recv(10 * time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			if string(f) == string(frame) {
				return true
			}
			if tooBig() > before {
				return false
			}
		}
		t.Fatal("the frame neither passes nor is counted")
		return false
	}
	if !passes() {
		t.Fatal("a frame that fits is dropped")
	}
	setMTU(1000)
	testenv.Until(t, "drop", func() bool { return !passes() })
	setMTU(1500)
	testenv.Until(t, "frame that passes", func() bool { return passes() })
}
