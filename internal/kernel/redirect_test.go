package kernel

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// TestRedirectsAgree: whom a router with one arm tells of a better next hop. With a table
// nat the first packet of an IPv4 connection does not bring a redirect, whatever the rules
// say, but counts in the pace; a translated connection never does
// (nf_nat_icmp_reply_translation). Those of IPv6 no translation sees.
func TestRedirectsAgree(t *testing.T) {
	testenv.Root(t)
	pin(t)
	// Without a rule that asks for it the kernel tracks nothing.
	const tracked = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m conntrack --ctstate NEW\nCOMMIT\n"
	const empty = tracked + "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n"
	for _, c := range []struct {
		name, rules string
		want        [2][2]int // redirects for each of two packets, by family
	}{
		{"no translation", tracked, [2][2]int{{1, 1}, {1, 1}}},
		{"a table nat", empty + "COMMIT\n", [2][2]int{{0, 1}, {1, 1}}},
		{"not tracked", "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j CT --notrack\nCOMMIT\n" + empty + "COMMIT\n", [2][2]int{{1, 1}, {1, 1}}},
		{"masqueraded", empty + "-A POSTROUTING -o r0 -j MASQUERADE\nCOMMIT\n", [2][2]int{{0, 0}, {1, 1}}},
		{"another destination", empty + "-A PREROUTING -p udp --dport 9 -j DNAT --to-destination :10\nCOMMIT\n", [2][2]int{{0, 0}, {1, 1}}},
	} {
		for i, f := range []flow.Family{flow.IPv4, flow.IPv6} {
			t.Run(fmt.Sprintf("%s/%v", c.name, f), func(t *testing.T) {
				l := &lab{redirects: true}
				k, err := newLinux(l, f, c.rules, nil, false)
				if err != nil {
					t.Fatal(err)
				}
				defer k.o.Close() // it remembers whom it told
				x, err := newDevice(1, l, f, c.rules)
				if err != nil {
					t.Fatal(err)
				}
				defer x.close()
				udp := Frame(A, packet.AppendUDP(nil, packet.IP{Src: A.Host(1, f), Dst: A.Host(2, f)}, 1000, 9, make([]byte, 10)))
				for n, want := range c.want[i] {
					linux, err := k.exchange(A, udp)
					if err != nil {
						t.Fatal(err)
					}
					mine, err := x.exchange(A, udp)
					if err != nil {
						t.Fatal(err)
					}
					if len(linux[A])-1 != want {
						t.Errorf("packet %d: %d redirects of the kernel, not %d", n, len(linux[A])-1, want)
					}
					if !slices.EqualFunc(linux[A], mine[A], func(a, b []byte) bool { return bytes.Equal(timeless(a), timeless(b)) }) {
						t.Errorf("packet %d\nkernel %s\nxdpct  %s", n, dump(linux[A]), dump(mine[A]))
					}
					time.Sleep(60 * time.Millisecond) // the pace: the first holds the second back for 40
				}
			})
		}
	}
}
