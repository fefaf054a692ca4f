// Package timerwheel is a hierarchical timer wheel (Varghese and Lauck, scheme
// 7) over the indices of a table, not over pointers: an entry's place in the
// wheel is a pair of links in an array that the owner provides, so the wheel
// costs eight bytes an entry and the garbage collector never sees it.
//
// Four levels of 64 slots turn at 1, 64, 4096 and 262144 ticks a slot. An entry
// due within 64 ticks waits on level 0, and so on; when a slot of a higher
// level comes up its entries move down. With ticks of 64 ms the horizon is
// twelve days; what lies beyond waits in the last slot and is armed again.
//
//	level 0  ▏▏▏▏▏▏▏▏ 64 x 64 ms
//	level 1  ▏ ▏ ▏ ▏  64 x 4 s
//	level 2  ▏  ▏  ▏  64 x 4 min
//	level 3  ▏   ▏    64 x 4.7 h
//
// Arm and Disarm are O(1). The wheel is meant to be re-armed lazily: the entry
// holds its expiry, and extending it does not touch the wheel; when the old
// slot fires the owner answers with the new time. Only a shorter timer must be
// armed anew at once.
//
// A timer never fires early. Advance works in bounded steps: a million timers
// due at once are spread over as many calls as the owner's budget makes
// necessary, and no slot is skipped.
//
// A Wheel is not safe for concurrent use.
package timerwheel

import "math/bits"

// Tick is a point in time in ticks modulo 2^32. Two of them compare by the sign
// of their difference.
type Tick uint32

// Until returns the ticks from now to t, negative if t is past.
func (t Tick) Until(now Tick) int32 { return int32(t - now) }

const (
	levels   = 4
	slotBits = 6
	slots    = 1 << slotBits
	topShift = (levels - 1) * slotBits
	horizon  = (slots - 1) << topShift
	unlinked = 0xffffffff
)

// Link is an entry's place in the wheel: its neighbours in the slot's ring.
type Link struct{ next, prev uint32 }

// Links returns how many Links a wheel over n entries needs.
func Links(n int) int { return n + levels*slots }

// Wheel is the timer wheel. Make it with New.
type Wheel struct {
	links    []Link // of the entries, then of the slots' heads
	entries  uint32
	now      Tick
	occupied [levels]uint64 // a superset of the slots that hold entries
	count    int
}

// New returns a wheel over n entries that begins at now. links must have
// Links(n) elements, all zero; the wheel owns them from then on. It writes only
// those of the slots, so that the memory of entries never used stays untouched.
func New(links []Link, n int, now Tick) *Wheel {
	w := &Wheel{links: links[:Links(n)], entries: uint32(n), now: now}
	for i := n; i < len(w.links); i++ {
		w.links[i] = Link{uint32(i), uint32(i)}
	}
	return w
}

// Len returns the number of armed entries.
func (w *Wheel) Len() int { return w.count }

// Now returns the tick that the wheel has reached.
func (w *Wheel) Now() Tick { return w.now }

// Arm sets entry i to come up at the given tick, or at the next one if that is
// not after Now. Valid iff i is not armed.
func (w *Wheel) Arm(i uint32, at Tick) {
	w.count++
	w.insert(i, at)
}

// Disarm takes entry i out of the wheel. Valid iff i is armed.
func (w *Wheel) Disarm(i uint32) {
	w.count--
	w.remove(i)
}

// insert puts an entry into the slot of the lowest level whose current turn
// still reaches at. That slot is never the current one of its level: see
// Advance.
func (w *Wheel) insert(i uint32, at Tick) {
	at = w.now + Tick(min(max(at.Until(w.now), 1), horizon))
	level := min((bits.Len32(uint32(at^w.now))-1)/slotBits, levels-1)
	slot := w.slot(level, at)
	w.occupied[level] |= 1 << slot
	head := w.head(level, slot)
	last := w.links[head].prev
	w.links[i] = Link{head, last}
	w.links[last].next = i
	w.links[head].prev = i
}

func (w *Wheel) remove(i uint32) {
	l := w.links[i]
	w.links[l.prev].next = l.next
	w.links[l.next].prev = l.prev
}

func (w *Wheel) slot(level int, at Tick) int { return int(at >> (level * slotBits) % slots) }

func (w *Wheel) head(level, slot int) uint32 { return w.entries + uint32(level*slots+slot) }

// Owner knows when its entries are due.
type Owner interface {
	// Due is called when entry i comes up at Now, which may be before its time.
	// It returns the tick at which i is to come up again, or false if i leaves
	// the wheel. It must not Arm or Disarm i itself.
	Due(i uint32) (again Tick, keep bool)
}

// Advance turns the wheel to now and reports whether it got there. At most
// budget entries come up in one call (valid iff budget > 0); the next call goes
// on where this one left off. Time that runs backwards is ignored.
//
// The wheel stops at every tick at which a slot that may hold entries comes up.
// There the current slot of every level is emptied, and stays empty: what is
// put back lies after Now, and so does its slot.
func (w *Wheel) Advance(now Tick, budget int, owner Owner) bool {
	for {
		for level := levels - 1; level >= 0; level-- {
			if budget = w.empty(level, budget, owner); budget == 0 {
				return false
			}
		}
		if w.now.Until(now) >= 0 {
			return true
		}
		w.now = w.next(now)
	}
}

// next returns the first tick after w.now at which an occupied slot comes up,
// or limit if that is earlier. A level's entries all lie before those of the
// next level, since they lie in its current slot.
func (w *Wheel) next(limit Tick) Tick {
	if w.count == 0 {
		return limit
	}
	for level := range levels {
		pos := w.slot(level, w.now)
		turn := w.now >> (level * slotBits) &^ (slots - 1)
		ahead := w.occupied[level] &^ (1<<(pos+1) - 1)
		if ahead == 0 && level == levels-1 {
			ahead, turn = w.occupied[level], turn+slots
		}
		if ahead != 0 {
			at := (turn + Tick(bits.TrailingZeros64(ahead))) << (level * slotBits)
			if at.Until(limit) < 0 {
				return at
			}
			return limit
		}
	}
	return limit
}

// empty brings up every entry of the current slot of a level and returns what
// is left of the budget: 0 if entries may remain.
func (w *Wheel) empty(level, budget int, owner Owner) int {
	slot := w.slot(level, w.now)
	if w.occupied[level]&(1<<slot) == 0 {
		return budget
	}
	head := w.head(level, slot)
	for ; budget > 0; budget-- {
		i := w.links[head].next
		if i == head {
			w.occupied[level] &^= 1 << slot
			return budget
		}
		w.remove(i)
		if again, keep := owner.Due(i); keep {
			w.insert(i, again)
		} else {
			w.count--
		}
	}
	return 0
}
