package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/internal/testenv"
)

// TestStartErrors: what keeps a program from starting is one sentence with file, line and
// key, nothing of it is left, and the program that runs already goes on.
func TestStartErrors(t *testing.T) {
	testenv.Root(t)
	box, _ := boxOf(t)
	if err := box.SetUp("lo", true); err != nil {
		t.Fatal(err)
	}
	first := startProgram(t, box, "mode: tap\nports: [{interface: left}]\n")
	first.ready(t)
	var taken net.Listener
	if err := box.Do(func() (err error) { taken, err = net.Listen("tcp", "127.0.0.1:9273"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	const right = "mode: tap\nports: [{interface: right}]\n"
	for _, c := range []struct{ config, want string }{
		{right + "control: " + first.socket + "\n", "x.yaml: line 3: control socket " + first.socket + ": another xdpct serves it"},
		{right + "control: \"\"\n", `x.yaml: line 3: control: the path of a socket is expected, not ""`},
		{right + "control: \"@x\"\n", `x.yaml: line 3: control socket "@x": an abstract socket`},
		{right + "control: none/c\n", "x.yaml: line 3: control socket none/c: open none/c.lock: no such file or directory"},
		{right + "control: c\nmetrics: \"127.0.0.1:9273\"\n", "x.yaml: line 4: metrics: listen tcp 127.0.0.1:9273: bind: address already in use"},
		{right + "control: c\ncpus: [1023]\n", "x.yaml: line 4: cpus: 1023 is offline"},
		{"mode: tap\nports: [{interface: left}]\ncontrol: c\n", "interface left: "},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "x.yaml"), []byte(c.config), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "run", "-c", "x.yaml")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), asProgram+"=1")
		var out lockedBuffer
		cmd.Stderr = &out
		if err := box.Do(cmd.Start); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "xdpct: "+c.want) {
			t.Errorf("%q: %v: %s, want %q", c.config, err, out.String(), c.want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%q: in its folder are %v, %v", c.config, left, err)
		}
		if attached(t, box, "right") || !attached(t, box, "left") {
			t.Errorf("%q: left %v, right %v", c.config, attached(t, box, "left"), attached(t, box, "right"))
		}
		if _, errOut, code := runCLI(t, "count", "--control", first.socket); code != 0 {
			t.Errorf("%q: the first program: %s", c.config, errOut)
		}
	}
}
