package engine

import (
	"os"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
)

// TestHostBypassIsNamed: a rule of nat PREROUTING without ports, which may be for the host's
// own address, is warned of by line, and one for other addresses neither is nor makes what
// is addressed to the host come by the TUN device.
func TestHostBypassIsNamed(t *testing.T) {
	testenv.Root(t)
	rules := func(lines ...string) string {
		return "*nat\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	}
	s := newSite(t, rules("-A PREROUTING -d 203.0.113.7/32 -j DNAT --to-destination 10.50.0.2",
		"-A PREROUTING -p gre -j DNAT --to-destination 10.50.0.2"), "", nil)
	all := func() bool {
		s.e.router.mu.Lock()
		defer s.e.router.mu.Unlock()
		return s.e.router.host.told[0].host.All
	}
	const warning = "goes not by ports"
	if all() || strings.Contains(s.log.String(), warning) {
		t.Errorf("everything to the host goes to user space for rules that are for others:\n%s", s.log)
	}
	if !strings.Contains(s.log.String(), "protocols without ports that are for the host") {
		t.Errorf("nothing says that INPUT rules do not see fragments:\n%s", s.log)
	}
	own := rules("-A PREROUTING -d 203.0.113.7/32 -j DNAT --to-destination 10.50.0.2",
		"-A PREROUTING -s 198.51.100.77/32 -j DNAT --to-destination 10.50.0.2")
	if err := s.e.LoadRules(strings.NewReader(own), "own", flow.IPv4); err != nil {
		t.Fatal(err)
	}
	if got := s.log.String(); !all() || !strings.Contains(got, warning) || !strings.Contains(got, "line=3") || strings.Contains(got, "line=2") {
		t.Errorf("after a rule without ports on line 3:\n%s", got)
	}
	if err := os.WriteFile(s.rules, []byte(rules("-A PREROUTING -p icmp -d "+wanIP+" -j DNAT --to-destination 10.50.0.2")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.e.Reload(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.log.String(), "line=2") {
		t.Errorf("after a rule for pings on line 2:\n%s", s.log)
	}
}
