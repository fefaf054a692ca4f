package policy

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy/syntax"
)

// state compiles the state match.
func state(m *syntax.State) []condition {
	return []condition{pure(func(v *View) bool { return (m.States.Bits>>v.State&1 != 0) != m.States.Not })}
}

// tuple returns a tuple of the view's connection.
func (v *View) tuple(d flow.Direction) flow.Tuple { return v.Conn.Tuple(d, v.Extra) }

// conntrack compiles xt_conntrack. A packet without a connection matches by its state
// alone: the other options are not asked, and without --ctstate it does not match.
func conntrack(m *syntax.Conntrack) (c []condition) {
	if !m.State.Set {
		c = append(c, pure(func(v *View) bool { return v.Tracked }))
	} else {
		c = append(c, pure(func(v *View) bool { return hasState(v, &m.State) }))
	}
	if m.Dir.Set {
		want := flow.Original
		if m.Dir.S == "REPLY" {
			want = flow.Reply
		}
		c = append(c, pure(func(v *View) bool { return !v.Tracked || v.Dir == want }))
	}
	if m.Proto.Set {
		c = append(c, pure(func(v *View) bool {
			return !v.Tracked || (v.Conn.Key.L4.Proto() == m.Proto.N) != m.Proto.Not
		}))
	}
	for _, a := range []struct {
		want *syntax.HostMask
		dir  flow.Direction
		src  bool
	}{{&m.OrigSrc, 0, true}, {&m.OrigDst, 0, false}, {&m.ReplSrc, 1, true}, {&m.ReplDst, 1, false}} {
		if a.want.Set {
			c = append(c, pure(func(v *View) bool {
				if !v.Tracked {
					return true
				}
				t := v.tuple(a.dir)
				if a.src {
					return a.want.Has(t.Src)
				}
				return a.want.Has(t.Dst)
			}))
		}
	}
	for _, a := range []struct {
		want *syntax.Span
		dir  flow.Direction
		src  bool
	}{{&m.OrigSport, 0, true}, {&m.OrigDport, 0, false}, {&m.ReplSport, 1, true}, {&m.ReplDport, 1, false}} {
		if a.want.Set {
			c = append(c, pure(func(v *View) bool {
				if !v.Tracked {
					return true
				}
				t := v.tuple(a.dir)
				if a.src {
					return a.want.Has(uint64(t.L4.Src()))
				}
				return a.want.Has(uint64(t.L4.Dst()))
			}))
		}
	}
	if m.Status.Set {
		c = append(c, varying(func(v *View) bool {
			if !v.Tracked {
				return true
			}
			return (v.Conn.PublicStatus()&m.Status.Bits != 0) != m.Status.Not // NONE: no bit, and nothing has it
		}))
	}
	if m.Expire.Set {
		c = append(c, varying(func(v *View) bool {
			if !v.Tracked {
				return true
			}
			left := uint64(0)
			if v.Conn.Status&flow.Confirmed != 0 {
				left = uint64(max(v.Conn.Expires.Until(flow.Millis(v.Now)), 0)) / 1000
			}
			return m.Expire.Has(left)
		}))
	}
	return c
}

// hasState is the state of a packet, with SNAT and DNAT of its connection.
func hasState(v *View, s *syntax.States) bool {
	bit := uint16(1) << v.State
	if v.Tracked {
		if v.Conn.Status&flow.SrcNAT != 0 {
			bit |= syntax.StateSNAT
		}
		if v.Conn.Status&flow.DstNAT != 0 {
			bit |= syntax.StateDNAT
		}
	}
	return (s.Bits&bit != 0) != s.Not
}

// mark compiles xt_mark, and xt_connmark for the mark of the connection.
func mark(m *syntax.Mark) []condition {
	return []condition{varying(func(v *View) bool {
		mark := v.Mark
		if m.Conn {
			if !v.Tracked {
				return false
			}
			mark = v.ConnMark
		}
		return (mark&m.Mark.Mask == m.Mark.V) != m.Mark.Not
	})}
}

// connBytes compiles xt_connbytes.
func connBytes(m *syntax.ConnBytes) []condition {
	return []condition{varying(func(v *View) bool {
		if !v.Tracked || v.Conn == &template {
			return false
		}
		var n flow.Counters
		for d := range flow.Direction(2) {
			if m.Dir.S == "both" || m.Dir.S == d.String() {
				c := v.Conn.Counters(d, v.Extra)
				n.Packets += c.Packets
				n.Bytes += c.Bytes
			}
		}
		what := n.Packets
		switch {
		case m.Mode.S == "bytes":
			what = n.Bytes
		case m.Mode.S == "avgpkt" && n.Packets > 0:
			what = n.Bytes / n.Packets
		}
		return m.Amount.Has(what)
	})}
}
