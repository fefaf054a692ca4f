package testenv

import (
	"errors"
	"strings"
	"syscall"
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

// Pending returns how many bytes, up to 64, have come on a connection that were not read
// yet. Unlike a read with a deadline it looks before it gives up.
func Pending(t testing.TB, c syscall.Conn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			n, _, err = syscall.Recvfrom(int(fd), make([]byte, 64), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if errors.Is(err, syscall.EAGAIN) {
				n, err = 0, nil
			}
			return true
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}
