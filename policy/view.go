package policy

import (
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

	Mark     uint32 // of the packet
	ConnMark uint32 // of the connection; rules may set it
	Now      int64  // milliseconds
	Random   *nat.Rand
	Env      Env

	// Counts are the counters of the shard, by rule.
	Counts []Count

	// What rules asked for.
	Reject *syntax.RejectType // answer, and drop
	NAT    *nat.Range         // of an SNAT, DNAT and the like; valid iff the verdict is Accept
	NATSrc bool               // NAT is of the source
	// NoAddress says that a packet is dropped because the interface has no address to
	// map it to.
	NoAddress  bool
	NoTrack    bool
	Zone       *flow.ZoneID
	Helper     flow.HelperID
	Timeout    string // policy by name, "" for none
	Logs       []Log
	masquerade bool // NAT is of a MASQUERADE
	Modified   bool // Frame was changed
	Counted    bool // a rule counts the connection: Program.Gone is to be told of its end
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
	// ReverseOK reports whether the route back to src leaves by dev (rpfilter).
	ReverseOK(src flow.Addr, f flow.Family, dev int, loose bool) bool
}

// Log is a line that a LOG or NFLOG rule writes.
type Log struct {
	Table, Chain string
	Line         int // of the rule, in its file
	Prefix       string
	Group        int // NFLOG group; -1: LOG
	Level        int // syslog level
}

// Masquerade reports whether what NAT asks for is the address of the interface that
// the packet leaves by.
func (v *View) Masquerade() bool { return v.masquerade }

// family returns the packet's family.
func (v *View) family() flow.Family { return v.P.Family }

// l4 returns the transport header and what follows, cut where the frame was.
func (v *View) l4() []byte { return v.P.Frame[min(int(v.P.L4), len(v.P.Frame)):] }

// Verdict is what becomes of a packet by the rules.
type Verdict uint8

// The verdicts.
const (
	Continue Verdict = iota // the next rule is asked
	Accept
	Drop
	returned // to the chain that jumped here
)
