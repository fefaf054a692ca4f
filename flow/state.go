package flow

import (
	"fmt"
	"slices"
	"strings"
)

// Zone is a conntrack zone; 0 is the default one.
type Zone uint16

// Mark is a connection mark (CONNMARK).
type Mark uint32

// Direction is enum ip_conntrack_dir.
type Direction uint8

// The two directions of a connection: that of its first packet, and the other.
const (
	Original Direction = 0 // IP_CT_DIR_ORIGINAL
	Reply    Direction = 1 // IP_CT_DIR_REPLY
)

// Other returns the opposite direction.
func (d Direction) Other() Direction { return d ^ 1 }

func (d Direction) String() string {
	if d == Reply {
		return "reply"
	}
	return "original"
}

// State is what conntrack says of a packet: the values of --ctstate. The zero
// State is Invalid, so that a packet nobody judged is not let through as known.
type State uint8

// The packet states.
const (
	Invalid State = iota
	New
	Established
	Related
	Untracked
)

func (s State) String() string {
	switch s {
	case New:
		return "NEW"
	case Established:
		return "ESTABLISHED"
	case Related:
		return "RELATED"
	case Untracked:
		return "UNTRACKED"
	}
	return "INVALID"
}

// Status is the IPS_* bit set of enum ip_conntrack_status.
type Status uint16

// The status bits, with the kernel's values.
const (
	Expected     Status = 1 << iota // IPS_EXPECTED
	SeenReply                       // IPS_SEEN_REPLY
	Assured                         // IPS_ASSURED
	Confirmed                       // IPS_CONFIRMED
	SrcNAT                          // IPS_SRC_NAT
	DstNAT                          // IPS_DST_NAT
	SeqAdjust                       // IPS_SEQ_ADJUST
	SrcNATDone                      // IPS_SRC_NAT_DONE
	DstNATDone                      // IPS_DST_NAT_DONE
	Dying                           // IPS_DYING
	FixedTimeout                    // IPS_FIXED_TIMEOUT
	Template                        // IPS_TEMPLATE
	NATClash                        // IPS_NAT_CLASH
	Helper                          // IPS_HELPER
	Offload                         // IPS_OFFLOAD
	HWOffload                       // IPS_HW_OFFLOAD
)

var statusNames = [16]string{
	"EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT", "DST_NAT", "SEQ_ADJUST",
	"SRC_NAT_DONE", "DST_NAT_DONE", "DYING", "FIXED_TIMEOUT", "TEMPLATE", "NAT_CLASH",
	"HELPER", "OFFLOAD", "HW_OFFLOAD",
}

// Names lists the names of the bits that are set, lowest first, without
// CONFIRMED, which every listed connection has.
func (s Status) Names() []string {
	names := []string{}
	for i, n := range statusNames {
		if b := Status(1) << i; s&b != 0 && b != Confirmed {
			names = append(names, n)
		}
	}
	return names
}

// ParseStatus is the inverse of Names.
func ParseStatus(names ...string) (s Status, err error) {
	for _, n := range names {
		i := slices.Index(statusNames[:], n)
		if i < 0 {
			return 0, fmt.Errorf("there is no status %q", n)
		}
		s |= 1 << i
	}
	return s, nil
}

func (s Status) String() string { return strings.Join(s.Names(), ",") }

// TCPState is enum tcp_conntrack, the state of a TCP connection.
type TCPState uint8

// The TCP states.
const (
	TCPNone        TCPState = iota // TCP_CONNTRACK_NONE
	TCPSynSent                     // TCP_CONNTRACK_SYN_SENT
	TCPSynRecv                     // TCP_CONNTRACK_SYN_RECV
	TCPEstablished                 // TCP_CONNTRACK_ESTABLISHED
	TCPFinWait                     // TCP_CONNTRACK_FIN_WAIT
	TCPCloseWait                   // TCP_CONNTRACK_CLOSE_WAIT
	TCPLastAck                     // TCP_CONNTRACK_LAST_ACK
	TCPTimeWait                    // TCP_CONNTRACK_TIME_WAIT
	TCPClose                       // TCP_CONNTRACK_CLOSE
	TCPSynSent2                    // TCP_CONNTRACK_SYN_SENT2
	NumTCPStates                   // the number of states above
)

var tcpStateNames = [NumTCPStates]string{
	"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT",
	"CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
}

func (s TCPState) String() string {
	if s < NumTCPStates {
		return tcpStateNames[s]
	}
	return "UNKNOWN"
}
