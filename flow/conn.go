package flow

import "unsafe"

// Millis is a point in time in milliseconds modulo 2^32 (49 days), the unit of
// expiry. Two of them compare by the sign of their difference.
type Millis uint32

// Until returns the time from now to m in milliseconds, negative if m is past.
// Valid iff they are less than 24 days apart.
func (m Millis) Until(now Millis) int32 { return int32(m - now) }

// MaxTimeout is the longest timeout that Millis can carry, 24 days in seconds.
// (Linux stops at the same order: half of its 32-bit jiffies.)
const MaxTimeout = 24 * 24 * 3600

// Conn is one live connection: two cache lines, no pointers. The first line is
// all that a UDP packet of a known connection reads and writes; TCP needs both.
//
// A Conn belongs to the shard that holds it and is never shared.
type Conn struct {
	Key     Tuple  // canonical, see Tuple.Canonical
	Expires Millis // the connection is gone from this moment on
	Status  Status

	// State is the protocol's state: a TCPState for TCP.
	State uint8
	// Flip has bit 0 set where the original direction runs from Key.Dst to Key.Src, see
	// Flipped; the others are the generation.
	Flip uint8

	bytesLo [2]uint32
	// packetsPaths is three fields: 24 bits of packets of each direction, the original
	// one's lowest, and 16 bits of PathNumber.
	packetsPaths uint64

	// upper is the high half of the byte counters, or, while the connection is
	// queued for eviction, its links in that queue (see Link).
	upper [2]uint32

	TCP       TCPTrack
	packetsHi [2]uint16 // the next 16 bits; the others are in the Extra
}

// Compile-time: a Conn is exactly two cache lines, and the counters' low halves
// end the first.
var (
	_ [128]byte = [unsafe.Sizeof(Conn{})]byte{}
	_ [64]byte  = [unsafe.Offsetof(Conn{}.upper)]byte{}
)

// Compile-time: an Extra is two cache lines, and what packets need is in the first.
var (
	_ [128]byte = [unsafe.Sizeof(Extra{})]byte{}
	_ [64]byte  = [unsafe.Offsetof(Extra{}.Master)]byte{}
)

// TCPTrack is struct ip_ct_tcp, packed. UDP keeps its stream timestamp in it.
type TCPTrack struct {
	Seen [2]TCPSeen // by direction

	LastSeq, LastAck, LastEnd uint32 // of the last packet in window
	LastWin                   uint16 // unscaled

	Flags   [2]TCPFlags // by direction
	Last    TCPLast
	scales  uint8 // window scales, the original direction's in the low half
	Retrans uint8 // retransmissions of the last packet, modulo 256 as in the kernel
}

// Scale returns the window scale of direction d, 0..14.
func (t *TCPTrack) Scale(d Direction) uint8 { return t.scales >> (4 * d) & 15 }

// SetScale sets the window scale of direction d.
func (t *TCPTrack) SetScale(d Direction, scale uint8) {
	t.scales = t.scales&^(15<<(4*d)) | (scale&15)<<(4*d)
}

// TCPSeen is struct ip_ct_tcp_state: what one side has sent and may send, in
// absolute sequence numbers.
type TCPSeen struct {
	End    uint32 // td_end: highest sequence number sent, plus one
	MaxEnd uint32 // td_maxend: highest that the other side allows
	MaxWin uint32 // td_maxwin: largest window advertised, scaled; 0 before the first packet
	MaxAck uint32 // td_maxack: highest acknowledgement sent; valid iff TCPMaxAckSet
}

// TCPFlags are the per-direction IP_CT_TCP_FLAG_* bits, with the kernel's values.
type TCPFlags uint8

// The per-direction flags.
const (
	TCPWindowScale   TCPFlags = 0x01 // IP_CT_TCP_FLAG_WINDOW_SCALE
	TCPSackPerm      TCPFlags = 0x02 // IP_CT_TCP_FLAG_SACK_PERM
	TCPCloseInit     TCPFlags = 0x04 // IP_CT_TCP_FLAG_CLOSE_INIT
	TCPBeLiberal     TCPFlags = 0x08 // IP_CT_TCP_FLAG_BE_LIBERAL
	TCPUnacked       TCPFlags = 0x10 // IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED
	TCPMaxAckSet     TCPFlags = 0x20 // IP_CT_TCP_FLAG_MAXACK_SET
	TCPChallengeAck  TCPFlags = 0x40 // IP_CT_EXP_CHALLENGE_ACK, only in TCPLast
	TCPSimultaneous  TCPFlags = 0x80 // IP_CT_TCP_SIMULTANEOUS_OPEN, only in TCPLast
	tcpRememberedSet          = TCPWindowScale | TCPSackPerm | TCPChallengeAck | TCPSimultaneous
)

// TCPLast describes the last packet: the window scale and flags of a SYN that
// was let through unjudged, the packet's direction and its class. Sixteen bits:
// flags in the upper byte, then four bits of scale, one of direction and three
// of class.
type TCPLast uint16

// Index is the packet's class (enum tcp_bit_set).
func (l TCPLast) Index() TCPIndex { return TCPIndex(l & 7) }

// Dir is the packet's direction (last_dir).
func (l TCPLast) Dir() Direction { return Direction(l >> 3 & 1) }

// Scale is the remembered window scale (last_wscale).
func (l TCPLast) Scale() uint8 { return uint8(l >> 4 & 15) }

// Flags are the remembered flags (last_flags).
func (l TCPLast) Flags() TCPFlags { return TCPFlags(l >> 8) }

// SetPacket records direction and class, and keeps the rest.
func (l *TCPLast) SetPacket(d Direction, i TCPIndex) {
	*l = *l&^0xf | TCPLast(d)<<3 | TCPLast(i)
}

// SetOptions records scale and flags, and keeps the rest.
func (l *TCPLast) SetOptions(scale uint8, f TCPFlags) {
	*l = *l&0xf | TCPLast(scale&15)<<4 | TCPLast(f&tcpRememberedSet)<<8
}

// TCPIndex is enum tcp_bit_set, the class of a TCP packet.
type TCPIndex uint8

// The packet classes, in the order of the kernel's state table.
const (
	TCPSyn        TCPIndex = iota // TCP_SYN_SET
	TCPSynAck                     // TCP_SYNACK_SET
	TCPFin                        // TCP_FIN_SET
	TCPAck                        // TCP_ACK_SET
	TCPRst                        // TCP_RST_SET
	TCPNoFlags                    // TCP_NONE_SET
	NumTCPIndexes                 // the number of classes above
)

// Counters are the packets and bytes of one direction. Bytes are those of the
// IP datagrams, headers included, as nf_conntrack_acct counts them.
type Counters struct{ Packets, Bytes uint64 }

// These bits have a meaning of their own here. The kernel's are of no use to a
// connection in a table: TEMPLATE is for packets, DYING ones are gone, and those of
// what is done are the same as SRC_NAT and DST_NAT once the first packet has passed.
const (
	queued   = Template   // upper holds queue links
	extended = Dying      // there is an Extra
	twoKeyed = DstNATDone // the reply tuple is not the inverse of the original
	// The original tuple, and the reply tuple, are claimed where several shards look.
	claimedOrig  = SrcNATDone
	claimedReply = HWOffload
	private      = queued | extended | twoKeyed | claimedOrig | claimedReply
)

// Extended reports whether the connection has an Extra.
func (c *Conn) Extended() bool { return c.Status&extended != 0 }

// SetExtended says that the connection has an Extra.
func (c *Conn) SetExtended() { c.Status |= extended }

// TwoKeyed reports whether the reply tuple is not the inverse of the original
// one, so that the connection has a key for each. It then is Extended, too.
func (c *Conn) TwoKeyed() bool { return c.Status&twoKeyed != 0 }

// Claimed reports whether the tuple of direction d is claimed in the directory that
// several shards share (nat.Directory).
func (c *Conn) Claimed(d Direction) bool { return c.Status&claimedBit(d) != 0 }

// SetClaimed says that it is, or is not.
func (c *Conn) SetClaimed(d Direction, is bool) {
	if c.Status &^= claimedBit(d); is {
		c.Status |= claimedBit(d)
	}
}

func claimedBit(d Direction) Status {
	if d == Reply {
		return claimedReply
	}
	return claimedOrig
}

// Lively reports whether the connection is in a table and has one key.
func (c *Conn) Lively() bool { return c.Status&(Confirmed|twoKeyed) == Confirmed }

// SetTwoKeyed says that Extra.Reply is valid. If the original tuple is its own inverse
// there is another reply tuple now, and only that is found for a reply.
func (c *Conn) SetTwoKeyed() {
	c.Status |= extended | twoKeyed
	if inverse, _ := c.Key.Invert(); inverse == c.Key {
		c.Flip &^= flipBit
	}
}

// Carry is what a counter hands on that has no room for it.
type Carry uint8

// What Count may hand on.
const (
	CarryBytes   Carry = 1 << iota // 2^32 bytes: the place of the upper half holds queue links
	CarryPackets                   // 2^40 packets
)

// The fields of packetsPaths, and how many bits of packets a Conn has.
const (
	packetsLoBits = 24
	packetsLoMask = 1<<packetsLoBits - 1
	pathsShift    = 2 * packetsLoBits
	packetsBits   = packetsLoBits + 16
)

// Count adds a packet of n bytes to direction d. What it returns, mostly nothing, is for
// the caller to add: for CarryBytes it must unlink the connection and then call
// CarryBytes, for CarryPackets add to the Extra.
func (c *Conn) Count(d Direction, n uint32) (carry Carry) {
	shift := packetsLoBits * uint(d)
	c.packetsPaths += 1 << shift
	if c.packetsPaths>>shift&packetsLoMask == 0 {
		c.packetsPaths -= 1 << (shift + packetsLoBits) // it went into the next field
		if c.packetsHi[d]++; c.packetsHi[d] == 0 {
			carry = CarryPackets
		}
	}
	c.bytesLo[d] += n
	if c.bytesLo[d] < n {
		if c.Status&queued != 0 {
			return carry | CarryBytes
		}
		c.upper[d]++
	}
	return carry
}

// CarryBytes adds 2^32 bytes to direction d. Valid iff the connection is not queued.
func (c *Conn) CarryBytes(d Direction) { c.upper[d]++ }

// Counters returns the counters of direction d. x is the Extra, if there is one.
func (c *Conn) Counters(d Direction, x *Extra) Counters {
	k := Counters{
		Packets: uint64(c.packetsHi[d])<<packetsLoBits | c.packetsPaths>>(packetsLoBits*uint(d))&packetsLoMask,
		Bytes:   uint64(c.bytesLo[d]),
	}
	if c.Status&queued == 0 {
		k.Bytes |= uint64(c.upper[d]) << 32
	}
	if x != nil {
		k.Packets |= uint64(x.PacketsHi[d]) << packetsBits
	}
	return k
}

// ZeroCounters sets the counters of both directions to zero. x is the Extra, if there is
// one.
func (c *Conn) ZeroCounters(x *Extra) {
	c.packetsPaths &^= 1<<pathsShift - 1
	c.packetsHi, c.bytesLo = [2]uint16{}, [2]uint32{}
	if !c.Queued() {
		c.upper = [2]uint32{}
	}
	if x != nil {
		x.PacketsHi = [2]uint32{}
	}
}

// PathNumber is a number that whoever holds the connection gives it; 0 in a new one.
func (c *Conn) PathNumber() uint16 { return uint16(c.packetsPaths >> pathsShift) }

// SetPathNumber sets PathNumber.
func (c *Conn) SetPathNumber(n uint16) {
	c.packetsPaths = c.packetsPaths&(1<<pathsShift-1) | uint64(n)<<pathsShift
}

// Queued reports whether the connection is in the eviction queue.
func (c *Conn) Queued() bool { return c.Status&queued != 0 }

// Link returns the neighbours in the eviction queue. Valid iff Queued.
func (c *Conn) Link() (next, prev uint32) { return c.upper[0], c.upper[1] }

// SetLink puts the connection between two neighbours of the eviction queue.
// A connection that moved 4 GiB in a direction must not be queued: its counters
// need the space.
func (c *Conn) SetLink(next, prev uint32) {
	c.Status |= queued
	c.upper = [2]uint32{next, prev}
}

// Unlink takes the connection out of the eviction queue.
func (c *Conn) Unlink() {
	c.Status &^= queued
	c.upper = [2]uint32{}
}

// PublicStatus is Status without the bits that only this package gives a meaning.
func (c *Conn) PublicStatus() Status { return c.Status &^ private }

// Tuple returns the tuple of direction d. x is the Extra, if there is one.
func (c *Conn) Tuple(d Direction, x *Extra) Tuple {
	if d == Reply && c.TwoKeyed() {
		return x.Reply.Oriented(x.ReplyFlip == 0)
	}
	return c.Key.Oriented(uint8(d) == c.Flip&flipBit)
}

const (
	flipBit = 1
	nextGen = 2
)

// Flipped reports whether the original direction runs from Key.Dst to Key.Src.
func (c *Conn) Flipped() bool { return c.Flip&flipBit != 0 }

// Generation tells the connection from those that had its place in the table before it,
// modulo 128.
func (c *Conn) Generation() uint8 { return c.Flip / nextGen }

// Succeed gives the connection the generation after that of the one that had its place in
// the table before.
func (c *Conn) Succeed(generation uint8) { c.Flip = c.Flip&flipBit | (generation+1)*nextGen }

// SetFlip says whether the original direction runs from Key.Dst to Key.Src. If the two
// tuples are equal all packets but the first are replies, as in the kernel, which finds
// the tuple that it has put into its table last.
func (c *Conn) SetFlip(flipped bool) {
	c.Flip = 0
	if flipped {
		c.Flip = 1
	} else if c.Key.Src == c.Key.Dst {
		if inverse, _ := c.Key.Invert(); inverse == c.Key {
			c.Flip = 1
		}
	}
}

// Oriented returns t as it is, or its inverse.
func (t Tuple) Oriented(asIs bool) Tuple {
	if !asIs {
		t, _ = t.Invert()
	}
	return t
}

// UDPStreamAt is the moment after which a UDP connection counts as a stream
// (ct->proto.udp.stream_ts).
func (c *Conn) UDPStreamAt() Millis { return Millis(c.TCP.LastEnd) }

// SetUDPStreamAt sets that moment.
func (c *Conn) SetUDPStreamAt(m Millis) { c.TCP.LastEnd = uint32(m) }
