package engine

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// decode decodes a value of YAML into *dst. What is wrong with the value of a key is said
// in the words of YAML, not in those of Go.
func decode(key string, value *yaml.Node, dst any) error {
	err := value.Decode(dst)
	var bad *yaml.TypeError
	if !errors.As(err, &bad) {
		return err
	}
	// the package has its errors as text only
	m := mistyped.FindStringSubmatch(bad.Errors[0])
	if m == nil {
		return fmt.Errorf("%s: %s", key, bad.Errors[0])
	}
	line, tag, text, typ := m[1], m[2], m[3], m[4]
	got := text
	switch tag {
	case "!!seq":
		got = "a list"
	case "!!map":
		got = "a mapping"
	case "!!str":
		got = fmt.Sprintf("%q", text)
	}
	return fmt.Errorf("line %s: %s: %s is expected, not %s", line, key, expected(reflect.TypeOf(dst).Elem(), typ), got)
}

// mistyped is how package yaml says that a value is not of a type: line, tag, value, type.
var mistyped = regexp.MustCompile("(?s)^line (\\d+): cannot unmarshal (\\S+) (?:`(.*)` )?into (.+)$")

// expected says what a value of type t is in YAML; within is the name of t or of the type
// of its keys or elements.
func expected(t reflect.Type, within string) string {
	if t.String() != within {
		switch {
		case t.Kind() == reflect.Map && t.Key().String() == within:
			return "as a key " + expected(t.Key(), within)
		case t.Kind() == reflect.Map || t.Kind() == reflect.Slice:
			return expected(t.Elem(), within)
		}
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return fmt.Sprintf("a number from 0 to %d", uint64(1)<<t.Bits()-1)
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint64:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a mapping of keys to values"
	default:
		return "a text"
	}
}

// UnmarshalYAML decodes the names of the files.
func (f *RuleFiles) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: rules: a key for each family is expected, ipv4: FILE or ipv6: FILE", n.Line)
	}
	return decodeMapping(n, map[string]any{"ipv4": &f.IPv4, "ipv6": &f.IPv6})
}

// UnmarshalYAML decodes a port.
func (p *PortConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return fmt.Errorf("line %d: ports: %q alone is no port; write - interface: %s", n.Line, n.Value, n.Value)
	}
	if err := decodeMapping(n, map[string]any{"interface": &p.Interface, "zone": &p.Zone, "vlans": &p.VLANs}); err != nil {
		return err
	}
	for id := range p.VLANs {
		if id < 1 || id > 4094 {
			return fmt.Errorf("line %d: vlan %d is not from 1 to 4094", lineOf(n, "vlans"), id)
		}
	}
	return nil
}
