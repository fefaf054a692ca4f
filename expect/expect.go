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

	// Child reads the connection when it comes (nf_conntrack_expect.helper), 0 for none.
	Child flow.HelperID
	// Dir is the direction of the master in which the connection runs
	// (nf_conntrack_expect.dir).
	Dir flow.Direction
	// Announcer is who is told to have announced it, for SourceLimit; the zero address is
	// nobody.
	Announcer flow.Addr
	// SourceLimit is the most expectations that one Announcer may have, 0 for any number.
	SourceLimit int
	// Follow is what becomes of the connection if its master is translated.
	Follow Follow
	// Paired ones of a master go when one of them is used: both are of one tunnel, which
	// either side may begin (pptp_expectfn).
	Paired bool
}

// Follow is how the connection of a translated master is translated itself, instead of by
// rules (nf_nat_follow_master). The zero Follow leaves it to rules.
type Follow struct {
	On bool
	// From is the only source that becomes Src: that of the master, as it is before
	// translation. Others stay as they are (nf_nat_sip_expected). The zero Addr stands for all
	// sources (nf_nat_follow_master).
	From, Src flow.Addr
	// SrcPort is the port of Src, if it is not 0: a call id of GRE, which is not in packets of
	// that direction.
	SrcPort uint16
	// Dst and Port are where it goes (saved_addr, saved_proto).
	Dst  flow.Addr
	Port uint16
}

// Mapped returns what the original tuple t becomes, as far as its source port can be kept.
func (f *Follow) Mapped(t flow.Tuple) flow.Tuple {
	if !f.On {
		return t
	}
	if f.Takes(t.Src) {
		t.Src = f.Src
		if f.SrcPort != 0 {
			t.L4 = t.L4&^0xffff | flow.L4(f.SrcPort)
		}
	}
	t.Dst = f.Dst
	t.L4 = t.L4&^(0xffff<<16) | flow.L4(f.Port)<<16
	return t
}

// Takes reports whether a source becomes Src.
func (f *Follow) Takes(src flow.Addr) bool { return f.From == (flow.Addr{}) || src == f.From }

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

// Renews reports whether o announces what e does, in whatever place it was expected.
func (e *Expectation) Renews(o *Expectation) bool {
	return e.Master == o.Master && e.Class == o.Class && e.Tuple.L4.Proto() == o.Tuple.L4.Proto() &&
		e.Follow.Dst == o.Follow.Dst && e.Follow.Port == o.Follow.Port && e.Dir == o.Dir
}

// Why Insert refuses an expectation.
var (
	ErrBusy = errors.New("another expectation overlaps it")           // EBUSY
	ErrFull = errors.New("there are nf_conntrack_expect_max of them") // EMFILE
	// ErrSource is a limit that Linux has not.
	ErrSource = errors.New("the source has announced xdpct_expect_max_source of them")
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
	for _, e := range t.near(tuple) {
		if e.Flags&Inactive != 0 || e.Expires <= now || !e.matches(tuple) {
			continue
		}
		if used := e.Flags&Permanent == 0; used && !t.end(e) || !used && e.gone.Load() {
			continue
		}
		t.matched.Add(1)
		return Match{e.Master, e.Helper, e.Child, flow.Mark(e.mark.Load()), e.Follow, e.Paired}, true
	}
	return m, false
}

// near returns the entries among which are those of tuple, none if the table is empty.
func (t *Table) near(tuple *flow.Tuple) []*entry {
	if t.live.Load() == 0 {
		return nil
	}
	if list := t.chain(tuple).Load(); list != nil {
		return *list
	}
	return nil
}

// Find returns what Match would use up; nil if there is none. It must not be changed.
func (t *Table) Find(tuple *flow.Tuple, now int64) *Expectation {
	for _, e := range t.near(tuple) {
		if e.Flags&Inactive == 0 && e.Expires > now && !e.gone.Load() && e.matches(tuple) {
			return &e.Expectation
		}
	}
	return nil
}

// Reserved reports whether the original tuple of another connection than the expected one
// must not be tuple: whether it is expected, now or, being inactive, later. What the master
// of expects does not count: of two ends that have announced where they are to be sent to,
// one begins, and the answers are what the other has announced.
func (t *Table) Reserved(tuple, of *flow.Tuple, now int64) bool {
	for _, e := range t.near(tuple) {
		if e.Master != *of && e.Expires > now && !e.gone.Load() && e.matches(tuple) {
			return true
		}
	}
	return false
}

// OfMaster returns the expectation of a master that which selects, nil if there is none. It
// must not be changed.
func (t *Table) OfMaster(master *flow.Tuple, which func(*Expectation) bool) *Expectation {
	for _, e := range *t.all.Load() {
		if e.Master == *master && !e.gone.Load() && which(&e.Expectation) {
			return &e.Expectation
		}
	}
	return nil
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

// Insert adds expectations whose master has the given mark, all or none
// (nf_ct_expect_related). now is the time in milliseconds. The error is ErrBusy,
// ErrFull or ErrSource.
func (t *Table) Insert(mark flow.Mark, now int64, es ...Expectation) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tidy(now)
	added := make([]*entry, 0, len(es))
	for i := range es {
		err := t.check(&es[i])
		t.tidy(now)
		if err != nil {
			t.withdraw(added)
			return err
		}
		n := &entry{Expectation: es[i]}
		n.mark.Store(uint32(mark))
		added = append(added, n)
		t.live.Add(1)
		t.link(n)
	}
	for _, n := range added {
		t.created.Add(1)
		t.observe(flow.EventNew, n)
	}
	return nil
}

// link makes an entry one that can be found. t.mu is held.
func (t *Table) link(n *entry) {
	add(&t.all, n)
	add(t.chain(&n.Tuple), n)
}

// withdraw takes entries back that nobody was told of. t.mu is held.
func (t *Table) withdraw(es []*entry) {
	for _, e := range es {
		if e.gone.CompareAndSwap(false, true) { // else a packet has used it up in between
			t.live.Add(-1)
		}
		without(&t.all, e)
		without(t.chain(&e.Tuple), e)
	}
}

// check says why e cannot be inserted, and ends what it replaces or pushes out
// (__nf_ct_expect_check).
func (t *Table) check(e *Expectation) error {
	for _, o := range t.near(&e.Tuple) {
		if o.sameAs(e) {
			t.end(o)
		} else if o.clashes(e) && !o.gone.Load() {
			return ErrBusy
		}
	}
	if e.Limit > 0 {
		t.makeRoom(e)
	}
	if int(t.live.Load()) >= t.limit {
		return ErrFull
	}
	if e.SourceLimit > 0 && e.Announcer != (flow.Addr{}) && t.announced(e.Announcer) >= e.SourceLimit {
		return ErrSource
	}
	return nil
}

// announced returns how many expectations a source has announced.
func (t *Table) announced(source flow.Addr) (n int) {
	for _, o := range *t.all.Load() {
		if o.Announcer == source && !o.gone.Load() {
			n++
		}
	}
	return n
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

// without puts a copy of a list in its place that does not have e. t.mu is held.
func without(at *atomic.Pointer[[]*entry], e *entry) {
	l := slices.DeleteFunc(slices.Clone(*at.Load()), func(o *entry) bool { return o == e })
	at.Store(&l)
}

// tidy unlinks what is gone, and what has expired by now. t.mu is held.
func (t *Table) tidy(now int64) {
	all, gone := *t.all.Load(), 0
	for _, e := range all {
		if e.Expires <= now {
			t.end(e)
		}
		if e.gone.Load() {
			gone++
		}
	}
	if gone == 0 {
		return
	}
	left := make([]*entry, 0, len(all)-gone)
	for _, e := range all {
		if !e.gone.Load() {
			left = append(left, e)
			continue
		}
		without(t.chain(&e.Tuple), e)
		t.observe(flow.EventDestroy, e)
	}
	t.all.Store(&left)
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

// Renew gives one expectation of a master, the oldest that which selects, another time at
// which it ends, and makes it active. It reports whether there is one.
func (t *Table) Renew(master *flow.Tuple, expires int64, which func(*Expectation) bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range *t.all.Load() {
		if e.Master != *master || !which(&e.Expectation) || !e.gone.CompareAndSwap(false, true) {
			continue
		}
		n := &entry{Expectation: e.Expectation}
		n.mark.Store(e.mark.Load())
		n.Expires, n.Flags = expires, n.Flags&^Inactive
		replace(&t.all, e, n)
		replace(t.chain(&e.Tuple), e, n)
		return true
	}
	return false
}

// replace puts a copy of a list in its place that has n instead of e. t.mu is held.
func replace(at *atomic.Pointer[[]*entry], e, n *entry) {
	l := slices.Clone(*at.Load())
	l[slices.Index(l, e)] = n
	at.Store(&l)
}

// Withdraw removes those expectations of a master that which selects
// (nf_ct_unexpect_related). As to who may call it, see RemoveMaster.
func (t *Table) Withdraw(master *flow.Tuple, which func(*Expectation) bool) {
	for _, e := range *t.all.Load() {
		if e.Master == *master && which(&e.Expectation) {
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
