package syntax

import (
	"errors"
	"strings"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// markOptions are the options that stand for a --set-xmark.
func markOptions(x *Masked) []option {
	by := func(f func(v, mask uint32) (uint32, uint32)) *setBy {
		return &setBy{n: 1, apply: func(args []string) error {
			m := &Masked{}
			if err := m.read(args); err != nil {
				return err
			}
			x.V, x.Mask = f(m.V, m.Mask)
			x.Set = true
			return nil
		}}
	}
	x.always = true
	return []option{
		{name: "--set-xmark", value: x, noNot: true},
		{name: "--set-mark", noNot: true, value: by(func(v, m uint32) (uint32, uint32) { return v, v | m })},
		{name: "--and-mark", noNot: true, value: by(func(v, _ uint32) (uint32, uint32) { return 0, ^v })},
		{name: "--or-mark", noNot: true, value: by(func(v, _ uint32) (uint32, uint32) { return v, v })},
		{name: "--xor-mark", noNot: true, value: by(func(v, _ uint32) (uint32, uint32) { return v, 0 })},
	}
}

// SetMark is MARK: bits of X.Mask are cleared, those of X.V inverted.
type SetMark struct{ X Masked }

// Name returns the name of the target.
func (t *SetMark) Name() string { return "MARK" }

func (t *SetMark) options() []option { return markOptions(&t.X) }

func (t *SetMark) check(*Rule, place) error { return exactlyOne(t.options()) }

// SetConnMark is CONNMARK: X is given, or one of Save and Restore.
type SetConnMark struct {
	X              Masked // as of SetMark
	Save, Restore  Flag
	NFMask, CTMask Masked // V is the mask
}

func newSetConnMark() *SetConnMark {
	all := Masked{V: 1<<32 - 1}
	return &SetConnMark{NFMask: all, CTMask: all}
}

// Name returns the name of the target.
func (t *SetConnMark) Name() string { return "CONNMARK" }

func (t *SetConnMark) options() []option {
	both := &setBy{n: 1}
	both.apply = func(args []string) error {
		if err := t.NFMask.read(args); err != nil {
			return err
		}
		t.CTMask.V, t.CTMask.Set, t.NFMask.Set = t.NFMask.V, true, true
		return nil
	}
	return append(markOptions(&t.X),
		option{name: "--save-mark", value: &t.Save, noNot: true}, option{name: "--restore-mark", value: &t.Restore, noNot: true},
		option{name: "--nfmask", value: &t.NFMask, noNot: true}, option{name: "--ctmask", value: &t.CTMask, noNot: true},
		option{name: "--mask", value: both, noNot: true})
}

func (t *SetConnMark) check(*Rule, place) error {
	n := 0
	for _, on := range []bool{t.X.Set, t.Save.Set, t.Restore.Set} {
		if on {
			n++
		}
	}
	if n != 1 {
		return errors.New("needs one of --set-xmark, --save-mark and --restore-mark")
	}
	if t.X.Set && (t.NFMask.Set || t.CTMask.Set) {
		return errors.New("masks go with --save-mark and --restore-mark")
	}
	t.NFMask.Mask, t.CTMask.Mask = 1<<32-1, 1<<32-1
	t.NFMask.Set, t.CTMask.Set = !t.X.Set, !t.X.Set
	return nil
}

// SetTOS is TOS: bits of X.Mask are cleared, those of X.V inverted.
type SetTOS struct{ X TOSValue }

func newSetTOS() *SetTOS { return &SetTOS{newTOSValue()} }

// Name returns the name of the target.
func (t *SetTOS) Name() string { return "TOS" }

func (t *SetTOS) options() []option {
	x := &t.X
	with := func(f func(v uint32) (uint32, uint32)) *setBy {
		return &setBy{n: 1, apply: func(args []string) error {
			n, err := parseNumber(args[0], 255)
			if err == nil {
				x.V, x.Mask = f(uint32(n))
				x.Set = true
			}
			return err
		}}
	}
	return []option{
		{name: "--set-tos", value: x, noNot: true},
		{name: "--and-tos", noNot: true, value: with(func(v uint32) (uint32, uint32) { return 0, ^v & 0xff })},
		{name: "--or-tos", noNot: true, value: with(func(v uint32) (uint32, uint32) { return v, v })},
		{name: "--xor-tos", noNot: true, value: with(func(v uint32) (uint32, uint32) { return v, 0 })},
	}
}

func (t *SetTOS) check(_ *Rule, at place) error {
	if err := needsTable(at, "mangle"); err != nil {
		return err
	}
	return exactlyOne(t.options())
}

// SetDSCP is DSCP.
type SetDSCP struct{ DSCP Number }

// Name returns the name of the target.
func (t *SetDSCP) Name() string { return "DSCP" }

func (t *SetDSCP) options() []option {
	return dscpOptions("--set-dscp", "--set-dscp-class", &t.DSCP)
}

func (t *SetDSCP) check(_ *Rule, at place) error {
	if err := needsTable(at, "mangle"); err != nil {
		return err
	}
	return exactlyOne(t.options())
}

// SetHops is TTL and HL: one of its options is given.
type SetHops struct {
	name         string
	To, Inc, Dec Number
}

func newSetHops(name string) *SetHops {
	n := Number{max: 255}
	return &SetHops{name, n, n, n}
}

// Name returns which of the targets it is.
func (t *SetHops) Name() string { return t.name }

func (t *SetHops) options() []option {
	prefix := "--" + strings.ToLower(t.name)
	return []option{
		{name: prefix + "-set", value: &t.To, noNot: true},
		{name: prefix + "-inc", value: &t.Inc, noNot: true},
		{name: prefix + "-dec", value: &t.Dec, noNot: true},
	}
}

func (t *SetHops) check(_ *Rule, at place) error {
	if err := needsTable(at, "mangle"); err != nil {
		return err
	}
	return exactlyOne(t.options())
}

// SetMSS is TCPMSS: one of its options is given.
type SetMSS struct {
	MSS   Number
	Clamp Flag // --clamp-mss-to-pmtu
}

func newSetMSS() *SetMSS { return &SetMSS{MSS: Number{max: 65535}} }

// Name returns the name of the target.
func (t *SetMSS) Name() string { return "TCPMSS" }

func (t *SetMSS) options() []option {
	return []option{
		{name: "--set-mss", value: &t.MSS, noNot: true}, {name: "--clamp-mss-to-pmtu", value: &t.Clamp, noNot: true},
	}
}

func (t *SetMSS) check(r *Rule, _ place) error {
	if err := exactlyOne(t.options()); err != nil {
		return err
	}
	if err := needsProto(r, flow.TCP); err != nil {
		return err
	}
	for _, m := range r.Matches {
		if tcp, ok := m.(*TCP); ok && tcp.Flags.Set && !tcp.Flags.Not && tcp.Flags.Comp&packet.SYN != 0 {
			return nil
		}
	}
	return errors.New("works on SYN packets only: needs --tcp-flags SYN,RST SYN, or --syn")
}
