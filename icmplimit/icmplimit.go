// Package icmplimit bounds how many ICMP errors a router sends, as Linux does: to one
// host by a token bucket of its own (inet_peer_xrlim_allow), and in all by one for the
// machine (icmp_global_allow). What path MTU discovery needs is never held back.
//
// Limits are shared by all shards. Nothing of them is locked, and only packets that are
// answered with an error come near them.
package icmplimit

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
)

// Types is a set of ICMP or ICMPv6 types, a bit each.
type Types [4]uint64

// Has reports whether a type is in the set.
func (t *Types) Has(typ uint8) bool { return t[typ/64]>>(typ%64)&1 != 0 }

// add adds types from lo to hi.
func (t *Types) add(lo, hi uint8) {
	for n := int(lo); n <= int(hi); n++ {
		t[n/64] |= 1 << (n % 64)
	}
}

// ParseTypes reads a list of types and ranges as net.ipv6.icmp.ratemask has it:
// "0-1,3-127". The empty list is the empty set.
func ParseTypes(s string) (t Types, err error) {
	if s == "" {
		return t, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			hi = lo
		}
		a, err1 := strconv.ParseUint(lo, 10, 8)
		b, err2 := strconv.ParseUint(hi, 10, 8)
		if err1 != nil || err2 != nil || a > b {
			return t, fmt.Errorf("%q is no list of ICMP types, as 0-1,3-127 is", s)
		}
		t.add(uint8(a), uint8(b))
	}
	return t, nil
}

// Settings are the kernel's sysctls of these names, and the tags their keys in a
// configuration.
type Settings struct {
	// Rate is the least time in milliseconds between two errors to one host, of which
	// six may come at once; 0: there is no limit (net.ipv4.icmp_ratelimit).
	Rate int `yaml:"icmp_ratelimit"`
	// Mask are the types that are limited, a bit each (net.ipv4.icmp_ratemask).
	Mask uint32 `yaml:"icmp_ratemask"`
	// Rate6 and Mask6 are the same for IPv6 (net.ipv6.icmp.ratelimit and ratemask).
	Rate6 int   `yaml:"icmpv6_ratelimit"`
	Mask6 Types `yaml:"icmpv6_ratemask"`
	// PerSecond is how many errors of limited types may be sent in a second to all
	// hosts, Burst how many of them at once (net.ipv4.icmp_msgs_per_sec, icmp_msgs_burst,
	// which hold for IPv6 as well).
	PerSecond int `yaml:"icmp_msgs_per_sec"`
	Burst     int `yaml:"icmp_msgs_burst"`
}

// Linux returns the settings that Linux 6.18 begins with.
func Linux() Settings {
	s := Settings{Rate: 1000, Mask: 1<<3 | 1<<4 | 1<<11 | 1<<12, Rate6: 100, PerSecond: 1000, Burst: 50}
	s.Mask6.add(0, 1)
	s.Mask6.add(3, 127)
	return s
}

// Limits hold ICMP errors back. Make them with New. They are safe for concurrent use.
type Limits struct {
	Settings
	secret flow.Secret

	credit atomic.Int64 // errors that may be sent to anybody (icmp_global.credit)
	stamp  atomic.Int64 // when it was filled up last, in milliseconds

	peers [1 << 10][ways]peer // by a hash of the host
}

// peer is the bucket of a host (struct inet_peer).
type peer struct {
	host  atomic.Uint64 // a hash of its address; 0: of none
	since atomic.Int64  // the time that the tokens in the bucket have been gathered from, in milliseconds
}

const (
	ways       = 4
	peerBurst  = 6  // XRLIM_BURST_FACTOR
	refillStep = 20 // milliseconds: HZ/50
)

// New returns limits; secret keys the hash of hosts, so that nobody can aim at the
// bucket of another.
func New(s Settings, secret *flow.Secret) *Limits {
	l := &Limits{Settings: s, secret: *secret}
	l.stamp.Store(-1 << 40)
	for i := range l.peers {
		for j := range l.peers[i] {
			l.peers[i][j].since.Store(full)
		}
	}
	return l
}

// full is a bucket with as many tokens as fit.
const full = -1 << 40

// Allow reports whether an ICMP or ICMPv6 error of a type and code may be sent to a
// host at a time in milliseconds, which may not be before -2^39, and counts it.
func (l *Limits) Allow(f flow.Family, typ, code uint8, to flow.Addr, now int64) bool {
	rate := l.Rate
	if f == flow.IPv6 {
		rate = l.Rate6
	}
	if !l.limited(f, typ, code) {
		return true
	}
	if !l.refill(now) || rate != 0 && !l.take(f, to, now, int64(rate), peerBurst*int64(rate)) {
		return false
	}
	l.credit.Add(-1) // icmp_global_consume, which takes 0, 1 or 2
	return true
}

// The pace of errors about packets that no route is for (net.ipv4.route.error_cost and
// error_burst, which a network namespace cannot set), in milliseconds.
const (
	errorCost  = 1000
	errorBurst = 5000
)

// AllowNoRoute reports whether the answer to an IPv4 packet of a host that cannot be
// routed may be tried at all (ip_error): it takes a token out of the bucket from which Allow
// takes another. So two are sent at once by default, five if Rate is 0; after that one needs
// two seconds, and packets that come faster use up what would have let it be sent.
func (l *Limits) AllowNoRoute(src flow.Addr, now int64) bool {
	return l.take(flow.IPv4, src, now, errorCost, errorBurst)
}

// limited reports whether errors of a type are limited (icmpv4_mask_allow,
// icmpv6_mask_allow).
func (l *Limits) limited(f flow.Family, typ, code uint8) bool {
	const fragNeeded, packetTooBig, informational = 4, 2, 0x80
	if f == flow.IPv6 {
		return typ&informational == 0 && typ != packetTooBig && l.Mask6.Has(typ)
	}
	return (typ != 3 || code != fragNeeded) && typ < 32 && l.Mask>>typ&1 != 0
}

// refill reports whether an error may be sent to anybody, and gives credit for the time
// that has passed if there is none left (icmp_global_allow).
func (l *Limits) refill(now int64) bool {
	if l.credit.Load() > 0 {
		return true
	}
	old := l.stamp.Load()
	passed := min(now-old, 1000)
	if passed < refillStep {
		return false
	}
	more := int64(l.PerSecond) * passed / 1000
	if more == 0 {
		return false
	}
	if l.stamp.CompareAndSwap(old, now) {
		for {
			had := l.credit.Load()
			if l.credit.CompareAndSwap(had, min(had+more, int64(l.Burst))) {
				break
			}
		}
	}
	return true
}

// take takes a token of some milliseconds out of the bucket of a host, in which there are
// never more than burst milliseconds (inet_peer_xrlim_allow).
func (l *Limits) take(f flow.Family, to flow.Addr, now, token, burst int64) bool {
	key := flow.Tuple{Src: to, L4: flow.MakeL4(f, 0, 0, 0, 0)}
	hash := key.Hash(&l.secret)
	p := l.peer(hash&(1<<10-1), hash|1)
	for {
		old := p.since.Load()
		since := max(old, now-burst)
		if now-since < token {
			return false
		}
		if p.since.CompareAndSwap(old, since+token) {
			return true
		}
	}
}

// peer returns the bucket of a host. If there is none it is a full one, and that of
// the host of the same set that has been quiet for longest is given up. (Linux forgets
// hosts as well, when there are many.)
func (l *Limits) peer(set, host uint64) *peer {
	for {
		oldest := &l.peers[set][0]
		for i := range l.peers[set] {
			p := &l.peers[set][i]
			if p.host.Load() == host {
				return p
			}
			if p.since.Load() < oldest.since.Load() {
				oldest = p
			}
		}
		if was := oldest.host.Load(); oldest.host.CompareAndSwap(was, host) {
			oldest.since.Store(full)
			return oldest
		}
	}
}
