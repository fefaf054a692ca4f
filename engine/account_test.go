package engine

import (
	"context"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/rx"
	"github.com/xdpct/xdpct/shard"
)

// TestFramesOfADeletedPort: when the interface goes that frames are to leave by, each frame
// that came is sent or counted as dropped, what waited in the ring included.
func TestFramesOfADeletedPort(t *testing.T) {
	w := newWire(t, rx.DriverXSK, 1, nil)
	stop, done := make(chan struct{}), make(chan struct{})
	defer func() { <-done }()
	defer close(stop)
	go func() {
		defer close(done)
		for id := uint16(0); ; id++ {
			select {
			case <-stop:
				return
			default:
				_ = w.raw[0].Send(udpFrame(id, 4000, false)) // a busy machine may refuse one
			}
		}
	}()
	stats := func() *Stats {
		s, err := w.e.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return &s
	}
	testenv.Until(t, "frames flow", func() bool { return stats().Ports[1].Queue.Transmitted > 1000 })
	if err := w.box.Delete(portNames[1]); err != nil {
		t.Fatal(err)
	}
	var now *Stats
	var total shard.Stats
	testenv.Until(t, "the worker has given the port up", func() bool {
		now = stats()
		total = now.Total()
		return total.Reasons[flow.ReasonNoPort] > 0
	})
	came, sent, dropped := now.Ports[0].Queue.Received, now.Ports[1].Queue.Transmitted, uint64(0)
	for _, r := range []flow.Reason{flow.ReasonNoPort, flow.ReasonTXRingFull, flow.ReasonTXDown, flow.ReasonTXDropped, flow.ReasonTXError} {
		t.Logf("%d %v", total.Reasons[r], r)
		dropped += total.Reasons[r]
	}
	if came != sent+dropped {
		t.Errorf("%d came, %d were sent and %d dropped: %d are missing", came, sent, dropped, int64(came-sent-dropped))
	}
}
