package policy

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy/syntax"
)

// ports compiles xt_udp, and the ports of tcp and sctp.
func ports(m *syntax.Ports) (c []condition) {
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
			b := v.l4()
			return len(b) >= 20 && (packet.TCPFlags(b[13])&m.Flags.Mask == m.Flags.Comp) != m.Flags.Not
		}))
	}
	if m.Option.Set {
		conds = append(conds, varying(func(v *View) bool {
			return (tcpOption(v.l4(), uint8(m.Option.N)) != nil) != m.Option.Not
		}))
	}
	return conds
}

// tcpMSS compiles xt_tcpmss.
func tcpMSS(m *syntax.TCPMSSValue) []condition {
	return []condition{varying(func(v *View) bool {
		o := tcpOption(v.l4(), 2)
		if len(o) != 4 {
			return m.MSS.Not
		}
		return m.MSS.Has(uint64(binary.BigEndian.Uint16(o[2:])))
	})}
}

// tcpOption returns the option of that kind with its kind and length, nil if there
// is none. The slice is part of b.
func tcpOption(b []byte, kind uint8) []byte {
	if len(b) < 20 {
		return nil
	}
	end := min(int(b[12]>>4)*4, len(b))
	for i := 20; i < end; {
		switch n := 1; {
		case b[i] == kind && kind < 2:
			return b[i : i+1]
		case b[i] == 0:
			return nil
		case b[i] > 1:
			if i+1 >= end || b[i+1] < 2 || i+int(b[i+1]) > end {
				return nil
			}
			n = int(b[i+1])
			if b[i] == kind {
				return b[i : i+n]
			}
			i += n
		default:
			i += n
		}
	}
	return nil
}

// multiPort compiles xt_multiport.
func multiPort(m *syntax.MultiPort) []condition {
	return []condition{pure(func(v *View) bool {
		switch {
		case m.Src.Set:
			return m.Src.Has(v.SrcPort) != m.Src.Not
		case m.Dst.Set:
			return m.Dst.Has(v.DstPort) != m.Dst.Not
		}
		return (m.Both.Has(v.SrcPort) || m.Both.Has(v.DstPort)) != m.Both.Not
	})}
}

// icmp compiles xt_icmp and xt_icmp6.
func icmp(m *syntax.ICMP) []condition {
	return []condition{varying(func(v *View) bool { // errors of many types belong to one connection
		b := v.l4()
		if len(b) < 4 {
			return false
		}
		t := &m.Type
		return (t.Any || b[0] == t.Type && b[1] >= t.Lo && b[1] <= t.Hi) != t.Not
	})}
}
