package flow

import "net/netip"

// Filter selects connections; its zero value selects all. It is what the options
// of conntrack(8) can say, and travels as JSON.
type Filter struct {
	Family Family `json:"family,omitempty"` // 0: any
	Proto  *Proto `json:"proto,omitempty"`

	Orig  *TupleFilter `json:"orig,omitempty"`
	Reply *TupleFilter `json:"reply,omitempty"`

	State  string `json:"state,omitempty"` // of the protocol, by name
	Set    Status `json:"set,omitempty"`   // bits that must be set
	Unset  Status `json:"unset,omitempty"` // bits that must not be
	Mark   *Mark  `json:"mark,omitempty"`
	Mask   *Mark  `json:"mask,omitempty"` // of Mark; all bits if absent
	Labels Labels `json:"labels,omitempty"`

	Zone      *Zone `json:"zone,omitempty"` // counts in both directions
	OrigZone  *Zone `json:"orig_zone,omitempty"`
	ReplyZone *Zone `json:"reply_zone,omitempty"`

	// SrcNAT and DstNAT select connections whose source or destination is
	// translated, AnyNAT those with either; an address that is valid is the one
	// that it is translated to.
	SrcNAT *netip.Addr `json:"src_nat,omitempty"`
	DstNAT *netip.Addr `json:"dst_nat,omitempty"`
	AnyNAT *netip.Addr `json:"any_nat,omitempty"`
	// The same for the port that it is translated to, from another; these select by
	// themselves, too.
	SrcNATPort *uint16 `json:"src_nat_port,omitempty"`
	DstNATPort *uint16 `json:"dst_nat_port,omitempty"`
	AnyNATPort *uint16 `json:"any_nat_port,omitempty"`

	ID *uint32 `json:"id,omitempty"`
}

// TupleFilter selects tuples; absent fields match any.
type TupleFilter struct {
	Src *netip.Prefix `json:"src,omitempty"`
	Dst *netip.Prefix `json:"dst,omitempty"`
	// SPort and DPort are ports, or the keys of GRE.
	SPort *uint16 `json:"sport,omitempty"`
	DPort *uint16 `json:"dport,omitempty"`
	Type  *uint8  `json:"type,omitempty"` // of ICMP and ICMPv6, as Code and ID
	Code  *uint8  `json:"code,omitempty"`
	ID    *uint16 `json:"id,omitempty"`
}

func (f *TupleFilter) match(t *Tuple) bool {
	if f == nil {
		return true
	}
	l := t.L4
	return inPrefix(f.Src, t.Src, l.Family()) && inPrefix(f.Dst, t.Dst, l.Family()) &&
		is(f.SPort, l.Src()) && is(f.DPort, l.Dst()) &&
		is(f.Type, l.ICMPType()) && is(f.Code, l.ICMPCode()) && is(f.ID, l.Src())
}

func inPrefix(p *netip.Prefix, a Addr, f Family) bool { return p == nil || p.Contains(a.Netip(f)) }

// is reports whether a wanted value is absent or v.
func is[T comparable](want *T, v T) bool { return want == nil || *want == v }

// MayMatch is a quick look at a connection: whether f may select it.
func (f *Filter) MayMatch(c *Conn) bool {
	l := c.Key.L4
	return (f.Family == 0 || l.Family() == f.Family) && is(f.Proto, l.Proto()) && c.Status&f.Set == f.Set
}

// Match reports whether f selects r. Entries that were made to resolve a clash are
// not for listings, and selected by nothing.
func (f *Filter) Match(r *Record) bool {
	l := r.Orig.L4
	switch {
	case r.Status&NATClash != 0,
		f.Family != 0 && l.Family() != f.Family, !is(f.Proto, l.Proto()),
		r.Status&f.Set != f.Set, r.Status&f.Unset != 0,
		f.State != "" && f.State != r.StateName(),
		r.Labels[0]&f.Labels[0] != f.Labels[0], r.Labels[1]&f.Labels[1] != f.Labels[1],
		!is(f.ID, r.ID):
		return false
	}
	return f.matchMark(r.Mark) && f.matchZone(r) && f.matchNAT(r) && f.Orig.match(&r.Orig) && f.Reply.match(&r.Reply)
}

func (f *Filter) matchMark(m Mark) bool {
	if f.Mark == nil {
		return true
	}
	mask := ^Mark(0)
	if f.Mask != nil {
		mask = *f.Mask
	}
	return m&mask == *f.Mark
}

func (f *Filter) matchZone(r *Record) bool {
	z := r.Zone
	return (f.Zone == nil || z.Zone == *f.Zone && !z.Directional()) &&
		is(f.OrigZone, z.In(Original)) && is(f.ReplyZone, z.In(Reply))
}

// matchNAT is filter_nat of conntrack(8): translated is what the status bits say, and to
// which address and port the reply tuple says.
func (f *Filter) matchNAT(r *Record) bool {
	o, y := &r.Orig, &r.Reply
	src := func(a *netip.Addr, port *uint16) bool {
		return r.Status&SrcNAT != 0 && mapsTo(a, port, o.Src, y.Dst, o.L4.Src(), y.L4.Dst(), o.L4)
	}
	dst := func(a *netip.Addr, port *uint16) bool {
		return r.Status&DstNAT != 0 && mapsTo(a, port, o.Dst, y.Src, o.L4.Dst(), y.L4.Src(), o.L4)
	}
	return (f.SrcNAT == nil && f.SrcNATPort == nil || src(f.SrcNAT, f.SrcNATPort)) &&
		(f.DstNAT == nil && f.DstNATPort == nil || dst(f.DstNAT, f.DstNATPort)) &&
		(f.AnyNAT == nil && f.AnyNATPort == nil || src(f.AnyNAT, f.AnyNATPort) || dst(f.AnyNAT, f.AnyNATPort))
}

// mapsTo reports whether one end of a connection is translated, to an address and a port
// if those are given.
func mapsTo(addr *netip.Addr, port *uint16, from, to Addr, fromPort, toPort uint16, l L4) bool {
	if p := l.Proto(); p == ICMP || p == ICMPv6 {
		fromPort = toPort // they are an identifier here and a type there
	}
	switch {
	case addr != nil && addr.IsValid() && (from == to || AddrFrom(*addr) != to),
		port != nil && (fromPort == toPort || *port != toPort):
		return false
	}
	return from != to || fromPort != toPort
}
