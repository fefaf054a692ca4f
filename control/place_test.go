package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPlaces: what can be no control socket is refused, with a reason, at once; what is
// there stays as it was, and nothing comes beside it.
func TestPlaces(t *testing.T) {
	make := map[string]func(path string) error{
		"file":   func(p string) error { return os.WriteFile(p, []byte("precious"), 0o600) },
		"folder": func(p string) error { return os.Mkdir(p, 0o700) },
		"fifo":   func(p string) error { return unix.Mkfifo(p, 0o600) },
		"dangling link": func(p string) error {
			return os.Symlink("nothing", p)
		},
		"link to a socket": func(p string) error {
			l, err := net.Listen("unix", p+".far")
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = l.Close() })
			return os.Symlink(p+".far", p)
		},
		"file by the name of the lock":   func(p string) error { return os.WriteFile(p+lockSuffix, []byte("precious"), 0o640) },
		"link by the name of the lock":   func(p string) error { return os.Symlink("nothing", p+lockSuffix) },
		"folder by the name of the lock": func(p string) error { return os.Mkdir(p+lockSuffix, 0o700) },
		"file beside its own lock": func(p string) error {
			return errors.Join(os.WriteFile(p, nil, 0o600), os.WriteFile(p+lockSuffix, []byte("precious"), 0o600))
		},
		"no folder": func(string) error { return nil },
	}
	for name, want := range map[string]string{
		"file": "no socket", "folder": "no socket", "fifo": "no socket",
		"dangling link": "symbolic link", "link to a socket": "symbolic link",
		"file by the name of the lock": "c.lock: it has contents", "link by the name of the lock": "c.lock: ",
		"folder by the name of the lock": "c.lock: ", "file beside its own lock": "no socket",
		"no folder": "no such file or directory",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "c")
			if name == "no folder" {
				path = filepath.Join(dir, "none", "c")
			}
			if err := make[name](path); err != nil {
				t.Fatal(err)
			}
			before := listing(t, dir)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			began := time.Now()
			l, err := Listen(ctx, path)
			if err == nil {
				_ = l.Close()
			}
			if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
			if d := time.Since(began); d > dyingPatience/2 {
				t.Errorf("it took %v", d)
			}
			if after := listing(t, dir); after != before {
				t.Errorf("before:\n%safter:\n%s", before, after)
			}
		})
	}
}

// listing says what is in a folder.
func listing(t *testing.T, dir string) (s string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		var b []byte
		if info.Mode().IsRegular() {
			b, _ = os.ReadFile(filepath.Join(dir, e.Name()))
		}
		s += fmt.Sprintln(info.Mode(), e.Name(), string(b))
	}
	return s
}

// TestNamesOfSockets: an empty name, an abstract one and a long one are refused, for servers
// and for clients, and nothing is made in the working directory.
func TestNamesOfSockets(t *testing.T) {
	t.Chdir(t.TempDir())
	long := strings.Repeat("x", maxPath)
	for name, want := range map[string]string{
		"": "the name is empty", "@x": "abstract", "@": "abstract", "\x00x": "abstract", "a\x00b": "abstract",
		long + "x": "108 bytes long, at most 107",
	} {
		l, err := Listen(context.Background(), name)
		if err == nil {
			_ = l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
		if _, err := NewClient(name).Number(context.Background(), http.MethodGet, "/v1/count", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a client of %q: %v, want %q", name, err, want)
		}
	}
	if s := listing(t, "."); s != "" {
		t.Errorf("there is\n%s", s)
	}
	l, err := Listen(context.Background(), long)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestModeOfSocket: whatever the umask, the socket and its lock have their modes, the user
// and the group of the process, and the umask is as before.
func TestModeOfSocket(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o777} {
		path := filepath.Join(t.TempDir(), "c")
		old := unix.Umask(mask)
		l, err := Listen(context.Background(), path)
		now := unix.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		if now != mask {
			t.Errorf("the umask %o has become %o", mask, now)
		}
		for name, want := range map[string]os.FileMode{path: 0o660, path + lockSuffix: 0o600} {
			info, err := os.Lstat(name)
			if err != nil {
				t.Fatal(err)
			}
			st := info.Sys().(*syscall.Stat_t)
			if info.Mode().Perm() != want || int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
				t.Errorf("umask %o: %s: %v, %d:%d", mask, name, info.Mode(), st.Uid, st.Gid)
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestManySubscriptions: of two hundred requests for events so many are served as there may
// be, the others are told, and their user may still ask for something else.
func TestManySubscriptions(t *testing.T) {
	path, s, g := at(t, counted{}, ControlLimits)
	var open []net.Conn
	for i := range 200 {
		c := connect(t, path)
		open = append(open, c)
		send(t, c, request("GET /v1/events"))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		switch {
		case err != nil:
			t.Fatalf("reader %d: %v", i, err)
		case i < maxStreams && resp.StatusCode != http.StatusOK:
			t.Fatalf("reader %d: %s", i, resp.Status)
		case i >= maxStreams:
			b, err := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(string(b), errStreams.Error()) || err != nil {
				t.Fatalf("reader %d: %s: %s, %v", i, resp.Status, b, err)
			}
		}
		if n, err := NewClient(path).Number(context.Background(), http.MethodGet, "/v1/count", nil); n != 7 || err != nil {
			t.Fatalf("beside reader %d: %d, %v", i, n, err)
		}
	}
	if st := g.Stats(); st.Refused != 0 || st.Open > ControlLimits.PerOwner {
		t.Errorf("%+v", st)
	}
	for _, c := range open {
		_ = c.Close()
	}
	await(t, func() bool {
		s.streams.mu.Lock()
		defer s.streams.mu.Unlock()
		return len(s.streams.all) == 0 && s.streams.bytes == 0
	})
}

// TestStalledSubscribers: readers of events that take nothing any more are cut off and
// counted when another needs a place; one that reads is not.
func TestStalledSubscribers(t *testing.T) {
	limits := patient
	limits.Stall = 50 * time.Millisecond
	path, s, g := at(t, talker{}, limits)
	stalled := func() (n int) {
		s.streams.mu.Lock()
		defer s.streams.mu.Unlock()
		for x := range s.streams.all {
			if _, is := x.conn.stalled(); is {
				n++
			}
		}
		return n
	}
	for range maxStreams {
		send(t, connect(t, path), request("GET /v1/events"))
	}
	await(t, func() bool { return stalled() == maxStreams })
	const more = 3
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var readers sync.WaitGroup
	for range more {
		read := make(chan struct{}, 1)
		readers.Go(func() {
			err := NewClient(path).Lines(ctx, "/v1/events", nil, func([]byte) error {
				select {
				case read <- struct{}{}:
				default:
				}
				return nil
			})
			if ctx.Err() == nil {
				t.Errorf("it is cut off: %v", err)
			}
		})
		select {
		case <-read:
		case <-time.After(time.Minute):
			t.Fatal("it gets no place")
		}
	}
	if st := g.Stats(); st.Evicted != more || st.Open != maxStreams {
		t.Errorf("%+v", st)
	}
	cancel()
	readers.Wait()
}
