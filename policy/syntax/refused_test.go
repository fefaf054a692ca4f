package syntax

import (
	"regexp"
	"testing"
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
