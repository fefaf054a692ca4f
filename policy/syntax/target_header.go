package syntax

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// SetECN is ECN: what is given is set, in TCP's header and in that of IP.
type SetECN struct {
	Remove   Flag
	CWR, ECE Number
	ECT      Number
}

func newSetECN() *SetECN {
	return &SetECN{CWR: Number{max: 1}, ECE: Number{max: 1}, ECT: Number{max: 3}}
}

// Name returns the name of the target.
func (t *SetECN) Name() string { return "ECN" }

func (t *SetECN) options() []option {
	return []option{
		{name: "--ecn-tcp-remove", value: &t.Remove, noNot: true}, {name: "--ecn-tcp-ece", value: &t.ECE, noNot: true},
		{name: "--ecn-tcp-cwr", value: &t.CWR, noNot: true}, {name: "--ecn-ip-ect", value: &t.ECT, noNot: true},
	}
}

func (t *SetECN) check(r *Rule, at place) error {
	if err := needsTable(at, "mangle"); err != nil {
		return err
	}
	tcp := t.Remove.Set || t.CWR.Set || t.ECE.Set
	switch {
	case !tcp && !t.ECT.Set:
		return errors.New("needs --ecn-tcp-remove, --ecn-tcp-cwr, --ecn-tcp-ece or --ecn-ip-ect")
	case t.Remove.Set && (t.CWR.Set || t.ECE.Set):
		return errors.New("--ecn-tcp-remove excludes --ecn-tcp-cwr and --ecn-tcp-ece")
	case tcp:
		return needsProto(r, flow.TCP)
	}
	return nil
}

// FillChecksum is CHECKSUM: it completes partial checksums.
type FillChecksum struct{ Fill Flag }

// Name returns the name of the target.
func (t *FillChecksum) Name() string { return "CHECKSUM" }

func (t *FillChecksum) options() []option {
	return []option{{name: "--checksum-fill", value: &t.Fill, noNot: true}}
}

func (t *FillChecksum) check(_ *Rule, at place) error {
	if err := needsTable(at, "mangle"); err != nil {
		return err
	}
	return exactlyOne(t.options())
}

// Class is MAJOR:MINOR, in hexadecimal, as tc(8) has it.
type Class struct {
	Given
	Major, Minor uint16
}

func (c *Class) read(args []string) error {
	major, minor, ok := strings.Cut(args[0], ":")
	a, err1 := strconv.ParseUint(major, 16, 16)
	b, err2 := strconv.ParseUint(minor, 16, 16)
	if !ok || err1 != nil || err2 != nil {
		return errors.New("a class is expected: MAJOR:MINOR, in hexadecimal")
	}
	c.Major, c.Minor = uint16(a), uint16(b)
	return nil
}

func (c *Class) text() string { return fmt.Sprintf("%04x:%04x", c.Major, c.Minor) }

// Classify is CLASSIFY: it sets skb->priority, which only the kernel's queueing
// disciplines look at.
type Classify struct{ Class Class }

// Name returns the name of the target.
func (t *Classify) Name() string { return "CLASSIFY" }

func (t *Classify) options() []option {
	return []option{{name: "--set-class", value: &t.Class, noNot: true}}
}

func (t *Classify) check(*Rule, place) error { return exactlyOne(t.options()) }

// tcpOptionNames are the names that TCPOPTSTRIP takes for options.
var tcpOptionNames = map[string]uint8{
	"wscale": 3, "mss": 2, "sack-permitted": 4, "sack": 5, "timestamp": 8, "md5": 19,
}

// OptionSet is a set of TCP options, by their kinds.
type OptionSet struct {
	Given
	bits [4]uint64
}

// Has reports whether the option of a kind is in the set.
func (s *OptionSet) Has(kind uint8) bool { return s.bits[kind/64]>>(kind%64)&1 != 0 }

func (s *OptionSet) read(args []string) error {
	for _, word := range strings.Split(args[0], ",") {
		kind, ok := tcpOptionNames[word]
		if !ok {
			n, err := parseNumber(word, 255)
			if err != nil {
				return fmt.Errorf("%q is neither the number nor the name of a TCP option", word)
			}
			kind = uint8(n)
		}
		s.bits[kind/64] |= 1 << (kind % 64)
	}
	return nil
}

func (s *OptionSet) text() string {
	var all []string
	for kind := range 256 {
		if s.Has(uint8(kind)) {
			all = append(all, strconv.Itoa(kind))
		}
	}
	return strings.Join(all, ",")
}

// StripTCPOptions is TCPOPTSTRIP: options are overwritten with No-Operation.
type StripTCPOptions struct{ Options OptionSet }

// Name returns the name of the target.
func (t *StripTCPOptions) Name() string { return "TCPOPTSTRIP" }

func (t *StripTCPOptions) options() []option {
	return []option{{name: "--strip-options", value: &t.Options, noNot: true}}
}

func (t *StripTCPOptions) check(r *Rule, at place) error {
	if err := needsTable(at, "mangle"); err != nil {
		return err
	}
	if err := needsProto(r, flow.TCP); err != nil {
		return err
	}
	return exactlyOne(t.options())
}

// Prefix6 is an IPv6 prefix.
type Prefix6 struct {
	Given
	Addr flow.Addr
	Len  int // 0..64
}

func (p *Prefix6) read(args []string) error {
	text, length, ok := strings.Cut(args[0], "/")
	a, err := parseAddr(text, flow.IPv6)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(length)
	if !ok || err != nil || n < 0 || n > 64 {
		return errors.New("a prefix is expected, of at most 64 bits: 2001:db8::/48")
	}
	if mask := PrefixMask(n, flow.IPv6); a.Hi&^mask.Hi != 0 || a.Lo&^mask.Lo != 0 {
		return errors.New("there are bits behind the prefix")
	}
	p.Addr, p.Len = a, n
	return nil
}

func (p *Prefix6) text() string { return fmt.Sprintf("%s/%d", addrText(p.Addr, flow.IPv6), p.Len) }

// NPT is SNPT and DNPT: a prefix is exchanged for another, stateless and without a
// change of checksums (RFC 6296).
type NPT struct {
	name     string
	Src, Dst Prefix6
}

// Name returns which of the two it is: SNPT translates the source.
func (t *NPT) Name() string { return t.name }

func (t *NPT) options() []option {
	return []option{{name: "--src-pfx", value: &t.Src, noNot: true}, {name: "--dst-pfx", value: &t.Dst, noNot: true}}
}

// Hooks returns the chains that it may be reached from.
func (t *NPT) Hooks() []string {
	if t.name == "SNPT" {
		return []string{"INPUT", "POSTROUTING"}
	}
	return []string{"PREROUTING", "OUTPUT"}
}

func (t *NPT) check(_ *Rule, at place) error {
	if err := needsTable(at, "mangle"); err != nil {
		return err
	}
	if !t.Src.Set || !t.Dst.Set {
		return errors.New("needs --src-pfx and --dst-pfx")
	}
	return nil
}
