package policy

import (
	"encoding/binary"
	"slices"
)

// Code is what the rules are for the packets of one direction of a connection in
// one state: the walk over them, with all that is constant decided.
type Code struct {
	hooks [NumHooks][]op
	// Plain says that nothing is left to decide: the packets have a Verdict and add
	// to counters, and nothing else.
	Plain   bool
	Verdict Verdict // valid iff Plain
	counts  []int32 // counters that each packet adds to; valid iff Plain
	seen    Count   // by packets since the last Settle; valid iff Plain

	In, Out int // the interfaces that it is for
}

// op is a step of Code.
type op struct {
	kind   opKind
	rule   *rule
	chain  *chain
	conds  []condition // opTest: all have to hold
	next   int         // opTest: where to go on if not; opGoto: where to go on
	count  int
	result Verdict
}

type opKind uint8

const (
	opCount  opKind = iota // add to a counter
	opTest                 // ask conditions
	opAct                  // do what a target says, and go on
	opGoto                 // go on elsewhere
	opResult               // done
)

// maxOps bounds the Code of a hook: where more is left, walking is as good.
const maxOps = 512

// Clone returns a copy of code that Special has made, which lasts.
func (c *Code) Clone() *Code {
	d := *c
	d.counts = slices.Clone(c.counts)
	for h := range d.hooks {
		d.hooks[h] = slices.Clone(c.hooks[h])
		for i := range d.hooks[h] {
			o := &d.hooks[h][i]
			o.conds = slices.Clone(o.conds)
		}
	}
	return &d
}

// Special makes Code, hook by hook. Most of it is found to be there already, so it is made in
// buffers that the next one is made in again.
type Special struct {
	code  Code
	key   []byte // tells codes apart
	ops   []op   // of the hook under way
	hooks [NumHooks][]op
	conds []condition
	big   bool
	done  bool // a hook before ends in a constant Drop
}

// Begin starts to make Code for packets that come in and go out by the given
// interfaces.
func (s *Special) Begin(in, out int) {
	s.code = Code{Plain: true, Verdict: Accept, In: in, Out: out, counts: s.code.counts[:0]}
	s.key, s.conds, s.big, s.done = s.key[:0], s.conds[:0], false, false
	s.key = binary.AppendVarint(s.key, int64(in))
	s.key = binary.AppendVarint(s.key, int64(out))
}

// Hook adds the rules at a hook. v is a packet like those that the code is for, as
// they are at this hook.
func (s *Special) Hook(p *Program, h Hook, v *View) {
	c := p.hooks[v.P.Family.Index()][h]
	if c == nil || s.done || s.big {
		return
	}
	s.ops = s.hooks[h][:0]
	if s.chain(c, v) {
		s.emit(op{kind: opCount, count: c.count})
		s.emit(op{kind: opResult, result: c.policy})
	}
	s.hooks[h] = s.ops
	if s.big {
		return
	}
	s.code.hooks[h] = s.ops
	s.note(h)
}

// note keeps account of whether all is plain, and of the key.
func (s *Special) note(h Hook) {
	s.key = append(s.key, 0xff, byte(h))
	for i := range s.ops {
		o := &s.ops[i]
		s.key = append(s.key, byte(o.kind), byte(o.result))
		s.key = binary.AppendVarint(s.key, int64(o.count))
		s.key = binary.AppendVarint(s.key, int64(o.next))
		s.key = binary.AppendVarint(s.key, int64(len(o.conds)))
		switch o.kind {
		case opCount:
			s.code.counts = append(s.code.counts, int32(o.count))
		case opResult:
			if s.code.Plain && o.result == Drop {
				s.code.Verdict, s.done = Drop, true
			}
		default:
			s.code.Plain = false
		}
	}
}

// Out returns the interface that the code is for.
func (s *Special) Out() int { return s.code.Out }

// End returns the code, and a key that two codes share if they are the same. ok is
// false if there is too much left of the rules. Both are valid until the next Begin.
func (s *Special) End() (c *Code, key []byte, ok bool) { return &s.code, s.key, !s.big }

func (s *Special) emit(o op) int {
	if len(s.ops) >= maxOps {
		s.big = true
		return 0
	}
	s.ops = append(s.ops, o)
	return len(s.ops) - 1
}

// chain adds the rules of a chain and reports whether a packet may come to its end.
func (s *Special) chain(c *chain, v *View) (falls bool) {
	var ends []int // steps that go on behind the chain
	falls = true
	for i := range c.rules {
		r := &c.rules[i]
		if s.big {
			break
		}
		if !r.base(v) {
			continue
		}
		conds, never := s.left(r, v)
		if never && conds == nil {
			continue
		}
		test := -1
		if len(conds) > 0 {
			test = s.emit(op{kind: opTest, conds: conds, count: r.count})
		}
		ended := false
		if !never {
			ended = s.body(c, r, v, &ends)
		}
		if test >= 0 && !s.big {
			s.ops[test].next = len(s.ops)
			ended = false
		}
		if ended {
			falls = false
			break
		}
	}
	for _, at := range ends {
		if !s.big {
			s.ops[at].next = len(s.ops)
		}
	}
	return falls || len(ends) > 0
}

// body adds what a rule does once it matches, and reports whether that ends the
// walk over its chain.
func (s *Special) body(c *chain, r *rule, v *View, ends *[]int) (ended bool) {
	s.emit(op{kind: opCount, count: r.count})
	if r.jump != nil {
		falls := s.chain(r.jump, v)
		if falls && r.isGoto {
			*ends = append(*ends, s.emit(op{kind: opGoto}))
		}
		return !falls || r.isGoto
	}
	if r.action.do == nil {
		switch r.action.verdict {
		case Continue:
			return false
		case returned:
			*ends = append(*ends, s.emit(op{kind: opGoto}))
		default:
			s.emit(op{kind: opResult, result: r.action.verdict})
		}
		return true
	}
	s.emit(op{kind: opAct, rule: r, chain: c, count: r.count})
	return false
}

// left returns the conditions of a rule that a packet like v has to be asked for.
// never says that it will not match whatever they say; the conditions are then those
// that remember, which are asked all the same.
func (s *Special) left(r *rule, v *View) (conds []condition, never bool) {
	from := len(s.conds)
	for _, c := range r.conds {
		if !c.constant() {
			s.conds = append(s.conds, c)
			continue
		}
		if c.holds(v) {
			continue
		}
		for _, c := range s.conds[from:] {
			if _, ok := c.(stateful); ok {
				return s.conds[from:len(s.conds):len(s.conds)], true
			}
		}
		s.conds = s.conds[:from]
		return nil, true
	}
	return s.conds[from:len(s.conds):len(s.conds)], false
}

// Count lets a packet of so many bytes count for plain code.
func (c *Code) Count(bytes uint32) {
	c.seen.Packets++
	c.seen.Bytes += uint64(bytes)
}

// Settle moves what plain code has counted to the counters of its shard.
func (c *Code) Settle(counts []Count) {
	for _, i := range c.counts {
		if c.Plain {
			counts[i].Packets += c.seen.Packets
			counts[i].Bytes += c.seen.Bytes
		}
	}
	c.seen = Count{}
}

// Run judges a packet at a hook, as Program.Run does.
func (c *Code) Run(h Hook, v *View) Verdict {
	ops := c.hooks[h]
	v.dropped = false
	for at := 0; at < len(ops); {
		o := &ops[at]
		at++
		switch o.kind {
		case opCount:
			v.count(o.count)
		case opTest:
			for _, cond := range o.conds {
				if !cond.holds(v) {
					if v.dropped {
						return Drop
					}
					at = o.next
					break
				}
			}
			if v.dropped { // an inverted match holds of a packet that it drops
				v.count(o.count)
				return Drop
			}
		case opAct:
			if verdict := o.rule.act(v); verdict != Continue {
				return verdict
			}
		case opGoto:
			at = o.next
		case opResult:
			return o.result
		}
	}
	return Accept
}
