package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/rx/capture"
)

var update = flag.Bool("update", false, "write demo.pcap anew")

// TestDemoCapture makes the capture that the demo replays without root, and
// checks that the one in the tree is this one.
func TestDemoCapture(t *testing.T) {
	name := filepath.Join(t.TempDir(), "demo.pcap")
	w, err := capture.Create(name, capture.LinkEthernet)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	left, right := packet.IP{Src: leftIP, Dst: rightIP}, packet.IP{Src: rightIP, Dst: leftIP}
	macL, macR := packet.MAC{2, 0, 0, 0, 0, 1}, packet.MAC{2, 0, 0, 0, 0, 2}
	n := 0
	add := func(wait time.Duration, fromLeft bool, datagram []byte) {
		at = at.Add(wait)
		src, dst := macL, macR
		if !fromLeft {
			src, dst = dst, src
		}
		n++
		d := packet.AppendEthernet(nil, dst, src, datagram)
		if err := w.Write(&capture.Frame{N: n, Time: at, Data: d, Wire: len(d), Link: capture.LinkEthernet}); err != nil {
			t.Fatal(err)
		}
	}
	tcp := func(fromLeft bool, s packet.Segment) {
		s.Window = 64240
		if fromLeft {
			add(time.Millisecond, true, packet.AppendTCP(nil, left, 40000, demoPort, s))
		} else {
			add(time.Millisecond, false, packet.AppendTCP(nil, right, demoPort, 40000, s))
		}
	}
	options := []byte{2, 4, 5, 180, 4, 2, 1, 1, 1, 3, 3, 7}
	hello := []byte("hello over TCP")
	end := uint32(1 + len(hello))
	tcp(true, packet.Segment{Flags: packet.SYN, Seq: 0, Options: options})
	tcp(false, packet.Segment{Flags: packet.SYN | packet.ACK, Seq: 0, Ack: 1, Options: options})
	tcp(true, packet.Segment{Flags: packet.ACK, Seq: 1, Ack: 1})
	tcp(true, packet.Segment{Flags: packet.ACK | packet.PSH, Seq: 1, Ack: 1, Payload: hello})
	tcp(false, packet.Segment{Flags: packet.ACK | packet.PSH, Seq: 1, Ack: end, Payload: hello})
	tcp(true, packet.Segment{Flags: packet.ACK, Seq: end, Ack: end})
	add(time.Second, true, packet.AppendUDP(nil, left, 50000, demoNaming, []byte("hello over UDP")))
	add(time.Millisecond, false, packet.AppendUDP(nil, right, demoNaming, 50000, []byte("hello over UDP")))
	add(time.Second, true, packet.AppendICMP(nil, left, 8, 0, demoPingID<<16|1, nil))
	add(time.Millisecond, false, packet.AppendICMP(nil, right, 0, 0, demoPingID<<16|1, nil))
	deaf := packet.AppendUDP(nil, left, 50001, demoNTP, []byte("anybody there?"))
	add(time.Second, true, deaf)
	add(time.Millisecond, false, packet.AppendICMP(nil, right, 3, 3, 0, deaf))
	add(2*time.Second, true, packet.AppendUDP(nil, left, 50000, demoNaming, []byte("hello again")))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("demo.pcap", made, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(made, demoCapture) {
		t.Error("demo.pcap is not what this test makes: run go test ./cmd/xdpct -run DemoCapture -update")
	}
}

// TestDemoReplay is the demo for those without root.
func TestDemoReplay(t *testing.T) {
	var out strings.Builder
	if err := demoReplay(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		` 12  RELATED     reply `,
		`tcp      6 \d+ ESTABLISHED src=10.77.0.1 .* \[ASSURED\] mark=0 use=1`,
		`udp      17 120 src=10.77.0.1 dst=10.77.0.2 sport=50000 .* \[ASSURED\] `,
		`udp      17 \d+ src=.* dport=123 \[UNREPLIED\] `,
		`icmp     1 \d+ src=.* type=8 code=0 id=1226 src=.* type=0 code=0 id=1226`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// TestDemoLive runs the demo itself.
func TestDemoLive(t *testing.T) {
	testenv.Root(t)
	var out strings.Builder
	if err := demoLive(context.Background(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		`    \[NEW\] tcp      6 120 SYN_SENT src=10.77.0.1 `,
		` \[UPDATE\] tcp      6 432000 ESTABLISHED src=10.77.0.1 .*\[ASSURED\]`,
		`\ntcp      6 \d+ ESTABLISHED src=10.77.0.1 .*\[ASSURED\] mark=0 use=1`,
		`\ntcp      6 \d+ ESTABLISHED src=fd77::1 .*\[ASSURED\] mark=0 use=1`,
		`\nudp      17 1\d\d src=10.77.0.1 dst=10.77.0.2 .*\[ASSURED\] mark=0 use=1`,
		`\nicmp     1 \d+ src=10.77.0.1 `,
		`[1-9]\d* Mbit/s`,
		`state RELATED +[1-9]`,
		`the server at 203.0.113.2:80 sees 203.0.113.1:\d+`,
		`the server at 10.77.1.2:8080 sees 203.0.113.2:\d+`,
		`src=203.0.113.2 dst=203.0.113.1 sport=\d+ dport=80 src=10.77.1.2 dst=203.0.113.2 sport=8080 dport=\d+ \[ASSURED\]`,
		`\[1:60\] -A POSTROUTING -s 10.77.1.0/24 -o wan -j MASQUERADE`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	// Whole stacks talk through it: no frame may be found wrong. (On a machine
	// that is short of time frames may be lost in the kernel's rings.)
	if bad := regexp.MustCompile(`(?m)^reason (frame|ip|l4|icmp|xdp|tcp_flags|tcp_header|fragment).*`).FindAllString(out.String(), -1); bad != nil {
		t.Errorf("frames were found wrong: %q", bad)
	}
}
