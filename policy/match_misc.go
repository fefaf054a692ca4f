package policy

import (
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy/syntax"
)

// ecn compiles xt_ecn.
func ecn(m *syntax.ECN) []condition {
	return []condition{varying(func(v *View) bool {
		if m.ECT.Set && (uint64(tosOf(v)&3) == m.ECT.N) == m.ECT.Not {
			return false
		}
		if !m.ECE.Set && !m.CWR.Set {
			return true
		}
		h := v.l4()
		if len(h) < 20 { // no hotdrop: match_tcp
			return false
		}
		f := packet.TCPFlags(h[13])
		return (!m.ECE.Set || (f&packet.ECE != 0) != m.ECE.Not) && (!m.CWR.Set || (f&packet.CWR != 0) != m.CWR.Not)
	})}
}

// helper compiles xt_helper.
func helper(m *syntax.Helper) []condition {
	not, name := m.Helper.Not, m.Helper.S
	return []condition{pure(func(v *View) bool {
		if !v.Tracked || v.Extra == nil || v.Extra.MasterHelper == 0 {
			return not
		}
		h := v.Extra.MasterHelper.String()
		return (name == "" || len(name) >= len(h) && name[:len(h)] == h) != not
	})}
}

// quota compiles xt_quota.
func (c *compiler) quota(m *syntax.Quota) []condition {
	left := stateOf(c, m, func() *atomic.Uint64 {
		n := &atomic.Uint64{}
		n.Store(m.Quota.N)
		return n
	})
	not := m.Quota.Not
	return []condition{remember(func(v *View) bool {
		for {
			n, length := left.Load(), uint64(v.P.Len)
			rest, enough := uint64(0), n >= length // one that does not fit ends it, even for smaller ones
			if enough {
				rest = n - length
			}
			if left.CompareAndSwap(n, rest) {
				return enough != not
			}
		}
	})}
}

// connLabel compiles xt_connlabel.
func connLabel(m *syntax.ConnLabel) []condition {
	label, not := int(m.Label.N), m.Label.Not
	if m.Do.Set { // asking changes what is answered next
		return []condition{remember(func(v *View) bool {
			if !v.Tracked || v.Conn == &template {
				return not
			}
			v.Labels.Set(label)
			return !not
		})}
	}
	return []condition{varying(func(v *View) bool {
		return (v.Tracked && v.Conn != &template && v.Labels.Has(label)) != not
	})}
}

// cpu compiles xt_cpu, for workers.
func cpu(m *syntax.CPU) []condition {
	return []condition{varying(func(v *View) bool { return (uint64(v.CPU) == m.CPU.N) != m.CPU.Not })}
}

// cluster compiles xt_cluster.
func cluster(m *syntax.Cluster) []condition {
	mask, total, seed, not := uint32(m.NodeMask.N), m.Total.N, uint32(m.Seed.N), m.NodeMask.Not
	return []condition{pure(func(v *View) bool {
		if !v.Tracked || v.Conn == &template {
			return false
		}
		t := v.tuple(flow.Original)
		if v.Conn.Status&flow.Expected != 0 && v.Extra != nil {
			t = v.Extra.Master
		}
		w, n := t.Src.Words(t.L4.Family()), 4
		if t.L4.Family() == flow.IPv4 {
			n = 1
		}
		node := uint64(flow.JHash(w[:n], seed)) * total >> 32
		return (mask>>node&1 != 0) != not
	})}
}

const (
	daySeconds = 86400
	allDays    = 1<<32 - 2 // of a month
)

// timeOf compiles xt_time, in UTC.
func timeOf(m *syntax.Time) []condition {
	start, stop := int64(m.Start.N), int64(m.Stop.N)
	return []condition{varying(func(v *View) bool {
		now := v.Wall / 1e9
		if now < m.DateStart.N || now > m.DateStop.N {
			return false
		}
		second := now % daySeconds
		if start < stop {
			if second < start || second > stop {
				return false
			}
		} else if second < start && second > stop {
			return false
		} else if m.Contiguous.Set && second <= stop { // belongs to the day before
			now -= daySeconds
		}
		day := now / daySeconds
		if m.WeekDays.Bits>>((day+3)%7+1)&1 == 0 { // 1970 began on a Thursday
			return false
		}
		return m.MonthDays.Bits == allDays || m.MonthDays.Bits>>monthDay(day)&1 != 0
	})}
}

// monthDay returns the day of the month of a day since 1970, by the calendar of
// Gregory: years are counted from March on, so that a leap day is a year's last.
func monthDay(day int64) int64 {
	z := day + 719468 // since 0000-03-01
	era := z / 146097 // of 400 years
	d := z - era*146097
	year := (d - d/1460 + d/36524 - d/146096) / 365
	d -= 365*year + year/4 - year/100
	month := (5*d + 2) / 153
	return d - (153*month+2)/5 + 1
}
