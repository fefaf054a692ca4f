package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdpct/xdpct/conntrack"
	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/kernel"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/perf/netlab"
)

// twins are the kernel's tracker and xdpct, each between two hosts of its own.
type twins struct {
	oracle *kernel.Oracle
	raw    [2]*netlab.Raw
	socket string
	marks  int
}

func newTwins(t *testing.T) *twins {
	t.Helper()
	return newTwinsOf(t, engine.Bridge, 2, engine.RuleFiles{})
}

// newTwinsOf makes twins with xdpct in a mode, with so many queues, and with rules.
func newTwinsOf(t *testing.T, mode engine.Mode, queues int, rules engine.RuleFiles) *twins {
	t.Helper()
	testenv.Root(t)
	testenv.Program(t, "conntrack")
	w := &twins{socket: filepath.Join(t.TempDir(), "c.sock")}
	var err error
	if w.oracle, err = kernel.NewOracle(map[string]string{"nf_conntrack_acct": "1"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.oracle.Close)
	box, err := netlab.NewNS("twin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.Close)
	cfg := engine.DefaultConfig()
	cfg.Mode, cfg.Control, cfg.Rules = mode, w.socket, rules
	cfg.Settings.Acct, cfg.Settings.Max = true, 10_000
	for i, name := range []string{"left", "right"} {
		host, err := netlab.NewNS(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(host.Close)
		for _, ns := range []*netlab.NS{box, host} {
			if err := ns.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
				t.Fatal(err)
			}
		}
		if err := netlab.Join(netlab.Port{NS: box, Name: name, Queues: queues}, netlab.Port{NS: host, Name: "eth0", Queues: queues}); err != nil {
			t.Fatal(err)
		}
		if w.raw[i], err = host.OpenRaw("eth0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.raw[i].Close)
		cfg.Ports = append(cfg.Ports, engine.PortConfig{Interface: name})
	}
	w.start(t, box, cfg)
	return w
}

// start runs an engine and its control socket until the test ends.
func (w *twins) start(t *testing.T, box *netlab.NS, cfg engine.Config) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	open := func(cfg engine.Config, log *slog.Logger) (e *engine.Engine, err error) {
		if failed := box.Do(func() error { e, err = engine.Open(cfg, log); return nil }); failed != nil {
			return nil, failed
		}
		return e, err
	}
	go func() {
		ended <- serve(ctx, cfg, slog.New(slog.DiscardHandler), open, func() { close(ready) })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
}

// send sends an IP datagram from a side through both.
func (w *twins) send(t *testing.T, from kernel.Side, d []byte) {
	t.Helper()
	if _, ok, err := w.oracle.Send(from, d); err != nil || !ok {
		t.Fatalf("the kernel forwarded: %v, %v", ok, err)
	}
	if err := w.raw[from].Send(packet.AppendEthernet(nil, macLeft, macRight, d)); err != nil {
		t.Fatal(err)
	}
	f, err := w.raw[1-from].Recv(testenv.Patience)
	if err != nil || f == nil {
		t.Fatalf("xdpct forwarded nothing, %v", err)
	}
}

var macLeft, macRight = packet.MAC{2, 0, 0, 0, 0, 1}, packet.MAC{2, 0, 0, 0, 0, 2}

// traffic makes connections of every protocol and state.
func (w *twins) traffic(t *testing.T) {
	t.Helper()
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		ab := packet.IP{Src: kernel.A.Host(1, f), Dst: kernel.B.Host(1, f)}
		ba := packet.IP{Src: ab.Dst, Dst: ab.Src}
		tcp := func(from kernel.Side, port uint16, flags packet.TCPFlags, seq, ack uint32, n int) {
			s := packet.Segment{Seq: seq, Ack: ack, Flags: flags, Window: 65535, Payload: make([]byte, n)}
			if from == kernel.A {
				w.send(t, from, packet.AppendTCP(nil, ab, port, 80, s))
			} else {
				w.send(t, from, packet.AppendTCP(nil, ba, 80, port, s))
			}
		}
		for port := uint16(1000); port < 1004; port++ {
			tcp(kernel.A, port, packet.SYN, 1, 0, 0)
			if port > 1000 {
				tcp(kernel.B, port, packet.SYN|packet.ACK, 1, 2, 0)
			}
			if port > 1001 {
				tcp(kernel.A, port, packet.ACK, 2, 2, 100)
			}
			if port > 1002 {
				tcp(kernel.B, port, packet.FIN|packet.ACK, 2, 102, 0)
			}
		}
		w.send(t, kernel.A, packet.AppendUDP(nil, ab, 2000, 53, []byte("question")))
		w.send(t, kernel.A, packet.AppendUDP(nil, ab, 2001, 53, []byte("question")))
		w.send(t, kernel.B, packet.AppendUDP(nil, ba, 53, 2001, []byte("answer")))
		query, reply := uint8(8), uint8(0)
		if f == flow.IPv6 {
			query, reply = 128, 129
		}
		w.send(t, kernel.A, packet.AppendICMP(nil, ab, query, 0, 7<<16, []byte("ping")))
		w.send(t, kernel.B, packet.AppendICMP(nil, ba, reply, 0, 7<<16, []byte("ping")))
		init := append([]byte{0, 0, 0, 9}, make([]byte, 12)...)
		w.send(t, kernel.A, packet.AppendSCTP(nil, ab, 3000, 3868, 0, packet.AppendChunk(nil, 1, 0, init)))
		w.send(t, kernel.B, packet.AppendSCTP(nil, ba, 3868, 3000, 9, packet.AppendChunk(nil, 2, 0, init)))
		w.send(t, kernel.A, packet.AppendIP(nil, ab, flow.GRE, []byte{0x30, 1, 0x88, 0x0b, 0, 4, 0, 77, 1, 2, 3, 4}))
		w.send(t, kernel.A, packet.AppendIP(nil, ab, 89, []byte("hello")))
	}
}

var (
	lifetimes = regexp.MustCompile(`(?m)^((?:ipv[46] +\d+ )?[a-z0-9]+ +\d+ )\d+`)
	elements  = regexp.MustCompile(`<(timeout|id|when)>.*?</(timeout|id|when)>`)
	ids       = regexp.MustCompile(`\bid=\d{5,}`)
	saved     = regexp.MustCompile(`(?m)-t \d+`)
)

// normal makes what may differ equal: timeouts, ids, and the order of lines.
func normal(out string) string {
	out = lifetimes.ReplaceAllString(out, "${1}T")
	out = ids.ReplaceAllString(elements.ReplaceAllString(saved.ReplaceAllString(out, "-t T"), "<$1/>"), "id=N")
	lines := strings.Split(out, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (w *twins) kernelSays(t *testing.T, args []string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	code := 0
	err := w.oracle.Do(func() error {
		cmd := exec.Command("conntrack", args...)
		cmd.Stdout, cmd.Stderr = &out, &errOut
		return cmd.Run()
	})
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s--- %d\n%s", normal(out.String()), code, normal(errOut.String()))
}

// xdpctRaw runs a command and leaves its output as it is.
func (w *twins) xdpctRaw(args []string, out io.Writer) {
	conntrack.Main(context.Background(), args, w.socket, conntrack.IO{In: strings.NewReader(""), Out: out, Err: io.Discard})
}

func (w *twins) xdpctSays(args []string) string {
	var out, errOut bytes.Buffer
	code := conntrack.Main(context.Background(), args, w.socket, conntrack.IO{In: strings.NewReader(""), Out: &out, Err: &errOut})
	return fmt.Sprintf("%s--- %d\n%s", normal(out.String()), code, normal(errOut.String()))
}

// session is what an operator types, one command a line. -z comes when few
// connections are left: where a listing takes several messages the kernel zeroes
// those that did not fit into one before it shows them.
const session = `
-L
-L -f ipv4
-L -f ipv6 -o extended
-L -o extended,id
-L -o xml
-L -f ipv6 -o xml,id
-L -o save
-L -p tcp
-L -p tcp --state ESTABLISHED
-L -p tcp --state SYN_SENT -o extended
-L --proto=udp --dport 53
-L -p udp --orig-port-src 2001
-L -p udp --reply-port-dst 2001
-L -p udp --reply-port-src 53
-L --reply-port-src 53
-L -p icmp --reply-port-src 53
-L -p udp -o labels
-L -p udp -o labels,bogus
-L -p udp -o bogus,labels
-L -p udp -o labels,extended
-L -p tcp -o xml,labels
-L -p icmp
-L -p icmp --icmp-type 8
-L -p icmpv6
-L -p 89
-L -p gre
-L -p sctp --state COOKIE_WAIT
-L -s 10.1.1.1
-L -s 10.1.0.0/16
-L -d 10.0.0.0/8 -p tcp
-L --orig-src 10.1.1.0 --mask-src 255.255.255.0 -p udp
-L -r 10.2.2.1 -p udp
-L -q 10.1.1.1 -p udp
-L -s 10.9.9.9
-L -d 2001:db8:2::1
-L -u ASSURED
-L -u SEEN_REPLY
-L -u UNREPLIED
-L -w 0
-L -w 5
-L --mark 0
-L --mark 1/1
-L -n
-L -g
-L -j
-L dying
-L unconfirmed
-L expect
-C
-C expect
-G -p udp -s 10.1.1.1 -d 10.2.2.1 --sport 2000 --dport 53
-G -p udp -s 10.1.1.1 -d 10.2.2.1 --sport 2999 --dport 53
-G -p icmp -s 10.1.1.1 -d 10.2.2.1 --icmp-type 8 --icmp-code 0 --icmp-id 7 -o extended
-U -p udp -d 10.2.2.1 --orig-port-src 2000 -m 9
-U -p udp -d 10.2.2.1 --orig-port-src 2000 -m 9
-U -p udp -d 10.2.2.1 --orig-port-src 2000 -m 6/12
-L --mark 7
-L --mark 3/3
-U -p udp -d 10.2.2.1 --orig-port-src 2000 -u SEEN_REPLY,ASSURED
-U -p udp -d 10.2.2.1 --orig-port-src 2000 -t 500
-L -u ASSURED -p udp
-I -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 2005 --dport 21 --timeout 100 --state ESTABLISHED -u ASSURED,SEEN_REPLY -m 5
-I -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 2005 --dport 21 --timeout 100 --state ESTABLISHED
-A -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 2005 --dport 21 --timeout 100 --state ESTABLISHED
-I -p udp -s 1.1.1.1 -d 2.2.2.2 --sport 2005 --dport 53 --timeout 100 -w 7
-I -p udp -s 1.1.1.1 -d 2.2.2.2 --sport 2005 --dport 53 --timeout 100
-I -p udp -s 1.1.1.1 -d 2.2.2.2 --sport 2006 --dport 53 --timeout 100 --orig-zone 9
-I -p udp -s 1.1.1.1 -d 2.2.2.2 --sport 2007 --dport 53 --timeout 100 --reply-zone 9
-I -p icmp -s 1.1.1.1 -d 2.2.2.2 --icmp-type 8 --icmp-code 0 --icmp-id 33 --timeout 50
-I -p sctp -s 1.1.1.1 -d 2.2.2.2 --sport 1 --dport 2 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2 --timeout 50
-I -p gre -s 1.1.1.1 -d 2.2.2.2 --srckey 1 --dstkey 2 --timeout 50
-I -p 89 -s 1.1.1.1 -d 2.2.2.2 --timeout 50
-I -p udp -s 2001:db8::1 -d 2001:db8::2 --sport 5 --dport 6 --timeout 50
-L -s 1.1.1.1
-L -s 1.1.1.1 -o xml
-L -s 1.1.1.1 -o save
-L -w 7
-L --orig-zone 9
-L --reply-zone 9
-L -w 9
-D -p udp -w 7
-D -p tcp --orig-port-src 2005 -o extended
-D -p udp --dport 99
-D -s 1.1.1.1 -p sctp -o xml
-D -s 1.1.1.1
-I -s 1.1.1.1
-I -p udp -s 1.1.1.1 -d 1.2.3.4 --sport 4 --dport 5
-I -p tcp -s 1.1.1.1 -d 3.2.2.2 --sport 2005 --dport 21 --timeout 100
-I -p tcp -s 1.1.1.1 -d 3.2.2.2 --timeout 100 --state LISTEN
-I -p icmp -s 1.1.1.1 -d 3.2.2.2 --timeout 100
-L --foo
-L -p foo
-L -s
-L --sport 5
-L bogus
-L -D
-L -o bogus
-E -e BOGUS
-L -p tcp --state FOO
-L -s 1.1.1.1 -f ipv6
-U -p tcp -u FOO
-R /nonexistent
-V
-L -z -p udp
-D -f ipv6 -p tcp
-D -f ipv6
-L -z
-L
-F expect
-F
-C
-L
`

// TestConntrackSession gives the same commands to conntrack(8) of conntrack-tools
// and to ours, and compares output, messages and exit codes.
func TestConntrackSession(t *testing.T) {
	w := newTwins(t)
	w.traffic(t)
	for line := range strings.Lines(strings.TrimSpace(session)) {
		args := strings.Fields(line)
		want, got := w.kernelSays(t, args), w.xdpctSays(args)
		if got != want {
			t.Errorf("conntrack %s: %s", strings.TrimSpace(line), lineDiff(got, want))
		}
	}
}

// lineDiff shows the lines that only one of two texts has.
func lineDiff(got, want string) string {
	var b strings.Builder
	have := strings.Split(got, "\n")
	for _, l := range strings.Split(want, "\n") {
		if i := slices.Index(have, l); i >= 0 {
			have = slices.Delete(have, i, i+1)
		} else {
			fmt.Fprintf(&b, "\n  kernel: %s", l)
		}
	}
	for _, l := range have {
		fmt.Fprintf(&b, "\n  xdpct:  %s", l)
	}
	return b.String()
}

// TestConntrackEvents follows the same traffic, and what an operator does after it,
// with -E of both.
func TestConntrackEvents(t *testing.T) {
	w := newTwins(t)
	for _, args := range [][]string{{"-E"}, {"-E", "-e", "NEW", "-p", "tcp", "-o", "extended"}, {"-E", "-e", "DESTROY"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			var got, want lockedBuffer
			var wg sync.WaitGroup
			wg.Go(func() {
				conntrack.Main(ctx, args, w.socket, conntrack.IO{In: strings.NewReader(""), Out: &got, Err: io.Discard})
			})
			wg.Go(func() {
				_ = w.oracle.Do(func() error {
					cmd := exec.CommandContext(ctx, "conntrack", args...)
					cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
					cmd.Stdout = &want
					return cmd.Run()
				})
			})
			w.mark(t, &got, &want)
			w.traffic(t)
			for _, line := range []string{
				"-U -p udp -d 10.2.2.1 --orig-port-src 2000 -m 9",
				"-I -p udp -s 1.1.1.1 -d 2.2.2.2 --sport 2005 --dport 53 --timeout 100 -w 7",
				"-D -p udp", "-D -f ipv6", "-D -f ipv4",
			} {
				w.kernelSays(t, strings.Fields(line))
				w.xdpctSays(strings.Fields(line))
			}
			w.mark(t, &got, &want)
			stop()
			wg.Wait()
			if d := lineDiff(normalEvents(got.String()), normalEvents(want.String())); d != "" || !strings.Contains(got.String(), "src=10.1.1.1") {
				t.Errorf("%s:\n%s", d, got.String())
			}
		})
	}
}

// marker is the source of connections that tell nothing but that all before has been told.
const marker = "9.9.9.9"

// mark waits until both listeners have told of a connection that is made now, and removed.
func (w *twins) mark(t *testing.T, listeners ...*lockedBuffer) {
	t.Helper()
	testenv.Until(t, "both tell of a connection", func() bool {
		w.marks++
		of := fmt.Sprintf("-p tcp -s %s -d 9.9.9.8 --sport %d --dport 9", marker, w.marks)
		for _, line := range []string{"-I " + of + " --timeout 100 --state ESTABLISHED", "-D " + of} {
			w.kernelSays(t, strings.Fields(line))
			w.xdpctSays(strings.Fields(line))
		}
		told := func(b *lockedBuffer) bool {
			return strings.Contains(b.String(), fmt.Sprintf("sport=%d dport=9 ", w.marks))
		}
		soon := time.Now().Add(500 * time.Millisecond) // then it has been missed, for nobody listened yet
		for time.Now().Before(soon) && slices.ContainsFunc(listeners, func(b *lockedBuffer) bool { return !told(b) }) {
			time.Sleep(5 * time.Millisecond)
		}
		return !slices.ContainsFunc(listeners, func(b *lockedBuffer) bool { return !told(b) })
	})
}

var eventLifetimes = regexp.MustCompile(`(?m)^( *\[[A-Z]+\] (?:ipv[46] +\d+ )?[a-z0-9]+ +\d+ )\d+ `)

// byUser is what the kernel says of changes that a process has made: who it was,
// and that the mark was set, to 0 perhaps.
var byUser = regexp.MustCompile(`( mark=0)?( zone=\d+)? \[USERSPACE\].*`)

func normalEvents(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "src="+marker) {
			b.WriteString(line)
		}
	}
	out = b.String()
	return normal(byUser.ReplaceAllString(eventLifetimes.ReplaceAllString(out, "${1}T "), "$2"))
}

// TestConntrackExpect has the kernel's FTP helper make an expectation, makes the same
// one here by hand, and compares the listings and what becomes of both.
func TestConntrackExpect(t *testing.T) {
	w := newTwins(t)
	testenv.Program(t, "nft")
	helper := `table ip helpers {
	ct helper standard { type "ftp" protocol tcp; l3proto ip; }
	chain pre {
		type filter hook prerouting priority 0;
		tcp dport 21 ct helper set "standard"
	}
}
`
	if err := w.oracle.Do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(helper)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	ab := packet.IP{Src: kernel.A.Host(1, flow.IPv4), Dst: kernel.B.Host(1, flow.IPv4)}
	ba := packet.IP{Src: ab.Dst, Dst: ab.Src}
	port := []byte("PORT 10,1,1,1,200,10\r\n")
	say := func(from kernel.Side, flags packet.TCPFlags, seq, ack uint32, payload []byte) {
		s := packet.Segment{Seq: seq, Ack: ack, Flags: flags, Window: 65535, Payload: payload}
		if from == kernel.A {
			w.send(t, from, packet.AppendTCP(nil, ab, 4000, 21, s))
		} else {
			w.send(t, from, packet.AppendTCP(nil, ba, 21, 4000, s))
		}
	}
	say(kernel.A, packet.SYN, 1, 0, nil)
	say(kernel.B, packet.SYN|packet.ACK, 1, 2, nil)
	say(kernel.A, packet.ACK, 2, 2, nil)
	say(kernel.B, packet.ACK|packet.PSH, 2, 2, []byte("220 welcome\r\n"))
	user := []byte("USER anonymous\r\n") // the helper looks at what follows a line
	say(kernel.A, packet.ACK|packet.PSH, 2, 15, user)
	say(kernel.A, packet.ACK|packet.PSH, 2+uint32(len(user)), 15, port)
	make := "-I expect -p tcp -s 10.1.1.1 -d 10.2.2.1 --sport 4000 --dport 21 -t 300 --tuple-src 10.2.2.1 --tuple-dst 10.1.1.1 --tuple-port-dst 51210"
	if out := w.xdpctSays(strings.Fields(make)); !strings.Contains(out, "1 expectations have been created") {
		t.Fatal(out)
	}
	same := func(args string) {
		t.Helper()
		// Who made it differs: a helper there, a command here.
		differs := regexp.MustCompile(`( USERSPACE)?( PERMANENT)? class=0 helper=(ftp)?`)
		age := regexp.MustCompile(`(?m)^\d+ proto`)
		clean := func(s string) string { return age.ReplaceAllString(differs.ReplaceAllString(s, " class=0"), "T proto") }
		want, got := clean(w.kernelSays(t, strings.Fields(args))), clean(w.xdpctSays(strings.Fields(args)))
		if d := lineDiff(got, want); d != "" {
			t.Errorf("conntrack %s: %s", args, d)
		}
	}
	same("-L expect")
	same("-C expect")
	// The data connection comes, and uses it up.
	w.send(t, kernel.B, packet.AppendTCP(nil, ba, 20, 51210, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 100}))
	same("-L expect")
	same("-L -p tcp --dport 51210")
	same("-L -u EXPECTED -p tcp")
}
