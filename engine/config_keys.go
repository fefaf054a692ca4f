package engine

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/icmplimit"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/rx"
	"github.com/xdpct/xdpct/table"
)

// ranges are those of the keys whose values, or the values in them, are whole numbers.
var ranges = map[string]span{
	"shards":            {0, MaxShards},
	"cpus":              {0, maxCPUs - 1},
	"icmp_ratelimit":    {0, math.MaxInt32}, // the sysctls are of type int
	"icmp_ratemask":     {0, math.MaxUint32},
	"icmpv6_ratelimit":  {0, math.MaxInt32},
	"icmp_msgs_per_sec": {0, math.MaxInt32},
	"icmp_msgs_burst":   {0, math.MaxInt32},
	"zone":              {0, math.MaxUint16},
	"max":               {0, table.MaxConns},
	"vlans":             {1, 4094},
}

// The values of keys that have few.
var (
	modes      = []Mode{Tap, Bridge, Router}
	xdpModes   = []rx.XDPMode{rx.ModeAuto, rx.ModeDriver, rx.ModeGeneric}
	drivers    = []rx.Driver{rx.DriverXSK, rx.DriverAsavie}
	profiles   = []string{"linux", "rfc"}
	directions = []string{"original", "reply", "both"}
)

// ReadConfig reads a configuration in YAML. Errors name the line and the key.
func ReadConfig(r io.Reader) (Config, error) {
	c := DefaultConfig()
	root, err := onlyDocument(r)
	if err != nil {
		return c, err
	}
	var later deferred
	if err := mapping("mode: tap", c.keys(&later))("", root); err != nil {
		return c, err
	}
	c.origin = originOf(root)
	if err := c.readSettings(&later); err != nil {
		return c, err
	}
	return c, c.located(c.Validate())
}

// onlyDocument returns the one document that there is to be.
func onlyDocument(r io.Reader) (*yaml.Node, error) {
	var doc, more yaml.Node
	d := yaml.NewDecoder(r)
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the configuration is empty: mode and ports are required")
		}
		return nil, err
	}
	switch err := d.Decode(&more); {
	case err == nil:
		return nil, fmt.Errorf("line %d: a second document begins, and there is one configuration only", more.Line)
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	return doc.Content[0], nil
}

// deferred are values that depend on others, which may stand behind them.
type deferred struct{ settings, timeouts *yaml.Node }

// later keeps the value.
func later(dst **yaml.Node) reader {
	return func(_ string, n *yaml.Node) error { *dst = n; return nil }
}

// readSettings reads the settings over the profile, and the timeout policies over the
// settings.
func (c *Config) readSettings(d *deferred) error {
	if c.Profile != "" {
		c.Settings.L4.Timeouts, _ = l4.TimeoutsByName(c.Profile)
	}
	if d.settings != nil {
		if err := c.Settings.read("settings", d.settings, func(string) bool { return true }); err != nil {
			return err
		}
	}
	if d.timeouts != nil {
		return c.Zoning.readPolicies("timeouts", d.timeouts, c.Settings.L4.Timeouts)
	}
	return nil
}

// keys are the keys of a configuration.
func (c *Config) keys(d *deferred) map[string]reader {
	return map[string]reader{
		"mode":              choice(&c.Mode, modes),
		"ports":             list(&c.Ports, (*PortConfig).read),
		"shards":            number(&c.Shards),
		"cpus":              list(&c.CPUs, number[int]),
		"xdp":               choice(&c.XDP, xdpModes),
		"driver":            choice(&c.Driver, drivers),
		"force_copy":        boolean(&c.ForceCopy),
		"frame_size":        frameSize(&c.FrameSize),
		"control":           text(&c.Control, "the path of a socket"),
		"metrics":           parsed(&c.Metrics, "HOST:PORT, like :9273, with a port from 1 to 65535, or an empty text", parseListen),
		"settings":          later(&d.settings),
		"profile":           choice(&c.Profile, profiles),
		"zones":             list(&c.Zoning.Zones, (*ZoneConfig).read),
		"timeouts":          later(&d.timeouts),
		"rules":             mapping("ipv4: FILE", c.Rules.keys()),
		"nat_ports":         parsed(&c.NATPorts, "a text with ranges of ports from 1 to 65535, like 1024-32767,61000-65535,", parsePortRanges),
		"icmp_ratelimit":    number(&c.ICMP.Rate),
		"icmp_ratemask":     number(&c.ICMP.Mask),
		"icmpv6_ratelimit":  number(&c.ICMP.Rate6),
		"icmpv6_ratemask":   parsed(&c.ICMP.Mask6, "a text with ICMPv6 types from 0 to 255, like 0-1,3-127,", icmplimit.ParseTypes),
		"icmp_msgs_per_sec": number(&c.ICMP.PerSecond),
		"icmp_msgs_burst":   number(&c.ICMP.Burst),
	}
}

func (f *RuleFiles) keys() map[string]reader {
	return map[string]reader{"ipv4": text(&f.IPv4, "the name of a file"), "ipv6": text(&f.IPv6, "the name of a file")}
}

func (p *PortConfig) keys() map[string]reader {
	return map[string]reader{
		"interface": text(&p.Interface, "the name of an interface"),
		"zone":      p.Zone.read(),
		"vlans":     p.readVLANs,
	}
}

func (p *PortConfig) read() reader { return mapping("interface: eth0", p.keys(), "interface") }

func (p *PortConfig) readVLANs(key string, n *yaml.Node) error {
	p.VLANs = map[uint16]PortZone{}
	return eachPair(key, n, "a mapping of VLANs to zones", func(id, value *yaml.Node) error {
		var vlan uint16
		if err := number(&vlan)(key, id); err != nil {
			return err
		}
		if _, twice := p.VLANs[vlan]; twice {
			return fmt.Errorf("line %d: %s: %d appears twice", id.Line, key, vlan)
		}
		var z PortZone
		err := z.read()("zone", value)
		p.VLANs[vlan] = z
		return err
	})
}

// keys are those of the longer form of a zone; direction is for its text.
func (z *PortZone) keys(direction *string) map[string]reader {
	return map[string]reader{"zone": number(&z.Zone), "direction": choice(direction, directions)}
}

// read reads either form.
func (z *PortZone) read() reader {
	return func(key string, n *yaml.Node) error {
		if n.Kind != yaml.MappingNode {
			return number(&z.Zone)(key, n)
		}
		var direction string
		if err := mapping("zone: 5", z.keys(&direction), "zone")(key, n); err != nil {
			return err
		}
		switch direction {
		case "original":
			z.Dirs = flow.ZoneOriginal
		case "reply":
			z.Dirs = flow.ZoneReply
		}
		return nil
	}
}

func (c *ZoneConfig) keys() map[string]reader {
	return map[string]reader{"zone": number(&c.Zone), "max": number(&c.Max), "timeouts": text(&c.Timeouts, "a name under timeouts")}
}

func (c *ZoneConfig) read() reader { return mapping("zone: 5", c.keys(), "zone") }

// readPolicies reads the timeout policies, each of which begins with base.
func (z *Zoning) readPolicies(key string, n *yaml.Node, base l4.Timeouts) error {
	z.Policies = map[string]Policy{}
	return eachPair(key, n, "a mapping of names to settings", func(name, values *yaml.Node) error {
		var s string
		if err := text(&s, "a name")(key, name); err != nil {
			return err
		}
		if _, twice := z.Policies[s]; twice {
			return fmt.Errorf("line %d: %s %q appear twice", name.Line, key, s)
		}
		p := Settings{L4: l4.Config{Timeouts: base}}
		err := p.read(key+": "+s, values, isTimeout)
		z.Policies[s] = Policy{p.L4.Timeouts}
		return err
	})
}

// read reads settings by their names, those that may be there.
func (s *Settings) read(key string, n *yaml.Node, may func(name string) bool) error {
	seen := map[string]bool{}
	return eachPair(key, n, "a mapping of settings to numbers", func(k, value *yaml.Node) error {
		f, ok := settingOf(k.Value)
		if !ok {
			return fmt.Errorf("line %d: %s: no such setting; xdpct settings lists them", k.Line, k.Value)
		}
		if !may(f.name) {
			return fmt.Errorf("line %d: %s is no timeout; xdpct settings lists them", k.Line, k.Value)
		}
		if seen[f.name] {
			return fmt.Errorf("line %d: key %q appears twice", k.Line, k.Value)
		}
		seen[f.name] = true
		r := span{int64(f.min), int64(f.max)}
		v, ok := r.read(value)
		if !ok {
			return wrong(f.name, value, r.String())
		}
		f.set(s, uint64(v))
		return nil
	})
}

// parseListen checks an address to listen on. None at all is an empty one.
func parseListen(s string) (string, error) {
	if s == "" {
		return s, nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("port %q", port)
	}
	return s, nil
}

func frameSize(dst *int) reader {
	return func(key string, n *yaml.Node) error {
		v, ok := (span{rx.MinChunk, rx.MaxChunk}).read(n)
		if !ok || v != rx.MinChunk && v != rx.MaxChunk {
			return wrong(key, n, fmt.Sprintf("%d or %d", rx.MinChunk, rx.MaxChunk))
		}
		*dst = int(v)
		return nil
	}
}

// oneOf is the error of a key with another value than these.
func oneOf[T ~string](key string, v T, values []T) error {
	if slices.Contains(values, v) {
		return nil
	}
	return bad(key, "%s is expected, not %q", orList(values), v)
}

// orList is "a, b or c".
func orList[T ~string](values []T) string {
	var b strings.Builder
	for i, v := range values {
		switch {
		case i > 0 && i == len(values)-1:
			b.WriteString(" or ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(string(v))
	}
	return b.String()
}
