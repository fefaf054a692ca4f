package l4

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// Outcome is what becomes of a packet and its connection. The zero Outcome is
// Invalid.
type Outcome uint8

// The outcomes.
const (
	Invalid Outcome = iota // -NF_ACCEPT: the packet is INVALID, Reason says why
	Accept                 // count the packet, set the timer to Timeout
	Keep                   // the packet passes; timer and counters stay as they are
	Close                  // count the packet, then remove the connection (nf_ct_kill_acct)
	Reopen                 // remove the connection, take the packet as new (-NF_REPEAT)
	Shorten                // Invalid, and the timer is lowered to Timeout
)

// Result is a tracker's answer.
type Result struct {
	Outcome Outcome
	Reason  flow.Reason
	Timeout uint32 // seconds; valid iff Outcome is Accept or Shorten
}

func accept(timeout uint32) Result { return Result{Outcome: Accept, Timeout: timeout} }
func keep(r flow.Reason) Result    { return Result{Outcome: Keep, Reason: r} }
func invalid(r flow.Reason) Result { return Result{Outcome: Invalid, Reason: r} }

// isICMPRequest tells the queries that may begin a connection (valid_new).
func isICMPRequest(l flow.L4) bool {
	if l.Proto() == flow.ICMP {
		return l.ICMPType() == 8 || l.ICMPType() == 13 || l.ICMPType() == 15 || l.ICMPType() == 17
	}
	return l.ICMPType() == 128 || l.ICMPType() == 139
}

// New judges the first packet p of a connection. c is zero but for Key and
// Flip; if the outcome is not Accept it must be forgotten. now is the time of p.
func (cfg *Config) New(c *flow.Conn, p *packet.Packet, now flow.Millis) Result {
	switch p.Proto {
	case flow.TCP:
		if r := cfg.newTCP(c, p); r.Outcome != Accept {
			return r
		}
	case flow.UDP:
		c.SetUDPStreamAt(now + udpStreamAfter)
	case flow.ICMP, flow.ICMPv6:
		// A reply that nobody asked for: its key is that of the request.
		if p.Flipped || !isICMPRequest(c.Key.L4) {
			return invalid(flow.ReasonICMPNoRequest)
		}
	}
	return cfg.Packet(c, p, flow.Original, now)
}

// Packet judges a packet p of the connection c that runs in direction d. now is
// the time of p and c.Expires has not passed.
func (cfg *Config) Packet(c *flow.Conn, p *packet.Packet, d flow.Direction, now flow.Millis) Result {
	switch p.Proto {
	case flow.TCP:
		return cfg.tcp(c, p, d, now)
	case flow.UDP:
		return cfg.udp(c, now)
	case flow.ICMP:
		return accept(cfg.Timeouts.ICMP)
	case flow.ICMPv6:
		return accept(cfg.Timeouts.ICMPv6)
	}
	return cfg.other(c, p, d)
}

// other is Packet for the protocols that are rarer.
func (cfg *Config) other(c *flow.Conn, p *packet.Packet, d flow.Direction) Result {
	switch p.Proto {
	case flow.SCTP:
		return cfg.sctp(c, p, d)
	case flow.UDPLite:
		return replied(c, cfg.Timeouts.UDP, cfg.Timeouts.UDPStream)
	case flow.GRE:
		return replied(c, cfg.Timeouts.GRE, cfg.Timeouts.GREStream)
	}
	return accept(cfg.Timeouts.Generic)
}

// replied follows nf_conntrack_udplite_packet and nf_conntrack_gre_packet: the
// first packet after an answer makes a stream.
func replied(c *flow.Conn, timeout, stream uint32) Result {
	if c.Status&flow.SeenReply == 0 {
		return accept(timeout)
	}
	if c.Status&flow.NATClash == 0 {
		c.Status |= flow.Assured
	}
	return accept(stream)
}

// udpStreamAfter is how long a UDP connection must last to count as a stream:
// the 2 * HZ of nf_conntrack_udp_packet.
const udpStreamAfter = 2000

// udp follows nf_conntrack_udp_packet.
func (cfg *Config) udp(c *flow.Conn, now flow.Millis) Result {
	if c.Status&flow.SeenReply == 0 {
		return accept(cfg.Timeouts.UDP)
	}
	if c.Status&flow.Assured == 0 && c.UDPStreamAt().Until(now) >= 0 {
		return accept(cfg.Timeouts.UDP)
	}
	if c.Status&flow.NATClash == 0 {
		c.Status |= flow.Assured
	}
	return accept(cfg.Timeouts.UDPStream)
}
