package frag

import (
	"slices"

	"github.com/xdpct/xdpct/packet"
)

// placing is what insert makes of a fragment.
type placing uint8

const (
	placed placing = iota
	duplicate
	overlap
)

// fits notes what f says of the datagram's end and reports whether that agrees
// with what is known.
func (q *datagram[F]) fits(f *packet.Fragment) bool {
	if !f.More {
		if f.End < q.len || q.last && f.End != q.len {
			return false
		}
		q.last, q.len = true, f.End
		return true
	}
	if f.End > q.len {
		if q.last {
			return false
		}
		q.len = f.End
	}
	return true
}

// insert puts a fragment in its place (inet_frag_queue_insert). What lies within
// one run is there already; what touches more than that overlaps.
func (q *datagram[F]) insert(f *packet.Fragment, frame F) placing {
	n := len(q.pieces)
	q.runs++
	p := piece[F]{*f, frame, q.runs}
	if n == 0 || q.pieces[n-1].End < f.End { // the common case: it goes to the end
		if n > 0 {
			last := &q.pieces[n-1]
			if f.Offset < last.End {
				return overlap
			}
			if f.Offset == last.End {
				p.run = last.run
			}
		}
		q.pieces = append(q.pieces, p)
		q.have += f.End - f.Offset
		return placed
	}
	at := 0
	for at < n {
		end := at + 1 // of the run that begins here
		for end < n && q.pieces[end].run == q.pieces[at].run {
			end++
		}
		from, to := q.pieces[at].Offset, q.pieces[end-1].End
		switch {
		case f.End <= from:
			q.pieces = slices.Insert(q.pieces, at, p)
			q.have += f.End - f.Offset
			return placed
		case f.Offset >= to:
			at = end
		case f.Offset >= from && f.End <= to:
			return duplicate
		default:
			return overlap
		}
	}
	return overlap // not reached: the fragment ends before the last piece does
}

// complete returns the datagram, all of which is there.
func (q *datagram[F]) complete(d *Datagram[F]) {
	d.Frames, d.Fragments = d.Frames[:0], d.Fragments[:0]
	for i := range q.pieces {
		d.Frames = append(d.Frames, q.pieces[i].frame)
		d.Fragments = append(d.Fragments, q.pieces[i].Fragment)
	}
}
