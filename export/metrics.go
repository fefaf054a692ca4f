package export

import (
	"bytes"
	"fmt"
	"io"

	"github.com/VictoriaMetrics/metrics"

	"github.com/xdpct/xdpct/flow"
)

// Metric is a metric, as docs/metrics.md lists it.
type Metric struct {
	Name, Type string // counter or gauge
	Help       string
	Labels     []string
}

// samples are the values of a metric.
type samples struct {
	Metric
	values []sample
}

type sample struct {
	labels []any // values, in the order of Labels
	value  uint64
}

func counter(name, help string, labels ...string) samples {
	return samples{Metric: Metric{name, "counter", help, labels}}
}

func gauge(name, help string, labels ...string) samples {
	return samples{Metric: Metric{name, "gauge", help, labels}}
}

func (m samples) of(value uint64, labels ...any) samples {
	m.values = append(m.values, sample{labels, value})
	return m
}

// MaxRuleMetrics is how many rules have metrics of their own; the first ones count.
const MaxRuleMetrics = 2000

// RuleStats are the counters of a rule in force, or, with number 0, of the policy of a
// chain.
type RuleStats struct {
	Family, Table, Chain string
	Rule                 int // its number in the chain, from 1, as iptables -L --line-numbers
	Packets, Bytes       uint64
}

// Metrics lists every metric, without values.
func Metrics() (all []Metric) {
	for _, m := range new(Stats).metrics() {
		all = append(all, m.Metric)
	}
	return all
}

// WriteMetrics prints s in the Prometheus text format. What node_exporter says of the
// kernel's tracker has its names and types here.
func (s *Stats) WriteMetrics(w io.Writer) error {
	var b bytes.Buffer
	for _, m := range s.metrics() {
		if len(m.values) == 0 {
			continue
		}
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", m.Name, m.Help, m.Name, m.Type)
		for _, v := range m.values {
			name := m.Name
			for i, l := range m.Labels {
				sep := ","
				if i == 0 {
					sep = "{"
				}
				name += fmt.Sprintf("%s%s=%q", sep, l, fmt.Sprint(v.labels[i]))
			}
			if len(m.Labels) > 0 {
				name += "}"
			}
			metrics.WriteGaugeUint64(&b, name, v.value) // the same line for a counter
		}
	}
	_, err := b.WriteTo(w)
	return err
}

func (s *Stats) metrics() []samples {
	all := append(s.shardMetrics(), s.portMetrics()...)
	all = append(all, s.packetMetrics()...)
	all = append(all, s.routeMetrics()...)
	all = append(all, s.natMetrics()...)
	all = append(all,
		counter("xdpct_expectations_created_total", "Expectations made.").of(s.Expectations.Created),
		counter("xdpct_expectations_deleted_total", "Expectations that went, used or not.").of(s.Expectations.Deleted),
		counter("xdpct_expectations_matched_total", "Connections that were expected.").of(s.Expectations.Matched),
	)
	all = append(all, s.Helpers.metrics()...)
	all = append(all, s.ruleMetrics()...)
	return append(all, s.listenerMetrics()...)
}

func (s *Stats) routeMetrics() (all []samples) {
	for _, m := range []struct {
		samples
		value func(*RouteStats) uint64
	}{
		{gauge("xdpct_routes", "Destinations that a router has routes to."), func(r *RouteStats) uint64 { return r.Routes }},
		{gauge("xdpct_neighbours", "Neighbours whose link-layer address a router knows."), func(r *RouteStats) uint64 { return r.Neighbours }},
		{counter("xdpct_netlink_overruns_total", "Times that the kernel had more to tell of routes and neighbours than there was room for."), func(r *RouteStats) uint64 { return r.Overruns }},
		{counter("xdpct_route_resyncs_total", "Times that all routes were read anew, since messages were lost."), func(r *RouteStats) uint64 { return r.RouteResyncs }},
		{counter("xdpct_neighbour_resyncs_total", "Times that all neighbours were read anew, since messages were lost."), func(r *RouteStats) uint64 { return r.NeighbourResyncs }},
		{counter("xdpct_netlink_restarts_total", "Netlink subscriptions that ended and were made again."), func(r *RouteStats) uint64 { return r.Restarts }},
		{counter("xdpct_neighbours_refused_total", "Neighbours that were not taken, for there were too many."), func(r *RouteStats) uint64 { return r.NeighboursRefused }},
	} {
		if s.Routing != nil {
			m.samples = m.of(m.value(s.Routing))
		}
		all = append(all, m.samples)
	}
	return all
}

func (s *Stats) natMetrics() (all []samples) {
	for _, m := range []struct {
		samples
		value func(*NATStats) uint64
	}{
		{gauge("xdpct_nat_claims", "Tuples in the directory that the shards of a router share."), func(n *NATStats) uint64 { return n.Claims }},
		{gauge("xdpct_nat_claims_room", "Words of that directory; 0 with one shard, which has none."), func(n *NATStats) uint64 { return n.Room }},
		{counter("xdpct_nat_claims_full_total", "Times that a tuple found no room in that directory."), func(n *NATStats) uint64 { return n.Full }},
		{gauge("xdpct_nat_sources_room", "Mappings of sources that may be remembered."), func(n *NATStats) uint64 { return n.SourcesRoom }},
		{counter("xdpct_nat_sources_forgotten_total", "Mappings of sources that were in use, and were forgotten for others."), func(n *NATStats) uint64 { return n.SourcesForgotten }},
	} {
		if s.NAT != nil {
			m.samples = m.of(m.value(s.NAT))
		}
		all = append(all, m.samples)
	}
	return all
}

func (s *Stats) shardMetrics() []samples {
	entries := gauge("node_nf_conntrack_entries", "Connections in the tables of all shards.")
	limit := gauge("node_nf_conntrack_entries_limit", "The most connections (nf_conntrack_max).")
	fragments := gauge("xdpct_fragments", "Frames that wait for the rest of their datagram.")
	if len(s.Shards) > 0 {
		var n, most, held uint64
		for _, c := range s.Shards {
			n, most, held = n+c.Entries, most+c.Max, held+c.Fragments
		}
		entries, limit, fragments = entries.of(n), limit.of(most), fragments.of(held)
	}
	all := []samples{entries, limit, fragments}
	for _, m := range []struct {
		samples
		value func(*ShardStats) uint64
	}{
		{gauge("node_nf_conntrack_stat_found", "Always 0: reply tuples that translation finds taken are not counted.", "shard"), func(c *ShardStats) uint64 { return c.Found }},
		{gauge("node_nf_conntrack_stat_invalid", "Packets that are INVALID.", "shard"), func(c *ShardStats) uint64 { return c.Invalid }},
		{gauge("node_nf_conntrack_stat_insert", "Connections made.", "shard"), func(c *ShardStats) uint64 { return c.Insert }},
		{gauge("node_nf_conntrack_stat_insert_failed", "Connections that found no place in the index, or whose reply tuple another has.", "shard"), func(c *ShardStats) uint64 { return c.InsertFailed }},
		{gauge("node_nf_conntrack_stat_drop", "Packets dropped because the table is full or the reply tuple is taken.", "shard"), func(c *ShardStats) uint64 { return c.Drop }},
		{gauge("node_nf_conntrack_stat_early_drop", "Connections that made room for others.", "shard"), func(c *ShardStats) uint64 { return c.EarlyDrop }},
		{gauge("node_nf_conntrack_stat_search_restart", "Always 0: nothing races with a search.", "shard"), func(c *ShardStats) uint64 { return c.SearchRestart }},
		{gauge("xdpct_shard_entries", "Connections in the table of a shard.", "shard"), func(c *ShardStats) uint64 { return c.Entries }},
		{counter("xdpct_packets_total", "Packets judged.", "shard"), func(c *ShardStats) uint64 { return c.Packets }},
		{counter("xdpct_bytes_total", "Bytes of the packets judged, IP headers included.", "shard"), func(c *ShardStats) uint64 { return c.Bytes }},
		{counter("xdpct_expired_total", "Connections that ended by their timeout.", "shard"), func(c *ShardStats) uint64 { return c.Expired }},
		{counter("xdpct_handed_over_total", "Frames received for another shard.", "shard"), func(c *ShardStats) uint64 { return c.HandedOver }},
		{counter("xdpct_polls_total", "Turns of the shard's loop.", "shard"), func(c *ShardStats) uint64 { return c.Polls }},
		{counter("xdpct_busy_polls_total", "Turns of the shard's loop that found frames.", "shard"), func(c *ShardStats) uint64 { return c.BusyPolls }},
		{counter("xdpct_sleeps_total", "Times that the shard's loop slept.", "shard"), func(c *ShardStats) uint64 { return c.Sleeps }},
	} {
		for i := range s.Shards {
			m.samples = m.of(m.value(&s.Shards[i]), s.Shards[i].Shard)
		}
		all = append(all, m.samples)
	}
	return all
}

func (s *Stats) portMetrics() (all []samples) {
	for _, m := range []struct {
		samples
		value func(*PortStats) uint64
	}{
		{gauge("xdpct_port_up", "1 if the interface is there with the XDP program on it.", "interface"), func(p *PortStats) uint64 {
			if p.Attached {
				return 1
			}
			return 0
		}},
		{counter("xdpct_port_received_total", "Frames received.", "interface"), func(p *PortStats) uint64 { return p.Received }},
		{counter("xdpct_port_transmitted_total", "Frames sent.", "interface"), func(p *PortStats) uint64 { return p.Transmitted }},
		{counter("xdpct_port_passed_total", "Frames left to the host.", "interface"), func(p *PortStats) uint64 { return p.Passed }},
		{counter("xdpct_port_transmit_errors_total", "Frames that the kernel refused to send.", "interface"), func(p *PortStats) uint64 { return p.TXErrors }},
	} {
		for i := range s.Ports {
			m.samples = m.of(m.value(&s.Ports[i]), s.Ports[i].Interface)
		}
		all = append(all, m.samples)
	}
	return all
}

func (s *Stats) packetMetrics() []samples {
	states := counter("xdpct_packets_state_total", "Packets by state (--ctstate).", "state")
	for st := flow.Invalid; st <= flow.Untracked; st++ {
		states = states.of(s.States[st.String()], st)
	}
	reasons := counter("xdpct_packets_reason_total", "Packets by the reason for which they were dropped, are INVALID or were ignored (docs/datapath.md).", "reason")
	for r := flow.NoReason + 1; r < flow.NumReasons; r++ {
		reasons = reasons.of(s.Reasons[r.String()], r)
	}
	return []samples{states, reasons}
}

func (s *Stats) ruleMetrics() []samples {
	where := []string{"family", "table", "chain", "rule"}
	packets := counter("xdpct_rule_packets_total", "Packets that matched a rule, by its number in the chain.", where...)
	bytes := counter("xdpct_rule_bytes_total", "Bytes of the packets that matched a rule.", where...)
	policyPackets := counter("xdpct_policy_packets_total", "Packets to which the policy of a chain was applied.", where[:3]...)
	policyBytes := counter("xdpct_policy_bytes_total", "Bytes of the packets to which the policy of a chain was applied.", where[:3]...)
	without, n := s.MoreRules, 0
	for i := range s.Rules {
		switch r := &s.Rules[i]; {
		case r.Rule == 0:
			policyPackets = policyPackets.of(r.Packets, r.Family, r.Table, r.Chain)
			policyBytes = policyBytes.of(r.Bytes, r.Family, r.Table, r.Chain)
		case n == MaxRuleMetrics:
			without++
		default:
			n++
			packets = packets.of(r.Packets, r.Family, r.Table, r.Chain, r.Rule)
			bytes = bytes.of(r.Bytes, r.Family, r.Table, r.Chain, r.Rule)
		}
	}
	return []samples{
		packets, bytes, policyPackets, policyBytes,
		gauge("xdpct_rules_without_metrics", fmt.Sprintf("Rules beyond the first %d, which have no metrics.", MaxRuleMetrics)).of(without),
	}
}

func (s *Stats) listenerMetrics() (all []samples) {
	for _, m := range []struct {
		samples
		value func(*ListenerStats) uint64
	}{
		{gauge("xdpct_clients", "Connections of clients.", "listener"), func(l *ListenerStats) uint64 { return l.Open }},
		{counter("xdpct_clients_accepted_total", "Connections of clients that were accepted.", "listener"), func(l *ListenerStats) uint64 { return l.Accepted }},
		{counter("xdpct_clients_refused_total", "Connections of clients that were closed at once, because all others were at work.", "listener"), func(l *ListenerStats) uint64 { return l.Refused }},
		{counter("xdpct_clients_evicted_total", "Idle connections of clients that were closed, because another needed the place.", "listener"), func(l *ListenerStats) uint64 { return l.Evicted }},
	} {
		for i := range s.Listeners {
			m.samples = m.of(m.value(&s.Listeners[i]), s.Listeners[i].Name)
		}
		all = append(all, m.samples)
	}
	return all
}
