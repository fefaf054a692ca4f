package kernel

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// TestHMarkAgrees: the marks of HMARK, by what packets say, by what ICMP errors quote and by
// connections.
func TestHMarkAgrees(t *testing.T) {
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		long, short := 24, 28
		if f == flow.IPv6 {
			long, short = 48, 127
		}
		var b strings.Builder
		b.WriteString("*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n")
		for _, options := range []string{
			"--hmark-tuple src,dst,sport,dport,proto --hmark-mod 7", "--hmark-tuple src,dst --hmark-mod 5 --hmark-offset 3", "--hmark-tuple spi,proto,dst --hmark-mod 4",
			"--hmark-tuple ct,src,dst,sport,dport,proto --hmark-mod 6", "--hmark-tuple ct,src --hmark-mod 3",
			fmt.Sprintf("--hmark-src-prefix %d --hmark-dst-prefix %d --hmark-sport-mask 0xfff0 --hmark-dport 7 --hmark-proto-mask 0x5 --hmark-mod 8", long, short),
			"--hmark-spi-mask 0xff00ff --hmark-spi 0x100000 --hmark-mod 5",
		} {
			fmt.Fprintf(&b, "-A FORWARD -j HMARK %s --hmark-rnd 0xcafe\n", options)
			for m := range 10 {
				fmt.Fprintf(&b, "-A FORWARD -m mark --mark %d\n", m)
			}
			b.WriteString("-A FORWARD -j MARK --set-mark 99\n")
		}
		b.WriteString("COMMIT\n*filter\n:INPUT DROP [0:0]\n" + tracks + "COMMIT\n")
		raw := func(proto flow.Proto, payload ...byte) said {
			return said{from: A, d: packet.AppendIP(nil, between(A, 2, 3, f), proto, payload)}
		}
		var script []said
		for i := range uint16(12) {
			n, m := 1+int(i%4), 1+int(i%3)
			tcp := packet.AppendTCP(nil, between(A, n, m, f), 1000+77*i, 80+i, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 5})
			script = append(script, udpDatagram(A, n, m, f, 2000+i*33, 53, 9), udpDatagram(B, m, n, f, 53, 2000+i*33, 9), said{from: A, d: tcp})
			quote := tcp[:min(len(tcp), 60)]
			if f == flow.IPv4 {
				script = append(script, said{from: B, d: packet.AppendICMP(nil, between(B, m, n, f), 3, 1, 0, quote)},
					said{from: A, d: packet.AppendICMP(nil, between(A, n, m, f), 8, 0, uint32(i)<<16|5, []byte("ping"))})
			} else {
				script = append(script, said{from: B, d: packet.AppendICMP(nil, between(B, m, n, f), 1, 4, 0, quote)},
					said{from: A, d: packet.AppendICMP(nil, between(A, n, m, f), 128, 0, uint32(i)<<16|5, []byte("ping"))})
			}
		}
		script = append(script, raw(50, 1, 2, 3, 4, 0, 0, 0, 1), raw(50, 9, 9, 3, 4, 0, 0, 0, 1), raw(99, 1, 2, 3, 4, 5, 6, 7, 8), raw(47, 0, 0, 8, 0),
			raw(51, 59, 4, 0, 0, 1, 2, 3, 4, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2), raw(132, 0, 7, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0))
		t.Run(f.String(), func(t *testing.T) { agree(t, f, b.String(), script...) })
		t.Run(f.String()+" legacy", func(t *testing.T) { agreeLegacy(t, f, b.String(), script...) })
	}
}

// TestAuditAndGroupsAgree: AUDIT lets packets go on, and devgroup tells the interfaces, all
// of group 0, from others.
func TestAuditAndGroupsAgree(t *testing.T) {
	agree(t, flow.IPv4, matching([]string{
		"-j AUDIT --type accept", "-m devgroup --src-group 0", "-m devgroup ! --src-group 0", "-m devgroup --dst-group 0x5/0x2", "-m devgroup --src-group 0 ! --dst-group 1", "-m devgroup ! --src-group 0 ! --dst-group 0",
	}), udpDatagram(A, 1, 1, flow.IPv4, 5, 53, 1), udpDatagram(B, 1, 1, flow.IPv4, 53, 5, 1))
}

// TestTracesAgree: each rule that a packet meets behind TRACE, the ends of chains and the
// policy that decides are logged, in the kernel's words.
func TestTracesAgree(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "iptables-legacy-restore")
	k := openKernelLog(t)
	o, err := NewRouter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	one, two := fmt.Sprintf("a%d", time.Now().UnixNano()%1e6), "b"
	rules := fmt.Sprintf("*raw\n:PREROUTING ACCEPT [0:0]\n:%[1]s - [0:0]\n-A PREROUTING -p tcp -j ACCEPT\n-A PREROUTING -p udp -j TRACE\n-A PREROUTING -j %[1]s\n-A %[1]s -m mark --mark 9\n-A %[1]s -m mark --mark 0\nCOMMIT\n"+
		"*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:%[1]s - [0:0]\n:%[2]s - [0:0]\n-A PREROUTING -s 10.9.0.0/16 -j DROP\n-A FORWARD -p udp -j RETURN\n-A PREROUTING -g %[2]s\n-A %[2]s -j %[1]s\n-A %[1]s -j RETURN\n-A %[1]s -j DROP\nCOMMIT\n"+
		"*filter\n:FORWARD DROP [0:0]\n:%[1]s - [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A FORWARD -p udp --dport 53 -j %[1]s\n-A %[1]s -j ACCEPT\nCOMMIT\n", one, two)
	if err := o.RestoreBy("iptables-legacy", rules); err != nil {
		t.Fatal(err)
	}
	w, err := newDevice(1, &lab{}, flow.IPv4, rules)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	names := map[int]string{-1: "", 0: "r0", 1: "r1"}
	for i, s := range []said{
		udpDatagram(A, 1, 1, flow.IPv4, 5, 53, 1), udpDatagram(B, 1, 1, flow.IPv4, 53, 5, 1), udpDatagram(A, 1, 1, flow.IPv4, 5, 53, 1), udpDatagram(A, 1, 1, flow.IPv4, 5, 53, 1),
		udpDatagram(A, 2, 1, flow.IPv4, 5, 54, 1), tcpSegment(A, 1, 53, packet.SYN, 1, 0),
	} {
		if _, err := o.Exchange(s.from, s.d); err != nil {
			t.Fatal(err)
		}
		if _, err := w.exchange(s.from, Frame(s.from, s.d)); err != nil {
			t.Fatal(err)
		}
		var ours []string
		logged, _ := w.shards[0].TakeLogged()
		for j := range logged {
			ours = append(ours, string(logged[j].AppendText(nil, names[logged[j].In], names[logged[j].Out])))
		}
		kernels := k.take("TRACE: ")
		if !slices.EqualFunc(kernels, ours, func(a, b string) bool { return strings.TrimRight(a, " ") == strings.TrimRight(b, " ") }) {
			t.Errorf("datagram %d:\nkernel %s\nxdpct  %s", i, rulesOf(kernels), rulesOf(ours))
		}
		if udp := s.d[9] == 17; udp != (len(ours) > 0) {
			t.Errorf("datagram %d: %d lines", i, len(ours))
		}
	}
}

var behindRule = regexp.MustCompile(`IN=.*`)

func rulesOf(lines []string) (s string) {
	for _, l := range lines {
		s += "\n   " + behindRule.ReplaceAllString(l, "")
	}
	return s
}

// TestRealmsAgree: the realms of the routes to where a packet goes and to where it came
// from.
func TestRealmsAgree(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "iptables-restore")
	pin(t)
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n:INPUT DROP [0:0]\n")
	for _, src := range []int{0, 5, 6, 7} {
		for _, dst := range []int{0, 5, 6, 7} {
			fmt.Fprintf(&b, "-A FORWARD -m realm --realm %#x\n", src<<16|dst)
		}
	}
	b.WriteString("-A FORWARD -m realm ! --realm 5/0xffff\nCOMMIT\n*mangle\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -m realm --realm 6/0xffff\nCOMMIT\n")
	tr := &trial{family: flow.IPv4, rules: b.String(), shards: shardCounts[:1], lab: lab{realms: true, narrow: 1400}}
	for i, hosts := range [][2]int{{1, 1}, {1, narrowHost}, {narrowHost, 1}, {narrowHost, narrowHost}, {narrowHost, narrowHost}} {
		for from := range Side(2) {
			d := packet.AppendUDP(nil, between(from, hosts[from], hosts[from^1], flow.IPv4), 5, 5, make([]byte, i+1))
			tr.acts = append(tr.acts, act{from: from, what: fmt.Sprintf("datagram %d", i), frames: func(int) [][]byte { return [][]byte{Frame(from, d)} }})
		}
	}
	tr.check(t)
}
