package expect

import (
	"errors"

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
	// Media says that both sides send from where they want to receive: a source that another
	// expectation of the master leads to becomes, with its port, what was told of that one.
	Media bool
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

// Why Insert refuses an expectation.
var (
	ErrBusy = errors.New("another expectation overlaps it")           // EBUSY
	ErrFull = errors.New("there are nf_conntrack_expect_max of them") // EMFILE
	// ErrSource is a limit that Linux has not.
	ErrSource = errors.New("the source has announced xdpct_expect_max_source of them")
)
