package export

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
)

// Tuple is a direction of a connection in JSON. Ports are present for protocols
// that have them, as keys for GRE; type, code and id for ICMP.
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
	// ZoneDir is original or reply where the zone counts in one direction only.
	ZoneDir string     `json:"zone_dir,omitempty"`
	ID      uint32     `json:"id,omitempty"`
	Labels  []int      `json:"labels,omitempty"`
	Helper  string     `json:"helper,omitempty"`
	VTag    *[2]uint32 `json:"vtag,omitempty"` // of SCTP, by direction
	Start   *time.Time `json:"start,omitempty"`
	Stop    *time.Time `json:"stop,omitempty"`
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
	j := Flow{
		L3: l.Family().String(), L4: l.Proto().String(), Proto: uint8(l.Proto()),
		Timeout: r.Timeout, State: r.StateName(),
		Orig:   newTuple(&r.Orig, r.Counters[flow.Original]),
		Reply:  newTuple(&r.Reply, r.Counters[flow.Reply]),
		Status: r.Status.Names(), Mark: uint32(r.Mark), Zone: uint16(r.Zone.Zone), ID: r.ID,
		Helper: r.Helper.String(), Start: instant(r.Start), Stop: instant(r.Stop),
	}
	if r.Zone.Directional() {
		j.ZoneDir = flow.Original.String()
		if r.Zone.Dirs == flow.ZoneReply {
			j.ZoneDir = flow.Reply.String()
		}
	}
	if r.Labels != (flow.Labels{}) {
		for n := range 128 {
			if r.Labels.Has(n) {
				j.Labels = append(j.Labels, n)
			}
		}
	}
	if l.Proto() == flow.SCTP {
		j.VTag = &r.VTag
	}
	return j
}

func instant(ns int64) *time.Time {
	if ns == 0 {
		return nil
	}
	return ptr(time.Unix(0, ns).UTC())
}

// Record is the inverse of NewFlow, but for what a tracker fills in by itself:
// id, counters, times.
func (j *Flow) Record() (r flow.Record, err error) {
	z := flow.ZoneID{Zone: flow.Zone(j.Zone)}
	switch j.ZoneDir {
	case "":
	case flow.Original.String():
		z.Dirs = flow.ZoneOriginal
	case flow.Reply.String():
		z.Dirs = flow.ZoneReply
	default:
		return r, fmt.Errorf("zone_dir: %q is neither original nor reply", j.ZoneDir)
	}
	p := flow.Proto(j.Proto)
	if r.Orig, err = j.Orig.Tuple(p, z.In(flow.Original)); err != nil {
		return r, fmt.Errorf("original: %w", err)
	}
	if r.Reply, err = j.Reply.Tuple(p, z.In(flow.Reply)); err != nil {
		return r, fmt.Errorf("reply: %w", err)
	}
	if r.Status, err = flow.ParseStatus(j.Status...); err != nil {
		return r, fmt.Errorf("status: %w", err)
	}
	if j.State != "" {
		st, ok := flow.StateByName(p, j.State)
		if !ok {
			return r, fmt.Errorf("state: %s has no state %q", p, j.State)
		}
		r.State = st
	}
	for _, n := range j.Labels {
		if n < 0 || n > 127 {
			return r, fmt.Errorf("labels: %d is not from 0 to 127", n)
		}
		r.Labels.Set(n)
	}
	if j.Helper != "" {
		h, ok := flow.HelperByName(j.Helper)
		if !ok {
			return r, fmt.Errorf("helper: there is no %q", j.Helper)
		}
		r.Helper = h
	}
	if j.VTag != nil {
		r.VTag = *j.VTag
	}
	r.Zone, r.Mark, r.Timeout = z, flow.Mark(j.Mark), j.Timeout
	return r, nil
}

// Tuple converts t, which must be one of protocol p.
func (t *Tuple) Tuple(p flow.Proto, z flow.Zone) (u flow.Tuple, err error) {
	if !t.Src.IsValid() || !t.Dst.IsValid() || t.Src.Is4() != t.Dst.Is4() {
		return u, errors.New("two addresses of one family are required")
	}
	f := flow.IPv6
	if t.Src.Is4() {
		f = flow.IPv4
	}
	var a, b uint16
	switch p {
	case flow.ICMP, flow.ICMPv6:
		a, b = or0(t.ICMPID), uint16(or0(t.ICMPType))<<8|uint16(or0(t.ICMPCode))
	default:
		a, b = or0(t.SPort), or0(t.DPort)
	}
	return flow.Tuple{Src: flow.AddrFrom(t.Src), Dst: flow.AddrFrom(t.Dst), L4: flow.MakeL4(f, p, z, a, b)}, nil
}

func or0[T uint8 | uint16](p *T) T {
	if p == nil {
		return 0
	}
	return *p
}

// Expectation is an expectation in JSON.
type Expectation struct {
	Timeout  uint32 `json:"timeout"`
	Proto    uint8  `json:"protonum"`
	Expected Tuple  `json:"expected"`
	Mask     Tuple  `json:"mask"`
	Master   Tuple  `json:"master"`
	Zone     uint16 `json:"zone"`
	Class    uint8  `json:"class"`
	Helper   string `json:"helper,omitempty"`

	Permanent bool `json:"permanent,omitempty"`
	Inactive  bool `json:"inactive,omitempty"`
	Userspace bool `json:"userspace,omitempty"`
}

// NewExpectation converts e for encoding/json. now is the time in milliseconds by
// which e expires.
func NewExpectation(e *expect.Expectation, now int64) Expectation {
	mask := flow.Tuple{Src: e.Mask.Src, Dst: exact, L4: e.Tuple.L4&^0xffffffff | flow.L4(e.Mask.ID) | 0xffff<<16}
	return Expectation{
		Timeout: uint32(max(e.Expires-now, 0) / 1000), Proto: uint8(e.Tuple.L4.Proto()),
		Expected: newTuple(&e.Tuple, flow.Counters{}), Mask: newTuple(&mask, flow.Counters{}),
		Master: newTuple(&e.Master, flow.Counters{}), Zone: uint16(e.Tuple.L4.Zone()), Class: e.Class,
		Helper:    e.Helper.String(),
		Permanent: e.Flags&expect.Permanent != 0, Inactive: e.Flags&expect.Inactive != 0, Userspace: e.Flags&expect.Userspace != 0,
	}
}

// NewEvent converts e for encoding/json.
func NewEvent(e *flow.Event) Event {
	return Event{Event: e.Kind.String(), Time: time.Unix(0, e.Time).UTC(), Flow: NewFlow(&e.Record)}
}

func newTuple(t *flow.Tuple, n flow.Counters) Tuple {
	f := t.L4.Family()
	j := Tuple{Src: t.Src.Netip(f), Dst: t.Dst.Netip(f), Packets: n.Packets, Bytes: n.Bytes}
	switch p := t.L4.Proto(); {
	case p.HasPorts() || p == flow.GRE: // GRE has keys in their place
		j.SPort, j.DPort = ptr(t.L4.Src()), ptr(t.L4.Dst())
	case p == flow.ICMP || p == flow.ICMPv6:
		j.ICMPType, j.ICMPCode, j.ICMPID = ptr(t.L4.ICMPType()), ptr(t.L4.ICMPCode()), ptr(t.L4.Src())
	}
	return j
}

func ptr[T any](v T) *T { return &v }
