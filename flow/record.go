package flow

// Record is a snapshot of a connection, free of the table that it came from.
type Record struct {
	Orig, Reply Tuple
	Status      Status
	State       uint8 // the protocol's state, see Conn.State
	// Timeout is the remaining life in whole seconds, rounded down as the
	// kernel's listings do.
	Timeout  uint32
	Counters [2]Counters // by direction
	// ID tells the connection from others, also from a later one with the same
	// tuples; it says nothing of either (nf_ct_get_id).
	ID     uint32
	Mark   Mark
	Labels Labels
	Helper HelperID
	Zone   ZoneID
	Start  int64     // nanoseconds since 1970; 0 if not known
	Stop   int64     // the same, of a connection that has ended
	Master Tuple     // of an EXPECTED connection: its master's original tuple
	VTag   [2]uint32 // of SCTP: the verification tags, by direction
}

// Record takes a snapshot of c at the given time. x is its Extra, if it has one.
func (c *Conn) Record(now Millis, x *Extra) Record {
	r := Record{
		Orig: c.Tuple(Original, x), Reply: c.Tuple(Reply, x),
		Status: c.PublicStatus(), State: c.State,
		Timeout:  uint32(max(c.Expires.Until(now), 0)) / 1000,
		Counters: [2]Counters{c.Counters(Original, x), c.Counters(Reply, x)},
		Zone:     ZoneID{Zone: c.Key.L4.Zone()},
	}
	if r.Orig.L4.Proto() == SCTP {
		r.VTag = c.SCTP().VTag
	}
	if c.Extended() {
		r.Mark, r.Labels, r.Helper, r.Start, r.Master = x.Mark, x.Labels, x.Helper, x.Start, x.Master
		if x.ZoneDirs != 0 {
			r.Zone = ZoneID{max(r.Orig.L4.Zone(), r.Reply.L4.Zone()), x.ZoneDirs}
		}
	}
	return r
}

// StateName returns the name of state s of a protocol, "" for protocols that
// have no states.
func StateName(p Proto, s uint8) string {
	switch p {
	case TCP:
		return TCPState(s).String()
	case SCTP:
		return SCTPState(s).String()
	}
	return ""
}

// StateByName is the inverse of StateName.
func StateByName(p Proto, name string) (s uint8, ok bool) {
	for s := range uint8(max(NumTCPStates, TCPState(NumSCTPStates))) {
		if n := StateName(p, s); n == name && n != "" && n != "UNKNOWN" {
			return s, true
		}
	}
	return 0, false
}

// StateName returns the name of the protocol's state, "" for protocols that
// have none.
func (r *Record) StateName() string { return StateName(r.Orig.L4.Proto(), r.State) }

// EventKind is what happened to a connection (NFCT_T_NEW, _UPDATE, _DESTROY).
type EventKind uint8

// The kinds of event.
const (
	EventNew EventKind = iota
	EventUpdate
	EventDestroy
)

func (k EventKind) String() string {
	switch k {
	case EventNew:
		return "NEW"
	case EventUpdate:
		return "UPDATE"
	}
	return "DESTROY"
}

// EventKinds is a set of kinds, a bit each.
type EventKinds uint8

// AllEvents are all kinds.
const AllEvents EventKinds = 1<<EventNew | 1<<EventUpdate | 1<<EventDestroy

// Has reports whether k is in the set.
func (s EventKinds) Has(k EventKind) bool { return s>>k&1 != 0 }

// Event is a change of a connection, with its state after the change.
type Event struct {
	Kind   EventKind
	Time   int64 // nanoseconds since 1970 UTC
	Record Record
}
