package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// ParseFamily reads ipv4 or ipv6; "" is any.
func ParseFamily(s string) (flow.Family, error) {
	switch s {
	case "":
		return 0, nil
	case "ipv4":
		return flow.IPv4, nil
	case "ipv6":
		return flow.IPv6, nil
	}
	return 0, fmt.Errorf("family %q is neither ipv4 nor ipv6", s)
}

// ParseProto reads a protocol by name or number; "" is any.
func ParseProto(s string) (flow.Proto, error) {
	if s == "" {
		return 0, nil
	}
	for _, p := range []flow.Proto{flow.ICMP, flow.TCP, flow.UDP, flow.DCCP, flow.GRE, flow.ICMPv6, flow.SCTP, flow.UDPLite} {
		if strings.EqualFold(s, p.String()) {
			return p, nil
		}
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("protocol %q is neither a known name nor a number from 0 to 255", s)
	}
	return flow.Proto(n), nil
}

// parseFilter reads the filter of a request: the parameter filter, in JSON, or
// family and proto.
func parseFilter(r *http.Request) (f flow.Filter, err error) {
	if j := r.FormValue("filter"); j != "" {
		d := json.NewDecoder(strings.NewReader(j))
		d.DisallowUnknownFields()
		if err := d.Decode(&f); err != nil {
			return f, fmt.Errorf("filter: %w", err)
		}
		return f, nil
	}
	if f.Family, err = ParseFamily(r.FormValue("family")); err != nil {
		return f, err
	}
	if p := r.FormValue("proto"); p != "" {
		n, err := ParseProto(p)
		if err != nil {
			return f, err
		}
		f.Proto = &n
	}
	return f, nil
}

// parseKinds reads a list of event kinds, NEW,UPDATE,DESTROY; "" is all.
func parseKinds(s string) (k flow.EventKinds, err error) {
	if s == "" {
		return flow.AllEvents, nil
	}
	for _, name := range strings.Split(s, ",") {
		switch name {
		case "NEW":
			k |= 1 << flow.EventNew
		case "UPDATE", "UPDATES":
			k |= 1 << flow.EventUpdate
		case "DESTROY":
			k |= 1 << flow.EventDestroy
		case "ALL":
			k = flow.AllEvents
		default:
			return 0, fmt.Errorf("event %q is neither NEW, UPDATE nor DESTROY", name)
		}
	}
	return k, nil
}

// Query names one direction of a connection in text.
type Query struct {
	Proto, Src, Dst            string
	SPort, DPort               string
	ICMPType, ICMPCode, ICMPID string
	Zone                       string
}

// Tuple converts q. Every error names the field.
func (q Query) Tuple() (t flow.Tuple, err error) {
	p, err := ParseProto(q.Proto)
	if err != nil {
		return t, err
	}
	if q.Proto == "" || q.Src == "" || q.Dst == "" {
		return t, errors.New("protocol, source and destination are required")
	}
	src, err := netip.ParseAddr(q.Src)
	if err != nil {
		return t, fmt.Errorf("source: %w", err)
	}
	dst, err := netip.ParseAddr(q.Dst)
	if err != nil {
		return t, fmt.Errorf("destination: %w", err)
	}
	if src.Is4() != dst.Is4() {
		return t, errors.New("source and destination are of different families")
	}
	f := flow.IPv6
	if src.Is4() {
		f = flow.IPv4
	}
	field := func(name, s string, bits int) uint16 {
		if s == "" {
			return 0
		}
		n, e := strconv.ParseUint(s, 10, bits)
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %q is not a number from 0 to %d", name, s, 1<<bits-1)
		}
		return uint16(n)
	}
	a, b := field("source port", q.SPort, 16), field("destination port", q.DPort, 16)
	if p == flow.ICMP || p == flow.ICMPv6 {
		a = field("ICMP id", q.ICMPID, 16)
		b = field("ICMP type", q.ICMPType, 8)<<8 | field("ICMP code", q.ICMPCode, 8)
	}
	zone := field("zone", q.Zone, 16)
	t = flow.Tuple{Src: flow.AddrFrom(src), Dst: flow.AddrFrom(dst), L4: flow.MakeL4(f, p, flow.Zone(zone), a, b)}
	if _, ok := t.Invert(); !ok && err == nil {
		err = errors.New("an ICMP type that is neither query nor reply names no connection")
	}
	return t, err
}

func parseTuple(r *http.Request) (flow.Tuple, error) {
	return Query{
		Proto: r.FormValue("proto"), Src: r.FormValue("src"), Dst: r.FormValue("dst"),
		SPort: r.FormValue("sport"), DPort: r.FormValue("dport"),
		ICMPType: r.FormValue("icmp-type"), ICMPCode: r.FormValue("icmp-code"), ICMPID: r.FormValue("icmp-id"),
		Zone: r.FormValue("zone"),
	}.Tuple()
}
