package frag

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// fragment makes a parsed fragment of datagram id from a source.
func fragment(src, id uint16, from, to uint32, more bool) *packet.Packet {
	return &packet.Packet{
		Kind: packet.Fragmented, Family: flow.IPv4,
		Key:      flow.Tuple{Src: flow.AddrFromUint32(uint32(src)), L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, id, 0)},
		Fragment: packet.Fragment{Offset: from, End: to, More: more},
	}
}

// ledger accounts for every frame that a table was given.
type ledger struct {
	t     *Table[int]
	next  int
	state map[int]flow.Reason // of frames; held ones have ReasonFragmentHeld
}

func newLedger() *ledger {
	l := &ledger{state: map[int]flow.Reason{}}
	l.t = New(Linux(), func(f int, r flow.Reason) { l.state[f] = r })
	return l
}

func (l *ledger) add(p *packet.Packet, now int64) (*Datagram[int], flow.Reason) {
	l.next++
	d, r := l.t.Add(p, l.next, now)
	l.state[l.next] = r
	if d != nil {
		for _, f := range d.Frames {
			l.state[f] = flow.NoReason
		}
	}
	return d, r
}

func (l *ledger) count(r flow.Reason) (n int) {
	for _, s := range l.state {
		if s == r {
			n++
		}
	}
	return n
}

// TestEveryOrder adds the fragments of a datagram in every order: always exactly
// the last one completes it, and what comes out is in order.
func TestEveryOrder(t *testing.T) {
	cuts := []uint32{0, 24, 32, 800, 1600, 1607}
	var permute func(order, rest []int)
	orders := 0
	permute = func(order, rest []int) {
		if len(rest) == 0 {
			orders++
			l := newLedger()
			for n, i := range order {
				d, r := l.add(fragment(1, 1, cuts[i], cuts[i+1], i < len(cuts)-2), 0)
				if last := n == len(order)-1; (d != nil) != last || !last && r != flow.ReasonFragmentHeld {
					t.Fatalf("order %v, fragment %d: %v %v", order, n, d, r)
				}
				if d != nil && !slices.IsSortedFunc(d.Fragments, func(a, b packet.Fragment) int { return int(a.Offset) - int(b.Offset) }) {
					t.Fatalf("order %v: %v", order, d.Fragments)
				}
			}
			if l.t.Len() != 0 {
				t.Fatalf("order %v: %d frames are still held", order, l.t.Len())
			}
		}
		for i := range rest {
			permute(append(order[:len(order):len(order)], rest[i]), slices.Delete(slices.Clone(rest), i, i+1))
		}
	}
	permute(nil, []int{0, 1, 2, 3, 4})
	if orders != 120 {
		t.Fatalf("%d orders", orders)
	}
}

// TestAgainstModel adds random fragments of one datagram and compares with a map
// of bytes.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLedger()
		var there [64]bool // by eights of bytes
		end, live := -1, false
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			from := rapid.IntRange(0, 30).Draw(t, "from")
			to := from + rapid.IntRange(1, 8).Draw(t, "n")
			more := rapid.IntRange(0, 3).Draw(t, "more") > 0
			d, r := l.add(fragment(1, 1, uint32(8*from), uint32(8*to), more), 0)
			if !live { // whatever it was, this one begins anew
				there, end = [64]bool{}, -1
			}
			highest := 0
			covered := 0
			for i, b := range there {
				if b {
					highest = i + 1
					if i >= from && i < to {
						covered++
					}
				}
			}
			var want flow.Reason
			switch {
			case !more && (to < highest || end >= 0 && to != end), more && end >= 0 && to > end:
				want = flow.ReasonFragmentEnd
			case covered == to-from:
				want = flow.ReasonFragmentDuplicate
			case covered > 0:
				want = flow.ReasonFragmentOverlap
			default:
				want = flow.ReasonFragmentHeld
			}
			if want == flow.ReasonFragmentHeld {
				for i := from; i < to; i++ {
					there[i] = true
				}
			}
			if !more && want != flow.ReasonFragmentEnd {
				end = to
			}
			if end >= 0 && want == flow.ReasonFragmentHeld && !slices.Contains(there[:end], false) {
				want = flow.NoReason
			}
			// What covers several runs overlaps, though all of its bytes are there.
			if want == flow.ReasonFragmentDuplicate && r == flow.ReasonFragmentOverlap {
				want = r
			}
			if r != want || (d != nil) != (want == flow.NoReason) {
				t.Fatalf("%d..%d more %v: %v, want %v (%v, end %d)", from, to, more, r, want, there, end)
			}
			live = want == flow.ReasonFragmentHeld || want == flow.ReasonFragmentDuplicate
			if l.count(flow.ReasonFragmentHeld) != l.t.Len() {
				t.Fatalf("%d frames are held, the ledger has %d", l.t.Len(), l.count(flow.ReasonFragmentHeld))
			}
		}
	})
}

// TestBounds floods a table: it stays within its bounds, every frame is accounted
// for, and one source does not cost another its datagram.
func TestBounds(t *testing.T) {
	l := newLedger()
	if _, r := l.add(fragment(9, 9, 0, 24, true), 0); r != flow.ReasonFragmentHeld {
		t.Fatal(r)
	}
	for n := range 10 * maxHeld { // first fragments only, from one source
		l.add(fragment(1, uint16(n), 0, 24, true), int64(n)/1000)
	}
	if n := l.t.from[flow.AddrFromUint32(1)]; n > maxPerFrom {
		t.Errorf("%d frames of one source", n)
	}
	if d, _ := l.add(fragment(9, 9, 24, 30, false), 11); d == nil {
		t.Error("a flood from one source cost another its datagram")
	}
	for n := range 20 * maxHeld { // from everywhere, several to a datagram
		l.add(fragment(uint16(n/3), uint16(n/3), uint32(n%3)*24, uint32(n%3)*24+24, true), 12)
		if l.t.Len() > maxHeld || len(l.t.datagrams) > maxDatagrams {
			t.Fatalf("%d frames of %d datagrams", l.t.Len(), len(l.t.datagrams))
		}
	}
	for n := range uint32(2 * maxPieces) { // one datagram of many
		l.add(fragment(5, 5, 8*n, 8*n+8, true), 13)
	}
	if held := l.count(flow.ReasonFragmentHeld); held != l.t.Len() {
		t.Errorf("%d frames are held, the ledger has %d", l.t.Len(), held)
	}
	l.t.Expire(13 + 30_000)
	if l.t.Len() != 0 || len(l.t.datagrams) != 0 || len(l.t.from) != 0 || l.count(flow.ReasonFragmentHeld) != 0 {
		t.Errorf("after the timeout: %d frames, %d datagrams, %d sources", l.t.Len(), len(l.t.datagrams), len(l.t.from))
	}
}

// TestTimeouts: each family has its own.
func TestTimeouts(t *testing.T) {
	l := newLedger()
	six := fragment(1, 1, 0, 24, true)
	six.Family = flow.IPv6
	six.Key.L4 = flow.MakeL4(flow.IPv6, 44, 0, 1, 0)
	l.add(six, 0)
	l.add(fragment(1, 1, 0, 24, true), 1)
	for _, s := range []struct {
		now  int64
		left int
	}{{29_000, 2}, {30_100, 1}, {59_000, 1}, {60_100, 0}} {
		if l.t.Expire(s.now); l.t.Len() != s.left {
			t.Errorf("at %d: %d are left, want %d", s.now, l.t.Len(), s.left)
		}
	}
}

// TestECN: fragments that are ECN-capable do not mix with others.
func TestECN(t *testing.T) {
	l := newLedger()
	l.add(fragment(1, 1, 0, 24, true), 0)
	p := fragment(1, 1, 24, 30, false)
	p.Fragment.ECN = 2
	if d, r := l.add(p, 0); d != nil || r != flow.ReasonFragmentECN || l.t.Len() != 0 || l.count(flow.ReasonFragmentECN) != 2 {
		t.Errorf("%v %v, %d held", d, r, l.t.Len())
	}
}
