package icmplimit

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

var secret = flow.Secret{1, 2, 3, 4, 5, 6, 7}

func host(n int) flow.Addr {
	return flow.AddrFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}))
}

// TestPeer: to one host six errors at once, then one for each period, as it was measured
// with Linux 6.18: ICMP at 0 (six), 1000, 2000 and 3000 ms, ICMPv6 each 100 ms.
func TestPeer(t *testing.T) {
	for _, c := range []struct {
		family    flow.Family
		typ, code uint8
		want      int // in four seconds
	}{
		{flow.IPv4, 11, 0, 6 + 3}, {flow.IPv4, 3, 1, 6 + 3},
		{flow.IPv4, 3, 4, 2000}, // path MTU discovery
		{flow.IPv4, 5, 1, 2000}, // not in the mask
		{flow.IPv6, 3, 0, 6 + 39}, {flow.IPv6, 1, 3, 6 + 39},
		{flow.IPv6, 2, 0, 2000}, {flow.IPv6, 137, 0, 2000},
	} {
		l := New(Linux(), &secret)
		got := 0
		for now := int64(10); now < 10+4000; now += 2 {
			if l.Allow(c.family, c.typ, c.code, host(1), now) {
				got++
			}
		}
		if got != c.want {
			t.Errorf("%v type %d code %d: %d errors, not %d", c.family, c.typ, c.code, got, c.want)
		}
	}
}

// TestPeersAreApart: nobody's bucket is emptied by errors to others, and no error to
// anybody keeps another family's back.
func TestPeersAreApart(t *testing.T) {
	s := Linux()
	s.PerSecond, s.Burst = 1e9, 1e9
	l := New(s, &secret)
	for range 6 {
		if !l.Allow(flow.IPv4, 11, 0, host(0), 1) {
			t.Fatal("held back within the burst")
		}
	}
	if l.Allow(flow.IPv4, 11, 0, host(0), 1) {
		t.Fatal("a seventh at once")
	}
	for n := 1; n < 2000; n++ {
		for range 6 {
			if !l.Allow(flow.IPv4, 11, 0, host(n), 2) {
				t.Fatalf("host %d is held back", n)
			}
		}
	}
	for range 6 {
		if !l.Allow(flow.IPv6, 3, 0, host(0), 2) {
			t.Fatal("IPv6 is held back")
		}
	}
}

// TestGlobal: over all hosts a burst of 50, and 1000 a second.
func TestGlobal(t *testing.T) {
	l := New(Linux(), &secret)
	count := func(from, to int64) (n int) {
		for now := from; now < to; now++ {
			for k := range 10 {
				if l.Allow(flow.IPv4, 11, 0, host(int(now)*10+k), now) {
					n++
				}
			}
		}
		return n
	}
	if n := count(0, 1); n != 10 {
		t.Errorf("%d of 10 at once", n)
	}
	if n := count(1, 20); n != 40 {
		t.Errorf("%d more of the burst before the first refill", n)
	}
	if n := count(1000, 3000); n < 1900 || n > 2050 {
		t.Errorf("%d in two seconds", n)
	}
	off := Linux()
	off.PerSecond = 0
	if l := New(off, &secret); l.Allow(flow.IPv4, 11, 0, host(1), 5) {
		t.Error("0 a second let one through")
	}
}

// TestConcurrent: the limits are exact however many send at once.
func TestConcurrent(t *testing.T) {
	s := Linux()
	s.PerSecond, s.Burst = 1e9, 1e9
	l := New(s, &secret)
	var sent atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for now := int64(1); now <= 20_000; now += 10 {
				if l.Allow(flow.IPv4, 3, 1, host(7), now) {
					sent.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := sent.Load(); n < 20 || n > 6+20 {
		t.Errorf("%d in twenty seconds", n)
	}
}

func TestParseTypes(t *testing.T) {
	got, err := ParseTypes("0-1,3-127")
	if want := Linux().Mask6; err != nil || got != want {
		t.Errorf("%x, %v", got, err)
	}
	for _, bad := range []string{"x", "5-3", "256", "1,,2", "-"} {
		if _, err := ParseTypes(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
