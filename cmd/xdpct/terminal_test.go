package main

import (
	"strings"
	"testing"
)

// TestVisible: nothing that a rule has steers a terminal, and text stays text.
func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\n":          "a\tb\n",
		"\x1b[2J\r\x7f":   `\x1b[2J\x0d\x7f`,
		"Gr\u00fc\u00dfe": "Gr\u00fc\u00dfe",
		"\u20ac \u4e00":   "\u20ac \u4e00",
		"\u009b2J":        `\xc2\x9b2J`,
		"\x9b2J":          `\x9b2J`,
	} {
		var b strings.Builder
		if n, err := (&visible{w: &b}).Write([]byte(in)); err != nil || n != len(in) || b.String() != want {
			t.Errorf("%q: %q, want %q (%d, %v)", in, b.String(), want, n, err)
		}
	}
	var b strings.Builder
	v := &visible{w: &b}
	for _, part := range []string{"\xc2", "\x9b", "2J"} {
		if _, err := v.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if want := "\xc2" + `\x9b2J`; b.String() != want {
		t.Errorf("in parts: %q, want %q", b.String(), want)
	}
}
