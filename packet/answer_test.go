package packet

import (
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// TestRejectFacts is which datagrams that end within, or right behind, their transport
// header a router of Linux 6.18 rejects with an answer (internal/kernel asks again).
func TestRejectFacts(t *testing.T) {
	v4, v6 := IP{Src: a4, Dst: b4}, IP{Src: a6, Dst: b6}
	for _, c := range []struct {
		what     string
		ip       IP
		proto    flow.Proto
		body     string
		answered bool
	}{
		{"a UDP header cut off", v4, flow.UDP, "03e80035", false},
		{"UDP without a checksum", v4, flow.UDP, "03e8003500080000", true},
		{"UDP with a wrong one", v4, flow.UDP, "03e8003500080001", false},
		{"GRE", v4, flow.GRE, "00000800", true},
		{"GRE of two bytes", v4, flow.GRE, "0000", true},
		{"GRE with a checksum", v4, flow.GRE, "8000080000000000", true},
		{"DCCP", v4, flow.DCCP, "080c00070000000000000000", false},
		{"SCTP of one byte", v4, flow.SCTP, "08", true},
		{"no ICMP", v4, flow.ICMP, "", false},
		{"ICMP of a byte", v4, flow.ICMP, "08", false},
		{"ICMPv6 in IPv4", v4, flow.ICMPv6, "0000", true},
		{"an unknown protocol", v4, 99, "", true},
		{"that sums up to nothing", v4, 99, "0000", true},
		{"or to something", v4, 99, "0001", false},
		{"nothing of ESP in IPv6", v6, 50, "", false},
		{"a byte of ESP in IPv6", v6, 50, "00", true},
		{"an unknown protocol in IPv6", v6, 99, "00", false},
		{"AH that is cut off in IPv6", v6, 51, "00", false},
		{"no ICMPv6", v6, flow.ICMPv6, "", false},
	} {
		p := parsed(t, AppendIP(nil, c.ip, c.proto, hexBytes(c.body)))
		if got := p.Answerable() && p.Summed(true); got != c.answered {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// TestResetFacts: what asks for a RST sums up with its IP header, or gets none.
func TestResetFacts(t *testing.T) {
	syn := AppendTCP(nil, IP{Src: labSrc, Dst: labDst}, 1000, 2000, Segment{Flags: SYN})
	for _, c := range []struct {
		options  string
		damaged  byte
		answered bool
	}{{"", 0, true}, {"94040000", 0, true}, {"", 1, false}, {"00000001", 0, false}} {
		d := withOptions(syn, hexBytes(c.options))
		d[len(d)-1] ^= c.damaged // the urgent pointer
		p := parsed(t, d)
		p.CompileOptions(&lab{})
		if _, ok := p.AppendReset(nil); ok != c.answered {
			t.Errorf("options %q, damage %d: %v", c.options, c.damaged, ok)
		}
	}
}

// TestUntrackedReject: what conntrack has not looked at sums up with its IP header, or is
// not answered.
func TestUntrackedReject(t *testing.T) {
	for _, tracked := range []bool{true, false} {
		for options, changed := range map[string]bool{"94040000": false, "00000001": true} {
			p := parsed(t, withOptions(labUDP(4), hexBytes(options)))
			p.CompileOptions(&lab{})
			if got := p.Summed(tracked); got != (tracked || !changed) {
				t.Errorf("tracked %v, options changed %v: %v", tracked, changed, got)
			}
		}
	}
}
