package engine

import (
	"context"
	"fmt"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/route"
)

// mappable is what rules map to, besides the addresses of interfaces.
type mappable struct {
	ranges []nat.AddrRange
	own    bool // and those of interfaces
	all    bool // and any other
}

func mappableOf(r Rules) (m mappable) {
	m.ranges, m.own, m.all = policy.NATAddrs(r.all()...)
	return m
}

// with returns the addresses that connections may be mapped to with these routes.
func (m *mappable) with(routes *route.Table) *nat.AddrSet {
	ranges := m.ranges[:len(m.ranges):len(m.ranges)]
	if m.own && routes != nil {
		for i := range routes.Interfaces {
			for _, p := range routes.Interfaces[i].Addrs {
				a := flow.AddrFrom(p.Addr())
				ranges = append(ranges, nat.AddrRange{Lo: a, Hi: a})
			}
		}
	}
	return nat.NewAddrSet(ranges, m.all)
}

// concern sees to it that the shards claim the tuples of these addresses, before
// anything is mapped to them: first what begins from now on, then the connections that
// there are, a slice between batches. The rules that map come into force after that, so
// that none of their choices is somebody's tuple already. It reports whether the
// directory is concerned with other addresses as well.
func (e *Engine) concern(need *nat.AddrSet) (others bool, err error) {
	if e.shared == nil || e.shared.Directory == nil {
		return false, nil
	}
	d := e.shared.Directory
	if now := d.Filter(); !now.Covers(need) {
		d.SetFilter(now.Union(need))
		_, refused, err := e.coverAll(need)
		if err != nil {
			return false, err
		}
		if refused > 0 { // there is room for all, so this says that it is badly spread
			e.log.Warn("connections have tuples that the shards could not claim, and may be refused", "tuples", refused)
		}
	}
	return !need.Covers(d.Filter()), nil
}

// unconcern lets go of addresses that nothing is mapped to any more, unless connections
// have tuples of them: then they stay until rules or addresses change again.
func (e *Engine) unconcern(need *nat.AddrSet) error {
	beyond, _, err := e.coverAll(need)
	if err == nil && beyond == 0 {
		e.shared.Directory.SetFilter(need)
	}
	return err
}

// concernReply sees to it that the reply tuple of a connection that is about to be made
// can be claimed, also if no rule maps to its addresses. done ends that.
func (e *Engine) concernReply(r *flow.Record) (done func(), err error) {
	if inverse, _ := r.Orig.Invert(); e.shared == nil || e.shared.Directory == nil || inverse == r.Reply {
		return func() {}, nil
	}
	b := &e.book
	b.applying.Lock() // until the connection is there nobody is to let go of the addresses
	set := nat.NewAddrSet([]nat.AddrRange{{Lo: r.Reply.Src, Hi: r.Reply.Src}, {Lo: r.Reply.Dst, Hi: r.Reply.Dst}}, false)
	if _, err = e.concern(set); err != nil {
		b.applying.Unlock()
		return nil, err
	}
	return b.applying.Unlock, nil
}

// coverAll has all shards claim what the directory is concerned with. beyond is how many
// claims lie outside of keep.
func (e *Engine) coverAll(keep *nat.AddrSet) (beyond, refused int, err error) {
	for _, w := range e.workers {
		cursor := uint32(0)
		step := func(w *worker) (done bool) {
			next, b, r := w.shard.Cover(cursor, slice, keep)
			cursor, beyond, refused = next, beyond+b, refused+r
			return next == 0
		}
		if !e.started.Load() {
			for !step(w) {
			}
			continue
		}
		if err := e.ask(context.Background(), w, step); err != nil {
			return beyond, refused, fmt.Errorf("claiming the tuples of connections: %w", err)
		}
	}
	return beyond, refused, nil
}
