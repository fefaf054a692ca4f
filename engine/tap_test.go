package engine

import (
	"context"
	"log/slog"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// TestTapSeesOthers: a tap of a Linux bridge tracks what hosts on the bridge say to each
// other, which is to no address of the bridge itself.
func TestTapSeesOthers(t *testing.T) {
	testenv.Root(t)
	h, err := netlab.NewHosts(netlab.HostsOptions{Left: netlab.LinuxBridge, Right: netlab.Veth})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	if err := h.Box.Enslave("right", "left"); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Mode, cfg.Ports = Tap, []PortConfig{{Interface: "left"}}
	cfg.Settings.Max = 1000
	var e *Engine
	if err := h.Box.Do(func() error { e, err = Open(cfg, slog.New(slog.DiscardHandler)); return err }); err != nil {
		t.Fatal(err)
	}
	e.Start()
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	serveTCP(t, h.Right, netlab.PeerIP+":80")
	c, _ := dial(t, h.Left, netlab.PeerIP+":80")
	echo(t, c, 1000)
	testenv.Until(t, "connection of the hosts", func() bool {
		assured := false
		if err := e.List(context.Background(), flow.Filter{}, func(r *flow.Record) error {
			assured = assured || r.Status&flow.Assured != 0
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return assured
	})
}
