package engine

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
	"github.com/xdpct/xdpct/rx"
)

// TestBusyPortHoldsNoOtherUp: while a port that is back cannot be opened, since somebody
// else has its queue, another that is back is opened; and so is the first, once it is free.
func TestBusyPortHoldsNoOtherUp(t *testing.T) {
	s := newSite(t, "", "", nil)
	for _, name := range []string{"lan", "wan"} {
		if err := s.router.Delete(name); err != nil {
			t.Fatal(err)
		}
	}
	up := func(port int) func() bool {
		return func() bool {
			st, err := s.e.Stats(context.Background())
			return err == nil && st.Ports[port].Up
		}
	}
	testenv.Until(t, "both ports are gone", func() bool { return !up(0)() && !up(1)() })

	if err := netlab.Join(netlab.Port{NS: s.router, Name: "held"}, netlab.Port{NS: s.client, Name: "eth0"}); err != nil {
		t.Fatal(err)
	}
	other, err := rx.NewUMEM(rx.RingSize, rx.MaxChunk)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	held, err := s.router.Link("held")
	if err != nil {
		t.Fatal(err)
	}
	var q rx.Queue
	if err := s.router.Do(func() (err error) {
		q, _, err = rx.OpenQueue(other, held.Attrs().Index, 0, nil, nil, rx.QueueOptions{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	free := func() {
		if q != nil {
			_ = q.Close()
			q = nil
		}
	}
	defer free()
	nl := s.router.Netlink()
	if err := errors.Join(nl.LinkSetDown(held), nl.LinkSetName(held, "lan"), nl.LinkSetUp(held)); err != nil {
		t.Fatal(err)
	}
	if err := netlab.Join(netlab.Port{NS: s.router, Name: "wan"}, netlab.Port{NS: s.server, Name: "eth0"}); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "wan is open", up(1))
	const trouble = "in use by another socket"
	if strings.Contains(s.log.String(), trouble) {
		t.Error("wan was opened after the time was up that lan was waited for")
	}
	testenv.Until(t, "the trouble with lan is said", func() bool { return strings.Contains(s.log.String(), trouble) })
	free()
	testenv.Until(t, "lan is open", up(0))
}

// TestCountersOutliveInterfaces: what was counted for a port stays when its interface goes.
func TestCountersOutliveInterfaces(t *testing.T) {
	h, e := newHosts(t, netlab.HostsOptions{}, "", "", nil)
	stats := func() PortStats {
		s, err := e.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return s.Ports[1]
	}
	var before PortStats
	testenv.Until(t, "frames by both", func() bool {
		before = stats()
		return before.Queue.Received > 2 && before.Queue.Transmitted > 2 && before.Program.Steered > 2
	})
	less := func(when string) {
		if s := stats(); s.Queue.Received < before.Queue.Received || s.Queue.Transmitted < before.Queue.Transmitted || s.Program.Steered < before.Program.Steered {
			t.Errorf("%s: %+v, after %+v", when, s, before)
		}
	}
	if err := h.Detach("right"); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "the port is gone", func() bool { return !stats().Up })
	less("gone")
	if err := h.Attach("right", netlab.Veth); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "the port is back", func() bool { return stats().Up })
	less("back")
}

// TestSubscribeAfterStop: who subscribes to events of an engine that has stopped, or had
// before, is told that there are none to come.
func TestSubscribeAfterStop(t *testing.T) {
	_, e := newHosts(t, netlab.HostsOptions{}, "", "", nil)
	early, earlyExpect := e.Subscribe(flow.Filter{}, 0, 1), e.SubscribeExpect()
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	late, lateExpect := e.Subscribe(flow.Filter{}, 0, 1), e.SubscribeExpect()
	for name, s := range map[string]*Subscription{"early": early, "late": late} {
		select {
		case _, open := <-s.C:
			if open {
				t.Errorf("%s: an event", name)
			}
		case <-time.After(testenv.Patience):
			t.Errorf("%s: it waits for events", name)
		}
		s.Close()
	}
	for name, s := range map[string]*ExpectSubscription{"early": earlyExpect, "late": lateExpect} {
		select {
		case _, open := <-s.C:
			if open {
				t.Errorf("%s: an event about an expectation", name)
			}
		case <-time.After(testenv.Patience):
			t.Errorf("%s: it waits for expectations", name)
		}
		s.Close()
	}
}

// TestPollPause: a second, unless to look takes so long that it would be more than a
// twentieth of the time.
func TestPollPause(t *testing.T) {
	for _, took := range []time.Duration{0, time.Millisecond, 50 * time.Millisecond, time.Second, time.Minute} {
		p := pollPause(took)
		if p < time.Second || p > time.Second && float64(took)/float64(took+p) < 0.0499 || float64(took)/float64(took+p) > 0.0501 {
			t.Errorf("%v after %v", p, took)
		}
	}
}

// TestNATStats: connections that are translated have claims in the directory of a router
// with several shards, and leave none.
func TestNATStats(t *testing.T) {
	s := newSiteOf(t, 2, masqueradeRules4, "", nil)
	claims := func() int {
		st, err := s.e.Stats(context.Background())
		if err != nil || st.NAT == nil || st.NAT.Directory.Room == 0 || st.NAT.Sources.Room == 0 {
			t.Fatalf("%+v, %v", st.NAT, err)
		}
		return st.NAT.Directory.Claims
	}
	var c net.Conn
	if err := s.client.Do(func() (err error) { c, err = net.Dial("udp", serverIP+":9"); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	testenv.Until(t, "a translated connection has claims", func() bool {
		_, _ = c.Write([]byte("x"))
		return claims() > 0
	})
	testenv.Until(t, "none is left", func() bool {
		if _, err := s.e.Flush(context.Background(), flow.Filter{}); err != nil {
			t.Fatal(err)
		}
		return claims() == 0
	})
}
