package syntax

import (
	"bytes"
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
// that was not understood, or says that the rules are too many (MaxText, MaxRules,
// MaxMatches); there is no Ruleset then.
func Parse(r io.Reader, file string, f flow.Family) (*Ruleset, error) {
	text, err := readText(r, file)
	if err != nil {
		return nil, err
	}
	p := newParser(file, f)
	p.read(text)
	if p.misfits() > 0 && p.room() == nil && p.isForeign(text) {
		return nil, &Error{File: file, Line: 1, Column: 1, Msg: foreign(flow.IPv4 + flow.IPv6 - f)}
	}
	if len(p.errs) > 0 {
		return nil, p.problems()
	}
	return p.rules, nil
}

func newParser(file string, f flow.Family) *parser {
	return &parser{file: file, rules: &Ruleset{Family: f}}
}

// read reads a whole file.
func (p *parser) read(text []byte) {
	for line := range bytes.Lines(text) {
		p.n++
		if err := p.room(); err != nil {
			p.fail(err)
			return
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) > maxLine {
			p.fail(&Error{Column: maxLine + 1, Msg: fmt.Sprintf("a line has at most %d bytes, as iptables-restore takes them", maxLine)})
			return
		}
		p.text = string(line)
		if err := p.line(p.text); err != nil {
			p.fail(err)
			if len(p.errs) == maxErrors {
				return
			}
		}
	}
	if p.table != nil {
		p.n++
		p.fail(&Error{Column: 1, Msg: "table " + p.table.Name + " has no COMMIT"})
	}
}

// fail notes what is wrong with the line under way.
func (p *parser) fail(e *Error) {
	e.File, e.Line = p.file, p.n
	p.errs = append(p.errs, e)
}

// misfits is how many lines were not understood, those that were kept as they are
// among them.
func (p *parser) misfits() int { return len(p.errs) + p.kept }

// problems joins the errors, in the order of their lines.
func (p *parser) problems() error {
	slices.SortStableFunc(p.errs, func(a, b *Error) int { return a.Line - b.Line })
	var all []error
	for _, e := range p.errs {
		all = append(all, e)
	}
	if len(all) >= maxErrors {
		all = append(all[:maxErrors], errors.New("and perhaps more"))
	}
	return errors.Join(all...)
}

// maxErrors is how many lines that are wrong are told of.
const maxErrors = 50

type parser struct {
	file   string
	n      int    // of the line
	text   string // of the line
	rules  *Ruleset
	table  *Table  // nil between tables
	doubts []doubt // of the table
	kept   int     // rules that were not understood, in chains that are not applied
	errs   []*Error

	rulesAndChains, matches int // so far, of all tables
}

// doubt is a rule that was not understood. Whether that matters only the whole table
// tells.
type doubt struct {
	rule  *Rule
	chain *Chain
	err   *Error
}

func at(t token, format string, args ...any) *Error {
	return &Error{Column: t.column, Token: t.text, Msg: fmt.Sprintf(format, args...)}
}

func (p *parser) line(line string) *Error {
	if i := strings.IndexByte(line, 0); i >= 0 { // where a line ends for iptables-restore
		return &Error{Column: i + 1, Token: "\x00", Msg: "a line cannot have NUL"}
	}
	words, bad := split(line)
	if bad != nil {
		return bad
	}
	if len(words) > maxWords {
		return &Error{Column: words[maxWords].column, Msg: fmt.Sprintf("a line has at most %d words, as iptables-restore takes them", maxWords)}
	}
	if len(words) == 0 || strings.HasPrefix(words[0].text, "#") {
		return nil
	}
	first := words[0]
	switch {
	case strings.HasPrefix(first.text, "*"):
		return p.begin(words)
	case p.table == nil && (first.text == "table" || first.text == "flush" || first.text == "add" || first.text == "define" || first.text == "include"):
		return at(first, "this is a file of nft: rules are taken as iptables-save prints them (*filter)")
	case p.table == nil:
		return at(first, "a table (*filter) has to come first")
	case first.text == "COMMIT":
		defer func() { p.table = nil }()
		p.commit()
		return nil
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
	p.table, p.doubts = &Table{Name: name}, nil
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
	if c.own() {
		p.rulesAndChains++
	}
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

// commit checks what only the whole table tells: that chains exist, that no chain
// leads back to itself, and whether rules that were not understood are applied.
func (p *parser) commit() {
	t := p.table
	for _, name := range builtin[t.Name] {
		if t.Chain(name) == nil { // iptables-restore takes it as it is; in a new table that is ACCEPT
			t.add(&Chain{Name: name, Policy: "ACCEPT"})
		}
	}
	if len(p.doubts) > 0 {
		var hooks []*Chain
		for _, name := range builtin[t.Name] {
			if !Dormant(t.Name, name) {
				hooks = append(hooks, t.Chain(name))
			}
		}
		applied := t.reach(hooks...)
		for _, d := range p.doubts {
			if !applied[d.chain] {
				d.rule.Why = d.err
				p.kept++
				continue
			}
			d.rule.Jump = "" // one error for the rule; what it jumps to is a guess
			if len(p.errs) < maxErrors {
				p.errs = append(p.errs, d.err)
			}
		}
	}
	if r, msg := t.checkJumps(); msg != "" && len(p.errs) < maxErrors {
		p.errs = append(p.errs, &Error{File: p.file, Line: r.Line, Column: max(r.column, 1), Token: r.Jump, Msg: msg})
	}
}

// reach returns the chains that some chains lead to, themselves included.
func (t *Table) reach(from ...*Chain) map[*Chain]bool {
	seen, next := map[*Chain]bool{}, from
	for len(next) > 0 {
		c := next[len(next)-1]
		next = next[:len(next)-1]
		if seen[c] {
			continue
		}
		seen[c] = true
		for _, r := range c.Rules {
			if to := t.Chain(r.Jump); to != nil {
				next = append(next, to)
			}
		}
	}
	return seen
}

// maxNested is how many chains may lead from one to the next. iptables-nft allows 16.
const maxNested = 256

// checkJumps returns a rule that jumps where it cannot, and why.
func (t *Table) checkJumps() (bad *Rule, msg string) {
	type step struct {
		c    *Chain
		rule int // to look at next
	}
	const visiting = -1
	nested := make(map[*Chain]int, len(t.Chains)) // how many chains follow one another from here
	for _, from := range t.Chains {
		if nested[from] != 0 {
			continue
		}
		nested[from] = visiting
		for path := []step{{from, 0}}; len(path) > 0; {
			at := &path[len(path)-1]
			if at.rule == len(at.c.Rules) {
				for _, r := range at.c.Rules {
					n := nested[t.Chain(r.Jump)]
					if n == maxNested {
						return r, fmt.Sprintf("%d chains lead from here from one to the next: too many", maxNested)
					}
					nested[at.c] = max(nested[at.c], n)
				}
				nested[at.c] = max(nested[at.c], 0) + 1
				path = path[:len(path)-1]
				continue
			}
			r := at.c.Rules[at.rule]
			at.rule++
			next := t.Chain(r.Jump)
			switch {
			case r.Jump == "" || next == nil && r.Why != nil:
			case next == nil && targets[r.Jump].make != nil:
				return r, "is a target, not a chain (-j, not -g)"
			case next == nil:
				return r, t.noSuch(r)
			case nested[next] == visiting:
				return r, fmt.Sprintf("makes a loop: the chain leads back to %s", at.c.Name)
			case nested[next] == 0:
				nested[next] = visiting
				path = append(path, step{next, 0})
			}
		}
	}
	return nil, ""
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
	text := strings.TrimLeft(p.text, " \t")
	if r.Counted {
		_, text, _ = strings.Cut(text, "]")
		text = strings.TrimLeft(text, " \t")
	}
	rp := &ruleParser{place: place{p.rules.Family, p.table.Name, c.Name}, rule: r, words: words[2:]}
	if err := rp.parse(); err != nil {
		err.File, err.Line = p.file, p.n
		kept := &Rule{Line: p.n, Count: r.Count, Counted: r.Counted, text: text, Jump: lenientJump(words[2:])}
		p.doubts = append(p.doubts, doubt{kept, c, err})
		r = kept
	}
	c.Rules = append(c.Rules, r)
	p.rulesAndChains++
	p.matches += len(r.Matches)
	return nil
}

// lenientJump returns the chain that a rule jumps to which was not understood.
func lenientJump(words []token) string {
	for i, w := range words[:max(len(words)-1, 0)] {
		switch w.text {
		case "-j", "--jump", "-g", "--goto":
			return words[i+1].text
		}
	}
	return ""
}
