// Package internal holds what supports the tests: the layering rules below,
// the slow reference tracker, random dialogues, and the running kernel.
package internal

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/xdpct/xdpct/"

// mayImport lists, from the bottom up, which packages of this module each
// package may import. A package that is not listed fails the test.
var mayImport = map[string][]string{
	"flow":          {},
	"timerwheel":    {},
	"packet":        {"flow"},
	"l4":            {"flow", "packet"},
	"table":         {"flow", "timerwheel"},
	"shard":         {"flow", "packet", "l4", "table", "timerwheel", "expect", "helper", "nat", "policy", "route", "icmplimit"},
	"rx":            {},
	"rx/capture":    {"packet"},
	"frag":          {"flow", "packet"},
	"engine":        {"flow", "packet", "frag", "l4", "table", "shard", "expect", "helper", "nat", "policy", "policy/syntax", "route", "icmplimit", "mirror", "rx", "rx/capture"},
	"export":        {"flow", "expect"},
	"control":       {"flow", "expect", "export"},
	"conntrack":     {"flow", "export", "control"},
	"expect":        {"flow"},
	"helper":        {"flow"},
	"icmplimit":     {"flow"},
	"nat":           {"flow", "packet"},
	"route":         {"flow"},
	"mirror":        {"flow", "route"},
	"policy":        {"flow", "packet", "nat", "policy/syntax"},
	"policy/syntax": {"flow", "packet"},
	"perf":          {"flow", "packet", "l4", "table", "nat", "policy", "policy/syntax", "shard", "expect", "helper", "rx", "engine"},
	"perf/netlab":   {},
	"perf/wire":     {"flow", "rx", "engine", "perf/netlab"},
	"perf/suite":    {"rx", "engine", "perf", "perf/wire"},
	"cmd/xdpct":     {"flow", "packet", "helper", "shard", "l4", "expect", "nat", "rx", "rx/capture", "engine", "export", "control", "conntrack", "policy", "policy/syntax", "perf", "perf/netlab", "perf/wire"},

	"internal":           {},
	"internal/testenv":   {},
	"internal/reference": {},
	"internal/dialogue":  {"flow", "packet"},
	"internal/cases":     {"flow", "packet"},
	"internal/kernel":    {"flow", "packet", "perf/netlab"},
	"internal/programs":  {},
	"internal/soak":      {"perf/netlab"},
}

// pure packages get time, randomness and frames from outside: nothing in them
// may reach for a clock, a random number, a goroutine's tools or the system.
var (
	pure = []string{"flow", "timerwheel", "packet", "frag", "l4", "nat", "table", "policy", "route", "icmplimit", "expect", "helper", "shard"}
	// hash/maphash draws its seeds itself.
	forbidden = []string{"time", "math/rand", "math/rand/v2", "crypto/rand", "hash/maphash", "os", "net", "sync", "sync/atomic", "io", "log", "log/slog", "context", "syscall"}
	// shared are the files of the pure packages whose data several shards share, and what
	// they import for it: word by word, without a lock, but for the expectations, whose
	// changes have one.
	shared = map[string][]string{
		"flow/grekeys.go":           {"sync/atomic"},
		"nat/directory.go":          {"sync/atomic"},
		"nat/sources.go":            {"sync/atomic"},
		"nat/crowd.go":              {"sync/atomic"},
		"policy/store.go":           {"sync/atomic"},
		"policy/match_hashlimit.go": {"sync/atomic"},
		"policy/match_misc.go":      {"sync/atomic"},
		"policy/match_rate.go":      {"sync/atomic"},
		"policy/match_recent.go":    {"sync/atomic"},
		"icmplimit/icmplimit.go":    {"sync/atomic"},
		"expect/expect.go":          {"sync", "sync/atomic"},
		"expect/table.go":           {"sync", "sync/atomic"},
	}
	// arenaFile is the one file of the pure packages that may map memory.
	arenaFile = filepath.Join("table", "arena_linux.go")
)

func TestLayers(t *testing.T) {
	eachFile(t, func(path, pkg string, imports []string) {
		allowed, ok := mayImport[pkg]
		if !ok {
			t.Errorf("%s: package %s has no place in the layers", path, pkg)
			return
		}
		isTest := strings.HasSuffix(path, "_test.go")
		for _, imp := range imports {
			if own, ok := strings.CutPrefix(imp, module); ok {
				if !slices.Contains(allowed, own) && own != pkg && !isTest {
					t.Errorf("%s imports %s, which is not below %s", path, own, pkg)
				}
				if strings.HasPrefix(own, "internal") && !isTest && !strings.HasPrefix(pkg, "internal") {
					t.Errorf("%s imports %s, which is for tests", path, own)
				}
			}
			if isTest {
				continue
			}
			if slices.Contains(pure, pkg) && slices.Contains(forbidden, imp) && !slices.Contains(shared[path], imp) {
				t.Errorf("%s imports %s: the core gets it from outside", path, imp)
			}
			base := filepath.Base(path)
			unsafeFile := strings.HasSuffix(base, "_unsafe.go")
			linuxFile := unsafeFile || strings.HasSuffix(base, "_linux.go")
			// flow/conn.go measures its struct with unsafe.Sizeof, a constant.
			if imp == "unsafe" && !unsafeFile && path != arenaFile && path != filepath.Join("flow", "conn.go") {
				t.Errorf("%s imports unsafe: only files named _unsafe.go may", path)
			}
			if imp == "golang.org/x/sys/unix" && slices.Contains(append(pure, "rx", "rx/capture"), pkg) && !linuxFile {
				t.Errorf("%s makes system calls: only files named _linux.go or _unsafe.go may", path)
			}
		}
	})
}

// TestSizes holds files to about 600 lines.
func TestSizes(t *testing.T) {
	eachFile(t, func(path, _ string, _ []string) {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join("..", path), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if n := fset.File(f.Pos()).LineCount(); n > 620 {
			t.Errorf("%s has %d lines", path, n)
		}
	})
}

func eachFile(t *testing.T, visit func(path, pkg string, imports []string)) {
	t.Helper()
	n := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range f.Imports {
			s, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, s)
		}
		path = strings.TrimPrefix(path, "../")
		n++
		visit(path, filepath.Dir(path), imports)
		return nil
	})
	if err != nil || n == 0 {
		t.Fatalf("%d files, %v", n, err)
	}
}
