package policy

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy/syntax"
)

// setECN compiles ECN (ipt_ECN).
func setECN(t *syntax.SetECN) action {
	var set, mask packet.TCPFlags
	if t.Remove.Set || t.ECE.Set {
		mask |= packet.ECE
	}
	if t.Remove.Set || t.CWR.Set {
		mask |= packet.CWR
	}
	if t.ECE.N != 0 {
		set |= packet.ECE
	}
	if t.CWR.N != 0 {
		set |= packet.CWR
	}
	return action{do: func(v *View) Verdict {
		if t.ECT.Set {
			v.setTOS(tosOf(v)&^3 | uint8(t.ECT.N))
		}
		if mask == 0 || v.P.Proto != flow.TCP {
			return Continue
		}
		h := v.l4()
		if len(h) < 20 {
			return Drop
		}
		flags := packet.TCPFlags(h[13])
		if now := flags&^mask | set; now != flags {
			v.P.SetTransportWord(12, uint16(h[12])<<8|uint16(now))
		}
		return Continue
	}}
}

// stripTCPOptions compiles TCPOPTSTRIP (tcpoptstrip_mangle_packet).
func stripTCPOptions(t *syntax.StripTCPOptions) action {
	const nop = 1
	return action{do: func(v *View) Verdict {
		h := v.l4()
		if len(h) < 20 {
			return Drop
		}
		n := int(h[12]>>4) * 4
		if n > len(h) {
			return Drop
		}
		for i := 20; i < n-1; {
			size := 1
			if h[i] > nop && h[i+1] != 0 {
				size = int(h[i+1])
			}
			if i+size > n {
				break
			}
			if t.Options.Has(h[i]) {
				for j := i; j < i+size; j++ {
					v.P.SetTransportByte(j, nop)
				}
			}
			i += size
		}
		return Continue
	}}
}

// npt compiles SNPT and DNPT (ip6t_NPT; RFC 6296, 3.1).
func npt(t *syntax.NPT) action {
	m := prefixMapping{from: t.Src, to: t.Dst}
	m.adjustment = foldSum(sumWords(t.Src.Addr) + uint32(^foldSum(sumWords(t.Dst.Addr))))
	source := t.Name() == "SNPT"
	return action{do: func(v *View) Verdict {
		a := v.Dst
		if source {
			a = v.Src
		}
		mapped, ok := m.of(a)
		if !ok {
			return Drop // Linux answers with a parameter problem
		}
		v.P.SetAddrNeutral(source, mapped)
		if source {
			v.Src = mapped
		} else {
			v.Dst = mapped
		}
		return Continue
	}}
}

// prefixMapping exchanges prefixes of IPv6 addresses. Another word of the address makes
// up for the difference, so that no checksum changes.
type prefixMapping struct {
	from, to   syntax.Prefix6
	adjustment uint16 // what is added to that word, in ones' complement
}

// of returns an address with the prefix exchanged; ok is false if no word of it can make
// up for the difference.
func (m *prefixMapping) of(a flow.Addr) (mapped flow.Addr, ok bool) {
	n := max(m.from.Len, m.to.Len)
	mask := syntax.PrefixMask(n, flow.IPv6)
	a.Hi = a.Hi&^mask.Hi | m.to.Addr.Hi&mask.Hi
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	at := 6 // the subnet
	if n > 48 {
		for at = 8; at < 16 && binary.BigEndian.Uint16(b[at:]) == 0xffff; at += 2 { // -0 cannot be told from 0
		}
		if at == 16 {
			return a, false
		}
	}
	word := foldSum(uint32(binary.BigEndian.Uint16(b[at:])) + uint32(m.adjustment))
	if word == 0xffff {
		word = 0
	}
	binary.BigEndian.PutUint16(b[at:], word)
	return flow.AddrFrom16(b[:]), true
}

// sumWords is the ones' complement sum of the words of an address, not folded.
func sumWords(a flow.Addr) (n uint32) {
	for _, half := range [2]uint64{a.Hi, a.Lo} {
		n += uint32(half>>48) + uint32(half>>32&0xffff) + uint32(half>>16&0xffff) + uint32(half&0xffff)
	}
	return n
}

func foldSum(n uint32) uint16 {
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}
