package kernel

import (
	"fmt"
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
