package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// TestReadmeConfigurations reads every configuration in the README.
func TestReadmeConfigurations(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```yaml\n")[1:]
	for i, b := range blocks {
		b, _, _ = strings.Cut(b, "```")
		if _, err := ReadConfig(strings.NewReader(b)); err != nil {
			t.Errorf("configuration %d: %v", i+1, err)
		}
	}
	if len(blocks) != 3 {
		t.Errorf("%d configurations, want 3", len(blocks))
	}
}

// TestZoneConfigurationErrors: each mistake is refused with its line.
func TestZoneConfigurationErrors(t *testing.T) {
	const head = "mode: tap\nports: [{interface: lo}]\n"
	for _, c := range []struct{ config, want string }{
		{head + "profile: bsd\n", `line 3: profile: linux or rfc is expected, not "bsd"`},
		{head + "zones: [{zone: 5, max: -1}]\n", "line 3: max: a number from 0 to 2147483647 is expected, not -1"},
		{head + "zones: [{zone: 5}, {zone: 5}]\n", "line 3: zones: zone 5 appears twice"},
		{head + "zones: [{zone: 5, timeouts: none}]\n", `line 3: zones: zone 5: there are no timeouts "none"`},
		{head + "zones: [{zone: 70000}]\n", "line 3: zone: a number from 0 to 65535 is expected, not 70000"},
		{head + "zones: [{zonk: 5}]\n", `line 3: unknown key "zonk"`},
		{head + "timeouts: {a: {nf_conntrack_max: 5}}\n", "line 3: nf_conntrack_max is no timeout"},
		{head + "timeouts: {a: {nf_conntrack_udp_timeout: x}}\n", `line 3: nf_conntrack_udp_timeout: a number from 0 to 2073600 is expected, not "x"`},
		{head + "timeouts: [a]\n", "line 3: timeouts: a mapping"},
		{"mode: tap\nports:\n- interface: lo\n  zone: {zone: 5, direction: up}\n", `line 4: direction: original, reply or both is expected, not "up"`},
		{"mode: tap\nports:\n- interface: lo\n  vlans: {5000: 1}\n", "line 4: vlans: a number from 1 to 4094 is expected, not 5000"},
	} {
		if _, err := ReadConfig(strings.NewReader(c.config)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.config, err, c.want)
		}
	}
}

// TestConfigurationTypes: a value of another type is refused in the words of YAML, with its
// line and key; no type of Go is named.
func TestConfigurationTypes(t *testing.T) {
	const head = "mode: router\nports: [{interface: lo}]\n"
	for _, c := range []struct{ config, want string }{
		{head + "rules: nofile\n", `line 3: rules: a mapping, like ipv4: FILE, is expected, not "nofile"`},
		{head + "rules: [nofile]\n", "line 3: rules: a mapping, like ipv4: FILE, is expected, not a list"},
		{head + "rules: {ipv4: [a]}\n", "line 3: ipv4: the name of a file is expected, not a list"},
		{head + "rules: {ipv5: a}\n", `line 3: unknown key "ipv5"`},
		{"mode: tap\nports: [eth0, eth1]\n", `line 2: ports: a mapping, like interface: eth0, is expected, not "eth0"`},
		{"mode: tap\nports:\n- interface: lo\n- eth1\n", `line 4: ports: a mapping, like interface: eth0, is expected, not "eth1"`},
		{"mode: tap\nports: eth0\n", `line 2: ports: a list is expected, not "eth0"`},
		{"mode: tap\nports:\n- interface: lo\n  zone: 70000\n", "line 4: zone: a number from 0 to 65535 is expected, not 70000"},
		{"mode: tap\nports:\n- interface: lo\n  zone: [1]\n", "line 4: zone: a number from 0 to 65535 is expected, not a list"},
		{"mode: tap\nports:\n- interface: lo\n  vlans: {blue: 1}\n", `line 4: vlans: a number from 1 to 4094 is expected, not "blue"`},
		{"mode: tap\nports:\n- interface: lo\n  vlans: {5: -1}\n", "line 4: zone: a number from 0 to 65535 is expected, not -1"},
		{head + "zones: [5]\n", "line 3: zones: a mapping, like zone: 5, is expected, not 5"},
		{head + "shards: two\n", `line 3: shards: a number from 0 to 256 is expected, not "two"`},
		{head + "cpus: [0, x]\n", `line 3: cpus: a number from 0 to 1023 is expected, not "x"`},
		{head + "force_copy: 7\n", "line 3: force_copy: true or false is expected, not 7"},
		{head + "metrics: {a: b}\n", "line 3: metrics: HOST:PORT, like :9273, with a port from 1 to 65535, or an empty text is expected, not a mapping"},
	} {
		if _, err := ReadConfig(strings.NewReader(c.config)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.config, err, c.want)
		}
	}
}

// TestProfile: the profile comes first, whatever the order of the keys, and timeout
// policies begin with the settings.
func TestProfile(t *testing.T) {
	c, err := ReadConfig(strings.NewReader(`
settings: {nf_conntrack_icmp_timeout: 99}
timeouts: {short: {nf_conntrack_udp_timeout: 5}}
zones: [{zone: 1, timeouts: short}]
mode: tap
ports: [{interface: lo}]
profile: rfc
`))
	if err != nil {
		t.Fatal(err)
	}
	got, short := c.Settings.L4.Timeouts, c.Zoning.Policies["short"]
	if got.TCP[flow.TCPEstablished] != 7440 || got.TCP[flow.TCPClose] != 240 || got.UDP != 120 || got.ICMP != 99 || got.ICMPv6 != 60 {
		t.Errorf("%+v", got)
	}
	if short.UDP != 5 || short.ICMP != 99 || short.TCP[flow.TCPEstablished] != 7440 {
		t.Errorf("%+v", short)
	}
}
