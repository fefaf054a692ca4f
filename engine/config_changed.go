package engine

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Files returns the names of the files that there are.
func (f RuleFiles) Files() []string {
	return slices.DeleteFunc([]string{f.IPv4, f.IPv6}, func(name string) bool { return name == "" })
}

// Changed reads the file that c was read from again, and returns the keys whose values are
// no longer those of c, in alphabetical order. It returns none if c is not from a file.
func (c *Config) Changed() ([]string, error) {
	if c.origin.file == "" {
		return nil, nil
	}
	now, err := LoadConfig(c.origin.file)
	if err != nil {
		return nil, err
	}
	keys := map[string]bool{}
	differ(reflect.ValueOf(*c), reflect.ValueOf(now), keys)
	return slices.Sorted(maps.Keys(keys)), nil
}

// differ collects the keys of the fields of two structs in which these are not the same.
// Settings have no keys of their own there; theirs is that of all.
func differ(a, b reflect.Value, keys map[string]bool) {
	for i := range a.NumField() {
		tag := a.Type().Field(i).Tag.Get("yaml")
		switch key, _, _ := strings.Cut(tag, ","); {
		case tag == ",inline":
			differ(a.Field(i), b.Field(i), keys)
		case key != "" && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()):
			keys[key] = true
		}
	}
}
