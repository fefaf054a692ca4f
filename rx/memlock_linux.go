package rx

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The kernel charges frame memory to the limit on locked memory (RLIMIT_MEMLOCK) of the
// user, of all of the user's processes together, unless the process has CAP_IPC_LOCK
// (xdp_umem_account_pages). Root as a rule has that, a service with a few capabilities
// has 8 MiB.

// raiseMemlock raises the limit on locked memory as far as the process may: away
// altogether with CAP_SYS_RESOURCE, else to the hard limit.
func raiseMemlock() {
	all := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &all) == nil {
		return
	}
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &l)
	}
}

// memlock says what to do about frame memory of so many bytes that may not be locked.
// Other errors it returns as they are.
func memlock(err error, size int) error {
	if !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	limit := "unknown"
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) == nil {
		limit = fmt.Sprintf("%d KiB", l.Cur>>10)
		if l.Cur == unix.RLIM_INFINITY {
			limit = "none"
		}
	}
	return fmt.Errorf("%w: it is locked in memory, and the limit on that (RLIMIT_MEMLOCK, for all processes of the user) is %s: "+
		"raise it by %d KiB (ulimit -l, LimitMEMLOCK= of systemd), or give the process CAP_IPC_LOCK", err, limit, (size+1023)>>10)
}
