package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/export"
	"github.com/xdpct/xdpct/flow"
)

// TestWalkNamesFunctions: the functions that the walk of one packet names are there.
func TestWalkNamesFunctions(t *testing.T) {
	doc, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, walk, _ := strings.Cut(string(doc), "## The walk of one packet\n")
	walk, _, _ = strings.Cut(walk, "\n## ")
	methods := map[string]bool{}
	eachFile(t, func(path, _ string, _ []string) {
		f, err := parser.ParseFile(token.NewFileSet(), "../"+path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil {
				continue
			}
			recv := fn.Recv.List[0].Type
			if star, ok := recv.(*ast.StarExpr); ok {
				recv = star.X
			}
			if name, ok := recv.(*ast.Ident); ok {
				methods[name.Name+"."+fn.Name.Name] = true
			}
		}
	})
	named := regexp.MustCompile("`(?:\\w+\\.)?(\\w+\\.\\w+)`").FindAllStringSubmatch(walk, -1)
	if len(named) < 40 {
		t.Errorf("the walk names %d functions", len(named))
	}
	for _, n := range named {
		if !methods[n[1]] {
			t.Errorf("there is no %s", n[1])
		}
	}
}

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
