package packet

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
)

// Kind says what is to be done with a packet. The zero Kind is Malformed, so
// that what was not understood is not let through.
type Kind uint8

// The kinds of packet.
const (
	Malformed  Kind = iota // not a whole IP packet: drop, with Reason
	Invalid                // cannot belong to a connection, with Reason
	Untracked              // not IP, or neighbour discovery and the like
	Data                   // Key names the connection, which it may create
	Error                  // an ICMP error about the connection that Key names
	Fragmented             // a fragment of the datagram that Key names; with a Reason: one to drop
)

// Packet is a parsed frame.
type Packet struct {
	// Key is the canonical tuple: of the packet (Data), or of the answer to the
	// quoted packet (Error), that being the tuple that the kernel looks up. An
	// Invalid packet has one if its ports, or the identifier of its ICMP query, could be read.
	Key  flow.Tuple
	Hash uint64 // Key.Hash, filled in by the shard

	Frame []byte // the whole frame, borrowed

	Kind    Kind
	Reason  flow.Reason
	Flipped bool // the tuple was inverted to reach Key
	// Misdirected says that an Error was sent to another address than the
	// source of the packet that it quotes.
	Misdirected bool

	// Zone is that of the packet. Parse leaves it the default one; SetZone sets it.
	Zone flow.ZoneID
	VLAN uint16 // of the outermost tag, 0 if there is none

	// In is the interface that the packet came by, and Largest the length of the
	// largest fragment that it was made of, 0 if of none. Bridged says that it passes a
	// bridge, which does not read IPv4 options: all fragments have all of them. Parse leaves
	// these alone: they are the caller's.
	In      int
	Largest uint32
	Bridged bool

	Family flow.Family
	Proto  flow.Proto
	L3, L4 uint16 // offsets of the IP and the transport header in Frame
	Len    uint32 // length of the IP datagram in bytes, headers included

	TCP      TCP      // valid iff Proto is TCP and Kind is Data
	Fragment Fragment // valid iff Kind is Fragmented
}

// TCP is what the tracker reads of a TCP header, in host byte order.
type TCP struct {
	Seq, Ack  uint32
	SegLen    uint32 // sequence space that the segment takes: payload, SYN and FIN
	Window    uint16 // unscaled
	Flags     TCPFlags
	HeaderLen uint8 // in bytes, 20..60
}

// TCPFlags are the flags of byte 13 of a TCP header (RFC 9293, 3.1).
type TCPFlags uint8

// The TCP flags.
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Index classifies a packet as get_conntrack_index does: RST before SYN before
// FIN before ACK.
func (f TCPFlags) Index() flow.TCPIndex { return tcpIndexes[f&(FIN|SYN|RST|PSH|ACK)] }

var tcpIndexes = func() (t [FIN | SYN | RST | PSH | ACK + 1]flow.TCPIndex) {
	for i := range t {
		f := TCPFlags(i)
		switch {
		case f&RST != 0:
			t[i] = flow.TCPRst
		case f&SYN != 0 && f&ACK != 0:
			t[i] = flow.TCPSynAck
		case f&SYN != 0:
			t[i] = flow.TCPSyn
		case f&FIN != 0:
			t[i] = flow.TCPFin
		case f&ACK != 0:
			t[i] = flow.TCPAck
		default:
			t[i] = flow.TCPNoFlags
		}
	}
	return t
}()

// validFlags is the kernel's tcp_valid_flags: which combinations a stack may
// send, PSH, ECE and CWR left aside.
const validFlags = 1<<SYN | 1<<(SYN|URG) | 1<<(SYN|ACK) | 1<<RST | 1<<(RST|ACK) |
	1<<(FIN|ACK) | 1<<(FIN|ACK|URG) | 1<<ACK | 1<<(ACK|URG)

func (f TCPFlags) valid() bool {
	return uint64(validFlags)>>(f&(FIN|SYN|RST|ACK|URG))&1 != 0
}

// SetZone puts the packet into a zone. Call it between Parse and whatever looks at
// the key.
func (p *Packet) SetZone(z flow.ZoneID) {
	p.Zone = z
	p.Key.L4 = p.Key.L4.WithZone(z.In(flow.Original))
}

// ToGroup reports whether the frame was sent to a group of hosts on its link: its Ethernet
// destination is the broadcast address or a multicast one (PACKET_BROADCAST,
// PACKET_MULTICAST). Without a link header it was not.
func (p *Packet) ToGroup() bool { return p.L3 >= ethernetLen && p.Frame[0]&1 != 0 }

// FromStation reports whether the Ethernet source of a frame is an address that one station may
// have (is_valid_ether_addr): no group's, and not zero. A frame that is cut off before that
// passes for one; Parse has more to say of it.
func FromStation(frame []byte) bool {
	if len(frame) < ethernetLen {
		return true
	}
	src := binary.BigEndian.Uint64(frame[6:]) >> 16
	return src>>40&1 == 0 && src != 0
}

// Tuple returns the packet's own tuple. Valid iff it has a key.
func (p *Packet) Tuple() flow.Tuple { return p.Key.Oriented(!p.Flipped) }

// Options returns the TCP options. Valid iff Proto is TCP and Kind is Data.
// They are cut where a capture was.
func (p *Packet) Options() []byte {
	end := min(int(p.L4)+int(p.TCP.HeaderLen), len(p.Frame))
	if int(p.L4)+20 >= end {
		return nil
	}
	return p.Frame[p.L4+20 : end]
}

// Body returns the datagram from its transport header on, cut where a capture
// was. Valid iff Kind is Data.
func (p *Packet) Body() []byte {
	end := min(int(p.L3)+int(p.Len), len(p.Frame))
	return p.Frame[min(int(p.L4), end):end]
}

// Checks selects what Parse verifies beyond lengths.
type Checks struct {
	// Transport verifies the checksums of TCP, UDP, UDP-Lite, SCTP, ICMP and
	// ICMPv6 (nf_conntrack_checksum).
	Transport bool
	// Partial accepts a transport checksum that covers only the pseudo header,
	// as a local stack leaves it for the device to finish (CHECKSUM_PARTIAL).
	// For ports whose far end may be such a stack: veth, virtio, tap.
	Partial bool
	// Keys are the call ids of PPTP tunnels, nil: none are known.
	Keys *flow.GREKeys
}
