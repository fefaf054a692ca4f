package expect

import (
	"container/heap"
	"container/list"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
)

// Table is the expectations of one tracker. Make it with New. Its methods may be
// called from any goroutine. Match, Find, Reserved, OfMaster, RemoveMaster, Withdraw and
// SetMark, which packets lead to, take no lock and do not allocate. What any of them costs does
// not grow with the number of expectations, but that of List and Remove.
type Table struct {
	secret *flow.Secret
	limit  int
	live   atomic.Int64         // expectations in the table that are not gone
	to     []chain              // by destination
	of     []chain              // by master
	gone   atomic.Pointer[life] // those that are to be unlinked, the last one first

	mu      sync.Mutex // held while chains are replaced, and for what follows
	all     list.List  // of *life, oldest first
	due     dueHeap
	sources map[flow.Addr]*source

	// Observe, if not nil, is told of every expectation that comes or goes, with
	// the table locked: of one that a packet used up, or whose master went, in the
	// next call that takes the lock. Set it before the table is used.
	Observe func(k flow.EventKind, e *Expectation)

	created, deleted, matched atomic.Uint64
}

// chain is the entries of one hash value, oldest first: a slice that is never changed.
type chain struct{ atomic.Pointer[[]*entry] }

// entry is an expectation as packets find it. It never changes.
type entry struct {
	Expectation
	*life
}

// life is what becomes of an expectation. That which is renewed has a new entry and one life.
type life struct {
	mark atomic.Uint32 // the master's
	over atomic.Bool   // used up, removed or expired: to be unlinked
	next *life         // in Table.gone

	// With the table locked:
	now *entry
	at  *list.Element // in Table.all
	due int           // place in Table.due, -1 if it has none any more
	by  *source       // nil for nobody
}

// source is somebody who has announced expectations.
type source struct {
	live   atomic.Int64 // that are not gone
	linked int          // that are in the table
}

// New makes a table for at most limit expectations (nf_conntrack_expect_max).
func New(limit int, secret *flow.Secret) *Table {
	n := 1 << bits.Len(uint(min(max(limit/4, 16), 1<<16)-1)) // nf_ct_expect_hsize
	return &Table{limit: limit, secret: secret, to: make([]chain, n), of: make([]chain, n), sources: map[flow.Addr]*source{}}
}

// Stats are the counters of `conntrack -S expect`.
type Stats struct{ Created, Deleted, Matched uint64 }

// Stats returns the counters.
func (t *Table) Stats() Stats {
	return Stats{t.created.Load(), t.deleted.Load(), t.matched.Load()}
}

// Len returns the number of expectations, some of which may have expired.
func (t *Table) Len() int { return int(t.live.Load()) }

// toward returns the chain of those that expect what goes where a tuple does.
func (t *Table) toward(tuple *flow.Tuple) *chain {
	k := flow.Tuple{Dst: tuple.Dst, L4: tuple.L4 &^ 0xffff}
	return &t.to[int(k.Hash(t.secret)>>32)&(len(t.to)-1)]
}

// from returns the chain of a master's.
func (t *Table) from(master *flow.Tuple) *chain {
	return &t.of[int(master.Hash(t.secret)>>32)&(len(t.of)-1)]
}

func (c *chain) entries() []*entry {
	if l := c.Load(); l != nil {
		return *l
	}
	return nil
}

// near returns the entries among which are those of tuple, none if the table is empty.
func (t *Table) near(tuple *flow.Tuple) []*entry {
	if t.live.Load() == 0 {
		return nil
	}
	return t.toward(tuple).entries()
}

// sought is what kind of expectation is looked for.
type sought struct {
	use      bool        // it is used up, unless it is permanent
	inactive bool        // also those that match nothing yet
	but      *flow.Tuple // a master whose do not count, nil for none
}

// search returns an expectation of the connection with the original tuple tuple, nil if there
// is none. If one is over that it would have been, another may have come in its place
// meanwhile: it looks again then.
func (t *Table) search(tuple *flow.Tuple, now int64, s sought) *entry {
	if t.live.Load() == 0 {
		return nil
	}
	for c := t.toward(tuple); ; {
		l, late := c.Load(), false
		if l == nil {
			return nil
		}
		for _, e := range *l {
			switch {
			case e.Expires <= now || e.Flags&Inactive != 0 && !s.inactive || s.but != nil && e.Master == *s.but || !e.matches(tuple):
				continue
			case s.use && e.Flags&Permanent == 0 && t.end(e.life), !s.use && !e.over.Load(), e.Flags&Permanent != 0 && !e.over.Load():
				return e
			}
			late = true
		}
		if !late || c.Load() == l {
			return nil
		}
	}
}

// ofMaster returns the entries among which are those of a master, none if the table is empty.
func (t *Table) ofMaster(master *flow.Tuple) []*entry {
	if t.live.Load() == 0 {
		return nil
	}
	return t.from(master).entries()
}

// Match is an expectation that a connection has used.
type Match struct {
	Master flow.Tuple
	Helper flow.HelperID // the master's
	Child  flow.HelperID
	Mark   flow.Mark
	Follow Follow
	Paired bool
}

// Match looks for an expectation of the connection with the original tuple tuple,
// at the time now in milliseconds, and uses it up unless it is permanent
// (nf_ct_find_expectation).
func (t *Table) Match(tuple *flow.Tuple, now int64) (m Match, ok bool) {
	e := t.search(tuple, now, sought{use: true})
	if e == nil {
		return m, false
	}
	t.matched.Add(1)
	return Match{e.Master, e.Helper, e.Child, flow.Mark(e.mark.Load()), t.follow(e, tuple, now), e.Paired}, true
}

// Find returns how the connection with the original tuple tuple would be translated if Match
// found it; ok is false if it would not.
func (t *Table) Find(tuple *flow.Tuple, now int64) (f Follow, ok bool) {
	e := t.search(tuple, now, sought{})
	if e == nil {
		return f, false
	}
	return t.follow(e, tuple, now), true
}

// follow returns what becomes of the connection with the original tuple tuple, which e
// expects. If its source is where its master expects what runs the other way, it comes from
// what was told of that (the paired expectation of nf_nat_sip_expected).
func (t *Table) follow(e *entry, tuple *flow.Tuple, now int64) Follow {
	f := e.Follow
	if !f.On || !f.Media {
		return f
	}
	for _, o := range slices.Backward(t.ofMaster(&e.Master)) {
		if o.Master == e.Master && !o.over.Load() && o.Expires > now && o.Tuple.L4.Proto() == tuple.L4.Proto() &&
			o.Follow.Dst == tuple.Src && o.Follow.Port == tuple.L4.Src() {
			f.From, f.Src, f.SrcPort = tuple.Src, o.Tuple.Dst, o.Tuple.L4.Dst()
			break
		}
	}
	return f
}

// Reserved reports whether the original tuple of another connection than the expected one
// must not be tuple: whether it is expected, now or, being inactive, later. What the master
// of expects does not count: of two ends that have announced where they are to be sent to,
// one begins, and the answers are what the other has announced.
func (t *Table) Reserved(tuple, of *flow.Tuple, now int64) bool {
	return t.search(tuple, now, sought{inactive: true, but: of}) != nil
}

// OfMaster returns the oldest expectation of a master that which selects, nil if there is
// none. It must not be changed.
func (t *Table) OfMaster(master *flow.Tuple, which func(*Expectation) bool) *Expectation {
	for _, e := range t.ofMaster(master) {
		if e.Master == *master && !e.over.Load() && which(&e.Expectation) {
			return &e.Expectation
		}
	}
	return nil
}

// RemoveMaster removes the expectations of a master, which is going
// (nf_ct_remove_expectations). Whoever removes a master is also who inserts its
// expectations: one that another goroutine inserts at the same time may stay.
func (t *Table) RemoveMaster(master *flow.Tuple) {
	for _, e := range t.ofMaster(master) {
		if e.Master == *master {
			t.end(e.life)
		}
	}
}

// Withdraw removes those expectations of a master that which selects
// (nf_ct_unexpect_related). As to who may call it, see RemoveMaster.
func (t *Table) Withdraw(master *flow.Tuple, which func(*Expectation) bool) {
	for _, e := range t.ofMaster(master) {
		if e.Master == *master && which(&e.Expectation) {
			t.end(e.life)
		}
	}
}

// SetMark tells the expectations of a master that its mark has changed. As to who may
// call it, see RemoveMaster.
func (t *Table) SetMark(master *flow.Tuple, mark flow.Mark) {
	for _, e := range t.ofMaster(master) {
		if e.Master == *master {
			e.mark.Store(uint32(mark))
		}
	}
}

// end makes an expectation one that is over; false if it was already.
func (t *Table) end(l *life) bool {
	if !l.over.CompareAndSwap(false, true) {
		return false
	}
	t.live.Add(-1)
	t.deleted.Add(1)
	if l.by != nil {
		l.by.live.Add(-1)
	}
	for {
		l.next = t.gone.Load()
		if t.gone.CompareAndSwap(l.next, l) {
			return true
		}
	}
}

// Insert adds expectations whose master has the given mark, all or none
// (nf_ct_expect_related). now is the time in milliseconds. The error is ErrBusy,
// ErrFull or ErrSource.
//
// What is the same as one of them, and the oldest of a class that is full, go. A packet that
// comes meanwhile finds the old one or the new.
func (t *Table) Insert(mark flow.Mark, now int64, es ...Expectation) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tidy(now)
	var some [8]*entry // so that one that is refused costs no memory
	leave := some[:0]
	for i := range es {
		for _, o := range t.near(&es[i].Tuple) {
			switch {
			case o.over.Load():
			case o.sameAs(&es[i]):
				leave = append(leave, o)
			case o.clashes(&es[i]):
				return ErrBusy
			}
		}
		for j := range es[:i] {
			if es[j].clashes(&es[i]) {
				return ErrBusy
			}
		}
	}
	for i := range es {
		leave = t.makeRoom(leave, es, i)
	}
	if err := t.check(es, leave); err != nil {
		return err
	}
	lives := make([]life, len(es))
	for i := range es {
		t.link(&lives[i], &entry{Expectation: es[i], life: &lives[i]}, mark, leave)
	}
	for _, o := range leave {
		t.end(o.life)
	}
	t.unlink()
	for i := range lives {
		t.created.Add(1)
		t.observe(flow.EventNew, lives[i].now)
	}
	return nil
}

// makeRoom adds the oldest of the class of es[i] to those that leave if its master has too
// many (evict_oldest_expect).
func (t *Table) makeRoom(leave []*entry, es []Expectation, i int) []*entry {
	e := &es[i]
	if e.Limit <= 0 {
		return leave
	}
	var oldest *entry
	n := 0
	for _, o := range t.ofMaster(&e.Master) {
		if o.Master == e.Master && o.Class == e.Class && !o.over.Load() && !slices.Contains(leave, o) {
			if oldest == nil {
				oldest = o
			}
			n++
		}
	}
	for j := range es[:i] {
		if es[j].Master == e.Master && es[j].Class == e.Class {
			n++
		}
	}
	if n >= e.Limit && oldest != nil {
		leave = append(leave, oldest)
	}
	return leave
}

// check says why there is no room for es when others have left (__nf_ct_expect_check).
func (t *Table) check(es []Expectation, leave []*entry) error {
	if int(t.live.Load())-len(leave)+len(es) > t.limit {
		return ErrFull
	}
	for i := range es {
		e := &es[i]
		if e.SourceLimit <= 0 || e.Announcer == (flow.Addr{}) {
			continue
		}
		n := i
		if by := t.sources[e.Announcer]; by != nil {
			n += int(by.live.Load())
		}
		for _, o := range leave {
			if o.Announcer == e.Announcer {
				n--
			}
		}
		if n >= e.SourceLimit {
			return ErrSource
		}
	}
	return nil
}

// link makes an entry one that can be found, instead of those of its chains that leave. t.mu
// is held.
func (t *Table) link(l *life, n *entry, mark flow.Mark, leave []*entry) {
	l.now = n
	l.mark.Store(uint32(mark))
	if n.Announcer != (flow.Addr{}) {
		if l.by = t.sources[n.Announcer]; l.by == nil {
			l.by = new(source)
			t.sources[n.Announcer] = l.by
		}
		l.by.live.Add(1)
		l.by.linked++
	}
	l.at = t.all.PushBack(l)
	heap.Push(&t.due, l)
	t.live.Add(1)
	t.from(&n.Master).change(n, leave...)
	t.toward(&n.Tuple).change(n, leave...)
}

// change puts a list in the place of a chain's that has n at its end, if that is not nil, and
// lacks those that leave. t.mu is held.
func (c *chain) change(n *entry, leave ...*entry) {
	was := c.entries()
	l := make([]*entry, 0, len(was)+1)
	for _, e := range was {
		if !slices.Contains(leave, e) {
			l = append(l, e)
		}
	}
	if n != nil {
		l = append(l, n)
	}
	if len(l) == 0 {
		c.Store(nil)
		return
	}
	c.Store(&l)
}

// replace puts a list in the place of a chain's that has n instead of e. t.mu is held.
func (c *chain) replace(e, n *entry) {
	l := slices.Clone(c.entries())
	if i := slices.Index(l, e); i >= 0 {
		l[i] = n
	}
	c.Store(&l)
}

// tidy ends what has expired by now, and unlinks what is over. t.mu is held.
func (t *Table) tidy(now int64) {
	for len(t.due) > 0 && t.due[0].now.Expires <= now {
		t.end(heap.Pop(&t.due).(*life))
	}
	t.unlink()
}

// unlink takes what is over out of the table, in the order in which it ended. t.mu is held.
func (t *Table) unlink() {
	var first *life
	for l := t.gone.Swap(nil); l != nil; {
		next := l.next
		l.next, first = first, l
		l = next
	}
	for l := first; l != nil; l = l.next {
		e := l.now
		t.from(&e.Master).change(nil, e)
		t.toward(&e.Tuple).change(nil, e)
		t.all.Remove(l.at)
		if l.due >= 0 {
			heap.Remove(&t.due, l.due)
		}
		if l.by != nil {
			if l.by.linked--; l.by.linked == 0 {
				delete(t.sources, e.Announcer)
			}
		}
		t.observe(flow.EventDestroy, e)
	}
}

func (t *Table) observe(k flow.EventKind, e *entry) {
	if t.Observe != nil {
		t.Observe(k, &e.Expectation)
	}
}

// Expire unlinks what has expired by now, in milliseconds, and what is over. Call it now
// and then.
func (t *Table) Expire(now int64) {
	if t.live.Load() == 0 && t.gone.Load() == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tidy(now)
}

// Renew gives one expectation of a master, the oldest that which selects, another time at
// which it ends, and makes it active. It reports whether there is one. A packet that comes
// meanwhile finds it as it was or as it is then.
func (t *Table) Renew(master *flow.Tuple, expires int64, which func(*Expectation) bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unlink()
	for _, e := range t.ofMaster(master) {
		if e.Master != *master || e.over.Load() || !which(&e.Expectation) {
			continue
		}
		n := &entry{Expectation: e.Expectation, life: e.life}
		n.Expires, n.Flags = expires, n.Flags&^Inactive
		e.now = n
		if e.due >= 0 {
			heap.Fix(&t.due, e.due)
		}
		t.from(master).replace(e, n)
		t.toward(&e.Tuple).replace(e, n)
		return true
	}
	return false
}

// Remove removes the expectations that which selects and returns their number.
func (t *Table) Remove(which func(*Expectation) bool) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for at := t.all.Front(); at != nil; at = at.Next() {
		if l := at.Value.(*life); !l.over.Load() && which(&l.now.Expectation) && t.end(l) {
			n++
		}
	}
	t.unlink()
	return n
}

// List returns the expectations that are alive at now, in milliseconds, oldest first.
func (t *Table) List(now int64) []Expectation {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tidy(now)
	var all []Expectation
	for at := t.all.Front(); at != nil; at = at.Next() {
		all = append(all, at.Value.(*life).now.Expectation)
	}
	return all
}

// dueHeap is expectations by when they expire, the next one first (heap.Interface).
type dueHeap []*life

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].now.Expires < h[j].now.Expires }

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].due, h[j].due = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	l := x.(*life)
	l.due = len(*h)
	*h = append(*h, l)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last], *h, l.due = nil, (*h)[:last], -1
	return l
}

var _ heap.Interface = (*dueHeap)(nil)
