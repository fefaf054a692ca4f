package export

import (
	"net/netip"
	"time"

	"github.com/xdpct/xdpct/flow"
)

// Tuple is a direction of a connection in JSON. Ports are present for protocols
// that have them, type, code and id for ICMP.
type Tuple struct {
	Src      netip.Addr `json:"src"`
	Dst      netip.Addr `json:"dst"`
	SPort    *uint16    `json:"sport,omitempty"`
	DPort    *uint16    `json:"dport,omitempty"`
	ICMPType *uint8     `json:"type,omitempty"`
	ICMPCode *uint8     `json:"code,omitempty"`
	ICMPID   *uint16    `json:"id,omitempty"`
	Packets  uint64     `json:"packets"`
	Bytes    uint64     `json:"bytes"`
}

// Flow is a connection in JSON.
type Flow struct {
	L3      string   `json:"l3proto"`
	L4      string   `json:"l4proto"`
	Proto   uint8    `json:"protonum"`
	Timeout uint32   `json:"timeout"`
	State   string   `json:"state,omitempty"`
	Orig    Tuple    `json:"original"`
	Reply   Tuple    `json:"reply"`
	Status  []string `json:"status"`
	Mark    uint32   `json:"mark"`
	Zone    uint16   `json:"zone"`
}

// Event is an event in JSON.
type Event struct {
	Event string    `json:"event"`
	Time  time.Time `json:"ts"`
	Flow
}

// NewFlow converts r for encoding/json.
func NewFlow(r *flow.Record) Flow {
	l := r.Orig.L4
	return Flow{
		L3: l.Family().String(), L4: l.Proto().String(), Proto: uint8(l.Proto()),
		Timeout: r.Timeout, State: r.StateName(),
		Orig:   newTuple(&r.Orig, r.Counters[flow.Original]),
		Reply:  newTuple(&r.Reply, r.Counters[flow.Reply]),
		Status: r.Status.Names(), Mark: uint32(r.Mark), Zone: uint16(l.Zone()),
	}
}

// NewEvent converts e for encoding/json.
func NewEvent(e *flow.Event) Event {
	return Event{Event: e.Kind.String(), Time: time.Unix(0, e.Time).UTC(), Flow: NewFlow(&e.Record)}
}

func newTuple(t *flow.Tuple, n flow.Counters) Tuple {
	f := t.L4.Family()
	j := Tuple{Src: t.Src.Netip(f), Dst: t.Dst.Netip(f), Packets: n.Packets, Bytes: n.Bytes}
	switch t.L4.Proto() {
	case flow.TCP, flow.UDP, flow.UDPLite, flow.SCTP, flow.DCCP:
		j.SPort, j.DPort = ptr(t.L4.Src()), ptr(t.L4.Dst())
	case flow.ICMP, flow.ICMPv6:
		j.ICMPType, j.ICMPCode, j.ICMPID = ptr(t.L4.ICMPType()), ptr(t.L4.ICMPCode()), ptr(t.L4.Src())
	}
	return j
}

func ptr[T any](v T) *T { return &v }
