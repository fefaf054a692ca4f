package syntax

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// TestRealFiles gives iptables what firewalls that people have are made of: the four
// scripts of the iptables tutorial, re-created from its description, and what Docker,
// a Kubernetes node and firewalld load. What iptables then saves loads here, and is
// printed back as it was.
func TestRealFiles(t *testing.T) {
	testenv.Root(t)
	files, err := filepath.Glob("testdata/files/*")
	if err != nil || len(files) < 7 {
		t.Fatal(files, err)
	}
	for _, program := range []string{"iptables-nft", "iptables-legacy"} {
		testenv.Program(t, program)
		for _, file := range files {
			t.Run(program+"/"+filepath.Base(file), func(t *testing.T) {
				ns, err := netlab.NewNS("rules")
				if err != nil {
					t.Fatal(err)
				}
				defer ns.Close()
				var saved []byte
				if err := ns.Do(func() error {
					load(t, program, file)
					saved, err = exec.Command(program+"-save", "-c").Output()
					return err
				}); err != nil {
					t.Fatal(err)
				}
				identity(t, saved)
			})
		}
	}
	ufw, err := os.ReadFile(testenv.Shared(t, "rules/ufw-v4.rules"))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("ufw", func(t *testing.T) { identity(t, ufw) })
}

// load gives a program a file of commands, or of rules, as its name says.
func load(t *testing.T, program, file string) {
	t.Helper()
	if filepath.Ext(file) != ".commands" {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program + "-restore")
		cmd.Stdin = bytes.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s does not take it: %v: %s", program, err, out)
		}
		return
	}
	for _, line := range lines(t, file) {
		words, _ := split(line)
		var args []string
		for _, w := range words {
			args = append(args, w.text)
		}
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v: %s", program, line, err, out)
		}
	}
}

// identity checks that rules load, and are printed and read back the same.
func identity(t *testing.T, saved []byte) {
	t.Helper()
	r, err := Parse(bytes.NewReader(saved), "saved", flow.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	if err := r.WriteTo(&printed, true); err != nil {
		t.Fatal(err)
	}
	same(t, "printed", printed.String(), bare(saved))
	again, err := Parse(strings.NewReader(printed.String()), "printed", flow.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	if d := Diff(r, again); len(d) > 0 {
		t.Errorf("read back it is different: %q", d)
	}
}
