package engine

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/frag"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/shard"
	"github.com/xdpct/xdpct/table"
)

// Settings are the tracker's settings under the names of Linux's sysctls
// (net.netfilter.*), with Linux's defaults. Those beginning with xdpct_ are ours.
type Settings struct {
	L4 l4.Config
	// Max is nf_conntrack_max, the most connections of all shards together.
	Max int
	// Checksum is nf_conntrack_checksum: a wrong transport checksum makes a
	// packet INVALID.
	Checksum bool
	// Acct is nf_conntrack_acct: listings show packets and bytes. They are
	// counted in any case.
	Acct bool
	// Timestamp is nf_conntrack_timestamp: when a connection began is kept.
	Timestamp bool
	// ExpectMax is nf_conntrack_expect_max.
	ExpectMax int
	// ExpectSource is xdpct_expect_max_source, the most expectations of one source.
	ExpectSource int
	// HelperFlows is xdpct_helper_max and HelperKiB xdpct_helper_kib, of all shards together.
	HelperFlows, HelperKiB int
	// HelperSource is xdpct_helper_max_source, the most of HelperFlows that one source has begun.
	HelperSource int
	// Fragments are net.ipv4.ipfrag_time and nf_conntrack_frag6_timeout.
	Fragments frag.Config
	// AdaptiveStart and AdaptiveEnd, in percent of Max, shrink the timeouts of
	// connections that are not ASSURED as the table fills; a start of 0 turns
	// it off (pf's adaptive.start and adaptive.end).
	AdaptiveStart, AdaptiveEnd int
}

// DefaultSettings are those of Linux 6.18.
func DefaultSettings() Settings {
	return Settings{L4: l4.Linux(), Max: 262144, Checksum: true, ExpectMax: 4096, ExpectSource: 512, HelperFlows: 65536, HelperKiB: 65536, HelperSource: 4096, Fragments: frag.Linux(), AdaptiveEnd: 120}
}

// setting is one named value and its range.
type setting struct {
	name     string
	doc      string
	min, max uint64
	get      func(*Settings) uint64
	set      func(*Settings, uint64)
}

func timeout(name, doc string, field func(*l4.Timeouts) *uint32) setting {
	return setting{
		name, doc + ", in seconds", 0, flow.MaxTimeout,
		func(s *Settings) uint64 { return uint64(*field(&s.L4.Timeouts)) },
		func(s *Settings, v uint64) { *field(&s.L4.Timeouts) = uint32(v) },
	}
}

func tcpTimeout(name string, st flow.TCPState) setting {
	return timeout("nf_conntrack_tcp_timeout_"+name, "TCP in "+st.String(),
		func(t *l4.Timeouts) *uint32 { return &t.TCP[st] })
}

func sctpTimeout(name string, st flow.SCTPState) setting {
	return timeout("nf_conntrack_sctp_timeout_"+name, "SCTP in "+st.String(),
		func(t *l4.Timeouts) *uint32 { return &t.SCTP[st] })
}

func fragTimeout(name, family string, field func(*frag.Config) *int64) setting {
	return setting{
		name, "how long fragments of " + family + " wait for the rest, in seconds", 1, 3600,
		func(s *Settings) uint64 { return uint64(*field(&s.Fragments)) / 1000 },
		func(s *Settings, v uint64) { *field(&s.Fragments) = int64(v) * 1000 },
	}
}

func flag(name, doc string, field func(*Settings) *bool) setting {
	return setting{
		name, doc, 0, 1,
		func(s *Settings) uint64 {
			if *field(s) {
				return 1
			}
			return 0
		},
		func(s *Settings, v uint64) { *field(s) = v == 1 },
	}
}

func count(name, doc string, lo, hi uint64, field func(*Settings) *int) setting {
	return setting{
		name, doc, lo, hi,
		func(s *Settings) uint64 { return uint64(*field(s)) },
		func(s *Settings, v uint64) { *field(s) = int(v) },
	}
}

// settings lists every setting in the order of `xdpct settings`.
var settings = []setting{
	count("nf_conntrack_max", "the most connections", 1, table.MaxConns, func(s *Settings) *int { return &s.Max }),
	flag("nf_conntrack_acct", "show packets and bytes in listings", func(s *Settings) *bool { return &s.Acct }),
	flag("nf_conntrack_timestamp", "keep and show when connections began", func(s *Settings) *bool { return &s.Timestamp }),
	count("nf_conntrack_expect_max", "the most expectations", 1, 1<<16, func(s *Settings) *int { return &s.ExpectMax }),
	count("xdpct_expect_max_source", "the most expectations of what one host announces; 0 is any number", 0, 1<<16, func(s *Settings) *int { return &s.ExpectSource }),
	count("xdpct_helper_max", "the most connections that helpers read at a time", 1, 1<<22, func(s *Settings) *int { return &s.HelperFlows }),
	count("xdpct_helper_max_source", "the most of them that one host has begun; 0 is any number", 0, 1<<22, func(s *Settings) *int { return &s.HelperSource }),
	count("xdpct_helper_kib", "the most memory for what is incomplete and for edits, in KiB", 1, 1<<24, func(s *Settings) *int { return &s.HelperKiB }),
	flag("nf_conntrack_checksum", "a wrong transport checksum is INVALID", func(s *Settings) *bool { return &s.Checksum }),
	timeout("nf_conntrack_generic_timeout", "protocols without a tracker", func(t *l4.Timeouts) *uint32 { return &t.Generic }),
	timeout("nf_conntrack_icmp_timeout", "ICMP queries", func(t *l4.Timeouts) *uint32 { return &t.ICMP }),
	timeout("nf_conntrack_icmpv6_timeout", "ICMPv6 queries", func(t *l4.Timeouts) *uint32 { return &t.ICMPv6 }),
	timeout("nf_conntrack_udp_timeout", "UDP without an answer, or younger than two seconds", func(t *l4.Timeouts) *uint32 { return &t.UDP }),
	timeout("nf_conntrack_udp_timeout_stream", "UDP streams", func(t *l4.Timeouts) *uint32 { return &t.UDPStream }),
	flag("nf_conntrack_tcp_loose", "pick up TCP connections that are under way", func(s *Settings) *bool { return &s.L4.TCPLoose }),
	flag("nf_conntrack_tcp_be_liberal", "out of window is not INVALID", func(s *Settings) *bool { return &s.L4.TCPBeLiberal }),
	flag("nf_conntrack_tcp_ignore_invalid_rst", "a RST below the acknowledged data is not INVALID", func(s *Settings) *bool { return &s.L4.TCPIgnoreInvalidRST }),
	{
		"nf_conntrack_tcp_max_retrans", "retransmissions after which a connection is taken for stuck", 0, math.MaxUint8,
		func(s *Settings) uint64 { return uint64(s.L4.TCPMaxRetrans) },
		func(s *Settings, v uint64) { s.L4.TCPMaxRetrans = uint8(v) },
	},
	tcpTimeout("syn_sent", flow.TCPSynSent),
	tcpTimeout("syn_recv", flow.TCPSynRecv),
	tcpTimeout("established", flow.TCPEstablished),
	tcpTimeout("fin_wait", flow.TCPFinWait),
	tcpTimeout("close_wait", flow.TCPCloseWait),
	tcpTimeout("last_ack", flow.TCPLastAck),
	tcpTimeout("time_wait", flow.TCPTimeWait),
	tcpTimeout("close", flow.TCPClose),
	timeout("nf_conntrack_tcp_timeout_max_retrans", "TCP that is stuck", func(t *l4.Timeouts) *uint32 { return &t.TCPMaxRetrans }),
	timeout("nf_conntrack_tcp_timeout_unacknowledged", "TCP with data that is not acknowledged", func(t *l4.Timeouts) *uint32 { return &t.TCPUnacknowledged }),
	timeout("nf_conntrack_gre_timeout", "GRE without an answer", func(t *l4.Timeouts) *uint32 { return &t.GRE }),
	timeout("nf_conntrack_gre_timeout_stream", "GRE with traffic in both directions", func(t *l4.Timeouts) *uint32 { return &t.GREStream }),
	sctpTimeout("closed", flow.SCTPClosed),
	sctpTimeout("cookie_wait", flow.SCTPCookieWait),
	sctpTimeout("cookie_echoed", flow.SCTPCookieEchoed),
	sctpTimeout("established", flow.SCTPEstablished),
	sctpTimeout("shutdown_sent", flow.SCTPShutdownSent),
	sctpTimeout("shutdown_recd", flow.SCTPShutdownRecd),
	sctpTimeout("shutdown_ack_sent", flow.SCTPShutdownAckSent),
	sctpTimeout("heartbeat_sent", flow.SCTPHeartbeatSent),
	fragTimeout("ipfrag_time", "IPv4", func(c *frag.Config) *int64 { return &c.TimeoutIPv4 }),
	fragTimeout("nf_conntrack_frag6_timeout", "IPv6", func(c *frag.Config) *int64 { return &c.TimeoutIPv6 }),
	count("xdpct_adaptive_start", "percent of nf_conntrack_max from which timeouts of connections that are not ASSURED shrink; 0 is never", 0, 100,
		func(s *Settings) *int { return &s.AdaptiveStart }),
	count("xdpct_adaptive_end", "percent of nf_conntrack_max at which they would reach nothing", 1, 1000,
		func(s *Settings) *int { return &s.AdaptiveEnd }),
	flag("xdpct_tcp_exact_rst", "a RST closes a TCP connection only at exactly the next sequence number (RFC 5961); others in the window pass and change nothing",
		func(s *Settings) *bool { return &s.L4.TCPExactRST }),
}

const settingPrefix = "net.netfilter."

// isTimeout reports whether a setting is a timeout, so that it may be part of a
// timeout policy.
func isTimeout(name string) bool {
	return strings.Contains(name, "_timeout") && !strings.Contains(name, "_frag6_")
}

// settingOf finds a setting by its name, with or without the prefix net.netfilter.
func settingOf(name string) (*setting, bool) {
	i := slices.IndexFunc(settings, func(f setting) bool { return f.name == strings.TrimPrefix(name, settingPrefix) })
	if i < 0 {
		return nil, false
	}
	return &settings[i], true
}

// Set sets the named setting, with or without the prefix net.netfilter. An
// unknown name or a value out of range is an error and changes nothing.
func (s *Settings) Set(name, value string) error {
	f, ok := settingOf(name)
	if !ok {
		return fmt.Errorf("%s: no such setting", name)
	}
	v, err := strconv.ParseUint(value, 10, 64)
	if err != nil || v < f.min || v > f.max {
		return fmt.Errorf("%s: %q is not a number from %d to %d", f.name, value, f.min, f.max)
	}
	f.set(s, v)
	return nil
}

// Each calls visit for every setting with its value and meaning.
func (s *Settings) Each(visit func(name string, value uint64, doc string)) {
	for _, f := range settings {
		visit(f.name, f.get(s), f.doc)
	}
}

// Validate checks what no single setting can know.
func (s *Settings) Validate() error {
	if s.AdaptiveStart > 0 && s.AdaptiveEnd <= s.AdaptiveStart {
		return fmt.Errorf("xdpct_adaptive_end: %d is not above xdpct_adaptive_start, %d", s.AdaptiveEnd, s.AdaptiveStart)
	}
	return nil
}

// shardConfig divides the settings among n shards, and makes what they share.
func (s *Settings) shardConfig(n int, secret *flow.Secret, z *Zoning) shard.Config {
	per := (s.Max + n - 1) / n
	zones, policies := z.shardZones(s.L4)
	return shard.Config{
		L4: s.L4, Secret: *secret, MaxConns: per, Timestamp: s.Timestamp,
		Zones: zones, Policies: policies, Expect: expect.New(s.ExpectMax, secret),
		ExpectPerSource: s.ExpectSource, Helpers: helper.All(),
		HelpFlows: (s.HelperFlows + n - 1) / n, HelpBytes: s.HelperKiB << 10 / n,
		HelpPerSource: (s.HelperSource + n - 1) / n,
		Checks:        packet.Checks{Transport: s.Checksum},
		Keys:          flow.NewGREKeys(secret),
		AdaptiveStart: per * s.AdaptiveStart / 100, AdaptiveEnd: per * s.AdaptiveEnd / 100,
	}
}
