package shard

import (
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// TestEthernetDestinations: what a router does with frames by their Ethernet destination,
// for a connection that is new and for one that is as well known as can be (asked of 6.18;
// ip_rcv_core, ip_forward): those to another host are nothing to it, not even to conntrack,
// and those to a group are tracked, but not forwarded.
func TestEthernetDestinations(t *testing.T) {
	mine, ports, other := packet.MAC{2, 1, 1}, packet.MAC{2}, packet.MAC{2, 9}
	for _, c := range []struct {
		what string
		to   packet.MAC
		vlan bool
		want flow.Reason
	}{
		{"this host", ports, false, 0},
		{"another host", other, false, flow.ReasonOtherHost},
		{"the VLAN, without tag", mine, false, flow.ReasonOtherHost},
		{"all", packet.MAC{255, 255, 255, 255, 255, 255}, false, flow.ReasonNotForwarded},
		{"a group", packet.MAC{1, 0, 0x5e, 0, 0, 5}, false, flow.ReasonNotForwarded},
		{"the VLAN", mine, true, 0},
		{"the port of the VLAN", ports, true, 0},
		{"another host in the VLAN", other, true, flow.ReasonOtherHost},
	} {
		for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
			routes := routesOfBoth()
			in := 0
			if c.vlan {
				in = 3
				for n := range routes.Interfaces {
					routes.Interfaces[n].Port = n
				}
				vlan := routes.Interfaces[0]
				vlan.Name, vlan.VLAN, vlan.MAC = "vlan", 7, [6]byte(mine)
				routes.SetInterfaces(append(routes.Interfaces, vlan))
			}
			b := newForwarder(t, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n", routes)
			ip, back := packet.IP{Src: clientIP, Dst: serverIP}, packet.IP{Src: serverIP, Dst: clientIP}
			if f == flow.IPv6 {
				ip, back = packet.IP{Src: client6, Dst: server6}, packet.IP{Src: server6, Dst: client6}
			}
			frame := func(to packet.MAC) []byte {
				return packet.AppendEthernet(nil, to, packet.MAC{4}, packet.AppendUDP(nil, ip, 4000, 53, make([]byte, 8)))
			}
			for known := range 4 {
				conns, seen := b.Len(), b.Stats().States
				if _, v := b.passFrame(in, frame(c.to)); v.Reason != c.want || (v.Action == Accept) != (c.want == 0) {
					t.Errorf("to %s, %v, %d before: %v %v", c.what, f, known, v.Action, v.Reason)
				}
				if c.want == flow.ReasonOtherHost && (b.Len() != conns || b.Stats().States[flow.Invalid] != seen[flow.Invalid]+1) {
					t.Errorf("to %s, %v: conntrack has seen it", c.what, f)
				}
				b.passFrame(in, frame(ports))
				b.passFrame(1, packet.AppendEthernet(nil, packet.MAC(routes.Interfaces[1].MAC), packet.MAC{4}, packet.AppendUDP(nil, back, 53, 4000, nil)))
			}
		}
	}
}

// TestOwnAddressChanges: which frames are a router's own is said by the routes that it
// has, and not asked where there is no Ethernet address.
func TestOwnAddressChanges(t *testing.T) {
	b := newNATBox(t, "")
	frame := packet.AppendEthernet(nil, packet.MAC{2, 0, 7}, packet.MAC{4}, udp(clientIP, serverIP, 4000, 53))
	for i, c := range []struct {
		mac  [6]byte
		want flow.Reason
	}{{[6]byte{2}, flow.ReasonOtherHost}, {[6]byte{2, 0, 7}, 0}, {[6]byte{2, 0, 8}, flow.ReasonOtherHost}, {[6]byte{}, 0}} {
		routes := threeWays(1)
		routes.Interfaces[0].MAC = c.mac
		b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: routes})
		if _, v := b.passFrame(0, frame); v.Reason != c.want {
			t.Errorf("%d: to %x, own address %x: %v %v", i, frame[:6], c.mac, v.Action, v.Reason)
		}
	}
	var p [1]packet.Packet
	var v [1]Verdict
	routes := threeWays(1)
	b.SetForwarding(&Forwarding{Rules: b.forward.Rules, Routes: routes})
	d := udp(clientIP, serverIP, 4000, 53)
	p[0].ParseDatagram(d, len(d), packet.Checks{})
	b.Hash(&p[0])
	if b.Process(p[:], v[:]); v[0].Action != Accept {
		t.Errorf("without a link header: %v %v", v[0].Action, v[0].Reason)
	}
}

// TestFragmentsForOthers: a fragment that is another host's does not wait for the rest of
// its datagram.
func TestFragmentsForOthers(t *testing.T) {
	b := newForwarder(t, "", "", routesOfBoth())
	d := packet.AppendUDP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 4000, 53, make([]byte, 16))
	d[6] = 0x20
	sumIP(d)
	for to, want := range map[packet.MAC]flow.Reason{{2}: 0, {2, 9}: flow.ReasonOtherHost, {255, 255, 255, 255, 255, 255}: 0} {
		f := packet.AppendEthernet(nil, to, packet.MAC{4}, d)
		var p packet.Packet
		p.Parse(f, len(f), packet.Checks{})
		if r := b.Screen(&p); r != want {
			t.Errorf("to %x: %v", to, r)
		}
	}
}
