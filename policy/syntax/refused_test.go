package syntax

import (
	"regexp"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// TestRefusalsNameAWay: what is refused says by which option, target or command the same
// can be had, and nothing is refused that is there.
func TestRefusalsNameAWay(t *testing.T) {
	way := regexp.MustCompile(`(^|[ (])-{1,2}[a-z]|xdpct |\b(REJECT|NFLOG|DNAT|SNAT|MARK|CONNMARK)\b|rules count|forwarded packets have no owner|forwarded packets belong to no process|programs do not decide|list the networks`)
	for kind, refused := range map[string]map[string]string{"-m": cannotMatch, "-j": cannotTarget} {
		for name, why := range refused {
			_, match := matches[name]
			_, target := targets[name]
			if match && kind == "-m" || target && kind == "-j" {
				t.Errorf("%s %s is there, and refused", kind, name)
			}
			if !way.MatchString(why) {
				t.Errorf("%s %s names no way: %s", kind, name, why)
			}
		}
	}
}

// TestSlowBytes: less than 16 bytes a second is a rate of none to the kernel, and printed
// as that; a burst, which is a number of its seconds, it cannot have.
func TestSlowBytes(t *testing.T) {
	const rule = "*filter\n-A FORWARD -m hashlimit --hashlimit-upto 15b/s --hashlimit-mode srcip --hashlimit-name x"
	r, err := Parse(strings.NewReader(rule+"\nCOMMIT\n"), "rules", flow.IPv4)
	if err != nil || !strings.Contains(r.String(), "--hashlimit-upto 0b/s --hashlimit-mode") {
		t.Errorf("%v\n%v", err, r)
	}
	for _, burst := range []string{"0b", "15b", "1mb"} {
		if _, err := Parse(strings.NewReader(rule+" --hashlimit-burst "+burst+"\nCOMMIT\n"), "rules", flow.IPv4); err == nil || !strings.Contains(err.Error(), "16 bytes a second") {
			t.Errorf("burst %s: %v", burst, err)
		}
	}
}
