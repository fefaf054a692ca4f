package policy

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy/syntax"
)

// View is a packet as rules see it, and what they did to it. The shard that judges
// the packet fills it in and reads it afterwards; both are its own.
type View struct {
	P *packet.Packet // as parsed; its Frame is what rules read and change

	// Src, Dst and the ports are those that the packet has now: after translation,
	// where there was one.
	Src, Dst         flow.Addr
	SrcPort, DstPort uint16 // ICMP: the identifier, and type<<8 | code
	In, Out          int    // interfaces by their numbers in the Program, -1 for none

	// What conntrack says. Valid iff Tracked, but for State: that is Invalid where
	// nothing tracks the packet.
	State   flow.State
	Dir     flow.Direction
	Tracked bool
	Conn    *flow.Conn
	Extra   *flow.Extra // nil: none

	Mark     uint32      // of the packet
	ConnMark uint32      // of the connection; rules may set it
	Labels   flow.Labels // of the connection; rules may set some
	CPU      int         // number of the shard
	Now      int64       // milliseconds
	Wall     int64       // nanoseconds since 1970
	Random   *nat.Rand
	Env      Env

	// Counts are the counters of the shard, by rule.
	Counts []Count

	// What rules asked for.
	Reject *syntax.RejectType // answer, and drop
	NAT    *nat.Range         // of an SNAT, DNAT and the like; valid iff the verdict is Accept
	NATSrc bool               // NAT is of the source
	mapped nat.Range          // what NAT points to
	// NoAddress says that a packet is dropped because the interface has no address to
	// map it to.
	NoAddress  bool
	NoTrack    bool
	Zone       *flow.ZoneID
	Helper     flow.HelperID
	Timeout    string // policy by name, "" for none
	masquerade bool   // NAT is of a MASQUERADE
	cut        bool   // the extension headers break off before the protocol
	traced     bool   // TRACE has matched
	dropped    bool   // a match drops the packet (xt_action_param.hotdrop)

	// Members are the shard's, and Member is the list of those rules that count the
	// packet's connection: 0 for none, and for a packet whose connection is not known
	// yet. Where the packet turns out to have none, or to have another, the shard
	// releases the list.
	Members *Members
	Member  uint32
	Own     bool // a datagram of the router's own: its Member does not change
}

// Env is what rules ask of the machine that the packet passes through.
type Env interface {
	// AddrType returns the kind of an address as the kernel's routes have it
	// (inet_addr_type), a bit of AddrTypes.
	AddrType(a flow.Addr, f flow.Family, dev int) AddrTypes
	// PathMTU is the MTU of the route to a.
	PathMTU(a flow.Addr, f flow.Family) int
	// InAddr is the first address of an interface of a family.
	InAddr(dev int, f flow.Family, to flow.Addr) (flow.Addr, bool)
	// Connection returns the connection in the table that the packet's tuple belongs to,
	// also if conntrack has not looked at the packet or calls it INVALID; nil if there
	// is none.
	Connection() (*flow.Conn, *flow.Extra)
	// Counted notes which rules count the connection that Connection returned: a list of
	// the shard's Members.
	Counted(list uint32)
	// Realms returns the realms of the packet's route, that of the source in the upper 16
	// bits; 0 before it is routed.
	Realms() uint32
	// Group returns the group of an interface, 0 if it has none.
	Group(dev int) uint32
	// Log logs the packet as it is now.
	Log(rule *Log)
	// ReverseOK reports whether the route back to the source of a packet leaves by the
	// interface that it came by (rpfilter).
	ReverseOK(r Reverse) bool
}

// Reverse is a packet whose source rpfilter asks about.
type Reverse struct {
	Family      flow.Family
	Src, Dst    flow.Addr
	In          int
	Mark        uint32
	TOS         uint8
	Loose       bool // any interface will do
	AcceptLocal bool // the source may be an address of this host
}

// Log is a rule that logs: LOG or NFLOG. It does not change.
type Log struct {
	Table, Chain string
	Line         int // of the rule, in its file
	Prefix       string
	Group        int // NFLOG group; -1: LOG
	Level        int // syslog level
	// What LOG says more than it does by itself.
	TCPSequence, TCPOptions, IPOptions, MACDecode bool
}

// Masquerade reports whether what NAT asks for is the address of the interface that
// the packet leaves by.
func (v *View) Masquerade() bool { return v.masquerade }

// family returns the packet's family.
func (v *View) family() flow.Family { return v.P.Family }

// fromSocket reports whether a packet would have a socket of the router's in Linux
// (sk_buff.sk): its ICMP errors have the one of the stack, its RSTs have none.
func (v *View) fromSocket() bool {
	return v.Own && (v.P.Proto == flow.ICMP || v.P.Proto == flow.ICMPv6)
}

// l4 returns the transport header and what follows, cut where the datagram or its
// capture ends; nil if there is none.
func (v *View) l4() []byte {
	if v.P.L4 == 0 {
		return nil
	}
	return v.P.Body()
}

// header returns the transport header, of at least n bytes. ok is false if it is cut
// off: the match then drops the packet.
func (v *View) header(n int) (h []byte, ok bool) {
	if h = v.l4(); len(h) < n {
		v.dropped = true
		return nil, false
	}
	return h, true
}

// hotdrop drops the packet, whatever rules follow. It returns false, for a match to
// return.
func (v *View) hotdrop() bool {
	v.dropped = true
	return false
}

// portsOrSPI returns the ports of a packet, or the halves of its SPI: zero for
// protocols that have neither, ok false if they are cut off (proto_ports_offset).
func (v *View) portsOrSPI() (src, dst uint16, ok bool) {
	if v.P.L4 == 0 { // the extension headers lead nowhere (ipv6_skip_exthdr)
		return 0, 0, false
	}
	at := 0
	switch p := v.P.Proto; {
	case p.HasPorts() || p == protoESP:
	case p == protoAH:
		at = 4
	default:
		return 0, 0, true
	}
	b := v.l4()
	if len(b) < at+4 {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint16(b[at+2:]), true
}

const (
	protoESP flow.Proto = 50
	protoAH  flow.Proto = 51
)

// Verdict is what becomes of a packet by the rules.
type Verdict uint8

// The verdicts.
const (
	Continue Verdict = iota // the next rule is asked
	Accept
	Drop
	returned // to the chain that jumped here
)
