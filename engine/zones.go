package engine

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"go.yaml.in/yaml/v3"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/shard"
)

// ZoneConfig is what is particular to a zone.
type ZoneConfig struct {
	Zone flow.Zone `yaml:"zone"`
	// Max is the most connections of the zone, over all shards; 0 is any number.
	Max int `yaml:"max"`
	// Timeouts names a timeout policy; empty means the settings.
	Timeouts string `yaml:"timeouts"`
}

// Policy is a timeout policy: the settings that differ from the others, by name.
type Policy struct{ l4.Timeouts }

// zoneLimit counts the connections of a zone.
type zoneLimit struct {
	max int64
	n   atomic.Int64
}

// Take implements shard.Limiter.
func (z *zoneLimit) Take() bool {
	if z.n.Add(1) > z.max {
		z.n.Add(-1)
		return false
	}
	return true
}

// Give implements shard.Limiter.
func (z *zoneLimit) Give() { z.n.Add(-1) }

// shardZones makes what the shards share of zones, and the trackers of the timeout
// policies that they use.
func (z *Zoning) shardZones(base l4.Config) (zones map[flow.Zone]shard.Zone, policies []l4.Config) {
	number := z.numbers()
	for _, name := range z.names() {
		cfg := base
		cfg.Timeouts = z.Policies[name].Timeouts
		policies = append(policies, cfg)
	}
	for _, c := range z.Zones {
		var s shard.Zone
		if c.Max > 0 {
			s.Limit = &zoneLimit{max: int64(c.Max)}
		}
		s.Policy = number[c.Timeouts]
		if zones == nil {
			zones = map[flow.Zone]shard.Zone{}
		}
		zones[c.Zone] = s
	}
	return zones, policies
}

// numbers returns the numbers of the timeout policies, by name.
func (z *Zoning) numbers() map[string]uint16 {
	n := map[string]uint16{}
	for i, name := range z.names() {
		n[name] = uint16(i + 1)
	}
	return n
}

// names returns the names of the timeout policies, in their order.
func (z *Zoning) names() []string { return slices.Sorted(maps.Keys(z.Policies)) }

// Zoning is the part of a configuration that is about zones.
type Zoning struct {
	Zones    []ZoneConfig
	Policies map[string]Policy
}

func (z *Zoning) validate() error {
	seen := map[flow.Zone]bool{}
	for _, c := range z.Zones {
		if seen[c.Zone] {
			return fmt.Errorf("zone %d appears twice", c.Zone)
		}
		seen[c.Zone] = true
		if c.Max < 0 {
			return fmt.Errorf("zone %d: max %d is negative", c.Zone, c.Max)
		}
		if _, ok := z.Policies[c.Timeouts]; !ok && c.Timeouts != "" {
			return fmt.Errorf("zone %d: there are no timeouts %q", c.Zone, c.Timeouts)
		}
	}
	return nil
}

// PortZone is a zone of a port, in one of two forms: a number, or a mapping of
// zone and direction (original or reply; absent: both).
type PortZone struct{ flow.ZoneID }

// UnmarshalYAML decodes either form.
func (z *PortZone) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return decode("zone", n, &z.Zone)
	}
	var direction string
	if err := decodeMapping(n, map[string]any{"zone": &z.Zone, "direction": &direction}); err != nil {
		return err
	}
	switch direction {
	case "", "both":
	case "original":
		z.Dirs = flow.ZoneOriginal
	case "reply":
		z.Dirs = flow.ZoneReply
	default:
		return fmt.Errorf("line %d: direction %q is neither original, reply nor both", n.Line, direction)
	}
	return nil
}

// UnmarshalYAML decodes a zone.
func (c *ZoneConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return fmt.Errorf("line %d: zones: %q alone says nothing of a zone; write - zone: %s, and max: N or timeouts: NAME", n.Line, n.Value, n.Value)
	}
	return decodeMapping(n, map[string]any{"zone": &c.Zone, "max": &c.Max, "timeouts": &c.Timeouts})
}

// decodePolicies decodes the timeout policies, each of which begins with base.
func decodePolicies(n *yaml.Node, base l4.Timeouts) (map[string]Policy, error) {
	if n.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: timeouts: a mapping of names to settings is expected", n.Line)
	}
	all := map[string]Policy{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, values := n.Content[i], n.Content[i+1]
		if _, twice := all[name.Value]; twice {
			return nil, fmt.Errorf("line %d: timeouts %q appear twice", name.Line, name.Value)
		}
		if values.Kind != yaml.MappingNode {
			return nil, fmt.Errorf("line %d: timeouts %q: a mapping of names to seconds is expected", values.Line, name.Value)
		}
		s := Settings{L4: l4.Config{Timeouts: base}}
		for k := 0; k+1 < len(values.Content); k += 2 {
			key, value := values.Content[k], values.Content[k+1]
			if !isTimeout(key.Value) {
				return nil, fmt.Errorf("line %d: %s is no timeout", key.Line, key.Value)
			}
			if err := s.Set(key.Value, value.Value); err != nil {
				return nil, fmt.Errorf("line %d: %w", key.Line, err)
			}
		}
		all[name.Value] = Policy{s.L4.Timeouts}
	}
	return all, nil
}
