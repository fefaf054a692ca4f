package helper

import (
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// The ids of "snmp" and "snmp_trap" in the table of flow.
const (
	snmpID     flow.HelperID = 12
	snmpTrapID flow.HelperID = 13
)

// snmpSeconds is how long answers to a broadcast are expected.
const snmpSeconds = 30

// snmp reads requests of SNMP and their responses: it expects the answers to a broadcast
// (nf_conntrack_snmp), and has the agent's own address in what it says translated
// (RFC 2962; nf_nat_snmp_basic).
func snmp() *Helper {
	return &Helper{
		ID: snmpID, Protos: []flow.Proto{flow.UDP}, IPv4: true,
		Classes: []Class{{Max: 1, Timeout: snmpSeconds}},
		New:     func() Session { return snmpSession{broadcasts: true} },
	}
}

// snmpTrap reads what an agent tells unasked, as snmp does.
func snmpTrap() *Helper {
	return &Helper{
		ID: snmpTrapID, Protos: []flow.Proto{flow.UDP}, IPv4: true,
		Classes: []Class{{Max: 1, Timeout: snmpSeconds}}, // of which there are none
		New:     func() Session { return snmpSession{} },
	}
}

type snmpSession struct{ broadcasts bool }

// Message reads one datagram.
func (s snmpSession) Message(m *Message) (int, error) {
	if s.broadcasts {
		askedAll(m, snmpPort, false, snmpSeconds)
	}
	self, seen := m.Conn.Self(m.Dir).Addr(), m.Conn.Seen(m.Dir).Addr()
	if self == seen {
		return len(m.Data), nil
	}
	// Twice: there is no change unless all of the message can be read.
	if !snmpMessage(m.Data, func(int) {}) {
		return len(m.Data), nil
	}
	to := seen.As4()
	snmpMessage(m.Data, func(off int) {
		if netip.AddrFrom4([4]byte(m.Data[off:])) == self {
			m.Replace(off, 4, to[:])
		}
	})
	return len(m.Data), nil
}

// The tags of BER that SNMP uses (RFC 1157, RFC 3416; X.690 8.1.2).
const (
	berInteger   = 0x02
	berOctets    = 0x04
	berOID       = 0x06
	berSequence  = 0x30
	berIPAddress = 0x40 // [APPLICATION 0]
	berTicks     = 0x43 // [APPLICATION 3]
	berPDU       = 0xa0 // [0] to [8], constructed
	berTrap      = 0xa4 // [4]: of version 1
	berLastPDU   = 0xa8
)

// ber reads the elements of BER in data from at to end, one after the other.
type ber struct {
	data    []byte
	at, end int
	bad     bool
}

// next returns the tag and the contents of the next element. A length must be definite, and
// what it says be there.
func (b *ber) next() (tag byte, c ber) {
	if b.bad || b.end-b.at < 2 {
		b.bad = true
		return 0, ber{bad: true}
	}
	tag = b.data[b.at]
	n := uint64(b.data[b.at+1])
	b.at += 2
	if n >= 0x80 { // the long form: that many bytes of length follow
		k := int(n - 0x80)
		if k == 0 || k > 4 || k > b.end-b.at {
			b.bad = true
			return 0, ber{bad: true}
		}
		n = 0
		for ; k > 0; k-- {
			n = n<<8 | uint64(b.data[b.at])
			b.at++
		}
	}
	if tag&0x1f == 0x1f || n > uint64(b.end-b.at) { // tags of several bytes there are none
		b.bad = true
		return 0, ber{bad: true}
	}
	c = ber{data: b.data, at: b.at, end: b.at + int(n)}
	b.at = c.end
	return tag, c
}

// want returns the contents of the next element, which is to have the tag.
func (b *ber) want(tag byte) ber {
	got, c := b.next()
	if got != tag {
		b.bad = true
		return ber{bad: true}
	}
	return c
}

// snmpMessage reads a message of version 1 or 2c and calls found with the offset of each
// IpAddress in it. It reports whether all of it could be read; bytes after the message are
// none of it.
func snmpMessage(data []byte, found func(off int)) bool {
	b := ber{data: data, end: len(data)}
	msg := b.want(berSequence)
	version := msg.want(berInteger)
	if msg.bad || version.end-version.at != 1 || data[version.at] > 1 {
		return false
	}
	msg.want(berOctets) // the community
	tag, pdu := msg.next()
	if msg.bad || tag < berPDU || tag > berLastPDU || msg.at != msg.end {
		return false
	}
	if tag == berTrap {
		pdu.want(berOID) // the enterprise
		if !ipAddress(pdu.want(berIPAddress), found) {
			return false
		}
		pdu.want(berInteger)
		pdu.want(berInteger)
		pdu.want(berTicks)
	} else {
		pdu.want(berInteger)
		pdu.want(berInteger)
		pdu.want(berInteger)
	}
	list := pdu.want(berSequence)
	if pdu.bad || pdu.at != pdu.end {
		return false
	}
	for list.at != list.end {
		bind := list.want(berSequence)
		bind.want(berOID)
		tag, value := bind.next()
		if list.bad || bind.bad || bind.at != bind.end || tag == berIPAddress && !ipAddress(value, found) {
			return false
		}
	}
	return true
}

// ipAddress calls found with where an address is, and reports whether it is one.
func ipAddress(c ber, found func(off int)) bool {
	if c.bad || c.end-c.at != 4 {
		return false
	}
	found(c.at)
	return true
}
