package testenv

import (
	"strings"
	"testing"
	"time"
)

// Agrees waits until compare, which gets the most lines that it may return, finds no
// difference, and fails the test with what it found last if that is not within patience.
func Agrees(t testing.TB, patience time.Duration, after string, compare func(limit int) ([]string, error)) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		diff, err := compare(5)
		if err == nil && len(diff) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s, not equal within %v: %v\n%s", after, patience, err, strings.Join(diff, "\n"))
		}
	}
}
