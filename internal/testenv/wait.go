package testenv

import (
	"strings"
	"testing"
	"time"
)

// Patience is how long a test waits for what is to come before it fails: longer than any
// machine takes that is merely busy. What comes earlier is not waited for.
const Patience = time.Minute

// Until waits until a condition holds, and fails t if it does not within Patience. is is
// called by the goroutine of the caller, again and again.
func Until(t testing.TB, what string, is func() bool) {
	t.Helper()
	pause := time.Millisecond
	for deadline := time.Now().Add(Patience); !is(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", Patience, what)
		}
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// Deadline is that of a wait which begins now.
func Deadline() time.Time { return time.Now().Add(Patience) }

// Agrees waits until compare, which takes the number of lines that it returns at most,
// finds no difference. Else it fails t with what differed last.
func Agrees(t testing.TB, after string, compare func(limit int) ([]string, error)) {
	t.Helper()
	var diff []string
	var err error
	defer func() {
		if t.Failed() && (err != nil || len(diff) > 0) {
			t.Logf("after %s: %v\n%s", after, err, strings.Join(diff, "\n"))
		}
	}()
	Until(t, "agreement after "+after, func() bool {
		diff, err = compare(5)
		return err == nil && len(diff) == 0
	})
}
