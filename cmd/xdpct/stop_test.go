package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// TestTermEndsRouter: SIGTERM ends a router while the kernel changes neighbours and routes
// as fast as it can, rules are read again and again, and a client of the control socket
// takes nothing of its answer; all of that goes on until it has ended (F20, F22).
func TestTermEndsRouter(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "ip")
	var ns [2]*netlab.NS
	for i := range ns {
		var err error
		if ns[i], err = netlab.NewNS(fmt.Sprint("ns", i)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ns[i].Close)
	}
	if err := netlab.Join(netlab.Port{NS: ns[0], Name: "p", Addrs: []string{"10.1.0.1/24"}, Offload: true}, netlab.Port{NS: ns[1], Name: "q", Offload: true}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	rules := "*filter\n:FORWARD ACCEPT [0:0]\n" + strings.Repeat("-A FORWARD -p tcp -m tcp --dport 80 -j ACCEPT\n", 20_000) + "COMMIT\n"
	config := "mode: router\nports:\n  - interface: p\nsettings:\n  nf_conntrack_max: 1000\ncontrol: " + socket + "\nrules:\n  ipv4: rules.v4\n"
	for name, text := range map[string]string{"rules.v4": rules, "xdpct.yaml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "run", "-c", filepath.Join(dir, "xdpct.yaml"))
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns[0].Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()

	var client net.Conn
	testenv.Until(t, "it listens", func() bool {
		c, err := net.Dial("unix", socket)
		client = c
		return err == nil
	})
	defer client.Close()
	if _, err := fmt.Fprintf(client, "GET /v1/rules HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != nil { // the answer has begun, and now nobody takes it
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var flood sync.WaitGroup
	defer flood.Wait()
	defer close(stop)
	flood.Go(func() {
		_ = ns[0].Do(func() error {
			ip := exec.Command("ip", "-force", "-batch", "-")
			in, err := ip.StdinPipe()
			if err != nil {
				return err
			}
			if err := ip.Start(); err != nil {
				return err
			}
			for i := 0; ; i++ {
				select {
				case <-stop:
					_ = in.Close()
					return ip.Wait()
				default:
				}
				fmt.Fprintf(in, "neigh replace 10.1.0.%d lladdr 02:00:00:00:%02x:%02x dev p\nroute replace 20.%d.%d.0/24 via 10.1.0.2\n",
					10+i%200, i>>8&255, i&255, i>>8&255, i&255)
			}
		})
	})
	flood.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond): // the rate
				_ = cmd.Process.Signal(syscall.SIGHUP)
			}
		}
	})
	testenv.Until(t, "rules are read again", func() bool { return strings.Count(out.String(), "rules reloaded") >= 2 })
	began, stalled := time.Now(), testenv.Stalled(t)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		took, busy := time.Since(began), testenv.Stalled(t)-stalled
		t.Logf("it took %v, %v of them the machine was short of CPUs: %v", took, busy, err)
		if took-busy > 2*time.Second {
			t.Error("that is more than two seconds")
		}
		if cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
			t.Errorf("a signal has ended it: %v", err)
		}
	case <-time.After(testenv.Patience):
		t.Errorf("it does not end:\n%s", out.String())
	}
}
