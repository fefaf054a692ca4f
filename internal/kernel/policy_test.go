package kernel

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
)

// said is a datagram of a script, and the pause before it.
type said struct {
	from  Side
	d     []byte
	pause time.Duration
}

// agree sends the datagrams of a script, one after the other, through a kernel router
// and through a shard with the same rules. What comes out for each has to be the same,
// byte for byte, and rules have to have counted the same.
func agree(t *testing.T, f flow.Family, rules string, script ...said) {
	t.Helper()
	testenv.Root(t)
	testenv.Program(t, tool(f)+"-restore")
	read, err := syntax.Parse(strings.NewReader(rules), "script", f)
	if err != nil {
		t.Fatalf("xdpct does not take the rules: %v", err)
	}
	both := [2]*syntax.Ruleset{}
	both[f.Index()] = read
	prog, err := policy.Compile(both[0], both[1], []string{"r0", "r1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewRouter(map[string]string{
		"net/ipv4/icmp_ratelimit": "0", "net/ipv4/icmp_msgs_per_sec": "1000000", "net/ipv4/icmp_msgs_burst": "1000000", "net/ipv6/icmp/ratelimit": "0",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	o.Settle()
	if err := o.Restore(f, rules); err != nil {
		t.Fatalf("iptables does not take the rules: %v", err)
	}
	w, err := newShardWorld(prog)
	if err != nil {
		t.Fatal(err)
	}
	defer w.s.Close()
	moved := 0
	for i, s := range script {
		time.Sleep(s.pause)
		k, err := o.Exchange(s.from, s.d)
		if err != nil {
			t.Fatal(err)
		}
		x, err := w.exchange(s.from, s.d)
		if err != nil {
			t.Fatal(err)
		}
		for side := range 2 {
			if d := compareFrames(k[side], x[side], [2][]byte{s.d, s.d}, &moved); d != "" {
				t.Errorf("datagram %d, side %d to %d: %.900s\nsent %.200x\nxdpct: %v %v %v", i, s.from, side, d, s.d, w.last.Action, w.last.State, w.last.Reason)
			}
		}
	}
	if d := compareCounts(o, prog, w.s, f); d != "" {
		t.Error(d)
	}
	if t.Failed() {
		saved, _ := o.Save(f)
		t.Logf("the kernel:\n%s", saved)
		var b strings.Builder
		_ = prog.Ruleset(f).WriteTo(&b, true)
		t.Logf("xdpct:\n%s", b.String())
	}
}

// between returns the header of a datagram from host n of one side to host m of the other.
func between(from Side, n, m int, f flow.Family) packet.IP {
	return packet.IP{Src: from.Host(n, f), Dst: from.Other().Host(m, f)}
}

// Other returns the other side.
func (s Side) Other() Side { return s ^ 1 }

// tcp returns a segment between a host of A (client) and one of B.
func tcpSegment(from Side, sport, dport uint16, flags packet.TCPFlags, seq, ack uint32) said {
	return said{from: from, d: packet.AppendTCP(nil, between(from, 1, 1, flow.IPv4), sport, dport, packet.Segment{Seq: seq, Ack: ack, Flags: flags, Window: 1000})}
}

func udpDatagram(from Side, n, m int, f flow.Family, sport, dport uint16, size int) said {
	return said{from: from, d: packet.AppendUDP(nil, between(from, n, m, f), sport, dport, make([]byte, size))}
}

// counting are rules that count what each number of connections would be.
func counting(most int, options string) string {
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n")
	for n := range most {
		fmt.Fprintf(&b, "-A FORWARD -m connlimit --connlimit-above %d %s\n", n, options)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// TestConnlimitAgrees: connlimit counts what nf_conncount does.
func TestConnlimitAgrees(t *testing.T) {
	const syn, ack, rst, fin = packet.SYN, packet.ACK, packet.RST, packet.FIN
	open := func(port uint16) []said {
		return []said{
			tcpSegment(A, port, 80, syn, 100, 0), tcpSegment(B, 80, port, syn|ack, 500, 101), tcpSegment(A, port, 80, ack, 101, 501),
		}
	}
	slow := func(all ...said) []said { // a jiffy apart, since the kernel looks at its list once in one
		for i := range all {
			all[i].pause = 12 * time.Millisecond
		}
		return all
	}
	cat := func(parts ...[]said) (all []said) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for _, c := range []struct {
		name   string
		script []said
	}{
		{"open", cat(open(1000), open(1001), open(1002))},
		{"unreplied reset", []said{
			tcpSegment(A, 1000, 80, syn, 100, 0), tcpSegment(A, 1000, 80, rst, 101, 0),
			tcpSegment(A, 1001, 80, syn, 100, 0), tcpSegment(A, 1001, 80, rst, 101, 0),
			tcpSegment(A, 1002, 80, syn, 100, 0), tcpSegment(A, 1002, 80, rst, 101, 0),
			tcpSegment(A, 1003, 80, syn, 100, 0),
		}},
		{"closed", cat(open(1000), []said{
			tcpSegment(A, 1000, 80, fin|ack, 101, 501), tcpSegment(B, 80, 1000, fin|ack, 501, 102), tcpSegment(A, 1000, 80, ack, 102, 502),
		}, open(1001), []said{tcpSegment(A, 1000, 80, ack, 102, 502), tcpSegment(B, 80, 1000, ack, 502, 102)}, open(1002))},
		{"reset", cat(open(1000), []said{tcpSegment(B, 80, 1000, rst|ack, 501, 101)}, open(1001), open(1002))},
		{"invalid", cat(open(1000), []said{tcpSegment(A, 1005, 80, rst, 1, 0), tcpSegment(A, 1006, 80, syn|fin, 1, 0), tcpSegment(A, 1005, 80, rst, 1, 0)}, open(1001))},
		{"udp", []said{udpDatagram(A, 1, 1, flow.IPv4, 1, 2, 10), udpDatagram(A, 1, 1, flow.IPv4, 2, 2, 10), udpDatagram(B, 1, 1, flow.IPv4, 2, 1, 10), udpDatagram(A, 1, 1, flow.IPv4, 1, 2, 10)}},
	} {
		t.Run(c.name, func(t *testing.T) { agree(t, flow.IPv4, counting(5, ""), slow(c.script...)...) })
		t.Run(c.name+"/daddr", func(t *testing.T) {
			agree(t, flow.IPv4, counting(5, "--connlimit-daddr --connlimit-mask 24"), slow(c.script...)...)
		})
	}
}

// TestHashlimitAgrees: rates in bytes with a burst (F56), tables that rules share, and
// entries by SPI (F67).
func TestHashlimitAgrees(t *testing.T) {
	var flood []said
	for i := range 45 {
		flood = append(flood, udpDatagram(A, 1, 1, flow.IPv4, uint16(1000+i%3), 53, 1000))
	}
	spi := func(proto flow.Proto, n byte) said {
		return said{from: A, d: packet.AppendIP(nil, between(A, 1, 1, flow.IPv4), proto, []byte{0, 0, 0, n, 0, 0, 0, n, 0, 0, 0, 1, 1, 2, 3, 4})}
	}
	var spis []said
	for i := range byte(12) {
		spis = append(spis, spi(50, i%4), spi(51, i%4), spi(33, i%4))
	}
	const rule = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m hashlimit "
	for name, c := range map[string]struct {
		rules  string
		script []said
	}{
		"bytes":         {"--hashlimit-upto 10000b/s --hashlimit-burst 20000b --hashlimit-mode srcip --hashlimit-name a -j ACCEPT\n", flood},
		"bytes above":   {"--hashlimit-above 20kb/s --hashlimit-mode srcip,dstip --hashlimit-name a -j DROP\n-A FORWARD -j ACCEPT\n", flood},
		"packets":       {"--hashlimit-upto 10/min --hashlimit-burst 9 --hashlimit-mode srcport --hashlimit-name a -j ACCEPT\n", flood},
		"shared":        {"--hashlimit-upto 10/min --hashlimit-burst 9 --hashlimit-mode srcport --hashlimit-name a -j ACCEPT\n-A FORWARD -m hashlimit --hashlimit-upto 1000/sec --hashlimit-burst 90 --hashlimit-mode dstip --hashlimit-name a -j ACCEPT\n", flood},
		"rate match":    {"--hashlimit-upto 10/min --hashlimit-burst 9 --hashlimit-mode srcip --hashlimit-rate-match --hashlimit-rate-interval 30 --hashlimit-name a -j ACCEPT\n", flood},
		"rate match kb": {"--hashlimit-above 9kb/s --hashlimit-mode srcip --hashlimit-rate-match --hashlimit-rate-interval 30 --hashlimit-name a -j DROP\n-A FORWARD -j ACCEPT\n", flood},
		"SPI":           {"--hashlimit-upto 1/min --hashlimit-burst 2 --hashlimit-mode srcport,dstport --hashlimit-name a -j ACCEPT\n", spis},
	} {
		t.Run(name, func(t *testing.T) { agree(t, flow.IPv4, rule+c.rules+"COMMIT\n", c.script...) })
	}
}

// TestRecentAgrees: lists, whose mask is that of their first rule (F65).
func TestRecentAgrees(t *testing.T) {
	var script []said
	for i := range 30 {
		s := udpDatagram(A, 1+i%3, 1, flow.IPv4, uint16(1000+i%5), 53, 10)
		s.d[8] = byte(60 + i%7/6) // TTL
		if i%10 == 9 {
			s.pause = 600 * time.Millisecond
		}
		s.d = packet.AppendUDP(nil, packet.IP{Src: A.Host(1+i%3, flow.IPv4), Dst: B.Host(1, flow.IPv4), TTL: uint8(60 + i%7/6)}, uint16(1000+i%5), 53, nil)
		script = append(script, s)
	}
	for name, rules := range map[string]string{
		"hitcount": "-m recent --update --seconds 1 --hitcount 4 --name x -j DROP\n-A FORWARD -m recent --set --name x -j ACCEPT\n",
		"mask":     "-p udp --sport 1000 -m recent --set --name x --mask 255.255.255.254 -j ACCEPT\n-A FORWARD -m recent --rcheck --name x -j DROP\n",
		"rttl":     "-m recent --update --hitcount 2 --rttl --name x -j DROP\n-A FORWARD -m recent --set --name x -j ACCEPT\n",
		"remove":   "-p udp --sport 1003 -m recent --remove --name x -j ACCEPT\n-A FORWARD -m recent ! --rcheck --name x -j MARK --set-mark 1\n-A FORWARD -m recent --set --rdest --name x\n-A FORWARD -m recent --set --name x -j ACCEPT\n",
		"reap":     "-m recent --rcheck --seconds 1 --reap --name x -j ACCEPT\n-A FORWARD -p udp --sport 1001 -m recent --set --name x -j ACCEPT\n",
	} {
		t.Run(name, func(t *testing.T) {
			table := "*filter\n:FORWARD DROP [0:0]\n-A FORWARD "
			if name == "remove" {
				table = "*mangle\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n-A FORWARD "
			}
			agree(t, flow.IPv4, table+rules+"COMMIT\n", script...)
		})
	}
}
