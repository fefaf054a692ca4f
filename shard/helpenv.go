package shard

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
)

// helpEnv is what a message is read in: helper.Env. It is made for one packet.
type helpEnv struct {
	s     *Shard
	f     *helped
	tried int // how often expectations were tried to be entered for it
}

// maxLife is the longest life of an expectation, in seconds.
const maxLife = 300

// portTries is how many ports are tried for an expectation: half of them from the one that
// was asked for upwards, the others from anywhere on (nf_nat_exp_find_port tries 128).
const portTries = 128

// packetTries is how often expectations are tried to be entered for one packet. What goes
// beyond is refused as by a limit: it is sent again, and read then.
const packetTries = portTries + 32

// Map implements helper.Env (map_addr of nf_nat_sip): what is the sender's own, and what is
// its peer as it knows it, is written as the peer knows it.
func (e *helpEnv) Map(m *helper.Message, a netip.AddrPort) netip.AddrPort {
	self, seen := m.Conn.Self(m.Dir), m.Conn.Seen(m.Dir)
	switch {
	case a == self:
		return seen
	case a.Addr() == self.Addr():
		return netip.AddrPortFrom(seen.Addr(), a.Port())
	case a == m.Conn.Peer(m.Dir):
		return m.Conn.Self(m.Dir.Other())
	}
	return a
}

// Refresh implements helper.Env (nf_ct_refresh).
func (e *helpEnv) Refresh(seconds uint32) {
	if c := e.s.table.Conn(e.f.entry); c.Status&flow.FixedTimeout == 0 {
		e.s.table.Refresh(e.f.entry, e.s.in(seconds), e.s.time())
	}
}

// master returns the tuple by which the connection's expectations know it.
func (e *helpEnv) master() *flow.Tuple { return &e.f.conn.Tuples[flow.Original] }

// Forget implements helper.Env.
func (e *helpEnv) Forget(_ *helper.Message, class int, to netip.AddrPort) {
	if e.s.cfg.Expect == nil {
		return
	}
	e.s.cfg.Expect.Withdraw(e.master(), func(x *expect.Expectation) bool {
		return int(x.Class) == class && (!to.IsValid() || x.Follow.Dst == flow.AddrFrom(to.Addr()) && x.Follow.Port == to.Port())
	})
}

// Renew implements helper.Env.
func (e *helpEnv) Renew(_ *helper.Message, class int, to netip.AddrPort, seconds uint32) bool {
	if e.s.cfg.Expect == nil || !to.IsValid() {
		return false
	}
	return e.s.cfg.Expect.Renew(e.master(), e.expires(seconds), func(x *expect.Expectation) bool {
		return int(x.Class) == class && x.Tuple.Dst == flow.AddrFrom(to.Addr()) && x.Tuple.L4.Dst() == to.Port()
	})
}

// expires returns when what lives for so many seconds from now on ends.
func (e *helpEnv) expires(seconds uint32) int64 {
	return e.s.now + int64(min(seconds, maxLife))*1000
}

// Expect implements helper.Env.
func (e *helpEnv) Expect(m *helper.Message, xs ...helper.Expected) (told netip.AddrPort, err error) {
	s := e.s
	if s.cfg.Expect == nil || len(xs) == 0 {
		return told, helper.ErrLimit
	}
	if xs[0].Either {
		return e.expectTunnel(m, &xs[0])
	}
	self := m.Conn.Self(m.Dir)
	es := make([]expect.Expectation, len(xs))
	for i := range xs {
		x := &xs[i]
		switch {
		case x.To.Addr() != self.Addr():
			return told, helper.ErrForeign
		case x.To.Port() < lowestPort && !x.Low || x.To.Port() == 0:
			return told, helper.ErrLowPort
		}
		es[i] = e.expectation(m, x)
	}
	port, err := e.enter(m, xs, es)
	if err != nil {
		return told, err
	}
	s.table.Extend(e.f.entry).Expects = true
	return netip.AddrPortFrom(m.Conn.Seen(m.Dir).Addr(), port), nil
}

// lowestPort is the lowest port that may be expected, unless the protocol fixes a lower one.
const lowestPort = 1024

// expectation returns what x is to the table, with the port of x: as its first packet will
// come to us, and what becomes of it (nf_nat_follow_master).
func (e *helpEnv) expectation(m *helper.Message, x *helper.Expected) expect.Expectation {
	s, c := e.s, m.Conn
	from, peer := x.From, m.Dir.Other()
	follow := expect.Follow{Dst: flow.AddrFrom(x.To.Addr()), Port: x.To.Port()}
	kind := s.help.registry.Of(e.f.id, c.Proto, c.Family)
	if conn := s.table.Conn(e.f.entry); conn.Status&(flow.SrcNAT|flow.DstNAT) != 0 {
		follow.On, follow.Src = true, c.Tuples[m.Dir].Dst
		if kind != nil && kind.Strangers {
			follow.From = c.Tuples[peer].Src
		}
	}
	if from.Addr() == c.Peer(m.Dir).Addr() { // as it knows itself
		from = netip.AddrPortFrom(c.Self(peer).Addr(), from.Port())
	}
	n := expect.Expectation{
		Tuple: flow.Tuple{
			Dst: flow.AddrFrom(c.Seen(m.Dir).Addr()),
			L4:  flow.MakeL4(c.Family, x.Proto, e.master().L4.Zone(), from.Port(), x.To.Port()),
		},
		Master: *e.master(), Helper: e.f.id, Class: uint8(x.Class), Child: x.Helper, Dir: peer,
		Announcer: announcer(follow.Dst, c.Family), SourceLimit: s.cfg.ExpectPerSource, Follow: follow,
	}
	if from.Addr().IsValid() && !from.Addr().IsUnspecified() {
		n.Tuple.Src, n.Mask.Src = flow.AddrFrom(from.Addr()), expect.ExactSource.Src
	}
	if from.Port() != 0 {
		n.Mask.ID = expect.ExactSource.ID
	}
	if x.Permanent {
		n.Flags |= expect.Permanent
	}
	if x.Inactive {
		n.Flags |= expect.Inactive
	}
	n.Expires = e.expires(maxLife)
	if kind != nil && x.Class < len(kind.Classes) {
		class := &kind.Classes[x.Class]
		n.Limit, n.Expires, n.Follow.Media = class.Max, e.expires(class.Timeout), class.Media
	}
	return n
}

// announcer returns whom an address stands for in the share of one source: a host has a /64 of
// IPv6 to itself (RFC 7934).
func announcer(a flow.Addr, f flow.Family) flow.Addr {
	if f == flow.IPv6 {
		a.Lo = 0
	}
	return a
}

// enter finds ports for expectations, whose distances from the first one stay, enters them,
// and returns the first one's.
func (e *helpEnv) enter(m *helper.Message, xs []helper.Expected, es []expect.Expectation) (port uint16, err error) {
	s, c, first := e.s, m.Conn, xs[0].To
	if !es[0].Follow.On {
		return first.Port(), e.insert(es)
	}
	lowest := uint16(lowestPort)
	if xs[0].Low {
		lowest = min(lowest, first.Port())
	}
	asked := first.Port()
	if first == c.Self(m.Dir) {
		asked = c.Seen(m.Dir).Port()
	}
	if was, ok := e.f.toldOf(xs[0].Proto, first); ok {
		asked = was
	}
	port = asked
	for try := range portTries {
		if try == portTries/2 {
			port = uint16(s.help.rand.Uint32())
		}
		var ok bool
		if port, ok = e.place(es, first.Port(), port, asked, lowest); !ok {
			return 0, helper.ErrNoPort
		}
		switch err = e.insert(es); {
		case err == nil:
			e.f.tell(xs[0].Proto, first, port)
			return port, nil
		case !errors.Is(err, helper.ErrClash):
			return 0, err
		}
		port++
	}
	return 0, helper.ErrNoPort
}

// toldPort is the port at which the peer knows an endpoint that was announced.
type toldPort struct {
	proto flow.Proto
	to    netip.AddrPort
	port  uint16
}

// maxTold is how many ports of a connection are remembered: more than any helper's classes
// have at a time.
const maxTold = 32

// toldOf returns the port that the peer was told last of an endpoint. It is asked for first,
// since the endpoint may have a connection by it that lives on, though nothing is expected any
// more: the media of a call that somebody else has ended.
func (f *helped) toldOf(p flow.Proto, to netip.AddrPort) (port uint16, ok bool) {
	for _, t := range f.told {
		if t.proto == p && t.to == to {
			return t.port, true
		}
	}
	return 0, false
}

// tell remembers the port that the peer is told of an endpoint.
func (f *helped) tell(p flow.Proto, to netip.AddrPort, port uint16) {
	f.told = slices.DeleteFunc(f.told, func(t toldPort) bool { return t.proto == p && t.to == to })
	if len(f.told) == maxTold {
		f.told = slices.Delete(f.told, 0, 1)
	}
	f.told = append(f.told, toldPort{p, to, port})
}

// place gives expectations ports from p on and around that translation may use at their
// address, and returns the first one's: of several that is even if asked is, so that RTP and
// RTCP stay a pair (RFC 3550, 11).
func (e *helpEnv) place(es []expect.Expectation, first, p, asked, lowest uint16) (port uint16, ok bool) {
	u := &e.s.tuples
	t := es[0].Tuple
	at := func(from uint16) (uint16, bool) {
		if u.Shared == nil {
			return max(from, lowest), true
		}
		return u.NextPort(t.Dst, t.L4.Family(), t.L4.Proto(), from, lowest)
	}
	for range 1 << 16 {
		if p, ok = at(p); !ok {
			return 0, false
		}
		fits := len(es) == 1 || p&1 == asked&1
		for i := 1; i < len(es) && fits; i++ {
			want := uint32(p) + uint32(es[i].Follow.Port-first)
			next, _ := at(uint16(want))
			fits = want <= 0xffff && uint32(next) == want
		}
		if fits {
			for i := range es {
				l := &es[i].Tuple.L4
				*l = *l&^(0xffff<<16) | flow.L4(p+es[i].Follow.Port-first)<<16
			}
			return p, true
		}
		p++
	}
	return 0, false
}

// insert enters expectations, unless a connection has one of their tuples already.
func (e *helpEnv) insert(es []expect.Expectation) error {
	s := e.s
	if e.tried++; e.tried > packetTries {
		return helper.ErrLimit
	}
	for i := range es {
		if x := &es[i]; x.Mask == expect.ExactSource && s.tupleTaken(x.Tuple) {
			return helper.ErrClash
		}
	}
	mark := flow.Mark(0)
	if x := s.table.Extra(e.f.entry); x != nil {
		mark = x.Mark
	}
	switch err := s.cfg.Expect.Insert(mark, s.now, es...); {
	case errors.Is(err, expect.ErrBusy):
		return helper.ErrClash
	case err != nil:
		return helper.ErrLimit
	}
	return nil
}

// tupleTaken reports whether a connection has a tuple, as far as this shard can know.
func (s *Shard) tupleTaken(t flow.Tuple) bool {
	key, flipped := t.Canonical()
	if _, found := s.table.Find(&key, flipped, key.Hash(&s.cfg.Secret), s.time()); found {
		return true
	}
	if d := s.tuples.dir; d != nil && d.Concerns(&key) {
		_, taken := d.Taken(&key, flipped, s.tuples.number)
		return taken
	}
	return false
}

var _ helper.Env = (*helpEnv)(nil)
