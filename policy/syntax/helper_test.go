package syntax

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// helperRule is a rule that has a helper read what base selects.
func helperRule(base, helper string) string {
	return strings.TrimSpace("-A PREROUTING "+base) + " -j CT --helper " + helper
}

func parseHelper(rule string, f flow.Family) error {
	_, err := Parse(strings.NewReader("*raw\n:PREROUTING ACCEPT [0:0]\n"+rule+"\nCOMMIT\n"), "rules", f)
	return err
}

// TestHelpersAsKernel gives a rule of each helper, protocol and family to the running kernel
// and to Parse: both take it or neither does.
func TestHelpersAsKernel(t *testing.T) {
	testenv.Root(t)
	ns, err := netlab.NewNS("helpers")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for program, f := range map[string]flow.Family{"iptables-legacy": flow.IPv4, "ip6tables-legacy": flow.IPv6} {
		testenv.Program(t, program)
		taken := 0
		for _, helper := range append(flow.HelperNames(), "ftpd", "FTP") {
			switch helper {
			case "rsh", "rpc": // Linux has none
				continue
			case inCalls: // Linux takes it for UDP, which it is never of
				continue
			}
			for _, base := range []string{"-p tcp", "-p udp", "-p tcp --dport 21", "-p tcp ! --dport 21", "", "! -p udp", "! -p tcp", "-p gre", "-p sctp"} {
				rule := helperRule(base, helper)
				var out []byte
				var kernel error
				if err := ns.Do(func() error {
					out, kernel = exec.Command(program, append([]string{"-t", "raw"}, strings.Fields(rule)...)...).CombinedOutput()
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if kernel == nil {
					taken++
				}
				if own := parseHelper(rule, f); (own == nil) != (kernel == nil) {
					t.Errorf("%s %s: the kernel says %v (%s), Parse says %v", program, rule, kernel, out, own)
				}
			}
		}
		if taken < 8 {
			t.Errorf("%s took %d of the rules: are there helpers in this kernel?", program, taken)
		}
	}
}

// TestHelperRefused: a helper that is not there, or of which nothing could be read, is refused
// at its line and column, and the error says what to write.
func TestHelperRefused(t *testing.T) {
	for _, c := range []struct {
		base, helper, want string
		family             flow.Family
	}{
		{"-p udp --dport 21", "ftp", "rules:3:36: target CT: helper ftp needs -p tcp", flow.IPv4},
		{"", "tftp", "rules:3:18: target CT: helper tftp needs -p udp", flow.IPv6},
		{"! -p udp", "sip", "helper sip needs -p tcp or -p udp", flow.IPv4},
		{"-p tcp --dport 6667", "irc", "helper irc is for IPv4 only", flow.IPv6},
		{"-p udp --dport 111", "rpc", "helper rpc is for IPv4 only", flow.IPv6},
		{"-p tcp", "H.245", "it comes with the calls that Q.931 reads", flow.IPv4},
		{"-p tcp", "FTP", `there is no helper "FTP", but ftp: case counts`, flow.IPv4},
		{"-p tcp", "ftpd", `there is no helper "ftpd"; ftp? There are ftp, irc, tftp,`, flow.IPv4},
		{"-p tcp", "gopher", `there is no helper "gopher"; there are ftp, irc, tftp, amanda, sip, pptp, Q.931,`, flow.IPv4},
	} {
		if err := parseHelper(helperRule(c.base, c.helper), c.family); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, helper %s: %v; %q is expected", c.base, c.helper, err, c.want)
		}
	}
	for _, rule := range []string{helperRule("-p tcp --dport 514", "rsh"), helperRule("-p udp --dport 111", "rpc"), helperRule("-p tcp --dport 111", "rpc")} {
		if err := parseHelper(rule, flow.IPv4); err != nil {
			t.Errorf("%s: %v", rule, err)
		}
	}
}
