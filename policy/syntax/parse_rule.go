package syntax

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// ruleParser reads one rule.
type ruleParser struct {
	place
	rule  *Rule
	words []token
	not   *token // a "!" that waits for its option
}

func (p *ruleParser) parse() *Error {
	for len(p.words) > 0 {
		w := p.words[0]
		p.words = p.words[1:]
		var err *Error
		switch w.text {
		case "!":
			if p.not != nil {
				return at(w, "not twice")
			}
			p.not = &w
			continue
		case "-m", "--match":
			err = p.match(w)
		case "-j", "--jump", "-g", "--goto":
			err = p.jump(w)
		case "-c", "--set-counters":
			err = p.counters(w)
		default:
			err = p.option(w)
		}
		if err != nil {
			return err
		}
	}
	if p.not != nil {
		return at(*p.not, "nothing follows")
	}
	return p.check()
}

func (p *ruleParser) argument(w token, what string) (token, *Error) {
	if p.not != nil {
		return w, at(*p.not, "%s cannot be inverted", w.text)
	}
	if len(p.words) == 0 {
		return w, at(w, "%s is missing", what)
	}
	a := p.words[0]
	p.words = p.words[1:]
	return a, nil
}

func (p *ruleParser) match(w token) *Error {
	name, err := p.argument(w, "the name of a match")
	if err != nil {
		return err
	}
	m, problem := newMatch(name.text, p.family)
	if problem != nil {
		return at(name, "%v", problem)
	}
	p.rule.Matches = append(p.rule.Matches, m)
	return nil
}

func (p *ruleParser) counters(w token) *Error {
	packets, err := p.argument(w, "the number of packets")
	if err != nil {
		return err
	}
	bytes, err := p.argument(w, "the number of bytes")
	if err != nil {
		return err
	}
	c, e := parseCount("[" + packets.text + ":" + bytes.text + "]")
	if e != nil {
		return at(packets, "a number is expected")
	}
	p.rule.Count, p.rule.Counted = c, true
	return nil
}

func (p *ruleParser) jump(w token) *Error {
	name, err := p.argument(w, "a target or chain")
	if err != nil {
		return err
	}
	if p.rule.Target != nil || p.rule.Jump != "" {
		return at(name, "a rule has one target")
	}
	p.rule.column = name.column
	p.rule.Goto = w.text == "-g" || w.text == "--goto"
	if !p.rule.Goto {
		t, problem := newTarget(name.text, p.family)
		if problem != nil {
			return at(name, "%v", problem)
		}
		if t != nil {
			p.rule.Target = t
			return nil
		}
	}
	if slices.Contains(builtin[p.table], name.text) {
		return at(name, "a chain of the table itself cannot be jumped to")
	}
	p.rule.Jump = name.text
	return nil
}

// option reads an option of the rule, of its target, or of its matches, the last
// of which comes first.
func (p *ruleParser) option(w token) *Error {
	o, ok := p.find(w.text)
	if !ok {
		if !strings.HasPrefix(w.text, "-") {
			return at(w, "an option is expected")
		}
		return at(w, "unknown option%s", p.hint())
	}
	g := o.value.state()
	if g.Set {
		return at(w, "given twice")
	}
	if p.not != nil && o.noNot {
		return at(*p.not, "%s cannot be inverted", w.text)
	}
	g.Not = p.not != nil
	p.not = nil
	n := o.value.want()
	if len(p.words) < n {
		return at(w, "its argument is missing")
	}
	args := make([]string, n)
	for i := range args {
		args[i] = p.words[i].text
	}
	g.Set = true
	if err := o.value.read(args); err != nil {
		if n > 0 {
			return at(p.words[0], "%s: %v", w.text, err)
		}
		return at(w, "%v", err)
	}
	p.words = p.words[n:]
	return nil
}

func (p *ruleParser) hint() string {
	if len(p.rule.Matches) == 0 && p.rule.Target == nil {
		return "; is a match (-m) missing before it?"
	}
	return ""
}

func (p *ruleParser) find(name string) (option, bool) {
	if p.rule.Target != nil {
		if o, ok := pick(p.rule.Target.options(), name); ok {
			return o, true
		}
	}
	for _, m := range slices.Backward(p.rule.Matches) {
		if o, ok := pick(m.options(), name); ok {
			return o, true
		}
	}
	if o, ok := pick(p.rule.Base.options(), name); ok { // last: -m policy has a --proto of its own
		return o, true
	}
	// -p tcp --dport means -p tcp -m tcp --dport
	if proto, ok := p.rule.Base.Proto.Only(); ok {
		if m := implied(proto, p.family); m != nil && !p.has(m.Name()) {
			if _, ok := pick(m.options(), name); ok {
				p.rule.Matches = append(p.rule.Matches, m)
				return pick(m.options(), name)
			}
		}
	}
	return option{}, false
}

func (p *ruleParser) has(name string) bool {
	return slices.ContainsFunc(p.rule.Matches, func(m Match) bool { return m.Name() == name })
}

func pick(opts []option, name string) (option, bool) {
	for _, o := range opts {
		if o.name == name || slices.Contains(o.aliases, name) {
			return o, true
		}
	}
	return option{}, false
}

// check is what only the whole rule tells.
func (p *ruleParser) check() *Error {
	r := p.rule
	whole := func(err error) *Error { return &Error{Column: 1, Msg: err.Error()} }
	for _, m := range r.Matches {
		if err := m.check(r, p.place); err != nil {
			return whole(fmt.Errorf("match %s: %w", m.Name(), err))
		}
	}
	if r.Target != nil {
		if err := r.Target.check(r, p.place); err != nil {
			return &Error{Column: max(r.column, 1), Msg: fmt.Sprintf("target %s: %v", r.Target.Name(), err)}
		}
	}
	b := &r.Base
	switch {
	case b.In.Set && (p.chain == "OUTPUT" || p.chain == "POSTROUTING"):
		return whole(fmt.Errorf("-i has no meaning in %s", p.chain))
	case b.Out.Set && (p.chain == "INPUT" || p.chain == "PREROUTING"):
		return whole(fmt.Errorf("-o has no meaning in %s", p.chain))
	case b.Frag.Set && p.family == flow.IPv6:
		return whole(errors.New("-f is for IPv4; IPv6 has -m frag"))
	}
	return nil
}
