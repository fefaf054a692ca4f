package soak

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/perf/netlab"
)

// build makes the program. It is built without its profile, so that packages that the
// tests have compiled are not compiled again.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "xdpct")
	args := []string{"build", "-pgo=off", "-o", bin}
	if *raceProgram {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "github.com/xdpct/xdpct/cmd/xdpct")...).CombinedOutput()
	if err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	return bin
}

// tracker is a running xdpct.
type tracker struct {
	*process
	name   string
	ns     *netlab.NS
	bin    string
	dir    string // with its configuration and rules
	socket string
	rules  [2]*ruleText // IPv4, IPv6
	noted  map[string]uint64
	notes  []note // of reasons that are none of this run's
}

// note says that a reason was counted, some time before.
type note struct {
	reason string
	n      uint64
	at     time.Time
}

// metricsPort is where each serves its metrics, in its namespace.
const metricsPort = 9273

// launch starts a tracker with rules, and waits until frames flow.
func (l *lab) launch(t *testing.T, bin, name, mode string, ns *netlab.NS, ports []string, rules [2]*ruleText) *tracker {
	t.Helper()
	x := &tracker{name: name, ns: ns, bin: bin, dir: filepath.Join(l.dir, name), rules: rules}
	must(t, os.Mkdir(x.dir, 0o700))
	x.socket = filepath.Join(x.dir, "control")
	config := fmt.Sprintf("mode: %s\nshards: 2\ncontrol: %s\nmetrics: \":%d\"\nrules: {ipv4: rules.v4, ipv6: rules.v6}\nports:\n", mode, x.socket, metricsPort)
	for _, p := range ports {
		config += "  - interface: " + p + "\n"
	}
	config += "settings: {nf_conntrack_max: 20000}\n"
	must(t, os.WriteFile(filepath.Join(x.dir, "xdpct.yaml"), []byte(config), 0o600))
	for i := range rules {
		must(t, x.writeRules(i, rules[i].variant(0)))
	}
	x.process = l.spawn(t, ns, name+".log", bin, "run", "-c", filepath.Join(x.dir, "xdpct.yaml"))
	await(t, 20*time.Second, name+" is up", func() bool {
		select {
		case <-x.done:
			t.Fatalf("%s has ended", name)
		default:
		}
		_, err := x.cli("count")
		return err == nil
	})
	return x
}

// ruleFile is the name of the file of rules, of IPv4 (0) or IPv6 (1).
func (x *tracker) ruleFile(family int) string {
	return filepath.Join(x.dir, []string{"rules.v4", "rules.v6"}[family])
}

// writeRules replaces the file of rules at once.
func (x *tracker) writeRules(family int, text string) error {
	name := x.ruleFile(family)
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// cli runs a command of the program. An error has what it printed.
func (x *tracker) cli(args ...string) (string, error) {
	args = append(args, "--control", x.socket)
	cmd := exec.Command(x.bin, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("xdpct %s: %w: %s", strings.Join(args, " "), err, &errOut)
	}
	return out.String(), nil
}

// stats are what `xdpct stats --json` prints.
type stats struct {
	Shards []struct {
		Entries, Packets, Fragments uint64
		HandedOver                  uint64 `json:"handed_over"`
	}
	Ports []struct {
		Interface             string
		Received, Transmitted uint64
		TXDown                uint64 `json:"tx_down"`
		TXErrors              uint64 `json:"tx_errors"`
	}
	Reasons map[string]uint64
}

func (x *tracker) stats() (s stats, err error) {
	text, err := x.cli("stats", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &s)
	}
	return s, err
}

// rule is what `xdpct rules show --json` prints of a rule, or of the policy of a chain.
type rule struct {
	Table, Chain, Policy, Text string
	Packets                    uint64
}

func (x *tracker) counts(family int) (all []rule, err error) {
	args := []string{"rules", "show", "--json"}
	if family == 1 {
		args = append(args, "-6")
	}
	text, err := x.cli(args...)
	if err != nil {
		return nil, err
	}
	for d := json.NewDecoder(strings.NewReader(text)); d.More(); {
		var r rule
		if err := d.Decode(&r); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// usage is what a process takes.
type usage struct{ rss, files, threads int } // rss in KiB

func (x *tracker) usage() (u usage, err error) {
	dir := fmt.Sprint("/proc/", x.Process.Pid)
	files, err1 := os.ReadDir(dir + "/fd")
	status, err2 := os.ReadFile(dir + "/status")
	u.files = len(files)
	for line := range strings.SplitSeq(string(status), "\n") {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "VmRSS":
			_, _ = fmt.Sscan(value, &u.rss)
		case "Threads":
			_, _ = fmt.Sscan(value, &u.threads)
		}
	}
	return u, errors.Join(err1, err2)
}

// goroutines ends the process with SIGQUIT, and returns how many goroutines the Go runtime
// then names, and by what functions they were begun.
func (x *tracker) goroutines() (n int, of map[string]int, err error) {
	if !x.stop(unix.SIGQUIT, 10*time.Second) {
		return 0, nil, errors.New("SIGQUIT does not end it")
	}
	text, err := os.ReadFile(x.log)
	if err != nil {
		return 0, nil, err
	}
	_, dump, ok := strings.Cut(string(text), stacks)
	if !ok {
		return 0, nil, errors.New("SIGQUIT printed no stacks")
	}
	of = map[string]int{}
	for _, stack := range strings.Split(dump, "\n\n") {
		if !regexp.MustCompile(`(?m)^goroutine [1-9]`).MatchString(stack) {
			continue
		}
		n++
		by := "main"
		if m := regexp.MustCompile(`created by (\S+)`).FindStringSubmatch(stack); m != nil {
			by = m[1]
		}
		of[by]++
	}
	return n, of, nil
}

// unexpected returns the lines of the log that are neither INFO nor among those that this
// run is meant to bring about.
func (x *tracker) unexpected(expected []string) (bad []string, err error) {
	text, err := os.ReadFile(x.log)
	if err != nil {
		return nil, err
	}
	before, _, _ := strings.Cut(string(text), stacks)
	for line := range strings.SplitSeq(before, "\n") {
		known := line == "" || strings.Contains(line, "level=INFO")
		for _, e := range expected {
			known = known || strings.Contains(line, e)
		}
		if !known {
			bad = append(bad, line)
		}
	}
	return bad, nil
}
