package helper

import (
	"net/netip"

	"github.com/xdpct/xdpct/flow"
)

// netbiosID is the id of "netbios-ns" in the table of flow.
const netbiosID flow.HelperID = 11

// The ports from which a broadcast is answered.
const (
	netbiosPort = 137
	snmpPort    = 161
)

// netbiosNS expects the answers to NetBIOS name queries that went to everybody
// (nf_conntrack_netbios_ns; RFC 1002 4.2.12).
func netbiosNS() *Helper {
	return &Helper{
		ID: netbiosID, Protos: []flow.Proto{flow.UDP}, IPv4: true,
		Classes: []Class{{Max: 1, Timeout: 3}},
		New:     func() Session { return netbiosSession{} },
	}
}

type netbiosSession struct{}

// Message reads one datagram. What is in it does not matter.
func (netbiosSession) Message(m *Message) (int, error) {
	// Name queries are asked from the port at which they are answered.
	askedAll(m, netbiosPort, true, 3)
	return len(m.Data), nil
}

// askedAll expects the answers to a broadcast (nf_conntrack_broadcast_help): from any host of
// the network that was asked, at port, to who asked, as many as there are in as many seconds
// as the helper's class has. What went to one host is no affair of it.
func askedAll(m *Message, port uint16, low bool, seconds uint32) {
	net := m.Conn.Broadcast
	if m.Dir != flow.Original || !net.IsValid() {
		return
	}
	_, err := m.Env.Expect(m, Expected{
		Proto:     flow.UDP,
		From:      netip.AddrPortFrom(net.Masked().Addr(), port),
		FromNet:   net.Bits(),
		To:        m.Conn.Self(m.Dir),
		Permanent: true,
		Low:       low,
	})
	if err == nil {
		m.Env.Refresh(seconds)
	}
}
