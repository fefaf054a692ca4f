package table

import "github.com/xdpct/xdpct/flow"

// queue is the connections that may be evicted, oldest first: a list through
// their Links, bounded by none.
type queue struct{ head, tail uint32 }

func (q *queue) push(conns []flow.Conn, i uint32) {
	conns[i].SetLink(none, q.tail)
	if q.tail == none {
		q.head = i
	} else {
		_, prev := conns[q.tail].Link()
		conns[q.tail].SetLink(i, prev)
	}
	q.tail = i
}

func (q *queue) remove(conns []flow.Conn, i uint32) {
	next, prev := conns[i].Link()
	if next == none {
		q.tail = prev
	} else {
		n, _ := conns[next].Link()
		conns[next].SetLink(n, prev)
	}
	if prev == none {
		q.head = next
	} else {
		_, p := conns[prev].Link()
		conns[prev].SetLink(next, p)
	}
	conns[i].Unlink()
}
