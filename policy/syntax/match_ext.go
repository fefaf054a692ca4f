package syntax

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// Opts is ip6t_hbh, for the hop-by-hop options, or the destination options (ip6t_dst).
type Opts struct {
	Dst  bool
	Len  Number // of the header, in bytes
	Opts OptList
}

// OptList is the options that a header begins with.
type OptList struct {
	Given
	All []Opt
}

// Opt is an option of a header.
type Opt struct {
	Type   uint8
	Len    uint8 // of its data
	AnyLen bool
}

// maxOpts is IP6T_OPTS_OPTSNR.
const maxOpts = 16

func (l *OptList) read(args []string) error {
	for s := range strings.SplitSeq(args[0], ",") {
		typ, length, has := strings.Cut(s, ":")
		n, err := parseNumber(typ, 255)
		if err != nil {
			return fmt.Errorf("the type of an option: %w", err)
		}
		o := Opt{Type: uint8(n), AnyLen: true}
		if has {
			if n, err = parseNumber(length, 255); err != nil {
				return fmt.Errorf("the length of an option: %w", err)
			}
			o.Len, o.AnyLen = uint8(n), n == 255
		}
		l.All = append(l.All, o)
	}
	if len(l.All) > maxOpts {
		return fmt.Errorf("at most %d options", maxOpts)
	}
	return nil
}

func (l *OptList) text() string {
	var all []string
	for _, o := range l.All {
		s := strconv.Itoa(int(o.Type))
		if !o.AnyLen {
			s += ":" + strconv.Itoa(int(o.Len))
		}
		all = append(all, s)
	}
	return strings.Join(all, ",")
}

// Name returns the name of the match.
func (m *Opts) Name() string {
	if m.Dst {
		return "dst"
	}
	return "hbh"
}

func (m *Opts) options() []option {
	return []option{{name: "--" + m.Name() + "-len", value: &m.Len}, {name: "--" + m.Name() + "-opts", value: &m.Opts, noNot: true}}
}

func (m *Opts) check(*Rule, place) error { return nil }

// The headers of ip6t_ipv6header, a bit each.
const (
	HeaderProto    = 1 << iota // MASK_PROTO: any other protocol
	HeaderNone                 // MASK_NONE
	HeaderESP                  // MASK_ESP
	HeaderAH                   // MASK_AH
	HeaderFragment             // MASK_FRAGMENT
	HeaderRouting              // MASK_ROUTING
	HeaderDstOpts              // MASK_DSTOPTS
	HeaderHopByHop             // MASK_HOPOPTS
)

// headerNames are the names of the headers, the printed one first, in the order of
// printing.
var headerNames = []struct {
	bit   uint8
	names []string
}{
	{HeaderHopByHop, []string{"hop-by-hop", "hop", "0"}}, {HeaderDstOpts, []string{"ipv6-opts", "dst", "60"}},
	{HeaderRouting, []string{"ipv6-route", "route", "43"}}, {HeaderFragment, []string{"ipv6-frag", "frag", "44"}},
	{HeaderAH, []string{"ah", "auth", "51"}}, {HeaderESP, []string{"esp", "50"}},
	{HeaderNone, []string{"ipv6-nonxt", "none", "59"}}, {HeaderProto, []string{"protocol", "prot"}},
}

// HeaderSet is a list of headers.
type HeaderSet struct {
	Given
	Bits uint8
}

func (h *HeaderSet) read(args []string) error {
next:
	for name := range strings.SplitSeq(args[0], ",") {
		for _, n := range headerNames {
			for _, known := range n.names {
				if name == known {
					h.Bits |= n.bit
					continue next
				}
			}
		}
		return fmt.Errorf("there is no header %q: hop, dst, route, frag, auth, esp, none, prot", name)
	}
	return nil
}

func (h *HeaderSet) text() string {
	var all []string
	for _, n := range headerNames {
		if h.Bits&n.bit != 0 {
			all = append(all, n.names[0])
		}
	}
	return strings.Join(all, ",")
}

// IPv6Header is ip6t_ipv6header: which headers a packet has.
type IPv6Header struct {
	Header HeaderSet
	Soft   Flag // others may be there
}

// Name returns the name of the match.
func (m *IPv6Header) Name() string { return "ipv6header" }

func (m *IPv6Header) options() []option {
	return []option{{name: "--header", value: &m.Header}, {name: "--soft", value: &m.Soft, noNot: true}}
}

func (m *IPv6Header) check(*Rule, place) error {
	if !m.Header.Set {
		return errors.New("needs --header")
	}
	return nil
}

// RT is ip6t_rt.
type RT struct {
	Type      Number
	SegsLeft  Span
	Len       Number // of the header, in bytes
	Reserved  Flag   // --rt-0-res
	Addrs     AddrList
	NotStrict Flag // --rt-0-not-strict
}

// AddrList is a list of IPv6 addresses.
type AddrList struct {
	Given
	All []flow.Addr
}

func (l *AddrList) read(args []string) error {
	for s := range strings.SplitSeq(args[0], ",") {
		a, err := parseAddr(s, flow.IPv6)
		if err != nil {
			return err
		}
		l.All = append(l.All, a)
	}
	if len(l.All) > maxOpts {
		return fmt.Errorf("at most %d addresses", maxOpts)
	}
	return nil
}

func (l *AddrList) text() string {
	var all []string
	for _, a := range l.All {
		all = append(all, addrText(a, flow.IPv6))
	}
	return strings.Join(all, ",")
}

func newRT() *RT { return &RT{Type: Number{max: 255}, SegsLeft: Span{Hi: 1<<32 - 1, max: 1<<32 - 1}} }

// Name returns the name of the match.
func (m *RT) Name() string { return "rt" }

func (m *RT) options() []option {
	return []option{
		{name: "--rt-type", value: &m.Type}, {name: "--rt-segsleft", value: &m.SegsLeft}, {name: "--rt-len", value: &m.Len},
		{name: "--rt-0-res", value: &m.Reserved, noNot: true}, {name: "--rt-0-addrs", value: &m.Addrs, noNot: true},
		{name: "--rt-0-not-strict", value: &m.NotStrict, noNot: true},
	}
}

func (m *RT) check(*Rule, place) error {
	zero := m.Type.Set && !m.Type.Not && m.Type.N == 0
	switch {
	case (m.Reserved.Set || m.Addrs.Set || m.NotStrict.Set) && !zero:
		return errors.New("--rt-0-res, --rt-0-addrs and --rt-0-not-strict need --rt-type 0")
	case m.NotStrict.Set && !m.Addrs.Set:
		return errors.New("--rt-0-not-strict needs --rt-0-addrs")
	}
	return nil
}

// MH is ip6t_mh.
type MH struct{ Type MHType }

// MHType is a range of types of mobility headers; all of them is not printed.
type MHType struct{ Span }

var mhNames = []string{
	"binding-refresh-request", "home-test-init", "careof-test-init", "home-test", "careof-test", "binding-update",
	"binding-acknowledgement", "binding-error", "brr", "hoti", "coti", "hot", "cot", "bu", "ba", "be",
}

func newMH() *MH { return &MH{MHType{Span{Hi: 255, max: 255, whole: true}}} }

func (t *MHType) read(args []string) error {
	parts := strings.Split(args[0], ":")
	for i, s := range parts {
		for n, name := range mhNames {
			if s == name {
				parts[i] = strconv.Itoa(n % 8)
			}
		}
	}
	return t.Span.read([]string{strings.Join(parts, ":")})
}

// Name returns the name of the match.
func (m *MH) Name() string { return "mh" }

func (m *MH) options() []option { return []option{{name: "--mh-type", value: &m.Type}} }

func (m *MH) check(r *Rule, _ place) error { return needsProto(r, protoMH) }
