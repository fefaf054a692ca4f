package helper

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// tlv is an element of BER, its length in one byte.
func tlv(tag byte, contents ...string) string {
	c := strings.Join(contents, "")
	return string([]byte{tag, byte(len(c))}) + c
}

// The contents of SNMP messages, of which the names are those of RFC 1157 and RFC 3416.
func snmpText(version byte, pdu string) string {
	return tlv(0x30, tlv(2, string([]byte{version})), tlv(4, "public"), pdu)
}

func bindings(values ...string) string {
	all := ""
	for _, v := range values {
		all += tlv(0x30, tlv(6, "\x2b\x06\x01"), v)
	}
	return tlv(0x30, all)
}

func snmpPDU(tag byte, values ...string) string {
	return tlv(tag, tlv(2, "\x01"), tlv(2, "\x00"), tlv(2, "\x00"), bindings(values...))
}

func trap1(agent string, values ...string) string {
	return tlv(0xa4, tlv(6, "\x2b\x06\x01"), agent, tlv(2, "\x06"), tlv(2, "\x01"), tlv(0x43, "\x01\x00"), bindings(values...))
}

const (
	ownAddress    = "\x40\x04\x0a\x00\x01\x02" // 10.0.1.2
	seenAddress   = "\x40\x04\xcb\x00\x71\x01" // 203.0.113.1
	otherAddress  = "\x40\x04\xc0\x00\x02\x02" // 192.0.2.2
	publicAddress = "\x40\x04\xc6\x33\x64\x09" // 198.51.100.9
)

// TestSNMP: the sender's own address in what it says is the one by which it is known
// (RFC 2962), if all of the message can be read.
func TestSNMP(t *testing.T) {
	octets := tlv(4, "\x0a\x00\x01\x02")
	indefinite := "\x30\x80" + tlv(2, "\x01") + tlv(4, "public") + snmpPDU(0xa7, ownAddress) + "\x00\x00"
	v2 := snmpText(1, snmpPDU(0xa7, ownAddress))
	textCases(t, snmpTrap(), textConn(flow.UDP, "162", snat), nil, []textCase{
		{say: ">" + snmpText(0, trap1(ownAddress, ownAddress)), read: snmpText(0, trap1(seenAddress, seenAddress))}, // Linux drops it
		{say: ">" + snmpText(0, trap1(otherAddress, ownAddress)), read: snmpText(0, trap1(otherAddress, seenAddress))},
		{say: ">" + v2, read: snmpText(1, snmpPDU(0xa7, seenAddress))},
		{say: ">" + snmpText(1, snmpPDU(0xa6, ownAddress, octets, otherAddress, ownAddress)), read: snmpText(1, snmpPDU(0xa6, seenAddress, octets, otherAddress, seenAddress))},
		{say: ">" + snmpText(1, snmpPDU(0xa7, ownAddress, tlv(0x80), tlv(5), tlv(0x46, "\x01"))), read: snmpText(1, snmpPDU(0xa7, seenAddress, tlv(0x80), tlv(5), tlv(0x46, "\x01")))},
		{say: ">" + v2 + "xx", read: snmpText(1, snmpPDU(0xa7, seenAddress)) + "xx"},
		{say: ">\x30\x81" + v2[1:], read: "\x30\x81" + snmpText(1, snmpPDU(0xa7, seenAddress))[1:]},
		{say: ">\x30\x84\x00\x00\x00" + v2[1:], read: "\x30\x84\x00\x00\x00" + snmpText(1, snmpPDU(0xa7, seenAddress))[1:]},
		{say: ">" + snmpText(1, snmpPDU(0xa7, octets))},
		// What cannot be read in full stays as it is; Linux drops these.
		{say: ">" + snmpText(3, snmpPDU(0xa7, ownAddress))},
		{say: ">" + snmpText(1, snmpPDU(0xa7, ownAddress, tlv(0x40, "\x0a\x00\x01\x02\x00")))},
		{say: ">" + snmpText(1, snmpPDU(0xa9, ownAddress))},
		{say: ">" + snmpText(1, snmpPDU(0xa7, ownAddress, ""))},
		{say: ">" + snmpText(1, snmpPDU(0xa7, ownAddress+ownAddress))},
		{say: ">" + snmpText(0, trap1(octets, ownAddress))},
		{say: ">" + indefinite},
		{say: ">\x30\x85\x00\x00\x00\x00" + v2[1:]},
		{say: ">\x30\x84\xff\xff\xff\xff" + v2[2:]},
		{say: ">\x3f" + v2[1:]},
		{say: ">hello world hello"},
	})
	for i := range v2 {
		textCases(t, snmpTrap(), textConn(flow.UDP, "162", snat), nil, []textCase{{say: ">" + v2[:i]}})
	}
	// An agent that is known by another address. Linux looks for that of who asked instead.
	own, public := snmpText(1, snmpPDU(0xa2, otherAddress)), snmpText(1, snmpPDU(0xa2, publicAddress))
	get := ">" + snmpText(1, snmpPDU(0xa0, tlv(5)))
	textCases(t, snmp(), textConn(flow.UDP, "161", dnat), []string{get}, []textCase{
		{say: "<" + own, read: public},
		{say: "<" + public},
		{say: "<" + snmpText(1, snmpPDU(0xa2, ownAddress))},
	})
	textCases(t, snmp(), textConn(flow.UDP, "161", plain), []string{get}, []textCase{{say: "<" + own}})
}

// broadcastConn is a connection of who asks everybody of a network.
func broadcastConn(port string) *Conn {
	c := fakeConn(flow.UDP, "10.0.1.2:137", "10.0.1.255:"+port, "")
	c.Broadcast = netip.MustParsePrefix("10.0.1.2/24")
	return c
}

// TestBroadcast: an answer may come from anybody of the network that was asked, and from
// nobody else (nf_conntrack_broadcast_help).
func TestBroadcast(t *testing.T) {
	for _, tc := range []struct {
		h    *Helper
		conn *Conn
		want string
	}{
		{netbiosNS(), broadcastConn("137"), "0/udp 10.0.1.0:137>10.0.1.2:137 of /24 permanent; refresh 3"},
		{snmp(), fakeBroadcast("10.0.1.2:40000"), "0/udp 10.0.1.0:161>10.0.1.2:40000 of /24 permanent; refresh 30"},
		{snmp(), broadcastConn("161"), "0/udp 10.0.1.0:161>10.0.1.2:137 of /24 permanent: a port below 1024"},
		{netbiosNS(), textConn(flow.UDP, "137", plain), ""},
		{snmp(), textConn(flow.UDP, "161", plain), ""},
		{snmpTrap(), broadcastConn("162"), ""},
	} {
		_, log, err := everyCut(t, tc.h, tc.conn, []string{">anything"})
		if got := strings.Join(log, "; "); got != tc.want || err != nil {
			t.Errorf("%v: expected %q, %v, want %q", tc.h.ID, got, err, tc.want)
		}
		_, log, _ = everyCut(t, tc.h, tc.conn, []string{"<anything"})
		if len(log) != 0 {
			t.Errorf("%v: expected %q for an answer", tc.h.ID, log)
		}
	}
}

// fakeBroadcast is broadcastConn of SNMP, from an address and port.
func fakeBroadcast(from string) *Conn {
	c := fakeConn(flow.UDP, from, "10.0.1.255:161", "")
	c.Broadcast = netip.MustParsePrefix("10.0.1.2/24")
	return c
}

func FuzzSNMP(f *testing.F) {
	seeds(f,
		[]string{">" + snmpText(0, trap1(ownAddress, ownAddress))},
		[]string{">" + snmpText(1, snmpPDU(0xa0, tlv(5))), "<" + snmpText(1, snmpPDU(0xa2, otherAddress, ownAddress))},
	)
	f.Fuzz(func(t *testing.T, input string, at uint16, nat uint8) {
		fuzzText(t, snmp(), textConn(flow.UDP, "161", int(nat%3)), input, int(at))
	})
}
