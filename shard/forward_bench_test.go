package shard

import (
	"testing"

	"github.com/xdpct/xdpct/packet"
)

// BenchmarkForward is a packet of a known connection through a router, past its rules.
func BenchmarkForward(b *testing.B) {
	s := newForwarder(b, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", "", routesOfBoth())
	for range 3 {
		s.passFrame(0, packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, udp(clientIP, serverIP, 4000, 53)))
		s.passFrame(1, packet.AppendEthernet(nil, packet.MAC{2, 1}, packet.MAC{4}, udp(serverIP, clientIP, 53, 4000)))
	}
	var pkts [64]packet.Packet
	var out [64]Verdict
	for i := range pkts {
		f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, udp(clientIP, serverIP, 4000, 53))
		pkts[i].Parse(f, len(f), packet.Checks{})
		s.Hash(&pkts[i])
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += len(pkts) {
		for k := range pkts {
			pkts[k].SetHops(64)
		}
		s.Process(pkts[:], out[:])
	}
	for i := range out {
		if out[i].Action != Accept {
			b.Fatal(out[i].Reason)
		}
	}
}
