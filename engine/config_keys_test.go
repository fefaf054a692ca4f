package engine

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// keyRow says of a key what it takes and what it does not.
type keyRow struct {
	key   string // as in docs/configuration.md: ports[].zone
	in    string // a configuration with VALUE in its third line, where the key is
	takes []string
	// refuses are values beside those that every key refuses: nothing, and a list or a
	// mapping where there is to be none.
	refuses  []string
	expected string // what errors say that is expected
	// empty: an empty text has a meaning; list, mapping: such a value has.
	empty, list, mapping bool
}

const (
	tapHead    = "mode: tap\nports: [{interface: a}]\n"
	routerHead = "mode: router\nports: [{interface: a}]\n"
)

func numberRow(key, in string, lo, hi int64) keyRow {
	r := keyRow{key: key, in: in, expected: fmt.Sprintf("a number from %d to %d is expected", lo, hi)}
	r.takes = []string{fmt.Sprint(lo), fmt.Sprint(hi)}
	r.refuses = []string{fmt.Sprint(lo - 1), "-1", fmt.Sprint(hi + 1), "99999999999999999999", "1.5", "1e1", "0x1", "0o1", "01", "1_0", "+1", "x", `"1"`, "true"}
	return r
}

// keyRows has every key but the settings.
var keyRows = []keyRow{
	{key: "mode", in: "# 1\n# 2\nmode: VALUE\nports: [{interface: a}, {interface: b}]\n", takes: []string{"tap", "bridge", "router", `"tap"`},
		refuses: []string{"Tap", "0", "-1", "true"}, expected: "tap, bridge or router is expected"},
	{key: "ports", in: "# 1\nmode: router\nports: VALUE\n", takes: []string{"[{interface: a}]", "&x [{interface: a}]"},
		refuses: []string{"a", "0"}, expected: "a list is expected", list: true},
	{key: "ports[].interface", in: "mode: tap\nports:\n- interface: VALUE\n", takes: []string{"eth0", `"5"`, "no"},
		refuses: []string{"5", "-1", "0", "true", "1.5", "2026-01-01"}, expected: "the name of an interface is expected"},
	numberRow("ports[].zone", "mode: tap\nports:\n- {zone: VALUE, interface: a}\n", 0, 65535),
	numberRow("ports[].zone.zone", "mode: tap\nports:\n- {zone: {zone: VALUE, direction: reply}, interface: a}\n", 0, 65535),
	{key: "ports[].zone.direction", in: "mode: tap\nports:\n- {zone: {direction: VALUE, zone: 5}, interface: a}\n", takes: []string{"original", "reply", "both"},
		refuses: []string{"0", "-1", "Reply", "true"}, expected: "original, reply or both is expected"},
	{key: "ports[].vlans", in: "mode: tap\nports:\n- {vlans: VALUE, interface: a}\n", takes: []string{"{1: 0, 4094: 65535}", "{5: {zone: 6, direction: reply}}", "{}"},
		refuses: []string{"5", "x"}, expected: "a mapping of VLANs to zones is expected", mapping: true},
	{key: "ports[].vlans", in: "mode: tap\nports: [{interface: a, vlans: {\n  VALUE : 5}}]\n", takes: []string{"1"},
		refuses: []string{"0", "4095", "-1", "x", `"5"`, "0x5"}, expected: "a number from 1 to 4094 is expected"},
	{key: "ports[].vlans", in: "mode: tap\nports:\n- {vlans: {5: VALUE}, interface: a}\n", takes: []string{"1"},
		refuses: []string{"65536", "-1", "x"}, expected: "a number from 0 to 65535 is expected", mapping: true},
	numberRow("shards", tapHead+"shards: VALUE\n", 0, 256),
	{key: "cpus", in: tapHead + "cpus: VALUE\n", takes: []string{"[0]", "[1023, 0]", "[]"}, refuses: []string{"0", "x", "-1"}, expected: "a list is expected", list: true},
	numberRow("cpus", "mode: tap\ncpus:\n- VALUE\nports: [{interface: a}]\n", 0, 1023),
	{key: "xdp", in: tapHead + "xdp: VALUE\n", takes: []string{"auto", "driver", "generic"}, refuses: []string{"0", "-1", "native"}, expected: "auto, driver or generic is expected"},
	{key: "driver", in: tapHead + "driver: VALUE\n", takes: []string{"xsk", "asavie"}, refuses: []string{"0", "-1", "dpdk"}, expected: "xsk or asavie is expected"},
	{key: "force_copy", in: tapHead + "force_copy: VALUE\n", takes: []string{"true", "false"}, refuses: []string{"0", "1", "-1", "yes", `"true"`, "x"}, expected: "true or false is expected"},
	{key: "frame_size", in: tapHead + "frame_size: VALUE\n", takes: []string{"2048", "4096"}, refuses: []string{"0", "-1", "3000", "4097", "8192", "0x800", "x", `"2048"`}, expected: "2048 or 4096 is expected"},
	{key: "control", in: tapHead + "control: VALUE\n", takes: []string{"/run/x.sock"}, refuses: []string{"0", "-1", "true"}, expected: "the path of a socket is expected"},
	{key: "metrics", in: tapHead + "metrics: VALUE\n", takes: []string{`""`, `":9273"`, "127.0.0.1:1", `"[::1]:65535"`, "localhost:9273"},
		refuses:  []string{"0", "-1", "9273", "localhost", `":0"`, `":65536"`, `":-1"`, `":http"`, "::1:5", "127.0.0.1"},
		expected: "HOST:PORT, like :9273, with a port from 1 to 65535, or an empty text is expected", empty: true},
	{key: "settings", in: tapHead + "settings: VALUE\n", takes: []string{"{}", "{net.netfilter.nf_conntrack_max: 5}"}, refuses: []string{"0", "-1", "x"}, expected: "a mapping of settings to numbers is expected", mapping: true},
	{key: "profile", in: tapHead + "profile: VALUE\n", takes: []string{"linux", "rfc"}, refuses: []string{"0", "-1", "bsd"}, expected: "linux or rfc is expected"},
	{key: "zones", in: tapHead + "zones: VALUE\n", takes: []string{"[]", "[{zone: 5}]"}, refuses: []string{"0", "-1", "x"}, expected: "a list is expected", list: true},
	numberRow("zones[].zone", tapHead+"zones: [{zone: VALUE}]\n", 0, 65535),
	numberRow("zones[].max", tapHead+"zones: [{max: VALUE, zone: 1}]\n", 0, 1<<31-1),
	{key: "zones[].timeouts", in: tapHead + "zones: [{timeouts: VALUE, zone: 1}]\ntimeouts: {a: {}}\n", takes: []string{"a"}, refuses: []string{"0", "-1", "true"}, expected: "a name under timeouts is expected"},
	{key: "timeouts", in: tapHead + "timeouts: VALUE\n", takes: []string{"{}", "{a: {}}", `{"5": {}}`}, refuses: []string{"0", "-1", "x"}, expected: "a mapping of names to settings is expected", mapping: true},
	{key: "timeouts", in: tapHead + "timeouts: {a: VALUE}\n", takes: []string{"{nf_conntrack_udp_timeout: 1}"}, refuses: []string{"0", "-1", "x"}, expected: "a mapping of settings to numbers is expected", mapping: true},
	{key: "rules", in: routerHead + "rules: VALUE\n", takes: []string{"{}", "{ipv4: a}"}, refuses: []string{"0", "-1", "x"}, expected: "a mapping, like ipv4: FILE, is expected", mapping: true},
	{key: "rules.ipv4", in: routerHead + "rules: {ipv4: VALUE}\n", takes: []string{"a"}, refuses: []string{"0", "-1", "true"}, expected: "the name of a file is expected"},
	{key: "rules.ipv6", in: routerHead + "rules: {ipv6: VALUE}\n", takes: []string{"a"}, refuses: []string{"0", "-1", "true"}, expected: "the name of a file is expected"},
	{key: "nat_ports", in: routerHead + "nat_ports: VALUE\n", takes: []string{"1", "65535", "1024-32767,61000-65535", `"1, 3 - 5"`},
		refuses: []string{"0", "-1", "65536", "1-65536", "5-4", "0-5", "1,", "x", "1-", "1.5", "0x5"}, expected: "ranges of ports from 1 to 65535"},
	numberRow("icmp_ratelimit", routerHead+"icmp_ratelimit: VALUE\n", 0, 1<<31-1),
	numberRow("icmp_ratemask", routerHead+"icmp_ratemask: VALUE\n", 0, 1<<32-1),
	numberRow("icmpv6_ratelimit", routerHead+"icmpv6_ratelimit: VALUE\n", 0, 1<<31-1),
	{key: "icmpv6_ratemask", in: routerHead + "icmpv6_ratemask: VALUE\n", takes: []string{`""`, "0", "255", "0-1,3-127"},
		refuses: []string{"-1", "256", "x", "5-4", "1-256", "0x5", "true"}, expected: "ICMPv6 types from 0 to 255", empty: true},
	numberRow("icmp_msgs_per_sec", routerHead+"icmp_msgs_per_sec: VALUE\n", 0, 1<<31-1),
	numberRow("icmp_msgs_burst", routerHead+"icmp_msgs_burst: VALUE\n", 0, 1<<31-1),
}

// settingRows has every setting, and those that are timeouts also in a policy.
func settingRows() (rows []keyRow) {
	for _, s := range settings {
		row := func(in string) keyRow {
			r := numberRow("settings."+s.name, tapHead+in, int64(s.min), int64(s.max))
			r.takes = append(r.takes, fmt.Sprint(s.get(new(DefaultSettings()))))
			return r
		}
		more := ""
		if s.name == "xdpct_adaptive_end" {
			more = "xdpct_adaptive_start: 0, "
		}
		rows = append(rows, row("settings: {"+more+s.name+": VALUE}\n"))
		if isTimeout(s.name) {
			rows = append(rows, row("timeouts: {a: {"+s.name+": VALUE}}\n"))
		}
	}
	return rows
}

// TestEveryKey: a key takes what docs/configuration.md says; of all else the error names
// line, key and what is expected, in which its range is.
func TestEveryKey(t *testing.T) {
	for _, r := range append(slices.Clone(keyRows), settingRows()...) {
		name := r.key[strings.LastIndexByte(r.key, '.')+1:]
		for _, v := range r.takes {
			if _, err := ReadConfig(strings.NewReader(strings.ReplaceAll(r.in, "VALUE", v))); err != nil {
				t.Errorf("%s: %s: %v", r.key, v, err)
			}
		}
		refuses := append([]string{"", "~", "null", "!!binary aGk="}, r.refuses...)
		if !r.empty {
			refuses = append(refuses, `""`)
		}
		if !r.list {
			refuses = append(refuses, "[x]", "[]")
		}
		if !r.mapping && r.key != "ports[].zone" {
			refuses = append(refuses, "{x: y}", "{}")
		}
		if strings.Contains(r.in, "VALUE :") { // a key is there in any case
			refuses = refuses[1:]
		}
		for _, v := range refuses {
			_, err := ReadConfig(strings.NewReader(strings.ReplaceAll(r.in, "VALUE", v)))
			// the errors of a number where a zone may be a mapping, or of a VLAN's zone, are "zone"
			if err == nil || !regexp.MustCompile(`^line 3: (`+name+`|zone|timeouts: a): `).MatchString(err.Error()) || !strings.Contains(err.Error(), r.expected) {
				t.Errorf("%s: %q: %v, want line 3, %s and %q", r.key, v, err, name, r.expected)
			}
		}
	}
}

// TestKeysTwice: a key that appears twice, or that there is not, is an error at every level.
func TestKeysTwice(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{tapHead + "xdp: auto\nxdp: auto\n", `line 4: key "xdp" appears twice`},
		{tapHead + "\"xdp\": auto\nxdp: auto\n", `line 4: key "xdp" appears twice`},
		{"mode: tap\nports:\n- {interface: a,\n   interface: b}\n", `line 4: key "interface" appears twice`},
		{"mode: tap\nports:\n- {interface: a, zone: {zone: 1,\n  zone: 1}}\n", `line 4: key "zone" appears twice`},
		{"mode: tap\nports:\n- {interface: a, vlans: {5: 1,\n  5: 1}}\n", "line 4: vlans: 5 appears twice"},
		{tapHead + "settings:\n  nf_conntrack_max: 5\n  nf_conntrack_max: 5\n", `line 5: key "nf_conntrack_max" appears twice`},
		{tapHead + "settings:\n  nf_conntrack_max: 5\n  net.netfilter.nf_conntrack_max: 5\n", `line 5: key "net.netfilter.nf_conntrack_max" appears twice`},
		{tapHead + "timeouts:\n  a: {}\n  a: {}\n", `line 5: timeouts "a" appear twice`},
		{tapHead + "timeouts:\n  a: {nf_conntrack_udp_timeout: 1,\n   nf_conntrack_udp_timeout: 1}\n", `line 5: key "nf_conntrack_udp_timeout" appears twice`},
		{tapHead + "zones:\n- {zone: 1,\n   zone: 1}\n", `line 5: key "zone" appears twice`},
		{routerHead + "rules:\n  ipv4: a\n  ipv4: a\n", `line 5: key "ipv4" appears twice`},
		{tapHead + "prots: 1\n", `line 3: unknown key "prots": there are control, cpus, `},
		{tapHead + "<<: {xdp: auto}\n", `line 3: unknown key "<<"`},
		{tapHead + "[a]: 1\n", `line 3: unknown key ""`},
		{"mode: tap\nports:\n- {iface: a}\n", `line 3: unknown key "iface": there are interface, vlans, zone`},
		{"mode: tap\nports:\n- {interface: a, zone: {dir: reply}}\n", `line 3: unknown key "dir": there are direction, zone`},
		{tapHead + "zones:\n- {zone: 1, limit: 1}\n", `line 4: unknown key "limit": there are max, timeouts, zone`},
		{routerHead + "rules:\n  ipv5: a\n", `line 4: unknown key "ipv5": there are ipv4, ipv6`},
		{tapHead + "settings:\n  nf_conntrack_buckets: 1\n", "line 4: nf_conntrack_buckets: no such setting"},
		{tapHead + "timeouts:\n  a: {nf_conntrack_max: 1}\n", "line 4: nf_conntrack_max is no timeout"},
		// what is missing
		{"mode: tap\nports:\n- zone: 1\n", `line 3: ports: key "interface" is required`},
		{"mode: tap\nports:\n- {interface: a, zone: {direction: reply}}\n", `line 3: zone: key "zone" is required`},
		{tapHead + "zones:\n- {max: 1}\n", `line 4: zones: key "zone" is required`},
		{tapHead + "---\n" + tapHead, "a second document begins"},
		{"a\n", `line 1: the configuration: a mapping, like mode: tap, is expected, not "a"`},
		{"# nothing\n---\n", "line 3: the configuration: a mapping, like mode: tap, is expected, not nothing"},
		// items of lists have lines of their own
		{"mode: tap\nports:\n- interface: a\n- interface: a\n", `line 4: ports: interface "a" appears twice`},
		{tapHead + "zones:\n- zone: 1\n- zone: 1\n", "line 5: zones: zone 1 appears twice"},
		{tapHead + "cpus:\n- 1\n- 1\n", "line 5: cpus: 1 appears twice"},
		{tapHead + "shards: 3\ncpus: [1, 2]\n", "line 4: cpus: 2 for 3 shards"},
	} {
		if _, err := ReadConfig(strings.NewReader(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.in, err, c.want)
		}
	}
}

// keysOf returns the keys of a struct by the tags of its fields, those of what is in it under
// the names that keyRows and docs/configuration.md have.
func keysOf(t *testing.T, typ reflect.Type, under string) (keys []string) {
	t.Helper()
	if typ == reflect.TypeFor[PortZone]() { // has no tags, being embedded
		for k := range (&PortZone{}).keys(new(string)) {
			keys = append(keys, under+k)
		}
		return keys
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		if !f.IsExported() {
			continue
		}
		tag, ok := f.Tag.Lookup("yaml")
		switch name, of := under+tag, f.Type; {
		case !ok || tag == "":
			t.Errorf("%v.%s has no key", typ, f.Name)
		case tag == ",inline":
			keys = append(keys, keysOf(t, of, under)...)
		default:
			keys = append(keys, name)
			if of.Kind() == reflect.Slice {
				of, name = of.Elem(), name+"[]"
			}
			if of.Kind() == reflect.Struct && slices.Contains([]reflect.Type{reflect.TypeFor[PortConfig](), reflect.TypeFor[PortZone](), reflect.TypeFor[ZoneConfig](), reflect.TypeFor[RuleFiles]()}, of) {
				keys = append(keys, keysOf(t, of, name+".")...)
			}
		}
	}
	return keys
}

// TestKeysAreTestedAndDocumented: every field of a configuration has a key that can be
// read, a row of keyRows, and one of docs/configuration.md; and there are no others.
func TestKeysAreTestedAndDocumented(t *testing.T) {
	fields := slices.Sorted(slices.Values(keysOf(t, reflect.TypeFor[Config](), "")))
	read := slices.Collect(maps.Keys(new(Config).keys(new(deferred))))
	for under, m := range map[string]map[string]reader{
		"ports[].": new(PortConfig).keys(), "ports[].zone.": new(PortZone).keys(new(string)),
		"zones[].": new(ZoneConfig).keys(), "rules.": new(RuleFiles).keys(),
	} {
		for k := range m {
			read = append(read, under+k)
		}
	}
	slices.Sort(read)
	if !slices.Equal(fields, read) {
		t.Errorf("fields: %q\nread: %q", fields, read)
	}
	var rows []string
	for _, r := range keyRows {
		rows = append(rows, r.key)
	}
	slices.Sort(rows)
	if rows = slices.Compact(rows); !slices.Equal(rows, fields) {
		t.Errorf("fields: %q\nrows: %q", fields, rows)
	}
	doc, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_.\\[\\]]+)` \\|").FindAllStringSubmatch(string(doc), -1) {
		documented = append(documented, m[1])
	}
	slices.Sort(documented)
	if !slices.Equal(documented, fields) {
		t.Errorf("fields: %q\ndocumented: %q", fields, documented)
	}
	for key, r := range ranges {
		if key == "max" || key == "zone" {
			key = "zones[]." + key
		}
		if key == "vlans" {
			key = "ports[]." + key
		}
		if want := fmt.Sprintf("%d to %d", r.lo, r.hi); !regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(key) + "` \\|.*\\b" + want + "\\b").Match(doc) {
			t.Errorf("docs/configuration.md does not say of %s that it is from %s", key, want)
		}
	}
}
