package syntax

import (
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// TestPortsOfDCCP: a rule that maps ports of DCCP is refused, and says what to do, since
// nothing would heed the port (F5); one that maps the address alone is not.
func TestPortsOfDCCP(t *testing.T) {
	for rule, want := range map[string]string{
		"-A PREROUTING -p dccp -j DNAT --to-destination 10.2.2.1":       "",
		"-A PREROUTING -p dccp -j DNAT --to-destination 10.2.2.1:5000":  "leave them out",
		"-A PREROUTING -p 33 -j DNAT --to-destination :5000":            "leave them out",
		"-A POSTROUTING -p dccp -j MASQUERADE --to-ports 5000-6000":     "leave them out",
		"-A POSTROUTING -p 99 -j MASQUERADE --to-ports 5000-6000":       "ports need",
		"-A POSTROUTING -p udp -j SNAT --to-source 192.0.2.1:5000-6000": "",
	} {
		_, err := Parse(strings.NewReader("*nat\n"+rule+"\nCOMMIT\n"), "rules", flow.IPv4)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, not %q", rule, err, want)
		}
	}
}
