package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// TestSignals: SIGTERM and SIGINT end a command at once, whatever it waits for; those
// that print a stream end well.
func TestSignals(t *testing.T) {
	dir := t.TempDir()
	silent := filepath.Join(dir, "silent.sock") // accepts, and answers nothing
	l, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	stream := filepath.Join(dir, "stream.sock") // answers, and never ends
	sl, err := net.Listen("unix", stream)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 100)
	go func() {
		_ = http.Serve(sl, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			asked <- struct{}{}
			<-r.Context().Done()
		}))
	}()
	t.Cleanup(func() { _ = sl.Close() })

	for _, c := range []struct {
		args string
		ends bool // with status 0
	}{
		{"rules check -", false},
		{"rules load --control " + silent + " -", false},
		{"list --control " + silent, false},
		{"stats --control " + silent, false},
		{"conntrack --control " + silent + " -L", false},
		{"conntrack -R - --control " + silent, false},
		{"events --control " + stream, true},
		{"conntrack --control " + stream + " -E", true},
	} {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
			cmd := exec.Command(os.Args[0], strings.Fields(c.args)...)
			cmd.Env = append(os.Environ(), asProgram+"=1")
			in, err := cmd.StdinPipe() // what reads it waits
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			switch {
			case c.ends:
				<-asked
			case strings.Contains(c.args, silent) && !strings.HasSuffix(c.args, "-") && !strings.Contains(c.args, "-R"):
				conn, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
			default: // it reads all of this only if it has begun
				if _, err := io.WriteString(in, strings.Repeat("# a comment\n", 20_000)); err != nil {
					t.Fatal(err)
				}
			}
			_ = cmd.Process.Signal(sig)
			watch := time.AfterFunc(testenv.Patience, func() { _ = cmd.Process.Kill() })
			err = cmd.Wait()
			if !watch.Stop() {
				t.Errorf("%s: %v is ignored", c.args, sig)
				continue
			}
			st := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if c.ends && err != nil || !c.ends && (!st.Signaled() || st.Signal() != sig) {
				t.Errorf("%s: %v: %v: %s", c.args, sig, cmd.ProcessState, out.String())
			}
		}
	}
}

// TestBrokenPipe: a reader that has enough is no error to speak of.
func TestBrokenPipe(t *testing.T) {
	for _, args := range []string{"settings", "--help", "replay --verdicts ../../cmd/xdpct/demo.pcap"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		cmd := exec.Command(os.Args[0], strings.Fields(args)...)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		var errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = w, &errOut
		err = cmd.Run()
		_ = w.Close()
		if err == nil || errOut.Len() > 0 {
			t.Errorf("%s: %v: %s", args, err, errOut.String())
		}
	}
}

// TestMetricsOwner: the users at the other end of a loopback connection are told apart.
func TestMetricsOwner(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		uid, err := ownerOf(s.RemoteAddr().(*net.TCPAddr), s.LocalAddr().(*net.TCPAddr))
		if err != nil || int(uid) != os.Getuid() {
			t.Errorf("%s: uid %d, %v", address, uid, err)
		}
	}
}

// TestMetricsLimits: thousands of idle connections cost no more than the limit, and a
// scrape is served among them.
func TestMetricsLimits(t *testing.T) {
	testenv.Root(t)
	ns, err := netlab.NewNS("metrics")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	if err := ns.SetUp("lo", true); err != nil {
		t.Fatal(err)
	}
	var m *metricsServer
	if err := ns.Do(func() (err error) { m, err = listenMetrics(":0"); return err }); err != nil {
		t.Fatal(err)
	}
	s := m.server(&tracker{Engine: nil})
	s.Handler = http.NotFoundHandler()
	m.guard.Protect(s)
	go func() { _ = s.Serve(m.guard) }()
	t.Cleanup(func() { _ = s.Close() })
	dial := func() (c net.Conn, err error) {
		err = ns.Do(func() error { c, err = net.Dial("tcp", m.guard.Addr().String()); return err })
		return c, err
	}
	for range 3000 {
		c, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial() }}}
	resp, err := client.Get("http://" + m.guard.Addr().String() + "/metrics")
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
	if st := m.guard.Stats(); st.Open > control.MetricsLimits.PerOwner || st.Accepted < 3000 || st.Evicted == 0 {
		t.Errorf("%+v", st)
	}
}
