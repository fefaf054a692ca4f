package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// The capabilities that README names; a router, and generic XDP mode, need CAP_PERFMON besides.
var sufficient = []uintptr{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_IPC_LOCK}

// asNobody starts the program as a user without privilege but for some capabilities, by a
// shell that runs prepare first. said returns what it has said so far.
func asNobody(t *testing.T, ns *netlab.NS, config, prepare string, caps []uintptr) (p *program, said func() string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "xdpct-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	exe, conf := filepath.Join(dir, "xdpct"), filepath.Join(dir, "xdpct.yaml")
	p = &program{socket: filepath.Join(dir, "c.sock")}
	for name, b := range map[string][]byte{exe: binary, conf: fmt.Appendf(nil, "%scontrol: %s\n", config, p.socket)} {
		if err := os.WriteFile(name, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.Command("/bin/sh", "-c", prepare+`; exec "$0" "$@"`, exe, "run", "-c", conf)
	p.cmd.Env = append(os.Environ(), asProgram+"=1", "HOME=/")
	p.cmd.Dir, p.cmd.Stderr = "/", out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: caps}
	if err := ns.Do(p.cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(out.Name())
			t.Logf("%s", b)
		}
	})
	return p, func() string {
		b, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// TestCapabilitiesSuffice bridges, taps and routes as nobody with the capabilities that
// README names, follows a port that goes and comes back, and says nothing of a permission.
func TestCapabilitiesSuffice(t *testing.T) {
	testenv.Root(t)
	for _, mode := range []string{"bridge", "tap", "router"} {
		for _, xdp := range []string{"driver", "generic"} {
			t.Run(mode+"/"+xdp, func(t *testing.T) {
				caps := slices.Clone(sufficient)
				if mode == "router" || xdp == "generic" {
					caps = append(caps, unix.CAP_PERFMON)
				}
				if i, err := os.Stat("/dev/net/tun"); err == nil && i.Mode()&0o006 != 0o006 {
					// udev lets everybody open it; where it did not, be root for that.
					caps = append(caps, unix.CAP_DAC_OVERRIDE)
				}
				h, err := netlab.NewHosts(netlab.HostsOptions{Routed: mode == "router"})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(h.Close)
				p, said := asNobody(t, h.Box, "mode: "+mode+"\nxdp: "+xdp+"\nports: [{interface: left}, {interface: right}]\n", ":", caps)
				p.ready(t)
				if link, err := h.Box.Link("left"); err != nil || h.Box.Netlink().LinkDel(link) != nil {
					t.Fatal("deleting the port left: ", err)
				}
				testenv.Until(t, "the port gone", func() bool { return strings.Contains(said(), "interface is gone") })
				if err := netlab.Join(netlab.Port{NS: h.Box, Name: "left"}, netlab.Port{NS: h.Left, Name: "eth0"}); err != nil {
					t.Fatal(err)
				}
				testenv.Until(t, "the port back", func() bool { return strings.Contains(said(), "interface is back") })
				if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if err := p.cmd.Wait(); err != nil {
					t.Error(err)
				}
				for line := range strings.Lines(said()) {
					// CAP_DAC_OVERRIDE is not kept for running.
					if crutch := len(caps) > len(sufficient) && strings.Contains(line, "/dev/net/tun"); !crutch && (strings.Contains(line, "permitted") || strings.Contains(line, "denied")) {
						t.Error(line)
					}
				}
			})
		}
	}
}

// TestWithoutPerfmon bridges in generic mode without CAP_PERFMON, which it takes to know how
// long segments are: it runs, and says what it cannot do.
func TestWithoutPerfmon(t *testing.T) {
	testenv.Root(t)
	h, err := netlab.NewHosts(netlab.HostsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	p, said := asNobody(t, h.Box, "mode: bridge\nxdp: generic\nports: [{interface: left}, {interface: right}]\n", ":", append(slices.Clone(sufficient), unix.CAP_DAC_OVERRIDE))
	p.ready(t)
	for _, want := range []string{"missing=CAP_PERFMON", "are cut only where they are longer than the MTU"} {
		if !strings.Contains(said(), want) {
			t.Errorf("it does not say %q", want)
		}
	}
}

// TestLockedMemory is without CAP_IPC_LOCK under a limit that is too low: the error says
// what to do.
func TestLockedMemory(t *testing.T) {
	testenv.Root(t)
	h, err := netlab.NewHosts(netlab.HostsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	p, said := asNobody(t, h.Box, "mode: tap\nports: [{interface: left}, {interface: right}]\n", "ulimit -l 64", sufficient[:3])
	if err := p.cmd.Wait(); err == nil {
		t.Fatal("it runs")
	}
	for _, want := range []string{"RLIMIT_MEMLOCK", "is 64 KiB", "ulimit -l", "CAP_IPC_LOCK"} {
		if !strings.Contains(said(), want) {
			t.Errorf("the error does not say %q: %s", want, said())
		}
	}
}
