package engine

import (
	"strings"
	"testing"

	"github.com/xdpct/xdpct/icmplimit"
)

// TestICMPKeys: limits of ICMP errors are Linux's, unless keys say otherwise.
func TestICMPKeys(t *testing.T) {
	const start = "mode: router\nports: [{interface: a}, {interface: b}]\n"
	c, err := ReadConfig(strings.NewReader(start))
	if err != nil || c.ICMP != icmplimit.Linux() {
		t.Errorf("%+v, %v", c.ICMP, err)
	}
	c, err = ReadConfig(strings.NewReader(start + "icmp_ratelimit: 0\nicmp_ratemask: 8\nicmpv6_ratelimit: 50\nicmpv6_ratemask: 1,3-4\nicmp_msgs_per_sec: 7\nicmp_msgs_burst: 3\n"))
	want := icmplimit.Settings{Mask: 8, Rate6: 50, Mask6: icmplimit.Types{1<<1 | 1<<3 | 1<<4}, PerSecond: 7, Burst: 3}
	if err != nil || c.ICMP != want {
		t.Errorf("%+v, %v", c.ICMP, err)
	}
	for _, bad := range []string{"icmpv6_ratemask: x", "icmp_msgs_burst: -1", "icmp_ratelimit: -5"} {
		if _, err := ReadConfig(strings.NewReader(start + bad + "\n")); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
