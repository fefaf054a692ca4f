package policy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy/syntax"
)

// TestPortlessRules: which rules concern what is addressed to a router whatever its port.
func TestPortlessRules(t *testing.T) {
	for _, c := range []struct {
		rule     string
		portless bool
		own      bool // concerns 192.0.2.1
	}{
		{"-s 198.51.100.77/32 -j DNAT --to-destination 10.0.0.2", true, true},
		{"-d 203.0.113.0/24 -j DNAT --to-destination 10.0.0.2", true, false},
		{"! -d 203.0.113.0/24 -j DNAT --to-destination 10.0.0.2", true, true},
		{"! -d 192.0.2.1/32 -j DNAT --to-destination 10.0.0.2", true, false},
		{"-p icmp -j DNAT --to-destination 10.0.0.2", true, true},
		{"! -p tcp -j DNAT --to-destination 10.0.0.2", true, true},
		{"-p gre -j DNAT --to-destination 10.0.0.2", false, false},
		{"-p tcp -j DNAT --to-destination 10.0.0.2", false, false},
		{"-p udp -m udp --dport 53 -j DNAT --to-destination 10.0.0.2", false, false},
		{"-i wan -j ACCEPT", false, false},
	} {
		r, err := syntax.Parse(strings.NewReader("*nat\n-A PREROUTING "+c.rule+"\nCOMMIT\n"), "rules", flow.IPv4)
		if err != nil {
			t.Fatal(c.rule, err)
		}
		_, portless := LocalPorts(r)
		if got := len(portless) == 1; got != c.portless {
			t.Errorf("%s: goes not by ports: %v", c.rule, got)
			continue
		}
		notes := HostNotes(r)
		if got := len(notes) == 1 && strings.HasPrefix(notes[0], "line 2: "); got != c.portless {
			t.Errorf("%s: notes %q", c.rule, notes)
		}
		if c.portless {
			if got := ForAddr(portless[0], netip.MustParseAddr("192.0.2.1")); got != c.own {
				t.Errorf("%s: for 192.0.2.1: %v", c.rule, got)
			}
			if ForAddr(portless[0], netip.MustParseAddr("2001:db8::1")) {
				t.Errorf("%s: an IPv4 rule for an IPv6 address", c.rule)
			}
		}
	}
}
