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
	Mark     Mark
}

// Record takes a snapshot of c at the given time.
func (c *Conn) Record(now Millis) Record {
	return Record{
		Orig: c.Tuple(Original), Reply: c.Tuple(Reply),
		Status: c.PublicStatus(), State: c.State,
		Timeout:  uint32(max(c.Expires.Until(now), 0)) / 1000,
		Counters: [2]Counters{c.Counters(Original), c.Counters(Reply)},
	}
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

// Event is a change of a connection, with its state after the change.
type Event struct {
	Kind   EventKind
	Time   int64 // nanoseconds since 1970 UTC
	Record Record
}

// Filter selects connections; its zero value selects all.
type Filter struct {
	Family Family // 0: any
	Proto  Proto  // 0: any
}

// Match reports whether f selects c.
func (f Filter) Match(c *Conn) bool {
	l := c.Key.L4
	return (f.Family == 0 || l.Family() == f.Family) && (f.Proto == 0 || l.Proto() == f.Proto)
}
