package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/xdpct/xdpct/icmplimit"
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
// what its comment says; LoadConfig fills the defaults in. docs/configuration.md has every
// key with its range.
type Config struct {
	Mode  Mode         `yaml:"mode"`  // required
	Ports []PortConfig `yaml:"ports"` // one or more for tap, two for bridge
	// Shards is the number of shards; 0 takes the number of receive queues of the first
	// port. No port may have more queues.
	Shards int `yaml:"shards"`
	// CPUs pins shard i to CPUs[i], and has as many as there are shards or more. Empty:
	// shard i to the i-th CPU that the process may use, if there are enough.
	CPUs []int `yaml:"cpus"`
	// XDP is auto, driver or generic; DefaultConfig has auto.
	XDP rx.XDPMode `yaml:"xdp"`
	// Driver is xsk or asavie; DefaultConfig has xsk.
	Driver rx.Driver `yaml:"driver"`
	// ForceCopy rules out zero copy.
	ForceCopy bool `yaml:"force_copy"`
	// FrameSize is the size of a UMEM chunk, 2048 or 4096; DefaultConfig has 4096.
	FrameSize int `yaml:"frame_size"`
	// Control is the path of the control socket, see control.Listen; DefaultConfig has
	// DefaultControl. The engine itself makes none.
	Control string `yaml:"control"`
	// Metrics is the address (host:port) on which metrics are served, on
	// loopback unless it says otherwise; empty means not at all.
	Metrics string `yaml:"metrics"`
	// Settings are the tracker's, see Settings.
	Settings Settings `yaml:"settings"`
	// Profile is the timeouts that Settings begin with: linux or rfc; empty
	// means linux.
	Profile string `yaml:"profile"`
	Zoning  Zoning `yaml:",inline"`
	// Rules names the files of rules, for bridge and router.
	Rules RuleFiles `yaml:"rules"`
	// NATPorts are the ports that connections may be mapped to on the host's own
	// addresses where rules name none; empty means those that the host does not pick
	// from by itself (net.ipv4.ip_local_port_range). Ports that sockets have are taken
	// out.
	NATPorts PortRanges `yaml:"nat_ports"`
	// ICMP limits the ICMP errors of a router and of REJECT.
	ICMP icmplimit.Settings `yaml:",inline"`

	origin origin
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

// LoadConfig reads a configuration file. Errors name the file, the line and the
// key. Names of files in it are relative to the folder that it is in, but for that of the
// control socket, which is relative to the working directory.
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
	c.origin.file = name
	for _, file := range []*string{&c.Rules.IPv4, &c.Rules.IPv6} {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(filepath.Dir(name), *file)
		}
	}
	return c, nil
}

// configError is a value that is wrong, the key that has it, and, if that is a list, which
// of its values, counted from 1.
type configError struct {
	key  string
	item int
	what string
}

func (e *configError) Error() string { return e.key + ": " + e.what }

func bad(key, format string, args ...any) error {
	return &configError{key: key, what: fmt.Sprintf(format, args...)}
}

func badItem(key string, index int, format string, args ...any) error {
	return &configError{key, index + 1, fmt.Sprintf(format, args...)}
}

// Validate checks c as far as that can be done without looking at the machine.
// An error names the key.
func (c *Config) Validate() error {
	for _, check := range []func() error{c.validatePorts, c.validateNumbers, c.validateCPUs, c.validateWords, c.Zoning.validate} {
		if err := check(); err != nil {
			return err
		}
	}
	if c.Mode == Tap && c.Rules != (RuleFiles{}) {
		return bad("rules", "a tap forwards nothing, so there is nothing for rules to decide")
	}
	if err := c.Settings.Validate(); err != nil {
		return bad("settings", "%v", err)
	}
	return nil
}

func (c *Config) validatePorts() error {
	switch c.Mode {
	case "":
		return bad("mode", "required: tap, bridge or router")
	case Bridge:
		if len(c.Ports) != 2 {
			return bad("ports", "a bridge has two, not %d", len(c.Ports))
		}
	case Tap, Router:
		if len(c.Ports) == 0 {
			return bad("ports", "at least one is required")
		}
	}
	if len(c.Ports) > maxPorts {
		return bad("ports", "%d are too many, at most %d", len(c.Ports), maxPorts)
	}
	for i, p := range c.Ports {
		if p.Interface == "" {
			return badItem("ports", i, "port %d has no interface", i+1)
		}
		for _, q := range c.Ports[:i] {
			if p.Interface == q.Interface {
				return badItem("ports", i, "interface %q appears twice", p.Interface)
			}
		}
	}
	return nil
}

func (c *Config) validateNumbers() error {
	for _, k := range []struct {
		key string
		n   int
	}{
		{"shards", c.Shards},
		{"icmp_ratelimit", c.ICMP.Rate},
		{"icmpv6_ratelimit", c.ICMP.Rate6},
		{"icmp_msgs_per_sec", c.ICMP.PerSecond},
		{"icmp_msgs_burst", c.ICMP.Burst},
	} {
		if r := ranges[k.key]; !r.has(int64(k.n)) {
			return bad(k.key, "%s is expected, not %d", r, k.n)
		}
	}
	if c.FrameSize != rx.MinChunk && c.FrameSize != rx.MaxChunk {
		return bad("frame_size", "%d or %d is expected, not %d", rx.MinChunk, rx.MaxChunk, c.FrameSize)
	}
	return nil
}

func (c *Config) validateCPUs() error {
	for i, n := range c.CPUs {
		if r := ranges["cpus"]; !r.has(int64(n)) {
			return badItem("cpus", i, "%s is expected, not %d", r, n)
		}
		if slices.Contains(c.CPUs[:i], n) {
			return badItem("cpus", i, "%d appears twice", n)
		}
	}
	if c.Shards > 0 {
		return c.enoughCPUs(c.Shards)
	}
	return nil
}

// enoughCPUs reports whether the configured CPUs are too few for so many shards.
func (c *Config) enoughCPUs(shards int) error {
	if len(c.CPUs) > 0 && len(c.CPUs) < shards {
		return bad("cpus", "%d for %d shards, of which each needs one", len(c.CPUs), shards)
	}
	return nil
}

// validateWords checks the keys that have one of a few values.
func (c *Config) validateWords() error {
	if err := oneOf("mode", c.Mode, modes); err != nil {
		return err
	}
	if err := oneOf("xdp", c.XDP, xdpModes); err != nil {
		return err
	}
	return oneOf("driver", c.Driver, drivers)
}
