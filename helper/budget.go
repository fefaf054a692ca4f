package helper

import (
	"errors"

	"github.com/xdpct/xdpct/flow"
)

// Budget is what the flows of a shard may use together, and what they count. It is used by one
// goroutine.
type Budget struct {
	Flows int // flows at a time, 0: as many as there are
	Bytes int // bytes of incomplete messages and of edits, 0: as many as there are
	// Source is how many flows one host may have begun, 0 for any number. Of the bytes it may
	// use the same part, if that is more than leastShare.
	Source int

	Stats Stats

	flows, bytes int
	shares       map[flow.Addr]*share
}

// share is what one host uses.
type share struct{ flows, bytes int }

// leastShare is how many bytes a host may use at least, if there are as many: enough for the
// longest message of a stream in both directions.
const leastShare = 64 << 10

// Full reports whether there are as many flows as there may be.
func (b *Budget) Full() bool { return b.Flows > 0 && b.flows >= b.Flows }

// Open returns a flow that is charged to the budget, nil if it has as many as it may: the
// connection is then read by no helper. Close gives back what it used.
func (b *Budget) Open(h *Helper) *Flow {
	if b.Full() {
		b.Stats.Full++
		return nil
	}
	b.flows++
	b.Stats.Flows++
	return &Flow{h: h, session: h.New(), budget: b}
}

// Used returns how many flows there are, and how many bytes they use.
func (b *Budget) Used() (flows, bytes int) { return b.flows, b.bytes }

// fits reports whether a flow of a host may take n bytes.
func (b *Budget) fits(s *share, n int) bool {
	switch {
	case b.Bytes == 0:
		return true
	case b.bytes+n > b.Bytes:
		return false
	case s == nil || b.Source == 0 || b.Flows == 0:
		return true
	}
	return s.bytes+n <= max(b.Bytes/b.Flows*b.Source, leastShare)
}

// Why a flow is read no further, besides what a Session says.
var (
	ErrMidstream = errors.New("the beginning of the stream was not seen")
	ErrGap       = errors.New("bytes were acknowledged that were never seen") // another path, or lost before us
	ErrConflict  = errors.New("bytes were sent again that are others now")
	ErrBudget    = errors.New("no memory is left for what is incomplete") // Budget.Bytes
	ErrEdits     = errors.New("more edits than can be remembered")        // of a message, or in all (Budget.Bytes)
)

// ErrPassed is why Env.Expect enters nothing for a message of which a part has gone on
// before the message was whole: what it says can be rewritten no more.
var ErrPassed = errors.New("a part of the message has gone on already")

// The errors that Stats counts, in the order in which it does.
var (
	offErrors = [...]error{ErrProtocol, ErrEncrypted, ErrTooLong, ErrMalformed, ErrPanic,
		ErrMidstream, ErrGap, ErrConflict, ErrBudget, ErrEdits}
	refusals = [...]error{ErrForeign, ErrLowPort, ErrLimit, ErrClash, ErrNoPort, ErrPassed}
)

// Names of what Stats counts by reason, in its order.
var (
	OffNames = [...]string{"protocol", "encrypted", "too_long", "malformed", "panic",
		"midstream", "gap", "conflict", "budget", "edits", "other"}
	RefusedNames = [...]string{"foreign", "low_port", "limit", "clash", "no_port", "passed", "other"}
)

// Stats counts what helpers did.
type Stats struct {
	Flows    uint64 // connections that were read
	Full     uint64 // connections that were not, since there were Budget.Flows of them
	Crowded  uint64 // connections that were not, since their source had Budget.Source of them
	Evicted  uint64 // connections that were read no further, for another's sake: nobody had answered
	Messages uint64 // messages read
	Edits    uint64 // edits made; those of retransmissions do not count again
	Passed   uint64 // messages that went on unread, since half of one was sent again alone

	Held    uint64 // packets whose bytes were kept, in full or in part, until their message was whole
	Early   uint64 // packets dropped since bytes before them were missing
	Waited  uint64 // packets dropped since no more edits could be remembered
	Refused uint64 // packets dropped since an expectation found no room or port

	Off     [len(offErrors) + 1]uint64 // flows whose helper was turned off, by OffNames
	Expects [len(refusals) + 1]uint64  // expectations not entered, by RefusedNames
}

// Add adds what o counted.
func (s *Stats) Add(o *Stats) {
	s.Flows += o.Flows
	s.Full += o.Full
	s.Crowded += o.Crowded
	s.Evicted += o.Evicted
	s.Messages += o.Messages
	s.Edits += o.Edits
	s.Passed += o.Passed
	s.Held += o.Held
	s.Early += o.Early
	s.Waited += o.Waited
	s.Refused += o.Refused
	for i := range s.Off {
		s.Off[i] += o.Off[i]
	}
	for i := range s.Expects {
		s.Expects[i] += o.Expects[i]
	}
}

// indexOf returns the place of err in a list, the length of the list if it is none of it.
func indexOf(list []error, err error) int {
	for i, e := range list {
		if errors.Is(err, e) {
			return i
		}
	}
	return len(list)
}
