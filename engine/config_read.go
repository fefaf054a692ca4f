package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// reader reads the value of a key into what it was made for. Its errors name the line, the
// key and what is expected, in the words of YAML. What YAML itself would let pass is
// refused: a key without a value, a key that appears twice, and texts, numbers and booleans
// in place of each other.
type reader func(key string, n *yaml.Node) error

// wrong is the error of a value that is not what is expected.
func wrong(key string, n *yaml.Node, expected string) error {
	got := n.Value
	switch {
	case n.Kind == yaml.SequenceNode:
		got = "a list"
	case n.Kind == yaml.MappingNode:
		got = "a mapping"
	case n.ShortTag() == "!!null":
		got = "nothing"
	case n.ShortTag() == "!!str":
		got = strconv.Quote(n.Value)
	}
	return fmt.Errorf("line %d: %s: %s is expected, not %s", n.Line, key, expected, got)
}

// span is the range of a whole number.
type span struct{ lo, hi int64 }

func (r span) has(v int64) bool { return r.lo <= v && v <= r.hi }

func (r span) String() string { return fmt.Sprintf("a number from %d to %d", r.lo, r.hi) }

// read reads a number in the one form that all take for the same: 0x10 and 1_000 are
// numbers in YAML, 010 is 8 in its older versions.
func (r span) read(n *yaml.Node) (v int64, ok bool) {
	v, err := strconv.ParseInt(n.Value, 10, 64)
	return v, n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" && err == nil && r.has(v) && strconv.FormatInt(v, 10) == n.Value
}

// number reads a number in the range of its key.
func number[T ~int | ~uint16 | ~uint32](dst *T) reader {
	return func(key string, n *yaml.Node) error {
		r := ranges[key]
		v, ok := r.read(n)
		if !ok {
			return wrong(key, n, r.String())
		}
		*dst = T(v)
		return nil
	}
}

func boolean(dst *bool) reader {
	return func(key string, n *yaml.Node) error {
		if n.ShortTag() != "!!bool" || n.Decode(dst) != nil {
			return wrong(key, n, "true or false")
		}
		return nil
	}
}

// text reads a text that is not empty.
func text(dst *string, expected string) reader {
	return func(key string, n *yaml.Node) error {
		switch {
		case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" && n.Value != "":
			*dst = n.Value
			return nil
		case n.Kind == yaml.ScalarNode && n.ShortTag() != "!!str" && n.ShortTag() != "!!null":
			return fmt.Errorf("%w, unless it is in quotes", wrong(key, n, expected))
		}
		return wrong(key, n, expected)
	}
}

// choice reads one of some words.
func choice[T ~string](dst *T, values []T) reader {
	return func(key string, n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" || !slices.Contains(values, T(n.Value)) {
			return wrong(key, n, orList(values))
		}
		*dst = T(n.Value)
		return nil
	}
}

// parsed reads a text, or a number as one, that parse understands.
func parsed[T any](dst *T, expected string, parse func(string) (T, error)) reader {
	return func(key string, n *yaml.Node) error {
		v, err := parse(n.Value)
		if tag := n.ShortTag(); n.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int" || err != nil {
			return wrong(key, n, expected)
		}
		*dst = v
		return nil
	}
}

// list reads a list of what read reads.
func list[T any](dst *[]T, read func(*T) reader) reader {
	return func(key string, n *yaml.Node) error {
		if n.Kind != yaml.SequenceNode {
			return wrong(key, n, "a list")
		}
		*dst = make([]T, len(n.Content))
		for i, c := range n.Content {
			if err := read(&(*dst)[i])(key, aliased(c)); err != nil {
				return err
			}
		}
		return nil
	}
}

// mapping reads a mapping of the keys of fields to their values, of which some are
// required. like is an example.
func mapping(like string, fields map[string]reader, required ...string) reader {
	all := strings.Join(slices.Sorted(maps.Keys(fields)), ", ")
	return func(key string, n *yaml.Node) error {
		seen := map[string]bool{}
		err := eachPair(key, n, "a mapping, like "+like+",", func(k, value *yaml.Node) error {
			read, ok := fields[k.Value]
			if !ok || k.Kind != yaml.ScalarNode {
				return fmt.Errorf("line %d: unknown key %q: there are %s", k.Line, k.Value, all)
			}
			if seen[k.Value] {
				return fmt.Errorf("line %d: key %q appears twice", k.Line, k.Value)
			}
			seen[k.Value] = true
			return read(k.Value, value)
		})
		if err != nil {
			return err
		}
		for _, r := range required {
			if !seen[r] {
				return fmt.Errorf("line %d: %s: key %q is required", n.Line, key, r)
			}
		}
		return nil
	}
}

// eachPair calls do for each key of a mapping.
func eachPair(key string, n *yaml.Node, expected string, do func(k, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		if key == "" {
			key = "the configuration"
		}
		return wrong(key, n, expected)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if err := do(aliased(n.Content[i]), aliased(n.Content[i+1])); err != nil {
			return err
		}
	}
	return nil
}

// aliased returns what an alias stands for, or n.
func aliased(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// origin is where a configuration was read: the name of the file, if there is one, and the
// lines of its keys and of the items of lists, under names like ports[2].
type origin struct {
	file  string
	lines map[string]int
}

func item(key string, n int) string { return fmt.Sprintf("%s[%d]", key, n) }

func originOf(root *yaml.Node) origin {
	o := origin{lines: map[string]int{}}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		o.lines[key.Value] = key.Line
		if value.Kind == yaml.SequenceNode {
			for n, c := range value.Content {
				o.lines[item(key.Value, n+1)] = c.Line
			}
		}
	}
	return o
}

// Locate says in which file and line of the configuration the key stands because of which
// err came about. If the key is not in it, or c was not read, that is err itself.
func (c *Config) Locate(key string, err error) error {
	line, ok := c.origin.lines[key]
	switch {
	case err == nil || !ok:
		return err
	case c.origin.file == "":
		return fmt.Errorf("line %d: %w", line, err)
	}
	return fmt.Errorf("%s: line %d: %w", c.origin.file, line, err)
}

// located does that for errors that know their key.
func (c *Config) located(err error) error {
	var bad *configError
	if !errors.As(err, &bad) {
		return err
	}
	if key := item(bad.key, bad.item); c.origin.lines[key] > 0 {
		return c.Locate(key, err)
	}
	return c.Locate(bad.key, err)
}
