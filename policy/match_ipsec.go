package policy

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/policy/syntax"
)

// ah compiles xt_ah, and ip6t_ah. Connections of AH are tracked by their addresses, so
// the SPI may vary.
func ah(m *syntax.AH) []condition {
	if !m.V6 {
		return []condition{varying(func(v *View) bool {
			h, ok := v.header(12)
			return ok && m.SPI.Has(uint64(binary.BigEndian.Uint32(h[4:])))
		})}
	}
	return []condition{varying(func(v *View) bool {
		h, length, ok := v.extension(protoAH, 12)
		return ok && m.SPI.Has(uint64(binary.BigEndian.Uint32(h[4:]))) &&
			(m.Len.N == 0 || (m.Len.N == uint64(length)) != m.Len.Not) &&
			(!m.Reserved.Set || h[2]|h[3] == 0)
	})}
}

// esp compiles xt_esp.
func esp(m *syntax.ESP) []condition {
	return []condition{varying(func(v *View) bool {
		h, ok := v.header(8)
		return ok && m.SPI.Has(uint64(binary.BigEndian.Uint32(h)))
	})}
}

// ipComp compiles xt_ipcomp.
func ipComp(m *syntax.IPComp) []condition {
	return []condition{varying(func(v *View) bool {
		h, ok := v.header(4)
		return ok && m.CPI.Has(uint64(binary.BigEndian.Uint16(h[2:])))
	})}
}

// ipsecPolicy compiles xt_policy: forwarded packets have passed no IPsec.
func ipsecPolicy(m *syntax.Policy) []condition {
	none := m.Pol.S == "none"
	return []condition{pure(func(*View) bool { return none })}
}
