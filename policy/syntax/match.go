package syntax

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// Match is a match of a rule (-m). Its type says which match it is, its fields what
// the rule asks for. It does not change once it is parsed.
type Match interface {
	// Name is the name after -m, as iptables-save prints it.
	Name() string
	options() []option
	// check verifies what only the whole match tells, and fills in what iptables-save
	// prints of its own accord. r is the rule so far, at says where it stands.
	check(r *Rule, at place) error
}

// Target is what a rule does (-j) other than jumping to a chain. It does not change
// once it is parsed.
type Target interface {
	// Name is the name after -j, as iptables-save prints it.
	Name() string
	options() []option
	check(r *Rule, at place) error
}

// place is where a rule stands.
type place struct {
	family flow.Family
	table  string
	chain  string
}

// kind is how a match or target of one name is made.
type kind[T any] struct {
	make  func(f flow.Family) T
	only  flow.Family // 0: for both families
	other string      // what the other family has instead
}

// both is a kind for IPv4 and IPv6.
func both[T any](make func(f flow.Family) T) kind[T] { return kind[T]{make: make} }

// v4 is a kind for IPv4 only; instead is its like for IPv6, if there is one.
func v4[T any](instead string, make func(f flow.Family) T) kind[T] {
	return kind[T]{make, flow.IPv4, instead}
}

// v6 is a kind for IPv6 only; instead is its like for IPv4, if there is one.
func v6[T any](instead string, make func(f flow.Family) T) kind[T] {
	return kind[T]{make, flow.IPv6, instead}
}

func (k kind[T]) of(f flow.Family) (t T, err error) {
	if k.only == 0 || k.only == f {
		return k.make(f), nil
	}
	other := flow.IPv4 + flow.IPv6 - k.only
	if k.other == "" {
		return t, fmt.Errorf("is for %v", k.only)
	}
	return t, fmt.Errorf("is for %v; %v has %s", k.only, other, k.other)
}

// newMatch returns a fresh match of that name for rules of family f.
func newMatch(name string, f flow.Family) (Match, error) {
	if k, ok := matches[name]; ok {
		return k.of(f)
	}
	if why, ok := cannotMatch[name]; ok {
		return nil, errors.New(why)
	}
	return nil, errors.New("there is no such match here (docs/policy.md lists them)")
}

// newTarget returns a fresh target of that name; nil if it is none, so that it may
// be a chain.
func newTarget(name string, f flow.Family) (Target, error) {
	if k, ok := targets[name]; ok {
		return k.of(f)
	}
	if why, ok := cannotTarget[name]; ok {
		return nil, errors.New(why)
	}
	return nil, nil
}

// Matches returns a match of each name that rules of family f may have, without
// options: for tests that each can be compiled.
func Matches(f flow.Family) map[string]Match { return all(matches, f) }

// Targets returns a target of each name that rules of family f may have, without
// options: for tests that each can be compiled.
func Targets(f flow.Family) map[string]Target { return all(targets, f) }

func all[T any](kinds map[string]kind[T], f flow.Family) map[string]T {
	made := map[string]T{}
	for name, k := range kinds {
		if t, err := k.of(f); err == nil {
			made[name] = t
		}
	}
	return made
}

// implied is the match that -p loads by itself.
func implied(p flow.Proto, f flow.Family) Match {
	m, err := newMatch(impliedNames[p], f)
	if err != nil {
		return nil
	}
	return m
}

// given counts the options that were given, and returns their names for a message.
func givenOf(opts []option) (n int, names string) {
	var all []string
	for _, o := range opts {
		if _, alias := o.value.(*setBy); !alias {
			all = append(all, o.name)
		}
		if o.value.state().Set {
			n++
		}
	}
	return n, strings.Join(all, " or ")
}

// atLeastOne is the check of a match that needs an option.
func atLeastOne(opts []option) error {
	if n, names := givenOf(opts); n == 0 {
		return fmt.Errorf("needs %s", names)
	}
	return nil
}

// exactlyOne is the check of a match or target that needs one option, and no more.
func exactlyOne(opts []option) error {
	switch n, names := givenOf(opts); {
	case n == 0:
		return fmt.Errorf("needs %s", names)
	case n > 1:
		return fmt.Errorf("%s exclude each other", names)
	}
	return nil
}

// needsProto is the check of what is for packets of one protocol.
func needsProto(r *Rule, p flow.Proto) error {
	if got, ok := r.Base.Proto.Only(); !ok || got != p {
		return fmt.Errorf("needs -p %v", p)
	}
	return nil
}

// needsTable is the check of a target that is for some tables only.
func needsTable(at place, tables ...string) error {
	if !slices.Contains(tables, at.table) {
		return fmt.Errorf("is for table %s only", strings.Join(tables, ", "))
	}
	return nil
}
