package policy

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
	state() *given
}

// given says whether an option was there, and with "!" before it.
type given struct{ set, not bool }

func (g *given) state() *given { return g }
func (g *given) want() int     { return 1 }

// writeOptions prints the options that are set, in their order.
func writeOptions(b *strings.Builder, opts []option) {
	for _, o := range opts {
		g := o.value.state()
		if !g.set {
			continue
		}
		if g.not {
			b.WriteString(" !")
		}
		b.WriteString(" " + o.name)
		if t := o.value.text(); t != "" {
			b.WriteString(" " + t)
		}
	}
}

// flagOption has no argument.
type flagOption struct{ given }

func (*flagOption) want() int           { return 0 }
func (*flagOption) read([]string) error { return nil }
func (*flagOption) text() string        { return "" }

// setBy reads an option that is another way to say one or more others.
type setBy struct {
	given
	n   int
	set func(args []string) error
}

func (s *setBy) want() int { return s.n }

func (s *setBy) read(args []string) error {
	err := s.set(args)
	s.given.set = false
	return err
}

func (s *setBy) text() string { return "" }

// number is an unsigned number up to max.
type number struct {
	given
	n   uint64
	max uint64 // 0: 2^32-1
	hex bool   // printed in hexadecimal
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

func (n *number) read(args []string) (err error) {
	most := n.max
	if most == 0 {
		most = 1<<32 - 1
	}
	n.n, err = parseNumber(args[0], most)
	return err
}

func (n *number) text() string {
	if n.hex {
		return fmt.Sprintf("0x%02x", n.n)
	}
	return strconv.FormatUint(n.n, 10)
}

// span is a range of numbers, both ends included.
type span struct {
	given
	lo, hi uint64
	max    uint64 // 0: 65535
	open   bool   // "5:" is printed for a range to the maximum
	port   bool   // names of services are read
	always bool   // both ends are printed even if equal
}

func (s *span) read(args []string) error {
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
	s.lo = one(lo, 0)
	s.hi = s.lo
	if ranged {
		s.hi = one(hi, most)
	}
	if err == nil && s.lo > s.hi {
		err = errors.New("the range is backwards")
	}
	return err
}

func (s *span) text() string {
	if s.open && s.hi == s.max {
		return fmt.Sprintf("%d", s.lo)
	}
	if s.lo == s.hi && !s.always {
		return strconv.FormatUint(s.lo, 10)
	}
	return fmt.Sprintf("%d:%d", s.lo, s.hi)
}

// has reports whether n is in the range, or not in it if that is asked.
func (s *span) has(n uint64) bool { return (n >= s.lo && n <= s.hi) != s.not }

// word is any text.
type word struct {
	given
	s     string
	most  int // bytes, 0: any number
	oneOf []string
}

func (w *word) read(args []string) error {
	w.s = args[0]
	if w.most > 0 && len(w.s) > w.most {
		return fmt.Errorf("longer than %d bytes", w.most)
	}
	for _, o := range w.oneOf {
		if w.s == o {
			return nil
		}
	}
	if len(w.oneOf) > 0 {
		return fmt.Errorf("must be one of %s", strings.Join(w.oneOf, ", "))
	}
	return nil
}

func (w *word) text() string { return quote(w.s) }

// masked is a value and a mask, 32 bits each.
type masked struct {
	given
	v, mask uint32
	full    uint32 // the mask that is not printed; 0: all ones
	always  bool   // the mask is printed in any case
	most    uint64
	width   int // digits
}

func (m *masked) read(args []string) error {
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
	m.v, m.mask = uint32(n), uint32(k)
	return nil
}

func (m *masked) text() string {
	full := m.full
	if full == 0 {
		full = 1<<32 - 1
	}
	if m.mask == full && !m.always {
		return fmt.Sprintf("0x%0*x", m.width, m.v)
	}
	return fmt.Sprintf("0x%0*x/0x%0*x", m.width, m.v, m.width, m.mask)
}

// addrMask is an address and a mask of one family.
type addrMask struct {
	given
	family     flow.Family
	addr, mask flow.Addr
}

func (a *addrMask) read(args []string) (err error) {
	a.addr, a.mask, err = parseAddrMask(args[0], a.family)
	return err
}

func (a *addrMask) text() string { return addrMaskText(a.addr, a.mask, a.family) }

// has reports whether x is one of the addresses, or not one if that is asked.
func (a *addrMask) has(x flow.Addr) bool {
	return ((x.Hi^a.addr.Hi)&a.mask.Hi|(x.Lo^a.addr.Lo)&a.mask.Lo == 0) != a.not
}
