package syntax

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
	p.table.add(c)
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
			t.add(&Chain{Name: name, Policy: "ACCEPT"})
		}
	}
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(c *Chain) *Error
	visit = func(c *Chain) *Error {
		state[c.Name] = visiting
		for _, r := range c.Rules {
			if r.Jump == "" {
				continue
			}
			next := t.Chain(r.Jump)
			switch {
			case next == nil:
				e := at(w, "line %d jumps to a chain that table %s does not have: %s", r.Line, t.Name, r.Jump)
				e.Token = ""
				return e
			case state[next.Name] == visiting:
				e := at(w, "line %d makes a loop: chain %s leads back to %s", r.Line, r.Jump, c.Name)
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

func (p *parser) rule(words []token) *Error {
	r := &Rule{Line: p.n, Base: newBase(p.rules.Family)}
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
		p.table.add(c)
	}
	if c == nil {
		return at(words[1], "table %s has no such chain (a line :%s - [0:0] makes one)", p.table.Name, words[1].text)
	}
	rp := &ruleParser{place: place{p.rules.Family, p.table.Name, c.Name}, rule: r, words: words[2:]}
	if err := rp.parse(); err != nil {
		return err
	}
	c.Rules = append(c.Rules, r)
	return nil
}
