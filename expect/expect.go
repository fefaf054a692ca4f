package expect

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/xdpct/xdpct/flow"
)

// Flags are the NF_CT_EXPECT_* bits.
type Flags uint8

// The flags, with the kernel's values.
const (
	Permanent Flags = 1 << iota // NF_CT_EXPECT_PERMANENT: not used up by a connection
	Inactive                    // NF_CT_EXPECT_INACTIVE: matches nothing
	Userspace                   // NF_CT_EXPECT_USERSPACE: made by somebody outside the tracker
)

// Mask says which parts of the source count: a bit that is set must be equal.
type Mask struct {
	Src flow.Addr
	ID  uint16 // of the source port or the like
}

// ExactSource is the mask of a source that is known in full.
var ExactSource = Mask{flow.Addr{Hi: ^uint64(0), Lo: ^uint64(0)}, 0xffff}

// Expectation is a connection that is expected (struct nf_conntrack_expect).
type Expectation struct {
	// Tuple is the original tuple of the connection; its zone is the master's.
	Tuple flow.Tuple
	Mask  Mask
	// Master is the original tuple of the connection that it belongs to.
	Master flow.Tuple
	Helper flow.HelperID // the master's
	Class  uint8
	Flags  Flags
	// Expires is the end of its life, in milliseconds of the tracker's clock.
	Expires int64
	// Limit is the most expectations of this class that the master may have, 0
	// for any number (nf_conntrack_expect_policy.max_expected).
	Limit int
}

// matches is nf_ct_tuple_mask_cmp.
func (e *Expectation) matches(t *flow.Tuple) bool { return cover(t, &e.Tuple, e.Mask) }

// cover reports whether two tuples are equal in their destination and under a mask.
func cover(a, b *flow.Tuple, m Mask) bool {
	const src = 0xffff
	return a.Dst == b.Dst && (a.L4^b.L4)&^src == 0 &&
		(a.L4.Src()^b.L4.Src())&m.ID == 0 &&
		(a.Src.Hi^b.Src.Hi)&m.Src.Hi == 0 && (a.Src.Lo^b.Src.Lo)&m.Src.Lo == 0
}

// clashes is expect_clash: whether there is a connection that both expect.
func (e *Expectation) clashes(o *Expectation) bool {
	both := Mask{flow.Addr{Hi: e.Mask.Src.Hi & o.Mask.Src.Hi, Lo: e.Mask.Src.Lo & o.Mask.Src.Lo}, e.Mask.ID & o.Mask.ID}
	return cover(&e.Tuple, &o.Tuple, both)
}

// sameAs is expect_matches and master_matches.
func (e *Expectation) sameAs(o *Expectation) bool {
	return e.Master == o.Master && e.Class == o.Class && e.Tuple == o.Tuple && e.Mask == o.Mask
}

// Why Insert refuses an expectation.
var (
	ErrBusy = errors.New("another expectation overlaps it")           // EBUSY
	ErrFull = errors.New("there are nf_conntrack_expect_max of them") // EMFILE
)

// Table is the expectations of one tracker. Make it with New. Its methods may be
// called from any goroutine. Match, RemoveMaster and SetMark, which packets lead to, take
// no lock and do not allocate.
type Table struct {
	secret *flow.Secret
	limit  int
	live   atomic.Int64 // expectations in the table that are not gone
	chains [256]atomic.Pointer[[]*entry]
	all    atomic.Pointer[[]*entry] // oldest first; the gone ones until they are unlinked

	mu sync.Mutex // held while chains and all are replaced

	// Observe, if not nil, is told of every expectation that comes or goes, with
	// the table locked: of one that a packet used up, or whose master went, in the
	// next call that takes the lock. Set it before the table is used.
	Observe func(k flow.EventKind, e *Expectation)

	created, deleted, matched atomic.Uint64
}

// entry is an expectation in the table. What it expects never changes.
type entry struct {
	Expectation
	mark atomic.Uint32 // the master's
	gone atomic.Bool   // used up, removed or expired: to be unlinked
}

// New makes a table for at most limit expectations (nf_conntrack_expect_max).
func New(limit int, secret *flow.Secret) *Table {
	t := &Table{limit: limit, secret: secret}
	t.all.Store(&[]*entry{})
	return t
}

// Stats are the counters of `conntrack -S expect`.
type Stats struct{ Created, Deleted, Matched uint64 }

// Stats returns the counters.
func (t *Table) Stats() Stats {
	return Stats{t.created.Load(), t.deleted.Load(), t.matched.Load()}
}

// Len returns the number of expectations, some of which may have expired.
func (t *Table) Len() int { return int(t.live.Load()) }

func (t *Table) chain(dst *flow.Tuple) *atomic.Pointer[[]*entry] {
	k := flow.Tuple{Dst: dst.Dst, L4: dst.L4 &^ 0xffff}
	return &t.chains[uint8(k.Hash(t.secret)>>32)]
}

// Match is an expectation that a connection has used.
type Match struct {
	Master flow.Tuple
	Helper flow.HelperID
	Mark   flow.Mark
}

// Match looks for an expectation of the connection with the original tuple tuple,
// at the time now in milliseconds, and uses it up unless it is permanent
// (nf_ct_find_expectation).
func (t *Table) Match(tuple *flow.Tuple, now int64) (m Match, ok bool) {
	if t.live.Load() == 0 {
		return m, false
	}
	list := t.chain(tuple).Load()
	if list == nil {
		return m, false
	}
	for _, e := range *list {
		if e.Flags&Inactive != 0 || e.Expires <= now || !e.matches(tuple) {
			continue
		}
		if used := e.Flags&Permanent == 0; used && !t.end(e) || !used && e.gone.Load() {
			continue
		}
		t.matched.Add(1)
		return Match{e.Master, e.Helper, flow.Mark(e.mark.Load())}, true
	}
	return m, false
}

// end makes e one that is gone; false if it was already.
func (t *Table) end(e *entry) bool {
	if !e.gone.CompareAndSwap(false, true) {
		return false
	}
	t.live.Add(-1)
	t.deleted.Add(1)
	return true
}

// Insert adds an expectation whose master has the given mark
// (nf_ct_expect_related). now is the time in milliseconds. The error is ErrBusy or
// ErrFull.
func (t *Table) Insert(e Expectation, mark flow.Mark, now int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tidy(now)
	err := t.check(&e)
	t.tidy(now)
	if err != nil {
		return err
	}
	n := &entry{Expectation: e}
	n.mark.Store(uint32(mark))
	add(&t.all, n)
	add(t.chain(&n.Tuple), n)
	t.live.Add(1)
	t.created.Add(1)
	t.observe(flow.EventNew, n)
	return nil
}

// check says why e cannot be inserted, and ends what it replaces or pushes out
// (__nf_ct_expect_check).
func (t *Table) check(e *Expectation) error {
	if list := t.chain(&e.Tuple).Load(); list != nil {
		for _, o := range *list {
			if o.sameAs(e) {
				t.end(o)
			} else if o.clashes(e) && !o.gone.Load() {
				return ErrBusy
			}
		}
	}
	if e.Limit > 0 {
		t.makeRoom(e)
	}
	if int(t.live.Load()) >= t.limit {
		return ErrFull
	}
	return nil
}

// makeRoom pushes out the oldest of a class of a master if there are too many
// (evict_oldest_expect).
func (t *Table) makeRoom(e *Expectation) {
	var oldest *entry
	n := 0
	for _, o := range *t.all.Load() {
		if o.Master == e.Master && o.Class == e.Class && !o.gone.Load() {
			if oldest == nil {
				oldest = o
			}
			n++
		}
	}
	if n >= e.Limit {
		t.end(oldest)
	}
}

// add puts a longer copy of a list in its place. t.mu is held.
func add(at *atomic.Pointer[[]*entry], e *entry) {
	var l []*entry
	if old := at.Load(); old != nil {
		l = slices.Clone(*old)
	}
	l = append(l, e)
	at.Store(&l)
}

// tidy unlinks what is gone, and what has expired by now. t.mu is held.
func (t *Table) tidy(now int64) {
	all := *t.all.Load()
	left := make([]*entry, 0, len(all))
	for _, e := range all {
		if e.Expires <= now {
			t.end(e)
		}
		if !e.gone.Load() {
			left = append(left, e)
			continue
		}
		at := t.chain(&e.Tuple)
		l := slices.DeleteFunc(slices.Clone(*at.Load()), func(o *entry) bool { return o == e })
		at.Store(&l)
		t.observe(flow.EventDestroy, e)
	}
	if len(left) < len(all) {
		t.all.Store(&left)
	}
}

func (t *Table) observe(k flow.EventKind, e *entry) {
	if t.Observe != nil {
		t.Observe(k, &e.Expectation)
	}
}

// Expire unlinks what has expired by now, in milliseconds, and what is gone. Call it now
// and then.
func (t *Table) Expire(now int64) {
	if len(*t.all.Load()) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tidy(now)
}

// RemoveMaster removes the expectations of a master, which is going
// (nf_ct_remove_expectations). Whoever removes a master is also who inserts its
// expectations: one that another goroutine inserts at the same time may stay.
func (t *Table) RemoveMaster(master *flow.Tuple) {
	for _, e := range *t.all.Load() {
		if e.Master == *master {
			t.end(e)
		}
	}
}

// Remove removes the expectations that which selects and returns their number.
func (t *Table) Remove(which func(*Expectation) bool) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range *t.all.Load() {
		if !e.gone.Load() && which(&e.Expectation) && t.end(e) {
			n++
		}
	}
	t.tidy(minTime)
	return n
}

// minTime is a time at which nothing has expired.
const minTime = -1 << 63

// SetMark tells the expectations of a master that its mark has changed. As to who may
// call it, see RemoveMaster.
func (t *Table) SetMark(master *flow.Tuple, mark flow.Mark) {
	for _, e := range *t.all.Load() {
		if e.Master == *master {
			e.mark.Store(uint32(mark))
		}
	}
}

// List returns the expectations that are alive at now, in milliseconds, oldest first.
func (t *Table) List(now int64) []Expectation {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tidy(now)
	var list []Expectation
	for _, e := range *t.all.Load() {
		list = append(list, e.Expectation)
	}
	return list
}
