package engine

import (
	"maps"
	"slices"
	"sync/atomic"

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
	Zones    []ZoneConfig      `yaml:"zones"`
	Policies map[string]Policy `yaml:"timeouts"` // by name
}

func (z *Zoning) validate() error {
	seen := map[flow.Zone]bool{}
	for i, c := range z.Zones {
		if seen[c.Zone] {
			return badItem("zones", i, "zone %d appears twice", c.Zone)
		}
		seen[c.Zone] = true
		if r := ranges["max"]; !r.has(int64(c.Max)) {
			return badItem("zones", i, "zone %d: max: %s is expected, not %d", c.Zone, r, c.Max)
		}
		if _, ok := z.Policies[c.Timeouts]; !ok && c.Timeouts != "" {
			return badItem("zones", i, "zone %d: there are no timeouts %q", c.Zone, c.Timeouts)
		}
	}
	return nil
}

// PortZone is a zone of a port, in one of two forms: a number, or a mapping of
// zone and direction (original or reply; absent: both).
type PortZone struct{ flow.ZoneID }
