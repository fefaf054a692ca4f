package syntax

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// String is xt_string.
type String struct {
	Text     Pattern
	Algo     Word   // bm or kmp
	From, To Number // offsets from the IP header on, in bytes
	ICase    Flag
}

// Pattern is text to be looked for.
type Pattern struct {
	Given
	Bytes string
}

// maxPattern is XT_STRING_MAX_PATTERN_SIZE.
const maxPattern = 128

func (p *Pattern) read(args []string) error {
	p.Bytes = args[0]
	return p.check()
}

func (p *Pattern) check() error {
	if n := len(p.Bytes); n == 0 || n > maxPattern {
		return fmt.Errorf("a text of 1..%d bytes is expected", maxPattern)
	}
	return nil
}

// readHex reads text in which bytes between two | are in hexadecimal.
func (p *Pattern) readHex(s string) error {
	var b strings.Builder
	hex := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && !hex && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c == '|':
			hex = !hex
		case hex && (c == ' ' || c == '\t'):
		case hex:
			if i+2 > len(s) {
				return errors.New("two hexadecimal digits are expected")
			}
			n, err := strconv.ParseUint(s[i:i+2], 16, 8)
			if err != nil {
				return errors.New("two hexadecimal digits are expected")
			}
			b.WriteByte(byte(n))
			i++
		default:
			b.WriteByte(c)
		}
	}
	if hex {
		return errors.New("a | is missing")
	}
	p.Bytes = b.String()
	return p.check()
}

// printable reports whether the text can be printed as it is.
func (p *Pattern) printable() bool {
	for i := range len(p.Bytes) {
		if p.Bytes[i] < 0x20 || p.Bytes[i] > 0x7e {
			return false
		}
	}
	return true
}

func (p *Pattern) text() string {
	if p.printable() {
		return quoted(p.Bytes)
	}
	return fmt.Sprintf(`"|%x|"`, p.Bytes)
}

// quoted returns a text between quotes.
func quoted(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }

func newString() *String {
	return &String{Algo: Word{oneOf: []string{"bm", "kmp"}}, From: Number{max: 65535}, To: Number{N: 65535, max: 65535}}
}

// Name returns the name of the match.
func (m *String) Name() string { return "string" }

func (m *String) options() []option {
	hex := &setBy{n: 1}
	hex.apply = func(args []string) error {
		m.Text.Given = Given{true, hex.Not}
		return m.Text.readHex(args[0])
	}
	name, other := "--string", "--hex-string"
	if !m.Text.printable() {
		name, other = other, name
	}
	text := option{name: name, value: &m.Text}
	if name != "--string" { // only to print: it is read by now
		return append([]option{text}, m.others()...)
	}
	return append([]option{text, {name: other, value: hex}}, m.others()...)
}

func (m *String) others() []option {
	return []option{
		{name: "--algo", value: &m.Algo, noNot: true}, {name: "--from", value: &m.From, noNot: true},
		{name: "--to", value: &m.To, noNot: true}, {name: "--icase", value: &m.ICase, noNot: true},
	}
}

func (m *String) check(*Rule, place) error {
	switch {
	case !m.Text.Set:
		return errors.New("needs --string or --hex-string")
	case !m.Algo.Set:
		return errors.New("needs --algo bm or --algo kmp")
	case m.From.N > m.To.N:
		return errors.New("--from is behind --to")
	}
	m.From.Set, m.To.Set = m.From.N != 0, m.To.N != 65535
	return nil
}

// U32 is xt_u32.
type U32 struct{ Tests U32Tests }

// U32Tests are tests that all have to hold.
type U32Tests struct {
	Given
	All []U32Test
}

// U32Test is a word of the packet, what is done with it, and the ranges one of which
// it has to be in.
type U32Test struct {
	At     uint32 // offset from the IP header on
	Ops    []U32Op
	Values [][2]uint32
}

// U32Op is one of & << >> @, and its operand.
type U32Op struct {
	Op byte // '&', '<', '>' or '@'
	N  uint32
}

// maxU32 is XT_U32_MAXSIZE: tests, operands and ranges that there may be.
const maxU32 = 10

// u32Reader reads the language of --u32.
type u32Reader struct{ s string }

func (r *u32Reader) skip() { r.s = strings.TrimLeft(r.s, " \t\n") }

// take takes a sign, if it comes next.
func (r *u32Reader) take(sign string) bool {
	r.skip()
	rest, ok := strings.CutPrefix(r.s, sign)
	if ok {
		r.s = rest
	}
	return ok
}

func (r *u32Reader) number() (uint32, error) {
	r.skip()
	n := 0
	for n < len(r.s) && strings.IndexByte("0123456789abcdefABCDEFxX", r.s[n]) >= 0 {
		n++
	}
	v, err := strconv.ParseUint(r.s[:n], 0, 32)
	if err != nil {
		return 0, fmt.Errorf("a number is expected before %q", r.s)
	}
	r.s = r.s[n:]
	return uint32(v), nil
}

func (t *U32Tests) read(args []string) error {
	r := &u32Reader{args[0]}
	for {
		test, err := r.test()
		if err != nil {
			return err
		}
		if t.All = append(t.All, test); len(t.All) > maxU32 {
			return fmt.Errorf("at most %d tests", maxU32)
		}
		if r.skip(); r.s == "" {
			return nil
		}
		if !r.take("&&") {
			return fmt.Errorf("&& is expected before %q", r.s)
		}
	}
}

func (r *u32Reader) test() (t U32Test, err error) {
	if t.At, err = r.number(); err != nil {
		return t, err
	}
	for !r.take("=") {
		op := U32Op{}
		switch {
		case r.take("&"):
			op.Op = '&'
		case r.take("<<"):
			op.Op = '<'
		case r.take(">>"):
			op.Op = '>'
		case r.take("@"):
			op.Op = '@'
		default:
			return t, fmt.Errorf("one of & << >> @ = is expected before %q", r.s)
		}
		if op.N, err = r.number(); err != nil {
			return t, err
		}
		if (op.Op == '<' || op.Op == '>') && op.N > 31 {
			return t, errors.New("a word is shifted by 0..31 bits")
		}
		if t.Ops = append(t.Ops, op); len(t.Ops) >= maxU32 {
			return t, fmt.Errorf("at most %d operands", maxU32)
		}
	}
	for {
		lo, err := r.number()
		if err != nil {
			return t, err
		}
		hi := lo
		if r.take(":") {
			if hi, err = r.number(); err != nil {
				return t, err
			}
		}
		if t.Values = append(t.Values, [2]uint32{lo, hi}); len(t.Values) > maxU32 {
			return t, fmt.Errorf("at most %d ranges", maxU32)
		}
		if !r.take(",") {
			return t, nil
		}
	}
}

func (t *U32Tests) text() string {
	var b strings.Builder
	b.WriteByte('"')
	for i, test := range t.All {
		if i > 0 {
			b.WriteString("&&")
		}
		fmt.Fprintf(&b, "0x%x", test.At)
		for _, op := range test.Ops {
			sign := string(op.Op)
			if op.Op == '<' || op.Op == '>' {
				sign += sign
			}
			fmt.Fprintf(&b, "%s0x%x", sign, op.N)
		}
		for k, v := range test.Values {
			b.WriteString(map[bool]string{true: "=", false: ","}[k == 0])
			fmt.Fprintf(&b, "0x%x", v[0])
			if v[1] != v[0] {
				fmt.Fprintf(&b, ":0x%x", v[1])
			}
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Name returns the name of the match.
func (m *U32) Name() string { return "u32" }

func (m *U32) options() []option { return []option{{name: "--u32", value: &m.Tests}} }

func (m *U32) check(*Rule, place) error { return atLeastOne(m.options()) }
