package policy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// Parse reads what iptables-save (f is flow.IPv4) or ip6tables-save (flow.IPv6)
// has printed. file is its name in errors. The error joins an *Error for each line
// that was not understood; there is no Ruleset then.
func Parse(r io.Reader, file string, f flow.Family) (*Ruleset, error) {
	p := &parser{file: file, rules: &Ruleset{Family: f}}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		p.n++
		if err := p.line(s.Text()); err != nil {
			err.File, err.Line = file, p.n
			p.errs = append(p.errs, err)
			if len(p.errs) == maxErrors {
				p.errs = append(p.errs, errors.New("and perhaps more"))
				break
			}
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("reading %s, line %d: %w", file, p.n+1, err)
	}
	if p.table != nil {
		p.errs = append(p.errs, &Error{File: file, Line: p.n + 1, Column: 1, Msg: "table " + p.table.Name + " has no COMMIT"})
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return p.rules, nil
}

// maxErrors is how many lines that are wrong are told of.
const maxErrors = 50

type parser struct {
	file  string
	n     int
	rules *Ruleset
	table *Table // nil between tables
	errs  []error
}

func at(t token, format string, args ...any) *Error {
	return &Error{Column: t.column, Token: t.text, Msg: fmt.Sprintf(format, args...)}
}

func (p *parser) line(line string) *Error {
	words, bad := split(line)
	if bad != nil {
		return bad
	}
	if len(words) == 0 || strings.HasPrefix(words[0].text, "#") {
		return nil
	}
	first := words[0]
	switch {
	case strings.HasPrefix(first.text, "*"):
		return p.begin(words)
	case p.table == nil:
		return at(first, "a table (*filter) has to come first")
	case first.text == "COMMIT":
		defer func() { p.table = nil }()
		return p.commit(first)
	case strings.HasPrefix(first.text, ":"):
		return p.chain(words)
	}
	return p.rule(words)
}

func (p *parser) begin(words []token) *Error {
	w := words[0]
	name := strings.TrimPrefix(w.text, "*")
	switch {
	case p.table != nil:
		return at(w, "table %s has no COMMIT", p.table.Name)
	case builtin[name] == nil:
		return at(w, "there is no such table: raw, mangle, nat, filter")
	case p.rules.Table(name) != nil:
		return at(w, "the table is there already")
	}
	p.table = &Table{Name: name}
	p.rules.Tables = append(p.rules.Tables, p.table)
	return nil
}

// chain reads ":NAME POLICY [packets:bytes]".
func (p *parser) chain(words []token) *Error {
	name := token{strings.TrimPrefix(words[0].text, ":"), words[0].column + 1}
	if name.text == "" || len(name.text) > 28 {
		return at(words[0], "the name of a chain has 1..28 bytes")
	}
	if p.table.Chain(name.text) != nil {
		return at(name, "the chain is there already")
	}
	if len(words) < 2 {
		return at(name, "the chain has no policy (- for one of your own)")
	}
	c := &Chain{Name: name.text, Policy: words[1].text}
	isBuiltin := slices.Contains(builtin[p.table.Name], c.Name)
	switch {
	case isBuiltin && c.Policy != "ACCEPT" && c.Policy != "DROP":
		return at(words[1], "the policy of %s is ACCEPT or DROP", c.Name)
	case !isBuiltin && c.Policy != "-":
		return at(words[1], "%s is not a chain of table %s by itself, so it has no policy (-)", c.Name, p.table.Name)
	}
	if len(words) > 2 {
		var err error
		if c.Count, err = parseCount(words[2].text); err != nil {
			return at(words[2], "%v", err)
		}
	}
	if len(words) > 3 {
		return at(words[3], "more than a chain, a policy and counters")
	}
	p.table.Chains = append(p.table.Chains, c)
	return nil
}

// parseCount reads "[packets:bytes]".
func parseCount(s string) (c Count, err error) {
	bad := errors.New("counters are [packets:bytes]")
	inner, ok := strings.CutPrefix(s, "[")
	inner, ok2 := strings.CutSuffix(inner, "]")
	a, b, ok3 := strings.Cut(inner, ":")
	if !ok || !ok2 || !ok3 {
		return c, bad
	}
	if c.Packets, err = strconv.ParseUint(a, 10, 64); err != nil {
		return c, bad
	}
	if c.Bytes, err = strconv.ParseUint(b, 10, 64); err != nil {
		return c, bad
	}
	return c, nil
}

// commit checks what only the whole table tells: that chains exist, and that no
// chain leads back to itself.
func (p *parser) commit(w token) *Error {
	t := p.table
	for _, name := range builtin[t.Name] {
		if t.Chain(name) == nil { // iptables-restore takes it as it is; in a new table that is ACCEPT
			t.Chains = append(t.Chains, &Chain{Name: name, Policy: "ACCEPT"})
		}
	}
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(c *Chain) *Error
	visit = func(c *Chain) *Error {
		state[c.Name] = visiting
		for _, r := range c.Rules {
			if r.jump == "" {
				continue
			}
			next := t.Chain(r.jump)
			switch {
			case next == nil:
				e := at(w, "line %d jumps to a chain that table %s does not have: %s", r.Line, t.Name, r.jump)
				e.Token = ""
				return e
			case state[next.Name] == visiting:
				e := at(w, "line %d makes a loop: chain %s leads back to %s", r.Line, r.jump, c.Name)
				e.Token = ""
				return e
			case state[next.Name] == 0:
				if err := visit(next); err != nil {
					return err
				}
			}
		}
		state[c.Name] = done
		return nil
	}
	for _, c := range t.Chains {
		if state[c.Name] == 0 {
			if err := visit(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// ruleParser reads one rule.
type ruleParser struct {
	family flow.Family
	table  string
	chain  string
	rule   *Rule
	words  []token
	not    *token // a "!" that waits for its option
}

func (p *parser) rule(words []token) *Error {
	r := &Rule{Line: p.n, base: newBase(p.rules.Family)}
	if strings.HasPrefix(words[0].text, "[") {
		var err error
		if r.Count, err = parseCount(words[0].text); err != nil {
			return at(words[0], "%v", err)
		}
		r.Counted = true
		words = words[1:]
	}
	if len(words) == 0 {
		return &Error{Column: 1, Msg: "counters without a rule"}
	}
	if w := words[0]; w.text != "-A" && w.text != "--append" {
		return at(w, "rules begin with -A, as iptables-save prints them")
	}
	if len(words) < 2 {
		return at(words[0], "the chain is missing")
	}
	c := p.table.Chain(words[1].text)
	if c == nil && slices.Contains(builtin[p.table.Name], words[1].text) {
		c = &Chain{Name: words[1].text, Policy: "ACCEPT"}
		p.table.Chains = append(p.table.Chains, c)
	}
	if c == nil {
		return at(words[1], "table %s has no such chain (a line :%s - [0:0] makes one)", p.table.Name, words[1].text)
	}
	rp := &ruleParser{family: p.rules.Family, table: p.table.Name, chain: c.Name, rule: r, words: words[2:]}
	if err := rp.parse(); err != nil {
		return err
	}
	c.Rules = append(c.Rules, r)
	return nil
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
	p.rule.matches = append(p.rule.matches, m)
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
	if p.rule.target != nil || p.rule.jump != "" {
		return at(name, "a rule has one target")
	}
	p.rule.Goto = w.text == "-g" || w.text == "--goto"
	if !p.rule.Goto {
		t, problem := newTarget(name.text, p.family)
		if problem != nil {
			return at(name, "%v", problem)
		}
		if t != nil {
			p.rule.target = t
			return nil
		}
	}
	if slices.Contains(builtin[p.table], name.text) {
		return at(name, "a chain of the table itself cannot be jumped to")
	}
	p.rule.jump = name.text
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
	if g.set {
		return at(w, "given twice")
	}
	if p.not != nil && o.noNot {
		return at(*p.not, "%s cannot be inverted", w.text)
	}
	g.not = p.not != nil
	p.not = nil
	n := o.value.want()
	if len(p.words) < n {
		return at(w, "its argument is missing")
	}
	args := make([]string, n)
	for i := range args {
		args[i] = p.words[i].text
	}
	g.set = true
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
	if len(p.rule.matches) == 0 && p.rule.target == nil {
		return "; is a match (-m) missing before it?"
	}
	return ""
}

func (p *ruleParser) find(name string) (option, bool) {
	if o, ok := pick(p.rule.base.options(), name); ok {
		return o, true
	}
	if p.rule.target != nil {
		if o, ok := pick(p.rule.target.options(), name); ok {
			return o, true
		}
	}
	for _, m := range slices.Backward(p.rule.matches) {
		if o, ok := pick(m.options(), name); ok {
			return o, true
		}
	}
	// -p tcp --dport means -p tcp -m tcp --dport
	if proto, ok := p.rule.base.proto.only(); ok {
		if m := implied(proto, p.family); m != nil && !p.has(m.name()) {
			if _, ok := pick(m.options(), name); ok {
				p.rule.matches = append(p.rule.matches, m)
				return pick(m.options(), name)
			}
		}
	}
	return option{}, false
}

func (p *ruleParser) has(name string) bool {
	return slices.ContainsFunc(p.rule.matches, func(m match) bool { return m.name() == name })
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
	for _, m := range r.matches {
		if err := m.check(r, p); err != nil {
			return whole(fmt.Errorf("match %s: %w", m.name(), err))
		}
	}
	if r.target != nil {
		if err := r.target.check(r, p); err != nil {
			return whole(fmt.Errorf("target %s: %w", r.target.name(), err))
		}
	}
	b := &r.base
	switch {
	case b.in.set && (p.chain == "OUTPUT" || p.chain == "POSTROUTING"):
		return whole(fmt.Errorf("-i has no meaning in %s", p.chain))
	case b.out.set && (p.chain == "INPUT" || p.chain == "PREROUTING"):
		return whole(fmt.Errorf("-o has no meaning in %s", p.chain))
	case b.frag.set && p.family == flow.IPv6:
		return whole(errors.New("-f is for IPv4; IPv6 has -m frag"))
	}
	return nil
}
