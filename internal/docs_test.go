package internal

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// TestDatapathListsReasons: docs/datapath.md has every reason with its meaning,
// and no other.
func TestDatapathListsReasons(t *testing.T) {
	doc, err := os.ReadFile("../docs/datapath.md")
	if err != nil {
		t.Fatal(err)
	}
	for r := flow.NoReason + 1; r < flow.NumReasons; r++ {
		if row := "| `" + r.String() + "` | " + r.Text() + " |"; !strings.Contains(string(doc), row) {
			t.Errorf("docs/datapath.md lacks %s", row)
		}
	}
	rows := regexp.MustCompile("(?m)^\\| `\\w+` \\| ").FindAllString(string(doc), -1)
	if len(rows) != int(flow.NumReasons)-1 {
		t.Errorf("docs/datapath.md lists %d reasons, there are %d", len(rows), flow.NumReasons-1)
	}
}
