package shard

import (
	"net/netip"
	"slices"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
)

// Tunnels of PPTP (RFC 2637): GRE that a control connection has announced. Packets of both
// directions are one connection, because flow.GREKeys tells the call id of their sender.
//
// Its timeouts are those of all GRE. pptp_expectfn sets others, of ten minutes and five hours,
// but nf_conntrack_gre_packet takes those of the policy for a connection that is not confirmed
// yet: in Linux 6.18 a tunnel has 30 seconds, and 180 once it is ASSURED.

// expectTunnel enters the tunnel that x announces, for whoever uses it first (exp_gre).
func (e *helpEnv) expectTunnel(m *helper.Message, x *helper.Expected) (told netip.AddrPort, err error) {
	s, c, peer := e.s, m.Conn, m.Dir.Other()
	if s.cfg.Keys == nil {
		return told, helper.ErrLimit
	}
	if x.To.Addr() != c.Self(m.Dir).Addr() || x.From.Addr() != c.Peer(m.Dir).Addr() {
		return told, helper.ErrForeign
	}
	seen := x.Seen
	if seen == 0 {
		seen = x.From.Port()
	}
	zone := e.master().L4.Zone()
	tuple := func(src, dst flow.Addr, id, to uint16) flow.Tuple {
		return flow.Tuple{Src: src, Dst: dst, L4: flow.MakeL4(c.Family, x.Proto, zone, id, to)}
	}
	one := e.expectation(m, x)
	one.Mask, one.Paired, one.Limit = expect.ExactSource, true, 0
	es := []expect.Expectation{one, one}

	own, other := &c.Tuples[m.Dir], &c.Tuples[peer] // as the sender has them, and as the peer has
	es[0].Tuple = tuple(other.Src, other.Dst, x.From.Port(), x.To.Port())
	es[0].Follow.From, es[0].Follow.Src, es[0].Follow.SrcPort = other.Src, own.Dst, seen
	es[0].Follow.Dst, es[0].Follow.Port = own.Src, x.To.Port()
	es[1].Tuple, es[1].Dir = tuple(own.Src, own.Dst, x.To.Port(), seen), m.Dir
	es[1].Follow.From, es[1].Follow.Src, es[1].Follow.SrcPort = own.Src, other.Dst, x.To.Port()
	es[1].Follow.Dst, es[1].Follow.Port = other.Src, x.From.Port()
	if err := e.insert(es); err != nil {
		return told, err
	}
	keys := []flow.Tuple{es[0].Tuple, es[1].Tuple}
	if !s.cfg.Keys.Add(keys...) { // the call before, if there is one, goes on
		s.cfg.Expect.Withdraw(e.master(), func(x *expect.Expectation) bool { return x.Paired })
		return told, helper.ErrClash
	}
	was := e.f.keys
	e.f.keys = keys
	s.endTunnel(e.f, was)
	s.table.Extend(e.f.entry).Expects = true
	return x.To, nil
}

// dropKeys takes the call ids of a connection's tunnel back, and ends it.
func (s *Shard) dropKeys(f *helped) {
	was := f.keys
	f.keys = nil
	s.endTunnel(f, was)
}

// endTunnel takes call ids back that a connection had, and ends the tunnel of those that it has
// no more. The shard that has that finds out at its next Tick.
func (s *Shard) endTunnel(f *helped, was []flow.Tuple) {
	if len(was) == 0 {
		return
	}
	s.cfg.Keys.Remove(was...)
	over := slices.DeleteFunc(slices.Clone(was), func(t flow.Tuple) bool { return slices.Contains(f.keys, t) })
	if len(over) > 0 {
		s.cfg.Keys.HangUp(f.conn.Tuples[flow.Original], over)
	}
}

// Hangup implements helper.Env.
func (e *helpEnv) Hangup(*helper.Message) {
	if e.s.cfg.Expect != nil {
		e.s.cfg.Expect.RemoveMaster(e.master())
	}
	e.s.dropKeys(e.f)
}

// isTunnel reports whether a connection came by an announcement of PPTP.
func isTunnel(c *flow.Conn, x *flow.Extra) bool {
	return c.Key.L4.Proto() == flow.GRE && x.MasterHelper != 0
}

// hangUps is how many tunnels that have ended a Tick looks for.
const hangUps = 64

// hangUp removes the tunnels whose control connection has gone, or has cleared the call, on
// whatever shard that is.
func (s *Shard) hangUp() {
	for range hangUps {
		if s.help.hung == nil {
			return
		}
		h := s.help.hung.Next()
		if h == nil {
			return
		}
		s.help.hung = h
		for _, t := range h.Tuples {
			i, ok := s.Find(t)
			if !ok {
				continue
			}
			if x := s.table.Extra(i); x != nil && isTunnel(s.table.Conn(i), x) && x.Master == h.Master {
				s.Remove(i)
			}
		}
	}
}
