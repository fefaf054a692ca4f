package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
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
		// expect waits for a frame at a side that is what is wanted.
		expect := func(side int, what string, wanted func(f []byte) bool) {
			t.Helper()
			testenv.Until(t, what, func() bool {
				f, err := w.raw[side].Recv(100 * time.Millisecond)
				if err != nil {
					t.Fatal(err)
				}
				return f != nil && wanted(f)
			})
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
		answer = send(1, right, left, 53, 4000) // what was dropped would come before this
		if f, _ := w.raw[0].Recv(testenv.Patience); string(f) != string(answer) {
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

// TestBridgePortRenamed: rules know a port of a bridge by the name that it has now, as
// those of a router do; when it was deleted it is looked for under that of the
// configuration, and known by it again.
func TestBridgePortRenamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules.v4")
	text := `*filter
:FORWARD DROP [0:0]
-A FORWARD -i west -p udp -j ACCEPT
-A FORWARD -i left -p udp -m udp --dport 53 -j ACCEPT
COMMIT
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWire(t, rx.DriverXSK, 1, func(c *Config) { c.Rules.IPv4 = file })
	frame := func(dport uint16) string {
		return string(packet.AppendEthernet(nil, macB, macA,
			packet.AppendUDP(nil, packet.IP{Src: ipA, Dst: ipB}, 4000, dport, []byte("hello"))))
	}
	// passes sends frames until one comes out, or, if none is to, until one has been
	// dropped by the rules.
	passes := func(dport uint16) (passed bool) {
		t.Helper()
		drops := func() uint64 {
			s, err := w.e.Stats(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			total := s.Total()
			return total.Reasons[flow.ReasonRule]
		}
		before := drops()
		testenv.Until(t, "a frame passes or is dropped by a rule", func() bool {
			if err := w.raw[0].Send([]byte(frame(dport))); err != nil {
				t.Fatal(err)
			}
			f, err := w.raw[1].Recv(50 * time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			passed = string(f) == frame(dport)
			return passed || drops() > before
		})
		return passed
	}
	if passes(54) {
		t.Error("a rule for another name lets packets pass")
	}
	link, err := w.box.Link("left")
	if err == nil {
		err = errors.Join(w.box.SetUp("left", false), w.box.Netlink().LinkSetName(link, "west"), w.box.SetUp("west", true))
	}
	if err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "the rule for the new name applies", func() bool { return passes(54) })
	s, err := w.e.Stats(t.Context())
	if err != nil || s.Ports[0].Interface != "west" {
		t.Errorf("%v, statistics of %+v", err, s.Ports)
	}
	if link, err = w.box.Link("west"); err == nil {
		err = w.box.Netlink().LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.join(t, 0, 1)
	testenv.Until(t, "the rule for the name of the configuration applies", func() bool { return passes(53) })
	testenv.Until(t, "the rule for the other name does not", func() bool { return !passes(54) })
}
