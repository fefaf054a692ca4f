package conntrack

import (
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// filter makes of the options what selects connections.
func (c *command) filter() (f flow.Filter, err error) {
	fail := func(e error) {
		if err == nil {
			err = e
		}
	}
	var e error
	f.Family, e = c.family()
	fail(e)
	if p, named, e := c.protocol(); named || e != nil {
		f.Proto = &p
		fail(e)
	}
	f.Orig, e = c.tupleFilter("src", "dst", "mask-src", "mask-dst", "sport", "dport", "srckey", "dstkey", "")
	fail(e)
	f.Reply, e = c.tupleFilter("reply-src", "reply-dst", "", "", "reply-port-src", "reply-port-dst", "reply-key-src", "reply-key-dst", "reply-")
	fail(e)
	f.State, e = c.state()
	fail(e)
	f.Mark, f.Mask, e = c.mark()
	fail(e)
	f.Labels, e = c.labels("label")
	fail(e)
	for name, into := range map[string]**flow.Zone{"zone": &f.Zone, "orig-zone": &f.OrigZone, "reply-zone": &f.ReplyZone} {
		n, e := number[uint16](c, name)
		fail(e)
		if n != nil {
			z := flow.Zone(*n)
			*into = &z
		}
	}
	for _, n := range []struct {
		name string
		addr **netip.Addr
		port **uint16
	}{{"src-nat", &f.SrcNAT, &f.SrcNATPort}, {"dst-nat", &f.DstNAT, &f.DstNATPort}, {"any-nat", &f.AnyNAT, &f.AnyNATPort}} {
		*n.addr, *n.port, e = c.nat(n.name)
		fail(e)
	}
	f.ID, e = number[uint32](c, "id")
	fail(e)
	return f, err
}

// nat reads ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT, all of which may be left out
// (split_address_and_port).
func (c *command) nat(name string) (addr *netip.Addr, port *uint16, err error) {
	if !c.has(name) {
		return nil, nil, nil
	}
	var a netip.Addr
	host, rest, cut := c.value(name), "", false
	switch {
	case strings.HasPrefix(host, "["):
		host, rest, _ = strings.Cut(host[1:], "]")
		if rest, cut = strings.CutPrefix(rest, ":"); !cut && rest != "" {
			return nil, nil, usagef("Invalid port `%s'", rest)
		}
	case strings.Count(host, ":") == 1:
		host, rest, cut = strings.Cut(host, ":")
	}
	if cut {
		if rest == "" {
			return nil, nil, usagef("No port specified after `:'")
		}
		n, err := strconv.ParseUint(rest, 10, 16)
		if err != nil || n == 0 {
			return nil, nil, usagef("Invalid port `%s'", rest)
		}
		p := uint16(n)
		port = &p
	}
	if strings.Contains(host, "/") {
		return nil, nil, usagef("CIDR notation unavailable for `--%s'", name)
	}
	if host != "" {
		if a, err = netip.ParseAddr(host); err != nil {
			return nil, nil, usagef("Invalid IP address `%s', in `--%s'", host, name)
		}
	}
	return &a, port, nil
}

// mapNAT makes of -n and -g what the reply tuple of a connection is, and which status says
// so. Without a port the one that the reply tuple has stays.
func (c *command) mapNAT(reply *export.Tuple) (status flow.Status, err error) {
	p, _, err := c.protocol()
	if err != nil {
		return 0, err
	}
	for _, n := range []struct {
		name string
		addr *netip.Addr
		port **uint16
		bit  flow.Status
	}{{"src-nat", &reply.Dst, &reply.DPort, flow.SrcNAT}, {"dst-nat", &reply.Src, &reply.SPort, flow.DstNAT}} {
		addr, port, err := c.nat(n.name)
		if err != nil {
			return 0, err
		}
		if addr == nil {
			continue
		}
		if addr.IsValid() {
			if addr.Is4() != n.addr.Is4() {
				return 0, usagef("mismatched address family")
			}
			*n.addr = *addr
		}
		if port != nil && slices.Contains(ports, p) {
			*n.port = port
		}
		status |= n.bit
	}
	return status, nil
}

func (c *command) tupleFilter(src, dst, maskSrc, maskDst, sport, dport, srckey, dstkey, icmp string) (*flow.TupleFilter, error) {
	var f flow.TupleFilter
	var err error
	if f.Src, err = c.address(src); err != nil {
		return nil, err
	}
	if f.Src, err = c.masked(f.Src, maskSrc); err != nil {
		return nil, err
	}
	if f.Dst, err = c.address(dst); err != nil {
		return nil, err
	}
	if f.Dst, err = c.masked(f.Dst, maskDst); err != nil {
		return nil, err
	}
	var got [4]*uint16
	for i, name := range []string{sport, srckey, dport, dstkey} {
		if got[i], err = number[uint16](c, name); err != nil {
			return nil, err
		}
	}
	f.SPort, f.DPort = first(got[0], got[1]), first(got[2], got[3])
	if icmp == "" {
		if f.Type, f.Code, f.ID, err = c.icmp(); err != nil {
			return nil, err
		}
	}
	return &f, nil
}

// icmp reads the options of ICMP or ICMPv6.
func (c *command) icmp() (typ, code *uint8, id *uint16, err error) {
	name := "icmp"
	if p, _, _ := c.protocol(); p == flow.ICMPv6 {
		name = "icmpv6"
	}
	if typ, err = number[uint8](c, name+"-type"); err != nil {
		return nil, nil, nil, err
	}
	if code, err = number[uint8](c, name+"-code"); err != nil {
		return nil, nil, nil, err
	}
	id, err = number[uint16](c, name+"-id")
	return typ, code, id, err
}

// need requires options, by the names that errors have for them.
func (c *command) need(names ...string) error {
	for _, n := range names {
		if !c.has(n) {
			return usagef("You need to supply the `--%s' option for this command", n)
		}
	}
	return nil
}

// needTuple requires what names a connection of the protocol.
func (c *command) needTuple() error {
	if err := c.need("protonum"); err != nil {
		return err
	}
	p, _, err := c.protocol()
	if err != nil {
		return err
	}
	switch {
	case p.HasPorts():
		if !c.has("sport") && !c.has("reply-port-dst") || !c.has("dport") && !c.has("reply-port-src") {
			return usagef("you have to specify `--sport' and `--dport'")
		}
	case p == flow.ICMP:
		return c.need("icmp-type", "icmp-code")
	case p == flow.ICMPv6:
		return c.need("icmpv6-type", "icmpv6-code")
	}
	if !c.has("src") && !c.has("reply-dst") || !c.has("dst") && !c.has("reply-src") {
		return usagef("missing source and destination address")
	}
	return nil
}

// tuples reads the two tuples of a connection; what the reply lacks is the inverse
// of the original, and vice versa.
func (c *command) tuples() (orig, reply export.Tuple, err error) {
	if err := c.needTuple(); err != nil {
		return orig, reply, err
	}
	if _, err := c.family(); err != nil {
		return orig, reply, err
	}
	f, err := c.filter()
	if err != nil {
		return orig, reply, err
	}
	o, y := f.Orig, f.Reply
	src, dst := first(o.Src, y.Dst), first(o.Dst, y.Src)
	if src == nil || dst == nil {
		return orig, reply, usagef("missing source and destination address")
	}
	orig = export.Tuple{Src: src.Addr(), Dst: dst.Addr(), SPort: first(o.SPort, y.DPort), DPort: first(o.DPort, y.SPort)}
	reply = export.Tuple{Src: first(y.Src, dst).Addr(), Dst: first(y.Dst, src).Addr(), SPort: first(y.SPort, o.DPort), DPort: first(y.DPort, o.SPort)}
	if o.Type != nil {
		orig.ICMPType, orig.ICMPCode, orig.ICMPID = o.Type, o.Code, o.ID
		t, err := orig.Tuple(*f.Proto, 0)
		if err != nil {
			return orig, reply, err
		}
		inverse, ok := t.Invert()
		if !ok {
			return orig, reply, usagef("ICMP type %d has no answer", *o.Type)
		}
		typ := inverse.L4.ICMPType()
		reply.ICMPType, reply.ICMPCode, reply.ICMPID = &typ, o.Code, o.ID
	}
	return orig, reply, nil
}

// flow makes of the options the connection that -I and -A create.
func (c *command) flow() (j export.Flow, err error) {
	if err := c.need("protonum", "timeout"); err != nil {
		return j, err
	}
	if j.Orig, j.Reply, err = c.tuples(); err != nil {
		return j, err
	}
	p, _, _ := c.protocol()
	j.Proto = uint8(p)
	if p == flow.TCP || p == flow.SCTP {
		if err := c.need("state"); err != nil {
			return j, err
		}
	}
	if j.State, err = c.state(); err != nil {
		return j, err
	}
	timeout, err := number[uint32](c, "timeout")
	if err != nil {
		return j, err
	}
	j.Timeout = *timeout
	set, _, err := c.status()
	if err != nil {
		return j, err
	}
	mappings, err := c.mapNAT(&j.Reply)
	if err != nil {
		return j, err
	}
	j.Status = (set | mappings).Names()
	mark, _, err := c.mark()
	if err != nil {
		return j, err
	}
	if mark != nil {
		j.Mark = uint32(*mark)
	}
	if err := c.flowZone(&j); err != nil {
		return j, err
	}
	j.Helper = c.value("helper")
	labels, err := c.labels("label-add")
	if err != nil {
		return j, err
	}
	for n := range 128 {
		if labels.Has(n) {
			j.Labels = append(j.Labels, n)
		}
	}
	return j, c.vtags(&j)
}

func (c *command) flowZone(j *export.Flow) error {
	z, err := c.zone()
	if err != nil {
		return err
	}
	j.Zone = uint16(z.Zone)
	if z.Directional() {
		j.ZoneDir = flow.Original.String()
		if z.Dirs == flow.ZoneReply {
			j.ZoneDir = flow.Reply.String()
		}
	}
	return nil
}

func (c *command) vtags(j *export.Flow) error {
	var tags [2]uint32
	for d, name := range []string{"orig-vtag", "reply-vtag"} {
		v, err := number[uint32](c, name)
		if err != nil {
			return err
		}
		if v != nil {
			tags[d], j.VTag = bits.ReverseBytes32(*v), &tags // as -o save shows it
		}
	}
	return nil
}

// update makes of the options what -U changes.
func (c *command) update() (u control.Update, err error) {
	if u.Timeout, err = number[uint32](c, "timeout"); err != nil {
		return u, err
	}
	if u.Status, _, err = c.status(); err != nil {
		return u, err
	}
	if u.State, err = c.state(); err != nil {
		return u, err
	}
	if u.Mark, u.Mask, err = c.mark(); err != nil {
		return u, err
	}
	if u.AddLabels, err = c.labels("label-add"); err != nil {
		return u, err
	}
	if c.has("label-del") && c.value("label-del") == "" {
		u.DelLabels = flow.Labels{^uint64(0), ^uint64(0)}
		return u, nil
	}
	u.DelLabels, err = c.labels("label-del")
	return u, err
}

// expectation makes of the options the expectation that -I expect creates.
func (c *command) expectation() (j control.Expectation, err error) {
	if err := c.need("protonum", "timeout", "tuple-src", "tuple-dst"); err != nil {
		return j, err
	}
	if j.Master, _, err = c.tuples(); err != nil {
		return j, err
	}
	p, _, _ := c.protocol()
	j.Proto = uint8(p)
	timeout, err := number[uint32](c, "timeout")
	if err != nil {
		return j, err
	}
	j.Timeout = *timeout
	src, err := c.address("tuple-src")
	if err != nil {
		return j, err
	}
	dst, err := c.address("tuple-dst")
	if err != nil {
		return j, err
	}
	j.Expected = export.Tuple{Src: src.Addr(), Dst: dst.Addr()}
	j.Mask = export.Tuple{Src: maskOf(*src), Dst: maskOf(*dst)}
	if m, err := c.address("mask-src"); err != nil {
		return j, err
	} else if m != nil {
		j.Mask.Src = m.Addr()
	}
	if m, err := c.address("mask-dst"); err != nil {
		return j, err
	} else if m != nil && m.Addr() != maskOf(netip.PrefixFrom(m.Addr(), m.Addr().BitLen())) {
		return j, usagef("an expectation is exact in its destination, `--mask-dst' cannot be %v", m.Addr())
	}
	for name, into := range map[string]**uint16{"tuple-port-src": &j.Expected.SPort, "tuple-port-dst": &j.Expected.DPort, "mask-port-src": &j.Mask.SPort} {
		if *into, err = number[uint16](c, name); err != nil {
			return j, err
		}
	}
	if c.has("tuple-port-src") && j.Mask.SPort == nil {
		all := uint16(0xffff)
		j.Mask.SPort = &all
	}
	z, err := c.zone()
	j.Zone = z.Zone
	return j, err
}

// maskOf returns the mask of a prefix as an address.
func maskOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		n := min(max(p.Bits()-8*i, 0), 8)
		b[i] = ^byte(0xff >> n)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
