package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lockSuffix is added to the path of a socket for the file whose lock says who serves
// it. The lock goes with its process, however that ends.
const lockSuffix = ".lock"

// How long Listen waits for a process that has been killed to be gone from the
// kernel, and for a server to answer.
const (
	dyingPatience = 15 * time.Second
	answerTime    = time.Second
	dyingPoll     = 10 * time.Millisecond
)

// Listen creates the control socket, with mode 0660 whatever the umask, and the effective
// user and group of the process. path is at most 107 bytes (sun_path) and no abstract name,
// since sockets without a file have no permissions; what else has that name, or a link, is
// left alone, as is a file with the lock's name that is no lock. A socket that nobody serves
// any more is replaced. One whose server answers is an error at once; one whose server
// does not, since it was killed and is being taken apart, is waited for.
//
// The listener holds a lock on path.lock until it is closed or the process ends.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	return listen(ctx, path, dyingPatience)
}

// maxPath is the longest name of a socket: sun_path, and a zero.
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// checkPath reports why no socket can have that path.
func checkPath(path string) error {
	switch {
	case path == "":
		return errors.New("control socket: the name is empty")
	case path[0] == '@' || strings.ContainsRune(path, 0):
		return fmt.Errorf("control socket %q: an abstract socket has no permissions, so that anybody may serve and use it: name a path", path)
	case len(path) > maxPath:
		return fmt.Errorf("control socket %s: the name is %d bytes long, at most %d are possible", path, len(path), maxPath)
	}
	return nil
}

// checkPlace reports what is in the place of a socket that is none.
func checkPlace(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // or its folder is not there, which is found soon
	case err != nil:
		return err
	case info.Mode().Type() == fs.ModeSymlink:
		return errors.New("there is a symbolic link of that name, which is not followed")
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file of that name that is no socket")
	}
	return nil
}

func listen(ctx context.Context, path string, patience time.Duration) (net.Listener, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if err := checkPlace(path); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	poll := time.NewTicker(dyingPoll)
	defer poll.Stop()
	for deadline := time.Now().Add(patience); ; {
		lock, err := takeLock(path + lockSuffix)
		if err == nil {
			var l net.Listener
			if l, err = bind(path); err == nil {
				return &locked{Listener: l, lock: lock, path: path}, nil
			}
			if !errors.Is(err, errServed) {
				_ = os.Remove(path + lockSuffix)
			}
			_ = lock.Close()
		}
		if !errors.Is(err, errServed) {
			return nil, fmt.Errorf("control socket %s: %w", path, err)
		}
		if answers(ctx, path) {
			return nil, fmt.Errorf("control socket %s: another xdpct serves it", path)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("control socket %s: another process (%s) holds it, and does not answer", path, holder(path))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-poll.C:
		}
	}
}

// errServed says that a process has the socket, alive or not.
var errServed = errors.New("it is in use")

// takeLock locks a file. It is made sure that the file is the one that has the name,
// since its last owner removes it.
func takeLock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		var have, named os.FileInfo
		if have, err = f.Stat(); err == nil && (!have.Mode().IsRegular() || have.Size() > 0) {
			err = errors.New("it has contents, so it is no lock of a control socket")
		} else if err == nil {
			if named, err = os.Lstat(name); err == nil && os.SameFile(have, named) {
				return f, f.Chmod(0o600) // whatever the umask
			}
			err = unix.EWOULDBLOCK // its last owner removed it just now
		}
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errServed
	}
	return nil, fmt.Errorf("locking %s: %w", name, err)
}

// bind makes the socket in place of one that nobody listens on.
func bind(path string) (net.Listener, error) {
	conn, err := net.DialTimeout("unix", path, answerTime)
	if err == nil {
		_ = conn.Close()
		return nil, errServed
	}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errServed // its queue is full: there is somebody
	}
	if err := checkPlace(path); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	old := unix.Umask(0o117) // the socket is born with mode 0660
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	return l, err
}

// answers reports whether somebody behind the socket answers requests.
func answers(ctx context.Context, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	c := NewClient(path)
	defer c.http.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://xdpct/v1/version", nil)
	if err != nil {
		return false
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil
}

// holder names the process that listens on a socket, as far as that can be said.
func holder(path string) string {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return "unknown"
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return "unknown"
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return "unknown"
	}
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cred.Pid))
	return fmt.Sprintf("%d %s", cred.Pid, strings.TrimSpace(string(name)))
}

// locked is a listener whose socket nobody else may have.
type locked struct {
	net.Listener
	lock *os.File
	path string
	once sync.Once
}

// Close removes the socket and then gives up the lock.
func (l *locked) Close() (err error) {
	l.once.Do(func() { // later the names may be another's
		err = errors.Join(l.Listener.Close(), os.Remove(l.path+lockSuffix), l.lock.Close())
	})
	return err
}
