package helper

import (
	"errors"
	"math/bits"
)

// This is a decoder of ASN.1's packed encoding rules, basic variant, aligned (X.691), as far
// as H.225.0 and H.245 need it: it walks a value by its type and notes where the fields with
// a tag are. It keeps nothing, and allocates for what it notes only.

// perType is a type of ASN.1. Types are made once, and never changed.
type perType struct {
	kind perKind
	ext  bool // extensible: "..."
	tag  perTag
	says bool // the tag is of the INTEGER or of the index of the CHOICE, not of addresses in it

	// INTEGER: the values. Strings, SEQUENCE OF: the number of units, with max 0 for any.
	min, max uint64
	unit     int // bits of a character of a string

	// SEQUENCE: the components in front of "..."; opts of all of them, those behind perStop
	// included, are OPTIONAL. CHOICE: the first of alts alternatives. SEQUENCE OF: the one.
	root []perField
	opts int
	alts int
	// more are the first components or alternatives behind "...", nil for those that do not
	// matter.
	more []*perType
}

// perField is a component of a SEQUENCE, or an alternative of a CHOICE.
type perField struct {
	*perType
	optional bool
}

// perKind is a kind of type.
type perKind uint8

const (
	perNull perKind = iota
	perBool
	perInteger
	perString // OCTET STRING, BIT STRING, OBJECT IDENTIFIER and those of characters
	perSequence
	perSequenceOf
	perChoice
	perHolder  // OCTET STRING that holds the value of another type, root[0]
	perAddress // an address of max bytes and a port: what all this is for
	perStop    // what is left of the message, or of the open type, does not matter
)

// perTag names a field that matters; 0 for the others.
type perTag uint8

// perFound is a field with a tag: an address, or the value of an INTEGER, or the index of
// an alternative of a CHOICE.
type perFound struct {
	tag perTag
	off int // of an address
	n   int // bytes that it has, 0 for a value
	val uint64
}

const (
	perSteps = 4096 // values in a message: elements of no size must not cost time
	perMost  = 64   // fields that are noted; what comes behind is left as it is
)

var (
	errPER     = errors.New("not the encoding of such a value")
	errPERStop = errors.New("the rest does not matter")
)

// per is a decoder at work.
type per struct {
	b       []byte
	at, end int // in bits
	steps   int
	tag     perTag // of what is around
	found   []perFound
}

// decode walks a message, and returns the fields that have a tag, in order. If the message
// cannot be right there are none.
func (t *perType) decode(b []byte) ([]perFound, error) {
	d := per{b: b, end: 8 * len(b), steps: perSteps}
	if err := d.value(t); err != nil && !errors.Is(err, errPERStop) {
		return nil, err
	}
	return d.found, nil
}

// note writes down a field.
func (d *per) note(f perFound) {
	if len(d.found) < perMost {
		d.found = append(d.found, f)
	}
}

// bits reads n bits, at most 32 (X.691 10.3: most significant first).
func (d *per) bits(n int) (v uint64, err error) {
	if n > d.end-d.at {
		return 0, errPER
	}
	for range n {
		v = v<<1 | uint64(d.b[d.at/8]>>(7-d.at%8)&1)
		d.at++
	}
	return v, nil
}

// align goes to the next octet.
func (d *per) align() { d.at = (d.at + 7) &^ 7 }

// skip goes n bits on.
func (d *per) skip(n uint64) error {
	if d.at > d.end || n > uint64(d.end-d.at) {
		return errPER
	}
	d.at += int(n)
	return nil
}

// length reads a length determinant without an upper bound (10.9.3.5). Fragments, of 16384
// units or more, fit no message.
func (d *per) length() (uint64, error) {
	d.align()
	v, err := d.bits(8)
	switch {
	case err != nil || v < 0x80:
		return v, err
	case v >= 0xc0:
		return 0, errPER
	}
	w, err := d.bits(8)
	return v&0x3f<<8 | w, err
}

// integer reads a constrained whole number (10.5).
func (d *per) integer(lo, hi uint64) (uint64, error) {
	n := 0
	switch span := hi - lo; {
	case span < 255:
		n = bits.Len64(span)
	case span == 255:
		d.align()
		n = 8
	case span < 65536:
		d.align()
		n = 16
	default:
		octets := (bits.Len64(span) + 7) / 8
		l, err := d.bits(bits.Len(uint(octets - 1)))
		if err != nil || int(l) >= octets {
			return 0, errPER
		}
		d.align()
		n = 8 * (int(l) + 1)
	}
	v, err := d.bits(n)
	if err != nil || v > hi-lo {
		return 0, errPER
	}
	return lo + v, nil
}

// count reads how many units a string or a SEQUENCE OF has.
func (d *per) count(t *perType) (uint64, error) {
	switch t.max {
	case 0:
		return d.length()
	case t.min:
		return t.max, nil
	}
	return d.integer(t.min, t.max)
}

// value walks a value of type t.
func (d *per) value(t *perType) (err error) {
	if d.steps--; d.steps < 0 {
		return errPER
	}
	if t.tag != 0 && !t.says {
		defer func(was perTag) { d.tag = was }(d.tag)
		d.tag = t.tag
	}
	var v uint64
	switch t.kind {
	case perNull:
	case perBool:
		return d.skip(1)
	case perInteger:
		if v, err = d.integer(t.min, t.max); err == nil && t.says {
			d.note(perFound{tag: t.tag, val: v})
		}
		return err
	case perString:
		return d.text(t)
	case perAddress:
		d.align()
		off := d.at / 8
		if err = d.skip(8*t.max + 16); err == nil && d.tag != 0 {
			d.note(perFound{tag: d.tag, off: off, n: int(t.max) + 2})
		}
		return err
	case perSequence:
		return d.sequence(t)
	case perSequenceOf:
		if v, err = d.count(t); err != nil {
			return err
		}
		for ; v > 0 && err == nil; v-- {
			err = d.value(t.root[0].perType)
		}
		return err
	case perChoice:
		return d.choice(t)
	case perHolder:
		return d.open(t.root[0].perType)
	case perStop:
		return errPERStop
	}
	return nil
}

// text walks a string (15, 16, 23, 27).
func (d *per) text(t *perType) error {
	n, err := d.count(t)
	if err != nil {
		return err
	}
	if n > 0 && (t.max == 0 || t.max*uint64(t.unit) > 16) {
		d.align()
	}
	return d.skip(n * uint64(t.unit))
}

// sequence walks a SEQUENCE (18).
func (d *per) sequence(t *perType) error {
	extended := uint64(0)
	var err error
	if t.ext {
		if extended, err = d.bits(1); err != nil {
			return err
		}
	}
	present, err := d.bits(t.opts)
	if err != nil {
		return err
	}
	left := t.opts
	for _, f := range t.root {
		if f.optional {
			left--
			if present>>left&1 == 0 {
				continue
			}
		}
		if err := d.value(f.perType); err != nil {
			return err
		}
	}
	if extended == 0 {
		return nil
	}
	return d.additions(t)
}

// additions walks what is behind the "..." of a SEQUENCE: open types, if they are there.
func (d *per) additions(t *perType) error {
	n, err := d.small()
	if err != nil {
		return err
	}
	n++
	bitmap := d.at
	if err := d.skip(n); err != nil {
		return err
	}
	for i := range int(n) {
		at := bitmap + i
		if d.b[at/8]>>(7-at%8)&1 == 0 {
			continue
		}
		var of *perType
		if i < len(t.more) {
			of = t.more[i]
		}
		if err := d.open(of); err != nil {
			return err
		}
	}
	return nil
}

// small reads a normally small number (10.6). There are none above 63 in what we read.
func (d *per) small() (uint64, error) {
	v, err := d.bits(7)
	if err != nil || v > 63 {
		return 0, errPER
	}
	return v, nil
}

// choice walks a CHOICE (22).
func (d *per) choice(t *perType) error {
	extended := uint64(0)
	var err error
	if t.ext {
		if extended, err = d.bits(1); err != nil {
			return err
		}
	}
	if extended != 0 {
		i, err := d.small()
		if err != nil {
			return err
		}
		if t.says {
			d.note(perFound{tag: t.tag, val: uint64(t.alts) + i})
		}
		var of *perType
		if i < uint64(len(t.more)) {
			of = t.more[i]
		}
		return d.open(of)
	}
	i, err := d.bits(bits.Len(uint(t.alts - 1)))
	if err != nil || i >= uint64(t.alts) {
		return errPER
	}
	if t.says {
		d.note(perFound{tag: t.tag, val: i})
	}
	if i >= uint64(len(t.root)) {
		return errPERStop
	}
	return d.value(t.root[i].perType)
}

// open walks an open type, or an OCTET STRING, that holds a value of type t (10.2). With t
// nil it goes on behind it.
func (d *per) open(t *perType) error {
	n, err := d.length()
	if err != nil {
		return err
	}
	from := d.at
	if err := d.skip(8 * n); err != nil || t == nil {
		return err
	}
	behind, end := d.at, d.end
	d.at, d.end = from, behind
	err = d.value(t)
	d.at, d.end = behind, end
	if errors.Is(err, errPERStop) {
		return nil
	}
	return err
}

// What follows makes types.

// perInt is an INTEGER of lo to hi.
func perInt(lo, hi uint64) *perType { return &perType{kind: perInteger, min: lo, max: hi} }

// perText is a string of lo to hi units, of any number of them if hi is 0.
func perText(unit int, lo, hi uint64) *perType {
	return &perType{kind: perString, unit: unit, min: lo, max: hi}
}

// perOf is a SEQUENCE OF.
func perOf(t *perType) *perType {
	return &perType{kind: perSequenceOf, root: []perField{{t, false}}}
}

// perHolds is an OCTET STRING that holds a value of type t.
func perHolds(t *perType) *perType {
	return &perType{kind: perHolder, root: []perField{{t, false}}}
}

// perSeq is a SEQUENCE of components.
func perSeq(root ...perField) *perType {
	t := &perType{kind: perSequence, root: root}
	for _, f := range root {
		if f.optional {
			t.opts++
		}
	}
	return t
}

// perAlt is a CHOICE of alternatives.
func perAlt(alts ...*perType) *perType {
	t := &perType{kind: perChoice, alts: len(alts)}
	for _, a := range alts {
		t.root = append(t.root, perField{a, false})
	}
	return t
}

// extensible has a SEQUENCE or CHOICE end with "..." and what is known of what is behind that.
func (t perType) extensible(more ...*perType) *perType {
	t.ext, t.more = true, more
	return &t
}

// unread says that there are as many more OPTIONAL components behind those that are known:
// these end with perStop.
func (t perType) unread(opts int) *perType {
	t.opts += opts
	t.root = append(t.root[:len(t.root):len(t.root)], perField{&perType{kind: perStop}, false})
	return &t
}

// of says that a CHOICE has n alternatives, those behind the known ones being of no interest.
func (t perType) of(n int) *perType {
	t.alts = n
	return &t
}

// tagged says that addresses in the type have the tag.
func (t perType) tagged(tag perTag) *perType {
	t.tag, t.says = tag, false
	return &t
}

// saying says that a number or the index of an alternative has the tag, if it is one.
func (t perType) saying(tag perTag) *perType {
	t.tag, t.says = tag, tag != 0
	return &t
}

// perIs and perOpt are components, mandatory and OPTIONAL.
func perIs(t *perType) perField  { return perField{t, false} }
func perOpt(t *perType) perField { return perField{t, true} }

// Simple types.
var (
	perNil   = &perType{kind: perNull}
	perFlag  = &perType{kind: perBool}
	perByte  = perInt(0, 255)
	perWord  = perInt(0, 65535)
	perIndex = perInt(1, 65535)
	perLong  = perInt(0, 1<<32-1)
	perOID   = perText(8, 0, 0)
	perBytes = perText(8, 0, 0)
	perGUID  = perText(8, 16, 16)
	perEnd   = &perType{kind: perStop}
	perIPv4  = &perType{kind: perAddress, max: 4}
	perIPv6  = &perType{kind: perAddress, max: 16}
)

// perNils is a CHOICE of n NULLs.
func perNils(n int) *perType {
	t := &perType{kind: perChoice, alts: n}
	for range n {
		t.root = append(t.root, perField{perNil, false})
	}
	return t
}

// perFlags is an extensible SEQUENCE of n BOOLEANs and one component more.
func perFlags(n int, last *perType) *perType {
	t := perSeq().extensible()
	for range n {
		t.root = append(t.root, perIs(perFlag))
	}
	if last != nil {
		t.root = append(t.root, perIs(last))
	}
	return t
}
