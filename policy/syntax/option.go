package syntax

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// option is one option of a match or target. Its value is where it is read to and
// printed from.
type option struct {
	name    string // with dashes
	value   value
	aliases []string
	noNot   bool // ! is an error
}

// value is what an option holds.
type value interface {
	// read takes the arguments, as many as want says.
	read(args []string) error
	want() int
	// text returns the arguments as iptables-save prints them.
	text() string
	state() *Given
}

// Given says whether an option was there, and with "!" before it.
type Given struct{ Set, Not bool }

func (g *Given) state() *Given { return g }
func (g *Given) want() int     { return 1 }

// writer is a match or target that prints its options by itself.
type writer interface{ write(b *strings.Builder) }

// writeAll prints the options of a match or target.
func writeAll(b *strings.Builder, m interface{ options() []option }) {
	if w, ok := m.(writer); ok {
		w.write(b)
		return
	}
	writeOptions(b, m.options())
}

// writeOptions prints the options that are set, in their order.
func writeOptions(b *strings.Builder, opts []option) {
	for _, o := range opts {
		g := o.value.state()
		if !g.Set {
			continue
		}
		if g.Not {
			b.WriteString(" !")
		}
		b.WriteString(" " + o.name)
		if t := o.value.text(); t != "" {
			b.WriteString(" " + t)
		}
	}
}

// Flag has no argument.
type Flag struct{ Given }

func (*Flag) want() int           { return 0 }
func (*Flag) read([]string) error { return nil }
func (*Flag) text() string        { return "" }

// setBy reads an option that is another name for one or more others.
type setBy struct {
	Given
	n     int
	apply func(args []string) error
}

func (s *setBy) want() int { return s.n }

func (s *setBy) read(args []string) error {
	err := s.apply(args)
	s.Set = false
	return err
}

func (s *setBy) text() string { return "" }

// Number is an unsigned number up to max.
type Number struct {
	Given
	N   uint64
	max uint64 // 0: 2^32-1
	hex bool   // printed in hexadecimal, two digits at least
	// plainHex: printed in hexadecimal
	plainHex bool
	wide     bool // printed in hexadecimal, eight digits
}

func parseNumber(s string, most uint64) (uint64, error) {
	n, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		return 0, errors.New("a number is expected")
	}
	if n > most {
		return 0, fmt.Errorf("must be 0..%d", most)
	}
	return n, nil
}

func (n *Number) read(args []string) (err error) {
	most := n.max
	if most == 0 {
		most = 1<<32 - 1
	}
	n.N, err = parseNumber(args[0], most)
	return err
}

func (n *Number) text() string {
	switch {
	case n.hex:
		return fmt.Sprintf("0x%02x", n.N)
	case n.wide:
		return fmt.Sprintf("0x%08x", n.N)
	case n.plainHex:
		return fmt.Sprintf("0x%x", n.N)
	}
	return strconv.FormatUint(n.N, 10)
}

// Span is a range of numbers, both ends included.
type Span struct {
	Given
	Lo, Hi uint64
	max    uint64 // 0: 65535
	open   bool   // "5:" is printed for a range to the maximum
	port   bool   // names of services are read
	always bool   // both ends are printed even if equal
	whole  bool   // from 0 to the maximum is not printed
}

func (s *Span) read(args []string) error {
	most := s.max
	if most == 0 {
		most = 65535
	}
	lo, hi, ranged := strings.Cut(args[0], ":")
	var err error
	one := func(text string, empty uint64) uint64 {
		if text == "" && ranged {
			return empty
		}
		n, e := parseNumber(text, most)
		if e != nil && s.port {
			if p, lookup := net.LookupPort("tcp", text); lookup == nil && text != "" {
				return uint64(p)
			} else if p, lookup := net.LookupPort("udp", text); lookup == nil && text != "" {
				return uint64(p)
			}
		}
		if e != nil {
			err = e
		}
		return n
	}
	s.Lo = one(lo, 0)
	s.Hi = s.Lo
	if ranged {
		s.Hi = one(hi, most)
	}
	if err == nil && s.Lo > s.Hi {
		err = errors.New("the range is backwards")
	}
	if s.whole && s.Lo == 0 && s.Hi == s.max && !s.Not {
		s.Set = false
	}
	return err
}

func (s *Span) text() string {
	if s.open && s.Hi == s.max {
		return fmt.Sprintf("%d", s.Lo)
	}
	if s.Lo == s.Hi && !s.always {
		return strconv.FormatUint(s.Lo, 10)
	}
	return fmt.Sprintf("%d:%d", s.Lo, s.Hi)
}

// Has reports whether n is in the range, or not in it if that is asked.
func (s *Span) Has(n uint64) bool { return (n >= s.Lo && n <= s.Hi) != s.Not }

// Word is any text.
type Word struct {
	Given
	S     string
	most  int // bytes, 0: any Number
	oneOf []string
}

func (w *Word) read(args []string) error {
	w.S = args[0]
	if w.most > 0 && len(w.S) > w.most {
		return fmt.Errorf("longer than %d bytes", w.most)
	}
	for _, o := range w.oneOf {
		if w.S == o {
			return nil
		}
	}
	if len(w.oneOf) > 0 {
		return fmt.Errorf("must be one of %s", strings.Join(w.oneOf, ", "))
	}
	return nil
}

func (w *Word) text() string { return quote(w.S) }

// Masked is a value and a mask, 32 bits each.
type Masked struct {
	Given
	V, Mask uint32
	full    uint32 // the mask that is not printed; 0: all ones
	always  bool   // the mask is printed in any case
	most    uint64
	width   int // digits
}

func (m *Masked) read(args []string) error {
	most := m.most
	if most == 0 {
		most = 1<<32 - 1
	}
	v, mask, has := strings.Cut(args[0], "/")
	n, err := parseNumber(v, most)
	if err != nil {
		return err
	}
	k := most
	if has {
		if k, err = parseNumber(mask, most); err != nil {
			return err
		}
	}
	m.V, m.Mask = uint32(n), uint32(k)
	return nil
}

func (m *Masked) text() string {
	full := m.full
	if full == 0 {
		full = 1<<32 - 1
	}
	if m.Mask == full && !m.always {
		return fmt.Sprintf("0x%0*x", m.width, m.V)
	}
	return fmt.Sprintf("0x%0*x/0x%0*x", m.width, m.V, m.width, m.Mask)
}

// AddrMask is an address and a mask of one family.
type AddrMask struct {
	Given
	Family     flow.Family
	Addr, Mask flow.Addr
}

func (a *AddrMask) read(args []string) (err error) {
	a.Addr, a.Mask, err = parseAddrMask(args[0], a.Family)
	return err
}

func (a *AddrMask) text() string { return addrMaskText(a.Addr, a.Mask, a.Family) }

// Has reports whether x is one of the addresses, or not one if that is asked.
func (a *AddrMask) Has(x flow.Addr) bool {
	return ((x.Hi^a.Addr.Hi)&a.Mask.Hi|(x.Lo^a.Addr.Lo)&a.Mask.Lo == 0) != a.Not
}
