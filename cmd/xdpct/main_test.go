package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
)

// asProgram makes the test binary behave as xdpct itself.
const asProgram = "XDPCT_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	testscript.Main(m, map[string]func(){"xdpct": main})
}

func TestScripts(t *testing.T) { runScripts(t, "testdata/script") }

// TestRootScripts runs what needs root.
func TestRootScripts(t *testing.T) {
	testenv.Root(t)
	runScripts(t, "testdata/root")
}

func runScripts(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			return os.WriteFile(filepath.Join(e.WorkDir, "demo.pcap"), demoCapture, 0o644)
		},
	})
}

// program is xdpct run as a process in a namespace.
type program struct {
	cmd    *exec.Cmd
	stderr lockedBuffer
	socket string
}

// lockedBuffer may be read while it is written to.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func startProgram(t *testing.T, ns *netlab.NS, config string) *program {
	t.Helper()
	return startProgramAt(t, ns, config, filepath.Join(t.TempDir(), "c.sock"))
}

// startProgramAt starts the program with a control socket of that name.
func startProgramAt(t *testing.T, ns *netlab.NS, config, socket string) *program {
	t.Helper()
	p := &program{socket: socket}
	file := filepath.Join(t.TempDir(), "xdpct.yaml")
	if err := os.WriteFile(file, []byte(config+"control: "+p.socket+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0], "run", "-c", file)
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	p.cmd.Stderr = &p.stderr
	if err := ns.Do(p.cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

// ready waits until the program answers.
func (p *program) ready(t *testing.T) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("it says: %s", p.stderr.String())
		}
	}()
	testenv.Until(t, "the program answers", func() bool { _, _, code := runCLI(t, "count", "--control", p.socket); return code == 0 })
}

func attached(t *testing.T, ns *netlab.NS, name string) bool {
	t.Helper()
	link, err := ns.Link(name)
	if err != nil {
		t.Fatal(err)
	}
	x := link.Attrs().Xdp
	return x != nil && x.Attached
}

const bridgeConfig = `mode: bridge
ports:
  - interface: left
  - interface: right
`

// TestProgram starts xdpct in a namespace, uses every command on it, kills it,
// finds nothing left, starts it again at once and ends it properly.
func TestProgram(t *testing.T) {
	testenv.Root(t)
	var ns [3]*netlab.NS
	for i, name := range []string{"box", "a", "b"} {
		var err error
		if ns[i], err = netlab.NewNS(name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ns[i].Close)
	}
	var raw [2]*netlab.Raw
	for i, name := range []string{"left", "right"} {
		if err := netlab.Join(netlab.Port{NS: ns[0], Name: name}, netlab.Port{NS: ns[1+i], Name: "eth0"}); err != nil {
			t.Fatal(err)
		}
		var err error
		if raw[i], err = ns[1+i].OpenRaw("eth0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(raw[i].Close)
	}
	p := startProgram(t, ns[0], bridgeConfig)
	p.ready(t)
	useCommands(t, p, raw[0])

	for range 5 { // the next one starts while the kernel still takes the last one apart
		killed := p
		if err := killed.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		p = startProgramAt(t, ns[0], bridgeConfig, killed.socket)
		p.ready(t)
		_ = killed.cmd.Wait()
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	for _, name := range []string{"left", "right"} {
		testenv.Until(t, "no XDP program is left on "+name, func() bool { return !attached(t, ns[0], name) })
	}
	p = startProgramAt(t, ns[0], bridgeConfig, p.socket)
	p.ready(t)
	if !attached(t, ns[0], "left") {
		t.Error("no XDP program after a restart")
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("SIGTERM: %v: %s", err, p.stderr.String())
	}
	if attached(t, ns[0], "left") {
		t.Error("an XDP program is left after a proper end")
	}
	if _, err := os.Stat(p.socket); err == nil {
		t.Error("the control socket is left after a proper end")
	}
}

func useCommands(t *testing.T, p *program, raw *netlab.Raw) {
	t.Helper()
	events := exec.Command(os.Args[0], "events", "--control", p.socket)
	events.Env = append(os.Environ(), asProgram+"=1")
	var eventsOut lockedBuffer
	events.Stdout = &eventsOut
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	src, dst := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")
	send := func(sport, dport uint16) {
		d := packet.AppendUDP(nil, packet.IP{Src: src, Dst: dst}, sport, dport, nil)
		if err := raw.Send(packet.AppendEthernet(nil, packet.MAC{2, 0, 0, 0, 0, 9}, packet.MAC{2}, d)); err != nil {
			t.Fatal(err)
		}
	}
	// Connections to port 9 are seen when all before has been. The first of them may be
	// sent before the stream is there; behind one that was seen, all are.
	marks := uint16(0)
	seen := func(n uint16) bool {
		return strings.Contains(eventsOut.String(), "[NEW] udp      17 30 src=10.1.0.1 dst=10.1.0.2 sport="+fmt.Sprint(n)+" dport=9 ")
	}
	mark := func() {
		first := marks + 1
		testenv.Until(t, "an event is seen", func() bool {
			for n := first; n <= marks; n++ {
				if seen(n) {
					return true
				}
			}
			marks++
			send(marks, 9)
			return false
		})
		testenv.Until(t, "the last event is seen", func() bool { return seen(marks) })
		testenv.Until(t, "they are removed", func() bool {
			_, _, _ = runCLI(t, "conntrack", "--control", p.socket, "-D", "-p", "udp", "--dport", "9")
			out, _, _ := runCLI(t, "count", "--control", p.socket)
			return out == "0\n"
		})
	}
	mark()
	for port := range uint16(3) {
		send(5000+port, 53)
	}
	d := packet.AppendIP(nil, packet.IP{Src: src, Dst: dst}, 6, []byte{1, 2, 3})
	if err := raw.Send(packet.AppendEthernet(nil, packet.MAC{2, 0, 0, 0, 0, 9}, packet.MAC{2}, d)); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "all is tracked", func() bool {
		count, _, _ := runCLI(t, "count", "--control", p.socket)
		stats, _, _ := runCLI(t, "stats", "--json", "--control", p.socket)
		return count == "3\n" && strings.Contains(stats, `"l4_too_short":1`)
	})
	line := "udp      17 29 src=10.1.0.1 dst=10.1.0.2 sport=5001 dport=53 [UNREPLIED] src=10.1.0.2 dst=10.1.0.1 sport=53 dport=5001 mark=0 use=1\n"
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"list"}, 0, line},
		{[]string{"list", "-e", "-p", "udp"}, 0, "ipv4     2 " + line},
		{[]string{"list", "--json", "-f", "ipv4"}, 0, `"src":"10.1.0.1","dst":"10.1.0.2","sport":5001,"dport":53,"packets":1,"bytes":28}`},
		{[]string{"count"}, 0, "3\n"},
		{[]string{"count", "--json"}, 0, `{"count":3}`},
		{[]string{"get", "-p", "udp", "-s", "10.1.0.2", "-d", "10.1.0.1", "--sport", "53", "--dport", "5001"}, 0, line},
		{[]string{"get", "-p", "tcp", "-s", "10.1.0.2", "-d", "10.1.0.1"}, 1, "no such connection"},
		{[]string{"stats"}, 0, "reason l4_too_short "},
		{[]string{"stats", "--json"}, 0, `"l4_too_short":1`},
		{[]string{"flush", "-p", "tcp"}, 0, ": 0 flow entries have been deleted."},
		{[]string{"flush", "--json"}, 0, `{"flushed":3}`},
		{[]string{"count"}, 0, "0\n"},
	} {
		out, errOut, code := runCLI(t, append(c.args, "--control", p.socket)...)
		if code != c.code || !strings.Contains(out+errOut, c.want) {
			t.Errorf("%v: exit code %d\n%s%s\nwant %d, %q", c.args, code, out, errOut, c.code, c.want)
		}
	}
	mark()
	if err := events.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := events.Wait(); err != nil {
		t.Errorf("events: %v", err)
	}
	for _, kind := range []string{"    [NEW] udp      17 30 ", "[DESTROY] udp      17 "} {
		n := 0
		for line := range strings.Lines(eventsOut.String()) {
			if strings.HasPrefix(line, kind) && strings.Contains(line, " dport=53 ") {
				n++
			}
		}
		if n != 3 {
			t.Errorf("%d events of %q, want 3, in\n%s", n, kind, eventsOut.String())
		}
	}
}

// TestOpenErrors asks for what cannot be had: one clear sentence each, and
// nothing left behind.
func TestOpenErrors(t *testing.T) {
	testenv.Root(t)
	box, err := netlab.NewNS("box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.Close)
	far, err := netlab.NewNS("far")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(far.Close)
	for name, queues := range map[string]int{"one": 1, "two": 2} {
		if err := netlab.Join(netlab.Port{NS: box, Name: name, Queues: queues}, netlab.Port{NS: far, Name: name, Queues: queues}); err != nil {
			t.Fatal(err)
		}
	}
	tun, err := box.OpenTun("three", netlab.TunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Close() })
	for _, c := range []struct{ config, want string }{
		{"mode: tap\nports: [{interface: none}]\n", `line 2: ports: there is no interface "none"`},
		{"mode: bridge\nports: [{interface: one}, {interface: three}]\n", "interface three has no link header"},
		{"mode: bridge\nports: [{interface: one}, {interface: two}]\n", "interface two has 2 receive queues for 1 shards"},
		{"mode: tap\nports: [{interface: two}]\nshards: 1\n", "interface two has 2 receive queues for 1 shards"},
	} {
		p := startProgram(t, box, c.config)
		err := p.cmd.Wait()
		if err == nil || p.cmd.ProcessState.ExitCode() != exitFailed || !strings.Contains(p.stderr.String(), ": "+c.want) {
			t.Errorf("%q: %v: %s, want %q", c.config, err, p.stderr.String(), c.want)
		}
		for _, name := range []string{"one", "two"} {
			if attached(t, box, name) {
				t.Errorf("%q: a program is left on %s", c.config, name)
			}
		}
	}
	// Without privilege: as nobody, in the same namespace.
	p := &program{}
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(os.TempDir(), fmt.Sprintf("xdpct-test-%d", os.Getpid()))
	if err := os.WriteFile(exe, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(exe)
	conf := exe + ".yaml"
	if err := os.WriteFile(conf, []byte("mode: tap\nports: [{interface: one}]\ncontrol: "+exe+".sock\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(conf)
	p.cmd = exec.Command(exe, "run", "-c", conf)
	p.cmd.Env = append(os.Environ(), asProgram+"=1", "HOME=/")
	p.cmd.Dir = "/"
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := box.Do(p.cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err == nil || !strings.Contains(p.stderr.String(), "needs root, or CAP_BPF") {
		t.Errorf("as nobody: %v: %s", err, p.stderr.String())
	}
}
