package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/xdpct/xdpct/icmplimit"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/rx"
)

// Mode is what the engine does with frames.
type Mode string

// The modes.
const (
	Tap    Mode = "tap"    // receive and track; frames end here
	Bridge Mode = "bridge" // forward between two ports, unchanged but for what rules say
	Router Mode = "router" // forward between ports by the kernel's routes
)

// Config is the configuration of `xdpct run`. The zero value of a field means
// what its comment says; LoadConfig fills the defaults in.
type Config struct {
	Mode  Mode         `yaml:"mode"`  // required
	Ports []PortConfig `yaml:"ports"` // one or more for tap, two for bridge
	// Shards is the number of shards; 0 takes the number of receive queues of the first
	// port. No port may have more queues.
	Shards int `yaml:"shards"`
	// CPUs pins shard i to CPUs[i]. Empty: shard i to the i-th CPU that the
	// process may use.
	CPUs []int `yaml:"cpus"`
	// XDP is auto, driver or generic; DefaultConfig has auto.
	XDP rx.XDPMode `yaml:"xdp"`
	// Driver is xsk or asavie; DefaultConfig has xsk.
	Driver rx.Driver `yaml:"driver"`
	// ForceCopy rules out zero copy.
	ForceCopy bool `yaml:"force_copy"`
	// FrameSize is the size of a UMEM chunk, 2048 or 4096; DefaultConfig has 4096.
	FrameSize int `yaml:"frame_size"`
	// Control is the path of the control socket; empty means /run/xdpct.sock.
	Control string `yaml:"control"`
	// Metrics is the address (host:port) on which metrics are served, on
	// loopback unless it says otherwise; empty means not at all.
	Metrics string `yaml:"metrics"`
	// Settings are the tracker's, see Settings.
	Settings Settings `yaml:"settings"`
	// Profile is the timeouts that Settings begin with: linux or rfc; empty
	// means linux.
	Profile string `yaml:"profile"`
	// Zoning is made of the keys zones and timeouts.
	Zoning Zoning `yaml:"-"`
	// Rules names the files of rules, for bridge and router.
	Rules RuleFiles `yaml:"rules"`
	// NATPorts are the ports that connections may be mapped to on the host's own
	// addresses where rules name none; empty means those that the host does not pick
	// from by itself (net.ipv4.ip_local_port_range). Ports that sockets have are taken
	// out.
	NATPorts PortRanges `yaml:"nat_ports"`
	// ICMP limits the ICMP errors of a router and of REJECT: the keys icmp_ratelimit,
	// icmp_ratemask, icmpv6_ratelimit, icmpv6_ratemask, icmp_msgs_per_sec and
	// icmp_msgs_burst.
	ICMP icmplimit.Settings `yaml:"-"`
}

// PortConfig is a port.
type PortConfig struct {
	Interface string `yaml:"interface"`
	// Zone is that of packets that arrive here, but for those of a VLAN.
	Zone PortZone `yaml:"zone"`
	// VLANs are the zones of packets with a VLAN tag, by its id (the outer one).
	VLANs map[uint16]PortZone `yaml:"vlans"`
}

// maxCPUs is how many CPUs a set of them has room for (cpu_set_t).
const maxCPUs = 1024

// DefaultControl is where `run` listens and the other commands look.
const DefaultControl = "/run/xdpct.sock"

// DefaultConfig is a Config without mode and ports.
func DefaultConfig() Config {
	return Config{ICMP: icmplimit.Linux(), XDP: rx.ModeAuto, Driver: rx.DriverXSK, FrameSize: rx.MaxChunk, Control: DefaultControl, Settings: DefaultSettings()}
}

// icmpTypes is icmpv6_ratemask.
type icmpTypes icmplimit.Types

// UnmarshalYAML decodes a list of types.
func (t *icmpTypes) UnmarshalYAML(n *yaml.Node) error {
	types, err := icmplimit.ParseTypes(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*t = icmpTypes(types)
	return nil
}

// LoadConfig reads a configuration file. Errors name the file, the line and the
// key. Names of files in it are relative to the folder that it is in.
func LoadConfig(name string) (Config, error) {
	f, err := os.Open(name)
	if err != nil {
		return Config{}, err
	}
	defer f.Close()
	c, err := ReadConfig(f)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	for _, file := range []*string{&c.Rules.IPv4, &c.Rules.IPv6} {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(filepath.Dir(name), *file)
		}
	}
	return c, nil
}

// ReadConfig reads a configuration in YAML. Errors name the line and the key.
func ReadConfig(r io.Reader) (Config, error) {
	c := DefaultConfig()
	var doc yaml.Node
	if err := yaml.NewDecoder(r).Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return c, errors.New("the configuration is empty: mode and ports are required")
		}
		return c, err
	}
	root := doc.Content[0]
	var timeouts, settings yaml.Node // they depend on the profile
	if err := decodeMapping(root, map[string]any{
		"profile": &c.Profile, "zones": &c.Zoning.Zones, "timeouts": &timeouts,
		"rules": &c.Rules, "nat_ports": &c.NATPorts, "icmp_ratelimit": &c.ICMP.Rate, "icmp_ratemask": &c.ICMP.Mask,
		"icmpv6_ratelimit": &c.ICMP.Rate6, "icmpv6_ratemask": (*icmpTypes)(&c.ICMP.Mask6),
		"icmp_msgs_per_sec": &c.ICMP.PerSecond, "icmp_msgs_burst": &c.ICMP.Burst,
		"mode": &c.Mode, "ports": &c.Ports, "shards": &c.Shards, "cpus": &c.CPUs, "xdp": &c.XDP,
		"driver":     &c.Driver,
		"force_copy": &c.ForceCopy, "frame_size": &c.FrameSize, "control": &c.Control,
		"metrics": &c.Metrics, "settings": &settings,
	}); err != nil {
		return c, err
	}
	if err := c.decodeSettings(&settings, &timeouts); err != nil {
		if line := lineOf(root, "profile"); line > 0 && errors.As(err, new(*configError)) {
			return c, fmt.Errorf("line %d: %w", line, err)
		}
		return c, err
	}
	var bad *configError
	if err := c.Validate(); errors.As(err, &bad) {
		if line := lineOf(root, bad.key); line > 0 {
			return c, fmt.Errorf("line %d: %w", line, err)
		}
		return c, err
	}
	return c, nil
}

// decodeSettings decodes the settings over the profile, and the timeout policies
// over the settings.
func (c *Config) decodeSettings(settings, timeouts *yaml.Node) (err error) {
	if c.Profile != "" {
		t, ok := l4.TimeoutsByName(c.Profile)
		if !ok {
			return &configError{"profile", fmt.Sprintf("%q is neither linux nor rfc", c.Profile)}
		}
		c.Settings.L4.Timeouts = t
	}
	if !settings.IsZero() {
		if err := settings.Decode(&c.Settings); err != nil {
			return err
		}
	}
	if !timeouts.IsZero() {
		c.Zoning.Policies, err = decodePolicies(timeouts, c.Settings.L4.Timeouts)
	}
	return err
}

// decodeMapping decodes the values of a YAML mapping and refuses unknown and
// repeated keys.
func decodeMapping(n *yaml.Node, fields map[string]any) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: a mapping of keys to values is expected", n.Line)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		dst, ok := fields[key.Value]
		if !ok {
			return fmt.Errorf("line %d: unknown key %q", key.Line, key.Value)
		}
		if seen[key.Value] {
			return fmt.Errorf("line %d: key %q appears twice", key.Line, key.Value)
		}
		seen[key.Value] = true
		if err := decode(key.Value, value, dst); err != nil {
			return err
		}
	}
	return nil
}

// lineOf returns the line of a key of the mapping n.
func lineOf(n *yaml.Node, key string) int {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i].Line
		}
	}
	return 0
}

// UnmarshalYAML decodes settings by their names.
func (s *Settings) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: settings: a mapping of names to numbers is expected", n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if err := s.Set(n.Content[i].Value, n.Content[i+1].Value); err != nil {
			return fmt.Errorf("line %d: %w", n.Content[i].Line, err)
		}
	}
	return nil
}

// configError is a value that is wrong, and the key that has it.
type configError struct{ key, what string }

func (e *configError) Error() string { return e.key + ": " + e.what }

// Validate checks c as far as that can be done without looking at the machine.
// An error names the key.
func (c *Config) Validate() error {
	bad := func(key, format string, args ...any) error {
		return &configError{key, fmt.Sprintf(format, args...)}
	}
	switch c.Mode {
	case Tap:
		if len(c.Ports) == 0 {
			return bad("ports", "at least one is required")
		}
	case Bridge:
		if len(c.Ports) != 2 {
			return bad("ports", "a bridge has two, not %d", len(c.Ports))
		}
	case Router:
		if len(c.Ports) == 0 {
			return bad("ports", "at least one is required")
		}
	case "":
		return bad("mode", "required: tap, bridge or router")
	default:
		return bad("mode", "%q is neither tap, bridge nor router", c.Mode)
	}
	if len(c.Ports) > maxPorts {
		return bad("ports", "%d are too many, at most %d", len(c.Ports), maxPorts)
	}
	for i, p := range c.Ports {
		if p.Interface == "" {
			return bad("ports", "port %d has no interface", i+1)
		}
		for _, q := range c.Ports[:i] {
			if p.Interface == q.Interface {
				return bad("ports", "interface %q appears twice", p.Interface)
			}
		}
	}
	if c.Mode == Tap && c.Rules != (RuleFiles{}) {
		return bad("rules", "a tap forwards nothing, so there is nothing for rules to decide")
	}
	for key, n := range map[string]int{
		"icmp_ratelimit": c.ICMP.Rate, "icmpv6_ratelimit": c.ICMP.Rate6,
		"icmp_msgs_per_sec": c.ICMP.PerSecond, "icmp_msgs_burst": c.ICMP.Burst,
	} {
		if n < 0 {
			return bad(key, "%d is negative", n)
		}
	}
	if c.Shards < 0 || c.Shards > MaxShards {
		return bad("shards", "%d is not from 0 to %d", c.Shards, MaxShards)
	}
	if c.Shards > 0 && len(c.CPUs) > 0 && len(c.CPUs) < c.Shards {
		return bad("cpus", "%d for %d shards", len(c.CPUs), c.Shards)
	}
	for i, n := range c.CPUs {
		if n < 0 || n >= maxCPUs {
			return bad("cpus", "%d is not from 0 to %d", n, maxCPUs-1)
		}
		if slices.Contains(c.CPUs[:i], n) {
			return bad("cpus", "%d appears twice", n)
		}
	}
	switch c.XDP {
	case rx.ModeAuto, rx.ModeDriver, rx.ModeGeneric:
	default:
		return bad("xdp", "%q is neither auto, driver nor generic", c.XDP)
	}
	switch c.Driver {
	case rx.DriverXSK, rx.DriverAsavie:
	default:
		return bad("driver", "%q is neither xsk nor asavie", c.Driver)
	}
	if c.FrameSize != rx.MinChunk && c.FrameSize != rx.MaxChunk {
		return bad("frame_size", "%d is neither %d nor %d", c.FrameSize, rx.MinChunk, rx.MaxChunk)
	}
	if err := c.Settings.Validate(); err != nil {
		return bad("settings", "%v", err)
	}
	if err := c.Zoning.validate(); err != nil {
		return bad("zones", "%v", err)
	}
	return nil
}
