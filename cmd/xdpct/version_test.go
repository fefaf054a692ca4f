package main

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/internal/testenv"
)

// TestVersion: what the linker is told comes first, then what Go knows of the build; it is
// never "(devel)".
func TestVersion(t *testing.T) {
	info := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: settings}
	}
	commit := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"}
	date := debug.BuildSetting{Key: "vcs.time", Value: "2026-11-21T19:05:06Z"}
	dirty := debug.BuildSetting{Key: "vcs.modified", Value: "true"}
	for _, c := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{info("v1.2.3", commit), "v1.2.3"},
		{info("(devel)", commit), "0123456"},
		{info("(devel)", commit, date), "0123456 2026-11-21"},
		{info("(devel)", commit, date, dirty), "0123456+dirty 2026-11-21"},
		{info("v0.0.0-20261121190506-0123456789ab", commit, date), "0123456 2026-11-21"},
		{info("v1.2.4-0.20261121190506-0123456789ab+dirty", commit, date, dirty), "0123456+dirty 2026-11-21"},
		{info("v1.2.3+dirty", commit, date, dirty), "v1.2.3+dirty"},
		{info("v0.0.0-20261121190506-0123456789ab"), "v0.0.0-20261121190506-0123456789ab"}, // go install MODULE@COMMIT
		{info("(devel)"), "unknown"},
		{info(""), "unknown"},
	} {
		if got := versionOf(c.info); got != c.want {
			t.Errorf("%+v: %q, want %q", c.info, got, c.want)
		}
	}
	release = "v9.9.9"
	defer func() { release = "" }()
	if got := version(); got != release {
		t.Errorf("%q, want what the linker was told", got)
	}
}

// TestMakeBuildNamesCommit: a program that `make build` makes in a git repository knows its
// commit, whatever GOFLAGS say; without a repository it is made all the same.
func TestMakeBuildNamesCommit(t *testing.T) {
	testenv.Program(t, "make")
	testenv.Program(t, "git")
	makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"Makefile": string(makefile), "go.mod": "module example.com/x\n\ngo 1.26\n", ".gitignore": "bin\n",
		"cmd/xdpct/main.go": "package main\n\nfunc main() {}\n",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GIT_COMMITTER_DATE=2026-11-21T19:05:06Z", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v: %s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	built := func() string {
		t.Helper()
		run("make", "build")
		info, err := buildinfo.ReadFile(filepath.Join(dir, "bin", "xdpct"))
		if err != nil {
			t.Fatal(err)
		}
		return versionOf(info)
	}
	if got := built(); got != "unknown" {
		t.Errorf("no repository: %q", got)
	}
	run("git", "init", "-q")
	run("git", "add", ".")
	run("git", "-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "-m", "x")
	if got, want := built(), run("git", "rev-parse", "HEAD")[:7]+" 2026-11-21"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
