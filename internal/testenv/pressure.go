package testenv

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// Stalled returns for how long, since the machine was started, somebody has had to wait for a
// CPU (/proc/pressure/cpu, "some"). What is to be done within a time by a machine that is
// free may take longer by as much as this has grown. Where the kernel does not say it is 0.
func Stalled(t testing.TB) time.Duration {
	t.Helper()
	f, err := os.Open("/proc/pressure/cpu")
	if err != nil {
		return 0
	}
	defer f.Close()
	var avg [3]float64
	var us int64
	if _, err := fmt.Fscanf(f, "some avg10=%f avg60=%f avg300=%f total=%d", &avg[0], &avg[1], &avg[2], &us); err != nil {
		t.Fatalf("/proc/pressure/cpu: %v", err)
	}
	return time.Duration(us) * time.Microsecond
}
