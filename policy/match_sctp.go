package policy

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/policy/syntax"
)

// sctp compiles xt_sctp.
func sctp(m *syntax.SCTP) []condition {
	c := ports(&m.Ports)
	if !m.Chunks.Set {
		return c
	}
	var masks, flags [256]uint8
	for _, f := range m.Chunks.Flags {
		masks[f.Type], flags[f.Type] = f.Mask, f.Flags
	}
	w := &chunkWalk{types: &m.Chunks.Types, masks: &masks, flags: &flags}
	switch m.Chunks.Match {
	case "all":
		w.all = true
		for _, on := range w.types {
			if on {
				w.wanted++
			}
		}
	case "only":
		w.only = true
	}
	return append(c, varying(func(v *View) bool {
		h, ok := v.header(12)
		if !ok {
			return false
		}
		holds, ok := w.holds(h[12:])
		v.dropped = v.dropped || !ok
		return holds != m.Chunks.Not
	}))
}

// chunkWalk is what --chunk-types asks: all, only or (neither) any of some types, with
// some flags.
type chunkWalk struct {
	types        *[256]bool
	masks, flags *[256]uint8
	all, only    bool
	wanted       int // types
}

// holds is match_packet of xt_sctp. ok is false for a chunk that is cut off or has no
// length.
func (w *chunkWalk) holds(b []byte) (holds, ok bool) {
	var seen [4]uint64
	found := 0
	for {
		if len(b) < 4 {
			return false, false
		}
		typ, length := b[0], int(binary.BigEndian.Uint16(b[2:]))
		if length == 0 {
			return false, false
		}
		suits := w.types[typ] && b[1]&w.masks[typ] == w.flags[typ]
		switch {
		case w.only && !suits:
			return false, true
		case w.all:
			if bit := uint64(1) << (typ & 63); suits && seen[typ>>6]&bit == 0 {
				seen[typ>>6] |= bit
				found++
			}
		case !w.only && suits:
			return true, true
		}
		if length = (length + 3) &^ 3; length >= len(b) {
			return w.only || w.all && found == w.wanted, true
		}
		b = b[length:]
	}
}

// dccp compiles xt_dccp. Connections of DCCP are not tracked by their ports.
func dccp(m *syntax.DCCP) []condition {
	return []condition{varying(func(v *View) bool {
		h, ok := v.header(12)
		if !ok {
			return false
		}
		sport, dport := uint64(binary.BigEndian.Uint16(h)), uint64(binary.BigEndian.Uint16(h[2:]))
		if m.Sport.Set && !m.Sport.Has(sport) || m.Dport.Set && !m.Dport.Has(dport) {
			return false
		}
		if typ := h[8] >> 1 & 15; m.Types.Set && (m.Types.Bits>>typ&1 != 0) == m.Types.Not {
			return false
		}
		if !m.Option.Set {
			return true
		}
		o, ok := dccpOptions(h)
		v.dropped = v.dropped || !ok
		return hasTCPOption(o, uint8(m.Option.N)) != m.Option.Not
	})}
}

// dccpOptions returns the options of a DCCP packet: what is between the header of its
// type and the data, nil if there are none. ok is false if they are cut off, or the
// header says that it ends within the fixed part. As in Linux (dccp_find_option) a fixed
// part that is cut off itself is no reason to drop where no options would follow it.
func dccpOptions(h []byte) (o []byte, ok bool) {
	begin := 12
	if h[8]&1 != 0 { // extended sequence numbers
		begin += 4
	}
	switch h[8] >> 1 & 15 {
	case 2: // DATA
	case 0: // REQUEST
		begin += 4
	case 3, 4, 5, 6, 8, 9: // ACK, DATAACK, CLOSEREQ, CLOSE, SYNC, SYNCACK
		begin += 8
	default: // RESPONSE, RESET
		begin += 12
	}
	switch end := int(h[4]) * 4; {
	case end == begin:
		return nil, true
	case end < begin || end > len(h):
		return nil, false
	default:
		return h[begin:end], true
	}
}
