package kernel

import (
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/icmplimit"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// TestICMPLimitsAgree lets packets to one host expire in the kernel's router, with its
// sysctls as they are, and compares how many are answered with what the limits allow at
// the same moments.
func TestICMPLimitsAgree(t *testing.T) {
	testenv.Root(t)
	o, err := NewRouter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		l := icmplimit.New(icmplimit.Linux(), &flow.Secret{1, 2, 3, 4, 5, 6, 7})
		typ := uint8(11)
		if f == flow.IPv6 {
			typ = 3
		}
		kernel, ours := 0, 0
		begin := time.Now()
		for n := 0; n < 200 || kernel < 8 && n < 100_000; n++ { // until the burst is over, and a token has come
			out, err := o.Exchange(A, packet.AppendUDP(nil, packet.IP{Src: A.Host(2, f), Dst: B.Host(1, f), TTL: 1}, 9, 10, nil))
			if err != nil {
				t.Fatal(err)
			}
			kernel += len(out[A])
			if l.Allow(f, typ, 0, flow.AddrFrom(A.Host(2, f)), time.Since(begin).Milliseconds()) {
				ours++
			}
		}
		if d := kernel - ours; d < -1 || d > 1 {
			t.Errorf("%v: the kernel sent %d errors in %v, these limits allow %d", f, kernel, time.Since(begin), ours)
		}
	}
}
