package cases

import (
	"strings"
	"testing"
)

// TestVerdictText reads back what String prints.
func TestVerdictText(t *testing.T) {
	for _, text := range []string{
		"nothing", "nothing SYN_SENT", "INVALID", "NEW SYN_SENT", "ESTABLISHED reply seen", "RELATED reply",
		"ESTABLISHED seen assured ESTABLISHED", "UNTRACKED",
	} {
		v, err := parseVerdict(text)
		if err != nil || v.String() != text {
			t.Errorf("%q is read as %q, %v", text, v, err)
		}
	}
}

// TestBadCases holds errors to naming the line.
func TestBadCases(t *testing.T) {
	for _, text := range []string{
		"a tcp S 0 = NEW", "case x\na tcp S 0", "case x\nc tcp S 0 = NEW", "case x\na tcp = NEW", "case x\na tcp X 0 = NEW",
		"case x\na tcp S 0 = MAYBE", "case x\na tcp S 0 = NEW perhaps", "case x\na tcp S 0 win = NEW", "case x\na udp len x = NEW",
		"case x\na error = NEW", "case x\na error none = NEW", "case x\na sctp 1 = NEW", "case x\na sctp 1 INIT = NEW",
		"case x\na ip 300 00 = NEW", "case x\na fragment 1 0 8 udp = NEW",
	} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.HasPrefix(err.Error(), "line ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
