package shard

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/packet"
)

// TestOverhear: where nothing is forwarded helpers read as well: what is announced is
// RELATED when it comes, and no packet is changed, held or dropped.
func TestOverhear(t *testing.T) {
	secret := flow.Secret{1, 2, 3, 4, 5, 6, 7}
	table := expect.New(10, &secret)
	s, err := New(Config{
		L4: l4.Linux(), Checks: packet.Checks{Transport: true}, MaxConns: 100, Secret: secret, Expect: table, Helpers: helper.All(),
		Assign: []Assignment{{flow.TCP, 21, 1}, {flow.UDP, 69, 3}},
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	now := int64(0)
	hear := func(d []byte) Verdict {
		t.Helper()
		now++
		s.Tick(now)
		f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)
		was := bytes.Clone(f)
		var p [1]packet.Packet
		var v [1]Verdict
		p[0].Parse(f, len(f), packet.Checks{Transport: true})
		s.Hash(&p[0])
		s.Process(p[:], v[:])
		if v[0].Action != Accept || !bytes.Equal(f, was) {
			t.Fatalf("%v %v, changed %v", v[0].Action, v[0].Reason, !bytes.Equal(f, was))
		}
		return v[0]
	}
	tcp := func(src, dst netip.Addr, sport, dport uint16, seq, ack uint32, flags packet.TCPFlags, data string) []byte {
		return packet.AppendTCP(nil, packet.IP{Src: src, Dst: dst}, sport, dport, packet.Segment{Seq: seq, Ack: ack, Flags: flags, Window: 6000, Payload: []byte(data)})
	}
	hear(tcp(clientIP, serverIP, 4000, 21, 10, 0, packet.SYN, ""))
	hear(tcp(serverIP, clientIP, 21, 4000, 20, 11, packet.SYN|packet.ACK, ""))
	hear(tcp(clientIP, serverIP, 4000, 21, 11, 21, packet.ACK, "PORT 10,1,"))
	hear(tcp(clientIP, serverIP, 4000, 21, 21, 21, packet.ACK, "0,1,19,137\r\n"))
	if v := hear(tcp(serverIP, clientIP, 20, 5001, 1, 0, packet.SYN, "")); v.State != flow.Related || v.Status&flow.Expected == 0 {
		t.Errorf("data is %v, %v", v.State, v.Status)
	}
	// The first datagram announces what the server answers from (RFC 1350, 4).
	hear(packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 5000, 69, []byte("\x00\x01file\x00octet\x00")))
	if v := hear(udp(serverIP, clientIP, 6000, 5000)); v.State != flow.Related {
		t.Errorf("TFTP data is %v", v.State)
	}
	if st := s.Stats().Help; st.Flows != 2 || st.Edits != 0 || st.Held != 0 {
		t.Errorf("%+v", st)
	}
	s.Walk(0, 1<<20, func(uint32, *flow.Conn) bool { return true })
	if st := s.Stats().Help; st.Now != 0 || st.Bytes != 0 {
		t.Errorf("%d are read still, with %d bytes", st.Now, st.Bytes)
	}
}
