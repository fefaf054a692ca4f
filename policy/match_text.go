package policy

import (
	"bytes"
	"encoding/binary"

	"github.com/xdpct/xdpct/policy/syntax"
)

// datagram returns the IP datagram, cut where its capture ends.
func (v *View) datagram() []byte {
	return v.P.Frame[v.P.L3:min(int(v.P.L3)+int(v.P.Len), len(v.P.Frame))]
}

// text compiles xt_string. Both algorithms find the same.
func text(m *syntax.String) []condition {
	pattern, from, to, not := []byte(m.Text.Bytes), int(m.From.N), int(m.To.N), m.Text.Not
	index := bytes.Index
	if m.ICase.Set {
		pattern = bytes.Clone(pattern)
		for i, c := range pattern {
			pattern[i] = upper(c)
		}
		index = indexFold
	}
	return []condition{varying(func(v *View) bool {
		d := v.datagram()
		d = d[min(from, len(d)):min(to, len(d))]
		return (index(d, pattern) >= 0) != not
	})}
}

// upper is the kernel's toupper, which knows Latin 1.
func upper(c byte) byte {
	if c >= 'a' && c <= 'z' || c >= 0xdf && c != 0xf7 {
		return c - 0x20
	}
	return c
}

// indexFold is bytes.Index for a pattern of capitals in any text.
func indexFold(b, pattern []byte) int {
next:
	for i := 0; i+len(pattern) <= len(b); i++ {
		for k, c := range pattern {
			if upper(b[i+k]) != c {
				continue next
			}
		}
		return i
	}
	return -1
}

// u32 compiles xt_u32.
func u32(m *syntax.U32) []condition {
	return []condition{varying(func(v *View) bool {
		d := v.datagram()
		for i := range m.Tests.All {
			if !u32Holds(&m.Tests.All[i], d) {
				return m.Tests.Not
			}
		}
		return !m.Tests.Not
	})}
}

// u32Holds is one test of u32_match_it.
func u32Holds(t *syntax.U32Test, d []byte) bool {
	word := func(at uint64) (uint32, bool) {
		if at+4 > uint64(len(d)) {
			return 0, false
		}
		return binary.BigEndian.Uint32(d[at:]), true
	}
	val, ok := word(uint64(t.At))
	base := uint64(0)
	for _, op := range t.Ops {
		if !ok {
			return false
		}
		switch op.Op {
		case '&':
			val &= op.N
		case '<':
			val <<= op.N
		case '>':
			val >>= op.N
		case '@':
			if base += uint64(val); base > 1<<32-1 {
				return false
			}
			val, ok = word(base + uint64(op.N))
		}
	}
	if !ok {
		return false
	}
	for _, r := range t.Values {
		if val >= r[0] && val <= r[1] {
			return true
		}
	}
	return false
}
