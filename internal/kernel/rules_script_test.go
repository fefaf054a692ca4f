package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// held is agree for devices of 1, 2 and 4 shards, and for answers of the router's own,
// whose identification is chance.
func held(t *testing.T, f flow.Family, rules string, script ...said) {
	t.Helper()
	testenv.Root(t)
	testenv.Program(t, tool(f)+"-restore")
	pin(t)
	tr := &trial{family: f, rules: rules, shards: shardCounts}
	for i, s := range script {
		tr.acts = append(tr.acts, act{from: s.from, what: fmt.Sprintf("datagram %d", i), frames: func(int) [][]byte { return [][]byte{Frame(s.from, s.d)} }})
		if s.pause > 0 {
			tr.jiffies = 1
		}
	}
	tr.check(t)
}

// TestRecentOwnAgrees: --rttl of a list that is filled behind routing takes the TTL that a
// packet had when it came in, and of the router's own ICMP errors the one that they have,
// since they come from a socket; its RSTs do not.
func TestRecentOwnAgrees(t *testing.T) {
	const rules = "*mangle\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n" +
		"-A PREROUTING -m recent --name own --rcheck --rttl\n-A POSTROUTING -m recent --name own --set --rdest\nCOMMIT\n" +
		"*filter\n:FORWARD ACCEPT [0:0]\n:INPUT DROP [0:0]\n-A FORWARD -p tcp --dport 81 -j REJECT --reject-with tcp-reset\n-A FORWARD -p tcp --dport 82 -j REJECT\nCOMMIT\n"
	from := func(ttl uint8, port uint16) said {
		ip := between(A, 1, 1, flow.IPv4)
		ip.TTL = ttl
		return said{from: A, d: packet.AppendTCP(nil, ip, 1000, port, packet.Segment{Seq: 1, Flags: packet.SYN, Window: 5})}
	}
	for name, port := range map[string]uint16{"RST": 81, "error": 82} {
		t.Run(name, func(t *testing.T) {
			held(t, flow.IPv4, rules, from(64, port), from(63, 80), from(64, 80), from(64, 80), from(65, 80), udpDatagram(B, 1, 1, flow.IPv4, 7, 9, 1), from(64, 80))
		})
	}
}

// TestConnBytesAgrees: "not" is told the kernel by exchanging the bounds of a range, so
// that one of a single number cannot be inverted (N22).
func TestConnBytesAgrees(t *testing.T) {
	const both = " --connbytes-dir both --connbytes-mode packets\n"
	agree(t, flow.IPv4, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m connbytes ! --connbytes 2:2"+both+"-A FORWARD -m connbytes --connbytes 2:2"+both+
		"-A FORWARD -m connbytes ! --connbytes 2:3"+both+"-A FORWARD -m connbytes ! --connbytes 0:"+both+"COMMIT\n",
		udpDatagram(A, 1, 1, flow.IPv4, 7, 9, 1), udpDatagram(B, 1, 1, flow.IPv4, 9, 7, 1), udpDatagram(A, 1, 1, flow.IPv4, 7, 9, 1), udpDatagram(A, 1, 1, flow.IPv4, 7, 9, 1))
}

// TestConnlimitUnseenAgrees: rules of table raw, and those that see INVALID packets, count
// the connection that a packet's tuple belongs to, and go on counting it; an INVALID
// packet is in no zone (N21).
func TestConnlimitUnseenAgrees(t *testing.T) {
	const syn, ack = packet.SYN, packet.ACK
	counted := func(chain string) (rules string) {
		for n := range 4 {
			rules += fmt.Sprintf("-A %s -m connlimit --connlimit-above %d --connlimit-daddr\n", chain, n)
		}
		return rules
	}
	raw := "*raw\n:PREROUTING ACCEPT [0:0]\n" + counted("PREROUTING") + "COMMIT\n"
	forward := "*filter\n:FORWARD ACCEPT [0:0]\n" + counted("FORWARD") + "COMMIT\n"
	zone := "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 81 -j CT --zone 5\nCOMMIT\n"
	invalid := func(port uint16) said {
		s := tcpSegment(A, port, 80, ack, 5, 5)
		s.d[20+16]++ // the checksum
		return s
	}
	for name, c := range map[string]struct {
		rules  string
		script []said
	}{
		"raw": {raw, []said{
			tcpSegment(A, 1000, 80, ack, 100, 7), tcpSegment(B, 80, 1000, ack, 7, 100), // picked up: seen from both sides
			udpDatagram(A, 1, 1, flow.IPv4, 5, 53, 1), udpDatagram(B, 1, 1, flow.IPv4, 53, 5, 1), udpDatagram(B, 2, 1, flow.IPv4, 53, 5, 1),
			udpDatagram(A, 1, 1, flow.IPv4, 6, 53, 1), udpDatagram(A, 1, 1, flow.IPv4, 5, 53, 1), udpDatagram(A, 1, 1, flow.IPv4, 7, 53, 1),
		}},
		"invalid": {forward, []said{
			tcpSegment(A, 1000, 80, syn, 100, 0), invalid(1000), invalid(1001), tcpSegment(A, 1002, 80, syn, 100, 0), invalid(1000), invalid(1003),
		}},
		"zone": {zone + forward, []said{
			tcpSegment(A, 1000, 81, syn, 100, 0), tcpSegment(A, 1001, 81, syn, 100, 0), tcpSegment(A, 1002, 81, packet.RST, 9, 0), tcpSegment(A, 1003, 81, syn, 100, 0),
			tcpSegment(A, 1002, 80, packet.RST, 9, 0), tcpSegment(A, 1000, 80, syn, 100, 0), tcpSegment(A, 1004, 81, packet.RST, 9, 0),
		}},
	} {
		t.Run(name, func(t *testing.T) { agree(t, flow.IPv4, c.rules, slow(c.script)...) })
	}
}

// TestSourcelessAgrees: a packet of a host that has no address yet has no route back, and
// rpfilter lets it be: IPv6 from ::, and IPv4 from 0.0.0.0, no other of
// 0.0.0.0/8, to 255.255.255.255 and 224.0.0.0/24.
func TestSourcelessAgrees(t *testing.T) {
	rules := ""
	for _, table := range []string{"raw", "mangle"} {
		rules += "*" + table + "\n:PREROUTING ACCEPT [0:0]\n"
		for _, options := range []string{"", " --loose", " --accept-local", " --invert"} {
			rules += "-A PREROUTING -m rpfilter" + options + "\n"
		}
		rules += "COMMIT\n"
	}
	addr := netip.MustParseAddr
	for f, pairs := range map[flow.Family][][2]netip.Addr{
		flow.IPv4: {
			{addr("0.0.0.0"), addr("255.255.255.255")}, {addr("0.0.0.5"), addr("255.255.255.255")}, {addr("0.1.2.3"), addr("224.0.0.251")}, {addr("0.0.0.0"), addr("224.0.0.251")},
			{addr("0.0.0.0"), addr("224.0.1.1")}, {addr("0.0.0.0"), B.Host(1, flow.IPv4)}, {addr("0.0.0.0"), A.Host(254, flow.IPv4)},
			{addr("1.0.0.0"), addr("255.255.255.255")}, {A.Host(1, flow.IPv4), addr("255.255.255.255")},
		},
		flow.IPv6: {
			{addr("::"), B.Host(1, flow.IPv6)}, {addr("::"), A.Host(254, flow.IPv6)}, {addr("::"), addr("ff02::fb")}, {addr("::2"), B.Host(1, flow.IPv6)},
			{addr("::2"), addr("ff02::fb")}, {A.Host(1, flow.IPv6), addr("ff02::fb")},
		},
	} {
		t.Run(f.String(), func(t *testing.T) {
			var script []said
			for i, p := range pairs {
				script = append(script, said{from: A, d: packet.AppendUDP(nil, packet.IP{Src: p[0], Dst: p[1]}, uint16(1000+i), 9, make([]byte, 5))})
			}
			agree(t, f, rules, script...)
		})
	}
}

// TestLabelsOfAnswersAgree: an answer of the router belongs to the connection of the packet
// that it answers, with the labels that rules have just set.
func TestLabelsOfAnswersAgree(t *testing.T) {
	const rules = "*mangle\n:FORWARD ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n" +
		"-A FORWARD -m connlabel --label 5 --set\n-A FORWARD -m connlabel --label 6 -j ACCEPT\n" +
		"-A POSTROUTING -m connlabel --label 5\n-A POSTROUTING -m connlabel --label 6\n-A POSTROUTING -m connlabel --label 6 --set\nCOMMIT\n" +
		"*filter\n:FORWARD ACCEPT [0:0]\n:INPUT DROP [0:0]\n-A FORWARD -p tcp --dport 81 -j REJECT --reject-with tcp-reset\n-A FORWARD -p tcp --dport 82 -j REJECT\n" +
		"-A FORWARD -p tcp --dport 83 --tcp-flags SYN NONE -j REJECT\nCOMMIT\n"
	const syn, ack = packet.SYN, packet.ACK
	held(t, flow.IPv4, rules, tcpSegment(A, 1000, 81, syn, 1, 0), tcpSegment(A, 1000, 82, syn, 1, 0), tcpSegment(A, 1000, 80, syn, 1, 0), tcpSegment(A, 1000, 82, syn, 1, 0),
		tcpSegment(A, 1000, 83, syn, 1, 0), tcpSegment(B, 83, 1000, syn|ack, 7, 2), tcpSegment(A, 1000, 83, ack, 2, 8), tcpSegment(A, 1000, 83, ack, 2, 8))
}
