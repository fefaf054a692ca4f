package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx"
)

// TestBridgeFilters puts rules between the ports of a bridge: what they accept passes
// unchanged, what they drop does not, and what they reject is answered, as from where it
// was going to.
func TestBridgeFilters(t *testing.T) {
	eachDriver(t, func(t *testing.T, d rx.Driver) {
		file := filepath.Join(t.TempDir(), "rules.v4")
		text := `*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A FORWARD -i left -o right -p udp -m udp --dport 53 -j ACCEPT
-A FORWARD -p udp -m udp --dport 54 -j REJECT
COMMIT
`
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		w := newWire(t, d, 1, func(c *Config) { c.Rules.IPv4 = file })
		send := func(side int, src, dst packet.IP, sport, dport uint16) []byte {
			a, b := macA, macB
			if side == 1 {
				a, b = macB, macA
			}
			f := packet.AppendEthernet(nil, b, a, packet.AppendUDP(nil, packet.IP{Src: src.Src, Dst: dst.Src}, sport, dport, []byte("hello")))
			if err := w.raw[side].Send(f); err != nil {
				t.Fatal(err)
			}
			return f
		}
		left, right := packet.IP{Src: ipA}, packet.IP{Src: ipB}
		// expect waits for a frame at a side that is what is wanted, or for none.
		expect := func(side int, what string, wanted func(f []byte) bool) {
			t.Helper()
			for deadline := time.Now().Add(3 * time.Second); ; {
				f, err := w.raw[side].Recv(100 * time.Millisecond)
				if err != nil {
					t.Fatal(err)
				}
				if f != nil && wanted(f) {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s did not come", what)
				}
			}
		}
		query := send(0, left, right, 4000, 53)
		expect(1, "the query", func(f []byte) bool { return string(f) == string(query) })
		answer := send(1, right, left, 53, 4000)
		expect(0, "the answer", func(f []byte) bool { return string(f) == string(answer) })

		send(1, right, left, 4001, 53) // not from this side
		rejected := send(0, left, right, 4002, 54)
		expect(0, "the ICMP error", func(f []byte) bool {
			var p packet.Packet
			p.Parse(f, len(f), packet.Checks{Transport: true})
			src, dst := p.Addrs()
			return p.Kind == packet.Error && p.Proto == flow.ICMP && f[p.L4] == 3 && f[p.L4+1] == 3 &&
				src.Netip(p.Family) == ipB && dst.Netip(p.Family) == ipA &&
				packet.MAC(f) == macA && packet.MAC(f[6:]) == macB && string(f[p.L4+8:]) == string(rejected[14:])
		})
		if f, _ := w.raw[0].Recv(100 * time.Millisecond); f != nil {
			t.Errorf("what was dropped came through: %x", f)
		}
		if n := w.count(t); n != 1 {
			t.Errorf("%d connections, want 1: those that were dropped leave none", n)
		}
		err := w.e.LoadRules(strings.NewReader("*nat\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n"), "nat", flow.IPv4)
		if err == nil || !strings.Contains(err.Error(), "mode: router") {
			t.Errorf("a bridge that is to translate: %v", err)
		}
	})
}
