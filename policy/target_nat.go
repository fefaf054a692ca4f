package policy

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/policy/syntax"
)

// setNAT compiles the targets of table nat.
func setNAT(t *syntax.NAT) action {
	fixed := nat.Range{Random: t.Random.Set, RandomFully: t.RandomFully.Set, Persistent: t.Persistent.Set}
	to := &t.To.Range
	if t.Kind == syntax.Masquerade || t.Kind == syntax.Redirect {
		to = &t.Ports.Range
	}
	fixed.Min, fixed.Max, fixed.Addrs = to.Min, to.Max, to.Addrs
	fixed.MinPort, fixed.MaxPort, fixed.Ports = to.MinPort, to.MaxPort, to.Ports
	fixed.BasePort, fixed.Offset = to.BasePort, to.Offset
	return action{do: func(v *View) Verdict {
		var a flow.Addr
		r, ok := fixed, true
		switch t.Kind {
		case syntax.Masquerade:
			a, ok = v.Env.InAddr(v.Out, v.family(), v.Dst)
			r.Min, r.Max, r.Addrs = a, a, true
		case syntax.Redirect:
			a, ok = v.Env.InAddr(v.In, v.family(), flow.Addr{})
			r.Min, r.Max, r.Addrs = a, a, true
		case syntax.Netmap:
			a = v.netmap(&t.Net)
			r.Min, r.Max, r.Addrs = a, a, true
		}
		if !ok {
			v.NoAddress = true
			return Drop
		}
		v.mapped = r
		v.NAT, v.masquerade = &v.mapped, t.Kind == syntax.Masquerade
		return Accept
	}}
}

// netmap returns the address of a net that the packet's is mapped to.
func (v *View) netmap(to *syntax.AddrMask) flow.Addr {
	a := v.Dst
	if v.NATSrc {
		a = v.Src
	}
	return flow.Addr{Hi: to.Addr.Hi | a.Hi&^to.Mask.Hi, Lo: to.Addr.Lo | a.Lo&^to.Mask.Lo}
}

// template is what the later rules of table raw see of a connection once CT has said
// what it is to be (nf_ct_tmpl_alloc).
var template = flow.Conn{Status: flow.Confirmed}

// setCT compiles CT and NOTRACK.
func setCT(t *syntax.CT) action {
	helper, _ := flow.HelperByName(t.Helper.S)
	return action{do: func(v *View) Verdict {
		if v.NoTrack || v.Zone != nil { // what an earlier rule said stays (xt_ct_target)
			return Continue
		}
		if t.Old || t.NoTrack.Set {
			v.NoTrack, v.State = true, flow.Untracked
			return Continue
		}
		z := flow.ZoneID{}
		for _, o := range [...]struct {
			z    *syntax.ZoneOption
			dirs flow.ZoneDirs
		}{{&t.Zone, 0}, {&t.Orig, flow.ZoneOriginal}, {&t.Reply, flow.ZoneReply}} {
			if o.z.Set {
				z = flow.ZoneID{Zone: o.z.Zone, Dirs: o.dirs}
				if o.z.Mark {
					z.Zone = flow.Zone(v.Mark)
				}
			}
		}
		v.Zone = &z
		v.State, v.Dir, v.Tracked, v.Conn, v.Extra = flow.New, flow.Original, true, &template, nil
		if t.Helper.Set {
			v.Helper = helper
		}
		v.Timeout = t.Timeout.S
		return Continue
	}}
}
