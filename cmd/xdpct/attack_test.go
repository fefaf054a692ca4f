package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/xdpct/xdpct/control"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/policy/syntax"
)

// resident returns a field of /proc/PID/status, in MiB.
func resident(t *testing.T, pid int, field string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\n"+field+":")
	var kb int
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb >> 10
}

// manyRules makes a file of n rules like those of a node of Kubernetes; number makes them
// differ.
func manyRules(n, number int) string {
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n:SERVICES - [0:0]\n-A FORWARD -j SERVICES\n")
	for i := range n {
		fmt.Fprintf(&b, "-A SERVICES -d 10.96.%d.%d/32 -p tcp -m comment --comment \"default/service-%d cluster IP %d\" -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT\n", i>>8&255, i&255, i, number)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// startRouter starts a router of a namespace of its own, without rules.
func startRouter(t *testing.T, more string) *program {
	t.Helper()
	testenv.Root(t)
	box, _ := boxOf(t)
	rules := t.TempDir() + "/rules.v4"
	if err := os.WriteFile(rules, []byte("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, box, routerConfig+"rules: {ipv4: "+rules+"}\n"+more)
	p.ready(t)
	return p
}

// TestMemoryOfLoads: files of rules, larger than there may be and as large, that are loaded
// again and again take a bounded amount of memory, and what they needed besides is given
// back.
func TestMemoryOfLoads(t *testing.T) {
	if testing.Short() { // which the race detector's run is: it has a memory of its own, and nothing to say here
		t.Skip("skipped with -short: it measures memory; the suite runs it without")
	}
	p := startRouter(t, "settings: {nf_conntrack_max: 1000}\n")
	ctx := context.Background()
	client := control.NewClient(p.socket)
	load := func(text string) error { return client.LoadRules(ctx, nil, strings.NewReader(text)) }
	pid := p.cmd.Process.Pid
	idle := resident(t, pid, "VmRSS")
	// 3.5 million rules, the most that 64 MiB have room for.
	const short = "-A FORWARD -j DROP\n"
	huge := "*filter\n" + strings.Repeat(short, (syntax.MaxText-16)/len(short)) + "COMMIT\n"
	for range 2 {
		if err := load(huge); err == nil || !strings.Contains(err.Error(), "too many rules: at most 262144") {
			t.Fatalf("%v", err)
		}
	}
	const n = 100_000
	for i := range 2 {
		if err := load(manyRules(n, i)); err != nil {
			t.Fatal(err)
		}
	}
	most := resident(t, pid, "VmHWM")
	testenv.Until(t, "for memory to be given back", func() bool { return resident(t, pid, "VmRSS")-idle < 300 })
	with := resident(t, pid, "VmRSS")
	if err := load("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "for the memory of the rules", func() bool { return resident(t, pid, "VmRSS")-idle < 100 })
	t.Logf("MiB: %d at the start, %d at most, %d with %d rules, %d without", idle, most, with, n, resident(t, pid, "VmRSS"))
	if most-idle > 1200 {
		t.Errorf("%d MiB at most, %d at the start", most, idle)
	}
}

// TestAnswersDuringLoads: while many rules are loaded again and again, each listing is
// answered in much less time than a load takes, and metrics are.
func TestAnswersDuringLoads(t *testing.T) {
	p := startRouter(t, "settings: {nf_conntrack_max: 1000}\n")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var loaded atomic.Int64
	var loading sync.WaitGroup
	const loaders, loads = 3, 2
	for k := range loaders {
		loading.Go(func() {
			for i := range loads {
				if err := control.NewClient(p.socket).LoadRules(ctx, nil, strings.NewReader(manyRules(30_000, 10*k+i))); err != nil {
					t.Error(err)
					return
				}
				loaded.Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() { loading.Wait(); close(done) }()
	client := control.NewClient(p.socket)
	began, slowest, rounds := time.Now(), time.Duration(0), 0
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		rounds++
		for _, target := range []string{"/v1/rules?counters=1&family=ipv6", "/v1/flows", "/v1/expectations", "/v1/count", "/v1/stats", "/v1/version"} {
			path, query, _ := strings.Cut(target, "?")
			q, err := url.ParseQuery(query)
			if err != nil {
				t.Fatal(err)
			}
			asked := time.Now()
			if err := client.Lines(ctx, path, q, func([]byte) error { return nil }); err != nil {
				t.Fatalf("%s: %v", target, err)
			}
			slowest = max(slowest, time.Since(asked))
		}
		before := loaded.Load()
		lines := 0
		if err := client.Lines(ctx, "/v1/rules", nil, func([]byte) error { lines++; return nil }); err != nil {
			t.Fatal(err)
		}
		if before > 0 && lines < 30_000 {
			t.Errorf("%d lines of rules after %d loads", lines, before)
		}
	}
	each := time.Since(began) / (loaders * loads)
	t.Logf("%d rounds, the slowest answer after %v; a load takes %v", rounds, slowest, each)
	if rounds < loaders*loads || slowest > each {
		t.Errorf("%d rounds beside %d loads, the slowest answer after %v, a load takes %v", rounds, loaders*loads, slowest, each)
	}
}

// TestTermDuringLoads: SIGTERM ends a router within two seconds that has a table for eight
// million connections, every page of it touched, and 100,000 rules, while it reads others
// after SIGHUP and a client loads some more.
func TestTermDuringLoads(t *testing.T) {
	testenv.Root(t)
	box, _ := boxOf(t)
	rules := t.TempDir() + "/rules.v4"
	if err := os.WriteFile(rules, []byte(manyRules(100_000, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, box, routerConfig+"rules: {ipv4: "+rules+"}\nsettings: {nf_conntrack_max: 8000000}\n")
	testenv.Until(t, "for the program", func() bool {
		n, err := control.NewClient(p.socket).Number(context.Background(), http.MethodGet, "/v1/count", nil)
		return n == 0 && err == nil
	})
	pid := p.cmd.Process.Pid
	if mib := resident(t, pid, "VmRSS"); mib < 1000 {
		t.Errorf("%d MiB are resident: the table is not touched", mib)
	}
	go func() {
		for control.NewClient(p.socket).LoadRules(context.Background(), nil, strings.NewReader(manyRules(100_000, 2))) == nil {
		}
	}()
	cpu := cpuTime(t, pid)
	_ = p.cmd.Process.Signal(syscall.SIGHUP)
	testenv.Until(t, "for the load to be under way", func() bool { return cpuTime(t, pid)-cpu > 300*time.Millisecond })
	began, stalled := time.Now(), testenv.Stalled(t)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case err := <-ended:
		took, busy := time.Since(began), testenv.Stalled(t)-stalled
		t.Logf("it took %v, %v of them the machine was short of CPUs", took, busy)
		if took-busy > 2*time.Second || err != nil {
			t.Errorf("after %v (%v): %v\n%s", took, busy, err, p.stderr.String())
		}
	case <-time.After(testenv.Patience):
		t.Error("it does not end")
	}
}

// cpuTime returns the time that a process has worked for (proc_pid_stat(5)).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest) // the first is number 3, the state
	ticks := 0
	for _, f := range fields[14-3 : 16-3] {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	const hertz = 100 // USER_HZ
	return time.Duration(ticks) * time.Second / hertz
}
