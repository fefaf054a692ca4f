package policy

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy/syntax"
)

// headerLen is how much of a transport header the match of a protocol asks for.
func headerLen(p flow.Proto) int {
	switch p {
	case flow.TCP:
		return 20
	case flow.SCTP:
		return 12
	}
	return 8
}

// ports compiles xt_udp, and what tcp and sctp share with it. A packet of a connection
// that is tracked by its ports has a whole header, so the answers are constant.
func ports(m *syntax.Ports) []condition {
	n := headerLen(m.Proto)
	c := []condition{pure(func(v *View) bool {
		_, ok := v.header(n)
		return ok
	})}
	if m.Sport.Set {
		c = append(c, pure(func(v *View) bool { return m.Sport.Has(uint64(v.SrcPort)) }))
	}
	if m.Dport.Set {
		c = append(c, pure(func(v *View) bool { return m.Dport.Has(uint64(v.DstPort)) }))
	}
	return c
}

// tcp compiles xt_tcp.
func tcp(m *syntax.TCP) []condition {
	conds := ports(&m.Ports)
	if m.Flags.Set {
		conds = append(conds, varying(func(v *View) bool {
			h, ok := v.header(20)
			return ok && (packet.TCPFlags(h[13])&m.Flags.Mask == m.Flags.Comp) != m.Flags.Not
		}))
	}
	if m.Option.Set {
		conds = append(conds, varying(func(v *View) bool {
			o, ok := v.tcpOptions()
			return ok && hasTCPOption(o, uint8(m.Option.N)) != m.Option.Not
		}))
	}
	return conds
}

// tcpOptions returns the options of a TCP segment. ok is false if they are cut off: the
// match then drops the packet.
func (v *View) tcpOptions() (o []byte, ok bool) {
	h, ok := v.header(20)
	if !ok {
		return nil, false
	}
	n := int(h[12]>>4) * 4
	if n < 20 || n > len(h) {
		return nil, v.hotdrop()
	}
	return h[20:n], true
}

// nextOption returns where the option behind the one at i begins. A length of 0 is
// taken for 1, and neither the end of the list nor a length that is wrong ends the walk
// (tcp_find_option).
func nextOption(o []byte, i int) int {
	if o[i] < 2 || i+1 == len(o) || o[i+1] == 0 {
		return i + 1
	}
	return i + int(o[i+1])
}

func hasTCPOption(o []byte, kind uint8) bool {
	for i := 0; i < len(o); i = nextOption(o, i) {
		if o[i] == kind {
			return true
		}
	}
	return false
}

// mssOption returns the MSS option of a list of TCP options, nil if there is none.
func mssOption(o []byte) []byte {
	for i := 0; i < len(o); i = nextOption(o, i) {
		if len(o)-i >= 4 && o[i] == 2 && o[i+1] == 4 {
			return o[i : i+4]
		}
	}
	return nil
}

// tcpMSS compiles xt_tcpmss.
func tcpMSS(m *syntax.TCPMSSValue) []condition {
	return []condition{varying(func(v *View) bool {
		o, ok := v.tcpOptions()
		if !ok {
			return false
		}
		if o = mssOption(o); o == nil {
			return m.MSS.Not
		}
		return m.MSS.Has(uint64(binary.BigEndian.Uint16(o[2:])))
	})}
}

// multiPort compiles xt_multiport. Connections of DCCP are not tracked by their ports.
func multiPort(m *syntax.MultiPort, p flow.Proto) []condition {
	holds := func(v *View) bool {
		_, ok := v.header(4)
		return ok && m.Has(v.SrcPort, v.DstPort)
	}
	if p == flow.DCCP {
		return []condition{varying(holds)}
	}
	return []condition{pure(holds)}
}

// icmp compiles xt_icmp and xt_icmp6.
func icmp(m *syntax.ICMP) []condition {
	return []condition{varying(func(v *View) bool { // errors of many types belong to one connection
		b, ok := v.header(8)
		if !ok {
			return false
		}
		t := &m.Type
		return (t.Any || b[0] == t.Type && b[1] >= t.Lo && b[1] <= t.Hi) != t.Not
	})}
}
