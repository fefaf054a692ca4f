package kernel

import (
	"fmt"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// sent is a frame that a host sends in a script.
func sent(from Side, what string, frame []byte) act {
	return act{from: from, what: what, frames: func(int) [][]byte { return [][]byte{frame} }}
}

// scripted holds devices of 1, 2 and 4 shards to the kernel for a script and rules.
func scripted(t *testing.T, f flow.Family, rules string, acts ...act) {
	t.Helper()
	testenv.Root(t)
	testenv.Program(t, tool(f)+"-restore")
	pin(t)
	st := (&trial{family: f, rules: rules, shards: shardCounts, acts: acts}).check(t)
	if st.Forwarded+st.Answered == 0 {
		t.Errorf("nothing came out of %d acts", st.Acts)
	}
}

// TestErrorsAboutInvalidAgree: an ICMP error about an INVALID packet belongs to the
// connection that the packet names, which may be another shard's than chance would choose:
// the error is RELATED, and translated, if its ports or its identifier can be read.
func TestErrorsAboutInvalidAgree(t *testing.T) {
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			rules := "*mangle\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n" +
				"-A POSTROUTING -m conntrack --ctstate RELATED\n-A POSTROUTING -m conntrack --ctstate INVALID\n-A POSTROUTING -m conntrack --ctstate NEW\nCOMMIT\n" +
				fmt.Sprintf("*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j SNAT --to-source %v\nCOMMIT\n", B.Host(60, f))
			var acts []act
			for port := range uint16(16) {
				acts = append(acts, invalidAnswers(f, port)...)
			}
			scripted(t, f, rules, acts...)
		})
	}
}

// invalidAnswers are packets from A that begin connections, and damaged ones that B sends
// to where they came from, not to what that is translated to.
func invalidAnswers(f flow.Family, port uint16) (acts []act) {
	there, back := between(A, 1, 1, f), between(B, 1, 1, f)
	echo, reply, head, hops := uint8(8), uint8(0), 20, 8
	if f == flow.IPv6 {
		echo, reply, head, hops = 128, 129, 40, 7
	}
	syn := packet.Segment{Seq: 1, Flags: packet.SYN, Window: 1000}
	chunk := packet.AppendChunk(nil, 1, 0, append([]byte{0, 0, 0, 7}, make([]byte, 12)...))
	for _, c := range []struct {
		name         string
		first, again []byte
	}{
		{"TCP", packet.AppendTCP(nil, there, 2000+port, 80, syn), packet.AppendTCP(nil, back, 80, 2000+port, syn)},
		{"UDP", packet.AppendUDP(nil, there, 2000+port, 53, make([]byte, 10)), packet.AppendUDP(nil, back, 53, 2000+port, make([]byte, 10))},
		{"SCTP", packet.AppendSCTP(nil, there, 2000+port, 53, 0, chunk), packet.AppendSCTP(nil, back, 53, 2000+port, 0, chunk)},
		{"ICMP", packet.AppendICMP(nil, there, echo, 0, uint32(port)<<16|1, make([]byte, 10)), packet.AppendICMP(nil, back, reply, 0, uint32(port)<<16|1, make([]byte, 10))},
		{"proto 99", packet.AppendIP(nil, there, 99, make([]byte, 20)), packet.AppendIP(nil, back, 99, make([]byte, 20))},
	} {
		acts = append(acts, sent(A, c.name, Frame(A, c.first)))
		for _, n := range []int{3, 4, 7, 8, 11, 12} {
			short := append([]byte(nil), c.again[:head+n]...)
			if n >= 8 {
				short[head+n-1]++ // where there is a checksum, it is wrong
			}
			short[hops] = 1
			acts = append(acts, sent(B, fmt.Sprintf("%d bytes of %s", n, c.name), Frame(B, finish(short))))
		}
	}
	return acts
}
