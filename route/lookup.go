package route

import (
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// Key is what the route of a packet depends on.
type Key struct {
	Family           flow.Family
	Src, Dst         flow.Addr
	In               int // interface; -1: a packet of our own
	Mark             uint32
	TOS              uint8 // TOS or traffic class
	Proto            flow.Proto
	SrcPort, DstPort uint16 // 0 for protocols without

	// link is the only interface that may be out, plus one; 0: any may.
	link int
}

// Hop is where a packet goes next.
type Hop struct {
	Kind   Kind
	Out    int // interface; -1: one that is not ours. Valid iff Unicast
	MTU    int
	Next   netip.Addr // gateway, or the destination itself
	Src    flow.Addr  // what a packet of our own would have for its source
	Known  bool       // the neighbour's address is known
	DstMAC [6]byte    // valid iff Known
	SrcMAC [6]byte
	VLAN   uint16
	// Neighbour is the ID of the neighbour (Neighbour.ID), valid iff Known.
	Neighbour uint32
	// Marked: a rule that asks for the mark of the packet had a part in it.
	Marked bool
	// Varies: other packets of the connection may go elsewhere, since a rule or a
	// route asks for their TOS. It must not be kept for them.
	Varies bool
	// realms of the next hop and of the rule that led to it: the source's in the upper
	// 16 bits (RTA_FLOW, FRA_FLOW).
	hopRealms, ruleRealms uint32
}

// Realms returns the realms of a packet that is sent by h: that of its destination in the
// lower 16 bits, that of its source in the upper ones (dst_entry.tclassid). k is what h
// was looked up by. IPv6 has none.
func (t *Table) Realms(h *Hop, k Key) uint32 {
	if k.Family != flow.IPv4 {
		return 0
	}
	back, source := uint32(0), Key{Family: k.Family, Src: k.Dst, Dst: k.Src, In: -1, Mark: k.Mark, TOS: k.TOS}
	if s, r := t.lookup(&source); r != nil { // fib_combine_itag
		if back = s.hopRealms << 16; back == 0 {
			back = s.ruleRealms << 16
		}
		back |= s.ruleRealms >> 16
	}
	id := h.hopRealms
	for _, tag := range [2]uint32{h.ruleRealms, back} { // set_class_tag
		for _, half := range [2]uint32{0xffff, 0xffff << 16} {
			if id&half == 0 {
				id |= tag & half
			}
		}
	}
	return id
}

// legacyTOS are the bits of TOS that routes and rules by TOS ask for (INET_DSCP_LEGACY_TOS_MASK).
const legacyTOS = 0x1c

// Lookup finds the next hop of a packet. An IPv6 destination that is link-local is on the
// link that the packet came by (rt6_need_strict).
func (t *Table) Lookup(k Key) Hop { return t.LookupOn(k, k.In) }

// LookupOn is Lookup for a packet that answers one which came by the interface link: a
// link-local destination is on that. -1: on any.
func (t *Table) LookupOn(k Key, link int) Hop {
	k.link = link + 1
	h, _ := t.lookup(&k)
	return h
}

// lookup is Lookup, and returns the route, nil if there is none (fib_rules_lookup).
func (t *Table) lookup(k *Key) (Hop, *Route) {
	dst, src := k.Dst.Netip(k.Family), k.Src.Netip(k.Family)
	vrf := 0
	if k.In >= 0 && k.In < len(t.Interfaces) {
		vrf = t.Interfaces[k.In].VRF
	}
	if k.Family != flow.IPv6 || !dst.IsLinkLocalUnicast() {
		k.link = 0
	}
	var h Hop
	rules := t.rules[k.Family.Index()]
	for i := 0; i < len(rules); i++ {
		r := &rules[i]
		h.Marked = h.Marked || r.Mask != 0
		h.Varies = h.Varies || r.TOSMask != 0
		if !r.matches(src, dst, k, vrf) {
			continue
		}
		table := r.Table
		if r.L3Mdev {
			table = vrf
		}
		switch r.Action {
		case ToTable:
			found, route, ok := t.search(h, table, r, k, dst, src)
			if ok {
				found.ruleRealms = r.Realms
				return found, route
			}
			h.Varies = found.Varies
		case Goto:
			i = target(rules, i, r.Target)
		case ActionUnreachable: // -ENETUNREACH, as if there were no route
			h.Kind = None
			return h, nil
		case ActionProhibit:
			h.Kind = Prohibit
			return h, nil
		case Nop:
		default:
			h.Kind = Blackhole
			return h, nil
		}
	}
	h.Kind = None
	return h, nil
}

// target returns the rule before the one to go on with.
func target(rules []Rule, i, priority int) int {
	for j := i + 1; j < len(rules); j++ {
		if rules[j].Priority == priority {
			return j - 1
		}
	}
	return i // an unresolved goto does nothing
}

// search looks into a table, from the longest prefix to the shortest
// (fib_table_lookup). ok is false if the next rule is to be asked.
func (t *Table) search(h Hop, table int, rule *Rule, k *Key, dst, src netip.Addr) (_ Hop, _ *Route, ok bool) {
	f := t.fibs[table]
	if f == nil {
		return h, nil, false
	}
	whole := netip.PrefixFrom(dst, dst.BitLen())
	p, list, any := f.LookupPrefixLPM(whole)
	if !any {
		return h, nil, false
	}
	if found, r, end := t.try(&h, list, p, rule, k, dst, src); end {
		return found, r, r != nil
	}
	for q, list := range f.Supernets(whole) { // nearly never: what is longest leads somewhere
		if q == p {
			continue
		}
		if found, r, end := t.try(&h, list, q, rule, k, dst, src); end {
			return found, r, r != nil
		}
	}
	return h, nil, false
}

// try tries the routes to p. end is true if the table has answered: with a route, or,
// if that is nil, with none.
func (t *Table) try(h *Hop, list []*Route, p netip.Prefix, rule *Rule, k *Key, dst, src netip.Addr) (_ Hop, _ *Route, end bool) {
	for _, r := range list {
		if r.TOS != 0 {
			h.Varies = true
			if r.TOS != k.TOS&legacyTOS {
				continue
			}
		}
		if r.From.IsValid() && !r.From.Contains(src) {
			continue
		}
		if r.Kind == Throw {
			return *h, nil, true
		}
		found := *h
		if !t.follow(&found, r, k, dst) {
			continue
		}
		if t.suppressed(rule, &found, r, p) {
			return *h, nil, true
		}
		return found, r, true
	}
	return *h, nil, false
}

// suppressed reports whether a rule does not want the route that it leads to
// (fib4_rule_suppress). Those that are errors it does not look at.
func (t *Table) suppressed(rule *Rule, h *Hop, r *Route, dst netip.Prefix) bool {
	if r.Kind >= Blackhole {
		return false
	}
	return dst.Bits() <= rule.SuppressLen ||
		rule.SuppressGroup >= 0 && h.Out >= 0 && t.Interfaces[h.Out].Group == rule.SuppressGroup
}

// follow fills in the next hop by a route. It reports false if none of the route's is
// up, or on the link where it has to be.
func (t *Table) follow(h *Hop, r *Route, k *Key, dst netip.Addr) bool {
	h.Kind, h.Out, h.MTU = r.Kind, -1, r.MTU
	if r.Src.IsValid() {
		h.Src = flow.AddrFrom(r.Src)
	}
	if r.Kind == Local && len(r.Hops) > 0 {
		h.Out = t.out(&r.Hops[0])
	}
	if r.Kind != Unicast {
		return k.link == 0 || len(r.Hops) == 0 || t.out(&r.Hops[0]) == k.link-1
	}
	n, ok := t.pick(r.Hops, k)
	if !ok {
		return false
	}
	h.Next, h.hopRealms = dst, n.Realms
	if n.Gateway.IsValid() {
		h.Next = n.Gateway
	}
	if h.Out = t.out(n); h.Out < 0 {
		return true
	}
	i := &t.Interfaces[h.Out]
	if h.MTU == 0 || h.MTU > i.MTU {
		h.MTU = i.MTU
	}
	h.SrcMAC, h.VLAN = i.MAC, i.VLAN
	t.Resolve(h)
	if !r.Src.IsValid() {
		h.Src, _ = i.Source(k.Family, h.Next)
	}
	return true
}

// Resolve fills in what is known now of the neighbour of a Hop. Valid iff its Kind is
// Unicast and its Out is not negative.
func (t *Table) Resolve(h *Hop) {
	nb, ok := t.Neighbour(h.Out, h.Next)
	h.DstMAC, h.Neighbour, h.Known = nb.MAC, nb.ID, ok
}

// pick chooses a next hop by source and destination, so that a connection stays with
// it (fib_multipath_hash_policy 0), among those that are up.
func (t *Table) pick(hops []NextHop, k *Key) (*NextHop, bool) {
	if k.link != 0 {
		for i := range hops {
			if t.out(&hops[i]) == k.link-1 {
				return &hops[i], t.up(&hops[i])
			}
		}
		return nil, false
	}
	if len(hops) == 1 {
		return &hops[0], t.up(&hops[0])
	}
	total := 0
	for i := range hops {
		if t.up(&hops[i]) {
			total += max(hops[i].Weight, 1)
		}
	}
	if total == 0 {
		return nil, false
	}
	x := (k.Src.Lo ^ k.Src.Hi ^ (k.Dst.Lo^k.Dst.Hi)*0x9e3779b97f4a7c15) * 0xd6e8feb86659fd93
	at := int((x >> 33) % uint64(total))
	for i := range hops {
		if !t.up(&hops[i]) {
			continue
		}
		if at -= max(hops[i].Weight, 1); at < 0 {
			return &hops[i], true
		}
	}
	return nil, false
}

func (t *Table) up(h *NextHop) bool {
	n := t.out(h)
	return !h.Dead && (n < 0 || t.Interfaces[n].Up)
}

// ReverseKey is a packet whose source is checked.
type ReverseKey struct {
	Family      flow.Family
	Src, Dst    flow.Addr
	In          int // interface
	Mark        uint32
	TOS         uint8
	Loose       bool // any interface will do
	AcceptLocal bool // the source may be an address of the host
}

// ReverseOK reports whether an answer to the packet would leave by the interface that
// it came in by (rpfilter_lookup_reverse, __fib_validate_source).
func (t *Table) ReverseOK(k ReverseKey) bool {
	h, r := t.lookup(&Key{Family: k.Family, Src: k.Dst, Dst: k.Src, In: -1, Mark: k.Mark, TOS: k.TOS, link: k.In + 1})
	if r == nil || h.Kind != Unicast && (h.Kind != Local || !k.AcceptLocal) {
		return false
	}
	if k.Loose || h.Kind == Local && k.Family == flow.IPv6 { // there the interface does not count
		return true
	}
	for i := range r.Hops {
		if t.out(&r.Hops[i]) == k.In {
			return true
		}
	}
	return false
}

// FilterOK is the rp_filter of the interface that a packet came in by
// (fib_validate_source). An interface without an address has no reverse path but by
// its own routes.
func (t *Table) FilterOK(k ReverseKey) bool {
	if k.Family != flow.IPv4 || k.In < 0 || k.In >= len(t.Interfaces) {
		return true
	}
	i := &t.Interfaces[k.In]
	if i.ReversePath == 0 {
		return true
	}
	k.AcceptLocal, k.Loose = i.AcceptLocal, false
	if !i.SrcValidMark {
		k.Mark = 0
	}
	if t.ReverseOK(k) {
		return true
	}
	k.Loose = i.ReversePath == 2
	if _, addressed := i.Source(flow.IPv4, netip.Addr{}); !addressed {
		return false
	}
	return k.Loose && t.ReverseOK(k)
}

// OnLink reports whether the source of a packet is a neighbour on the interface that
// it came in by (what fib_validate_source returns, for redirects).
func (t *Table) OnLink(f flow.Family, src, dst flow.Addr, in int) bool {
	h, r := t.lookup(&Key{Family: f, Src: dst, Dst: src, In: -1, link: in + 1})
	if r == nil || h.Kind != Unicast {
		return false
	}
	for i := range r.Hops {
		if t.out(&r.Hops[i]) == in {
			return !r.Hops[i].Gateway.IsValid()
		}
	}
	return false
}
