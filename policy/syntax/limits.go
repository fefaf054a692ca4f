package syntax

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// What the rules of one family may be. They are more than any machine needs, and few enough
// that a file, whoever wrote it, takes no more than some hundred megabytes and seconds.
const (
	// MaxText is how many bytes a file may have: MaxRules rules as Kubernetes writes them,
	// of 200 bytes each, and some more.
	MaxText = 64 << 20
	// MaxRules is how many rules and chains of their own there may be, all tables together.
	// Nodes of large clusters of Kubernetes have 100,000.
	MaxRules = 1 << 18
	// MaxMatches is how many matches they may have together, four each.
	MaxMatches = 4 * MaxRules
	// maxLine and maxWords are how many bytes and words a line may have: as many as
	// iptables-restore takes (its buffer of 10,240 bytes with the zero; MAX_ARGC).
	maxLine  = 10239
	maxWords = 255
)

// readText reads a file of rules. That of a *bytes.Buffer is not copied.
func readText(r io.Reader, file string) ([]byte, error) {
	if b, ok := r.(*bytes.Buffer); ok && b.Len() <= MaxText {
		return b.Next(b.Len()), nil
	}
	text, err := io.ReadAll(io.LimitReader(r, MaxText+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	if len(text) > MaxText {
		return nil, fmt.Errorf("%s: %w: more than %d bytes of text", file, ErrTooLarge, MaxText)
	}
	return text, nil
}

// ErrTooLarge is the error for rules that are more than there may be.
var ErrTooLarge = errors.New("too many rules")

// CheckSize returns ErrTooLarge if there are more rules than there may be: tables that were
// read one after the other may be too many together.
func (r *Ruleset) CheckSize() error {
	n, matches := 0, 0
	for _, t := range r.Tables {
		for _, c := range t.Chains {
			if n += len(c.Rules); c.own() {
				n++
			}
			for _, rule := range c.Rules {
				matches += len(rule.Matches)
			}
		}
	}
	if n > MaxRules {
		return fmt.Errorf("%w: %d rules and chains in all tables, at most %d", ErrTooLarge, n, MaxRules)
	}
	if matches > MaxMatches {
		return fmt.Errorf("%w: %d matches in all tables, at most %d", ErrTooLarge, matches, MaxMatches)
	}
	return nil
}

// own reports whether a chain is none that its table has by itself.
func (c *Chain) own() bool { return c.Policy == "-" }

func (r *Ruleset) numChains() (n int) {
	for _, t := range r.Tables {
		n += len(t.Chains)
	}
	return n
}

// room says that the rules so far are more than there may be.
func (p *parser) room() *Error {
	switch {
	case p.rulesAndChains > MaxRules:
		return &Error{Column: 1, Msg: fmt.Sprintf("%v: at most %d rules and chains are possible", ErrTooLarge, MaxRules)}
	case p.matches > MaxMatches:
		return &Error{Column: 1, Msg: fmt.Sprintf("%v: at most %d matches are possible, of all rules together", ErrTooLarge, MaxMatches)}
	}
	return nil
}
