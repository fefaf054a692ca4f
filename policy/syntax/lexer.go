package syntax

import (
	"fmt"
	"strings"
)

// Error is what is wrong with a line of rules.
type Error struct {
	File   string // as given to Parse
	Line   int    // from 1
	Column int    // from 1, in bytes; of the token
	Token  string // that was not understood, "" if the line lacks something
	Msg    string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.problem())
}

// problem is the error without its place.
func (e *Error) problem() string {
	if e.Token == "" {
		return e.Msg
	}
	return fmt.Sprintf("%q: %s", e.Token, e.Msg)
}

// token is a word of a line.
type token struct {
	text   string
	column int
}

// split cuts a line into words as iptables-restore does: words end at blanks,
// double quotes keep them together, and within quotes a backslash takes the next
// character as it is.
func split(line string) (words []token, bad *Error) {
	var b strings.Builder
	quoted, escaped, open := false, false, false
	start := 0
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case escaped:
			b.WriteByte(c)
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			if !open {
				start = i
			}
			quoted, open = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\r'):
			if open {
				words = append(words, token{b.String(), start + 1})
				b.Reset()
			}
			open = false
		default:
			if !open {
				start = i
			}
			b.WriteByte(c)
			open = true
		}
	}
	if quoted {
		return nil, &Error{Column: start + 1, Token: line[start:], Msg: "the quotation is not closed"}
	}
	if open {
		words = append(words, token{b.String(), start + 1})
	}
	return words, nil
}

// chainName returns the name of a chain as iptables-save prints it: as it is. One that would
// not be read back that way, which iptables-restore does not take from iptables-save either,
// is quoted.
func chainName(s string) string {
	if strings.ContainsAny(s, "\" \t\r") {
		return quote(s)
	}
	return s
}

// quote returns a word as iptables-save prints it (xtables_save_string).
func quote(s string) string {
	plain := s != ""
	for i := 0; i < len(s) && plain; i++ {
		c := s[i]
		plain = c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	if plain {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == '"' || c == '\\' || c == '\'' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
	return b.String()
}
