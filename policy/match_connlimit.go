package policy

import (
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy/syntax"
)

// connMax is how many addresses, or nets, one connlimit rule tells apart.
const connMax = 1 << 16

// connCount is how many connections each address has, for one connlimit rule (struct
// nf_conncount_data). A row is the address, the zone, and the number.
type connCount struct{ entries *store }

const (
	connKey   = 3 // words
	connWidth = connKey + 1
)

func newConnCount(seed [2]uint64) *connCount {
	return &connCount{newStore(connMax, connKey, connWidth, seed)}
}

// of returns how many connections an address has.
func (c *connCount) of(key []uint64) uint64 {
	var r [connWidth]uint64
	if p := c.entries.find(key, r[:]); p.found {
		return r[connKey]
	}
	return 0
}

// add adds to the connections of an address and returns how many there are then. ok is
// false if there is no room for the address.
func (c *connCount) add(key []uint64, n uint64) (now uint64, ok bool) {
	var r [connWidth]uint64
	for {
		p := c.entries.find(key, r[:])
		if !p.found {
			copy(r[:], key)
			r[connKey] = 0
		}
		r[connKey] += n
		if r[connKey] == 0 {
			if c.entries.drop(p) {
				return 0, true
			}
			continue
		}
		if done, full := c.entries.put(p, r[:]); done || full {
			return r[connKey], done
		}
	}
}

// connLimit compiles xt_connlimit.
func (c *compiler) connLimit(m *syntax.ConnLimit) []condition {
	counted := stateOf(c, m, func() *connCount { return newConnCount(c.p.seed()) })
	c.p.connCounts[counted] = true
	mask := syntax.PrefixMask(int(m.Mask.N), c.family)
	dst, upto, most := m.DAddr.Set, m.Upto.Set, m.Above.N
	if upto {
		most = m.Upto.N
	}
	return []condition{remember(func(v *View) bool {
		a := v.Src
		if dst {
			a = v.Dst
		}
		a = masked(a, mask)
		n, ok := counted.count(v, [connKey]uint64{a.Hi, a.Lo, uint64(v.zone())})
		if !ok || n == 0 {
			return v.hotdrop()
		}
		return (n > most) != upto
	})}
}

// zone returns the zone of the packet's connection, in whichever direction it counts
// (nf_ct_zone): before conntrack has seen the packet the one that CT has named, and none
// if it has found no connection.
func (v *View) zone() flow.Zone {
	if v.Tracked && v.Conn != &template {
		for d := range flow.Direction(2) {
			t := v.Conn.Tuple(d, v.Extra)
			if z := t.L4.Zone(); z != 0 {
				return z
			}
		}
		return 0
	}
	if v.Zone != nil {
		return v.Zone.Zone
	}
	return 0
}

// connection returns the connection of the packet, or the one that it would belong to
// by its tuple: nil if there is none.
func (v *View) connection() (*flow.Conn, *flow.Extra) {
	if v.Tracked && v.Conn != &template {
		return v.Conn, v.Extra
	}
	return v.Env.Connection()
}

// count returns how many connections an address has, that of the packet among them
// (nf_conncount_count_skb). ok is false if there is no room to count.
func (c *connCount) count(v *View, key [connKey]uint64) (n uint64, ok bool) {
	conn, x := v.connection()
	if conn == nil && !v.hasTuple() {
		return 0, false
	}
	known := conn != nil && !(v.Tracked && conn == v.Conn) // but not to the rules: they are table raw's, or the packet is INVALID
	list := v.Member
	if known {
		list = 0
		if x != nil {
			list = x.Counted
		}
	}
	n = c.of(key[:])
	switch {
	case v.Members.has(list, c, key):
		return n, true
	case conn != nil && conn.Status&flow.Assured != 0 && (n > 0 || closed(conn)): // not added (-EEXIST)
		return n, true
	case conn != nil && closed(conn), conn == nil && v.P.Kind != packet.Data, v.Own: // not for longer than this packet
		return n + 1, true
	}
	if n, ok = c.add(key[:], 1); !ok {
		return n, false
	}
	if list = v.Members.add(list, c, key); known {
		v.Env.Counted(list)
	} else {
		v.Member = list
	}
	return n, true
}

// hasTuple reports whether the packet is long enough to have a tuple of its own
// (nf_ct_get_tuplepr).
func (v *View) hasTuple() bool {
	n := 0
	switch p := v.P.Proto; {
	case p == flow.DCCP: // has no tracker
	case p.HasPorts() || p == flow.GRE:
		n = 4
	case p == flow.ICMP || p == flow.ICMPv6:
		n = 8
	}
	return v.P.L4 != 0 && len(v.l4()) >= n
}

// closed is already_closed.
func closed(c *flow.Conn) bool {
	s := flow.TCPState(c.State)
	return c.Key.L4.Proto() == flow.TCP && (s == flow.TCPTimeWait || s == flow.TCPClose)
}
