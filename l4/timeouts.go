package l4

import "github.com/xdpct/xdpct/flow"

// Timeouts is one timeout for each state of each protocol, in seconds,
// 0..flow.MaxTimeout.
type Timeouts struct {
	// TCP is indexed by flow.TCPState; TCPNone is unused.
	TCP [flow.NumTCPStates]uint32
	// TCPMaxRetrans and TCPUnacknowledged replace longer timeouts.
	TCPMaxRetrans, TCPUnacknowledged uint32
	// UDP is for connections without an answer, or younger than two seconds;
	// UDPStream for the others. Both serve UDP-Lite, too.
	UDP, UDPStream uint32
	// GRE is for tunnels without an answer, GREStream for the others.
	GRE, GREStream uint32
	// SCTP is indexed by flow.SCTPState; SCTPNone is for packets that begin
	// nothing.
	SCTP         [flow.NumSCTPStates]uint32
	ICMP, ICMPv6 uint32
	Generic      uint32
}

// LinuxTimeouts are the defaults of Linux 6.18.
func LinuxTimeouts() Timeouts {
	return Timeouts{
		TCP: [flow.NumTCPStates]uint32{
			flow.TCPSynSent:     120,
			flow.TCPSynRecv:     60,
			flow.TCPEstablished: 5 * 24 * 3600,
			flow.TCPFinWait:     120,
			flow.TCPCloseWait:   60,
			flow.TCPLastAck:     30,
			flow.TCPTimeWait:    120,
			flow.TCPClose:       10,
			flow.TCPSynSent2:    120,
		},
		TCPMaxRetrans: 300, TCPUnacknowledged: 300,
		UDP: 30, UDPStream: 120,
		GRE: 30, GREStream: 180,
		SCTP: [flow.NumSCTPStates]uint32{
			flow.SCTPClosed:          10,
			flow.SCTPCookieWait:      3,
			flow.SCTPCookieEchoed:    3,
			flow.SCTPEstablished:     210,
			flow.SCTPShutdownSent:    3,
			flow.SCTPShutdownRecd:    3,
			flow.SCTPShutdownAckSent: 3,
			flow.SCTPHeartbeatSent:   30,
		},
		ICMP: 30, ICMPv6: 30,
		Generic: 600,
	}
}

// RFCTimeouts are the least that the IETF's BEHAVE documents allow a NAT, most of
// which are longer than Linux's: TCP 2 hours 4 minutes, and 4 minutes while a
// connection opens or closes, also by RST (RFC 5382 REQ-5, RFC 7857 2.1); UDP 2
// minutes, streams the recommended 5 (RFC 4787 REQ-5); ICMP queries 60 seconds
// (RFC 5508 REQ-2). They are silent on the rest, which stays as in Linux.
func RFCTimeouts() Timeouts {
	const transitory = 4 * 60
	t := LinuxTimeouts()
	for st := flow.TCPSynSent; st < flow.NumTCPStates; st++ {
		t.TCP[st] = transitory
	}
	t.TCP[flow.TCPEstablished] = 2*3600 + 4*60
	t.UDP, t.UDPStream = 2*60, 5*60
	t.ICMP, t.ICMPv6 = 60, 60
	return t
}

// TimeoutsByName returns the timeouts of a profile, linux or rfc.
func TimeoutsByName(profile string) (t Timeouts, ok bool) {
	switch profile {
	case "linux":
		return LinuxTimeouts(), true
	case "rfc":
		return RFCTimeouts(), true
	}
	return t, false
}

// Config is what the trackers are told: the timeouts and the switches of
// net.netfilter. The zero Config is not useful; begin with Linux().
type Config struct {
	Timeouts Timeouts

	TCPLoose            bool  // nf_conntrack_tcp_loose: pick up connections under way
	TCPBeLiberal        bool  // nf_conntrack_tcp_be_liberal: only RSTs out of window are INVALID
	TCPIgnoreInvalidRST bool  // nf_conntrack_tcp_ignore_invalid_rst
	TCPExactRST         bool  // xdpct_tcp_exact_rst: only a RST at exactly the next sequence number closes (RFC 5961, 3.2)
	TCPMaxRetrans       uint8 // nf_conntrack_tcp_max_retrans
}

// Linux returns the defaults of Linux 6.18.
func Linux() Config {
	return Config{Timeouts: LinuxTimeouts(), TCPLoose: true, TCPMaxRetrans: 3}
}
