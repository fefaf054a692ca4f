package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/xdpct/xdpct/internal/testenv"
)

// TestReloadSaysWhat: SIGHUP names the files that were read, and the keys of the
// configuration that say something else than what is in force; a file of rules that was
// named since the start is not.
func TestReloadSaysWhat(t *testing.T) {
	testenv.Root(t)
	box, _ := boxOf(t)
	dir := t.TempDir()
	v4, v6 := filepath.Join(dir, "v4"), filepath.Join(dir, "v6")
	for _, name := range []string{v4, v6} {
		if err := os.WriteFile(name, []byte("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := startProgram(t, box, routerConfig+"rules: {ipv4: "+v4+"}\n")
	p.ready(t)
	hup := func(times int) string {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		read := fmt.Sprintf(`msg="rules reloaded" files=[%s]`, v4)
		testenv.Until(t, read, func() bool { return strings.Count(p.stderr.String(), read) == times })
		return p.stderr.String()
	}
	if said := hup(1); strings.Contains(said, "only files of rules") {
		t.Errorf("it warns although nothing has changed:\n%s", said)
	}
	config := p.cmd.Args[len(p.cmd.Args)-1]
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "rules: {", "settings: {nf_conntrack_max: 5}\nicmp_ratelimit: 7\nrules: {ipv6: "+v6+", ", 1)
	if err := os.WriteFile(config, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	if said := hup(2); !strings.Contains(said, `keys="[icmp_ratelimit rules settings]"`) {
		t.Errorf("it does not name the keys that have changed:\n%s", said)
	}
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	if said := hup(3); !strings.Contains(said, "cannot be compared") {
		t.Errorf("it does not say that the file is gone:\n%s", said)
	}
}
