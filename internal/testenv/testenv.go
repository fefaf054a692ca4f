// Package testenv says what a test needs of the machine. Where it is missing the
// test is skipped by name; in CI (environment variable CI set) it fails, so that
// nothing goes untested unnoticed. It also has what tests wait with.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Missing skips t, or fails it in CI.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is missing, and CI must have it", what)
	}
	t.Skipf("skipped: %s is missing", what)
}

// Root needs the right to make network namespaces and load XDP programs.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root")
	}
}

// Shared returns the path of a file or folder of the test material beside the
// project (../shared), which is optional for users and required in CI.
func Shared(t testing.TB, name string) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(file), "..", "..", "..", "shared", name)
	if _, err := os.Stat(path); err != nil {
		Missing(t, "../shared/"+name)
	}
	return path
}

// Program needs a program on the PATH.
func Program(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		Missing(t, "the program "+name)
	}
}
