package table

import (
	"errors"

	"github.com/xdpct/xdpct/flow"
)

// A connection whose reply tuple is not the inverse of its original one has two
// keys and two slots in the index: that of the original tuple, and that of the
// reply tuple, whose entry number has this bit set. Each is found only by packets
// that run in the direction of its tuple.
const second = 1 << 31

// ErrClash says that another connection has the reply tuple already.
var ErrClash = errors.New("the reply tuple is taken")

// isReply reports whether a key and its orientation are those of the reply tuple
// of entry i, which is two-keyed.
func (t *Table) isReply(i uint32, key *flow.Tuple, flipped bool) bool {
	x := &t.extra[i]
	return x.Reply.Equal(key) && flipped == (x.ReplyFlip == 1)
}

// Direction returns the direction in which a packet runs that was found as entry
// i, by its key and orientation. If the two tuples are equal, as translation can make
// them, it is a reply: the kernel finds the tuple that it has put into its table last.
func (t *Table) Direction(i uint32, key *flow.Tuple, flipped bool) flow.Direction {
	c := &t.conns[i]
	if c.TwoKeyed() {
		if c.Key.Equal(key) && flipped == c.Flipped() && !t.isReply(i, key, flipped) {
			return flow.Original
		}
		return flow.Reply
	}
	var d flow.Direction // no branch: it would be mispredicted half of the time
	if flipped {
		d = 1
	}
	return flow.Direction(c.Flip&1) ^ d
}

// Extra returns the Extra of entry i, nil if it has none.
func (t *Table) Extra(i uint32) *flow.Extra {
	if !t.conns[i].Extended() {
		return nil
	}
	return &t.extra[i]
}

// Extend returns the Extra of entry i, an empty one if it had none.
func (t *Table) Extend(i uint32) *flow.Extra {
	x := &t.extra[i]
	if c := &t.conns[i]; !c.Extended() {
		c.SetExtended()
		*x = flow.Extra{}
	}
	return x
}

// lookupTwoKeyed is the rest of Lookup: Locate may have seen one of two keys.
func (t *Table) lookupTwoKeyed(b *Batch, n int, key *flow.Tuple, flipped bool, now flow.Millis) (uint32, bool) {
	if l := b.likely[n&(MaxBatch-1)]; l != nowhere && uint(l&^second) < uint(len(t.conns)) {
		i := l &^ second
		c := &t.conns[i]
		if c.TwoKeyed() && c.Status&flow.Confirmed != 0 && c.Expires.Until(now) > 0 {
			if l >= second && t.isReply(i, key, flipped) || l < second && c.Key.Equal(key) && flipped == c.Flipped() {
				return i, true
			}
		}
	}
	return t.Find(key, flipped, b.Hash[n&(MaxBatch-1)], now)
}

// placeReply puts the reply tuple of entry i, whose Extra is x, into the index.
func (t *Table) placeReply(i uint32, x *flow.Extra) bool {
	return t.place(x.Reply.Hash(t.secret), i|second) != 0
}

// displaceReply takes the reply tuple of entry i out of the index.
func (t *Table) displaceReply(i uint32) {
	t.displace(t.extra[i].Reply.Hash(t.secret), i|second)
}
