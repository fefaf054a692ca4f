package dialogue

import (
	"encoding/binary"
	"math/rand/v2"
)

// Fragments returns steps with one in so many of their longer datagrams cut into
// fragments, which come in any order, between others, and now and then twice, not
// at all, or not fitting together.
func Fragments(seed uint64, steps []Step, oneIn int) []Step {
	r := rand.New(rand.NewPCG(seed, 44))
	var out, waiting []Step
	for n, s := range steps {
		pieces := split(r, s.Datagram, uint32(n+1), oneIn)
		if pieces == nil {
			out = append(out, s)
		}
		for _, p := range pieces {
			waiting = append(waiting, Step{Conversation: s.Conversation, FromB: s.FromB, Datagram: p, Raw: true})
		}
		for len(waiting) > 0 && (one(r, 2) || len(waiting) > 8) {
			out = append(out, waiting[0])
			waiting = waiting[1:]
		}
	}
	return append(out, waiting...)
}

// cut is a fragment: a part of the payload, and whether more follows.
type cut struct {
	from, to int
	more     bool
}

// split cuts a datagram into fragments, nil if it is left whole.
func split(r *rand.Rand, d []byte, id uint32, oneIn int) [][]byte {
	first := 24 // more than any transport header that the trackers read
	if d[0]>>4 == 6 {
		first = 96 // and all extension headers
	}
	body := d[ipLen(d):]
	if hasFragmentHeader(d) || len(body) < first+16 || !one(r, oneIn) {
		return nil
	}
	var cuts []cut
	for at, n := 0, first+8*r.IntN(10); at < len(body); n = 8 * (1 + r.IntN(40)) {
		to := min(at+n, len(body))
		cuts = append(cuts, cut{at, to, to < len(body)})
		at = to
	}
	if len(cuts) == 1 {
		return nil
	}
	cuts = mishap(r, cuts, len(body))
	switch r.IntN(3) {
	case 0:
		r.Shuffle(len(cuts), func(i, j int) { cuts[i], cuts[j] = cuts[j], cuts[i] })
	case 1:
		cuts[0], cuts[len(cuts)-1] = cuts[len(cuts)-1], cuts[0]
	}
	ecn := pick[byte](r, 0, 0, 1, 2, 3)
	options := one(r, 4)
	var pieces [][]byte
	for _, c := range cuts {
		e := ecn
		if one(r, 60) {
			e = byte(r.IntN(4))
		}
		if d[0]>>4 == 4 {
			pieces = append(pieces, fragmentIPv4(d, c, uint16(id), e))
		} else {
			pieces = append(pieces, fragmentIPv6(d, c, id, e, options))
		}
	}
	return pieces
}

// mishap does something to the fragments, now and then.
func mishap(r *rand.Rand, cuts []cut, n int) []cut {
	i := r.IntN(len(cuts))
	c := cuts[i]
	switch r.IntN(15) {
	case 0: // lost
		if len(cuts) > 1 {
			return append(cuts[:i:i], cuts[i+1:]...)
		}
	case 1, 2: // twice
		return append(cuts, c)
	case 3: // a part of it again
		if c.from > 0 && c.to-c.from >= 16 {
			return append(cuts, cut{c.from + 8, c.to, c.more})
		}
	case 4: // reaching into the next
		if c.to+8 < n {
			cuts[i].to += 8
		}
	case 5: // one over two; over all it would be an atomic fragment
		if i > 0 && i+1 < len(cuts) {
			return append(cuts, cut{c.from, cuts[i+1].to, cuts[i+1].more})
		}
	case 6: // another end
		at := max(n/2&^7, 24)
		return append(cuts, cut{at, at + 5, false})
	case 7: // beyond the end
		return append(cuts, cut{n &^ 7, n&^7 + 8, true})
	}
	return cuts
}

// part returns the bytes of a cut; what lies beyond the payload is zero.
func part(body []byte, c cut) []byte {
	b := make([]byte, c.to-c.from)
	copy(b, body[min(c.from, len(body)):])
	return b
}

func fragmentIPv4(d []byte, c cut, id uint16, ecn byte) []byte {
	f := append(append([]byte(nil), d[:20]...), part(d[20:], c)...)
	f[1] = f[1]&^3 | ecn
	binary.BigEndian.PutUint16(f[4:], id)
	field := uint16(c.from / 8)
	if c.more {
		field |= 0x2000
	}
	binary.BigEndian.PutUint16(f[6:], field)
	return setLength(f)
}

func fragmentIPv6(d []byte, c cut, id uint32, ecn byte, options bool) []byte {
	f := append([]byte(nil), d[:40]...)
	f[1] = f[1]&^0x30 | ecn<<4
	next := f[6]
	f[6] = 44
	if options {
		f[6] = 60
		f = append(f, 44, 0, 1, 4, 0, 0, 0, 0)
	}
	field := uint16(c.from)
	if c.more {
		field |= 1
	}
	f = append(f, next, 0)
	f = binary.BigEndian.AppendUint16(f, field)
	f = binary.BigEndian.AppendUint32(f, id)
	return setLength(append(f, part(d[40:], c)...))
}

// Reidentify returns a copy of a fragment that Fragments made, whose datagram has
// another identification: by n more.
func Reidentify(d []byte, n uint16) []byte {
	d = append([]byte(nil), d...)
	if d[0]>>4 == 4 {
		binary.BigEndian.PutUint16(d[4:], binary.BigEndian.Uint16(d[4:])+n)
		return setLength(d)
	}
	at := 40
	if d[6] == 60 {
		at += 8
	}
	binary.BigEndian.PutUint32(d[at+4:], binary.BigEndian.Uint32(d[at+4:])+uint32(n)<<16)
	return d
}
