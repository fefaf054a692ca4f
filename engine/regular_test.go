package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
)

// TestRulesAreRegularFiles: reading rules waits for nobody: what is no regular file is
// refused by name, and the next one is read.
func TestRulesAreRegularFiles(t *testing.T) {
	dir := t.TempDir()
	fifo, file, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "rules"), filepath.Join(dir, "link")
	const rules = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.WriteFile(file, []byte(rules), 0o600), os.Symlink(fifo, link)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		good bool
	}{{fifo, false}, {link, false}, {dir, false}, {"/dev/zero", false}, {"/dev/null", true}, {file, true}} {
		done := make(chan error, 1)
		go func() {
			_, err := RuleFiles{IPv4: c.name}.Read()
			done <- err
		}()
		select {
		case err := <-done:
			if c.good != (err == nil) || err != nil && !strings.Contains(err.Error(), c.name+": not a regular file") {
				t.Errorf("%s: %v", c.name, err)
			}
		case <-time.After(testenv.Patience):
			t.Fatalf("%s: reading it waits", c.name)
		}
	}
}
