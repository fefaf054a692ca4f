package internal

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/export"
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

// TestMetricsDocument: docs/metrics.md has every metric with its type, labels and meaning,
// and no other.
func TestMetricsDocument(t *testing.T) {
	doc, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := export.Metrics()
	for _, m := range all {
		labels := ""
		if len(m.Labels) > 0 {
			labels = "`" + strings.Join(m.Labels, "`, `") + "`"
		}
		if row := "| `" + m.Name + "` | " + m.Type + " | " + labels + " | " + m.Help + " |\n"; !strings.Contains(string(doc), row) {
			t.Errorf("docs/metrics.md lacks %s", row)
		}
	}
	if rows := regexp.MustCompile("(?m)^\\| `\\w+` \\| ").FindAllString(string(doc), -1); len(rows) != len(all) {
		t.Errorf("docs/metrics.md lists %d metrics, there are %d", len(rows), len(all))
	}
}
