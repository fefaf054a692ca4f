package shard

import (
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

const logAll = "*raw\n-A PREROUTING -j LOG --log-prefix \"raw \"\nCOMMIT\n" +
	"*mangle\n-A PREROUTING -j MARK --set-mark 5\n-A POSTROUTING -j LOG --log-prefix \"post \"\nCOMMIT\n" +
	"*nat\n-A PREROUTING -p udp --dport 8080 -j DNAT --to-destination 10.2.0.1:80\n-A POSTROUTING -j SNAT --to-source 192.0.2.1\nCOMMIT\n" +
	"*filter\n-A FORWARD -j LOG --log-prefix \"fwd \" --log-level err\nCOMMIT\n"

// lines returns what rules have logged.
func lines(b *natBox) (all []string, lost uint64) {
	names := map[int]string{-1: "", 0: "inside", 1: "outside"}
	logged, lost := b.TakeLogged()
	for i := range logged {
		all = append(all, string(logged[i].AppendText(nil, names[logged[i].In], names[logged[i].Out])))
	}
	return all, lost
}

// TestLogs: LOG says what the packet is at its hook, in the kernel's words, and nothing of
// what becomes of it later. (The kernel's own lines: TestLogsAgree in internal/kernel.)
func TestLogs(t *testing.T) {
	b := newNATBox(t, logAll)
	const mac = " MAC=02:00:00:00:00:00:04:00:00:00:00:00:08:00 "
	const ip = " LEN=33 TOS=0x00 PREC=0x00 TTL=64 ID=0 PROTO=UDP "
	for range 3 { // the third by code made for its connection
		b.pass(inside, udp(clientIP, publicIP, 4000, 8080))
		got, lost := lines(b)
		want := []string{
			"raw IN=inside OUT=" + mac + "SRC=10.1.0.1 DST=192.0.2.1" + ip + "SPT=4000 DPT=8080 LEN=13 ",
			"fwd IN=inside OUT=outside" + mac + "SRC=10.1.0.1 DST=10.2.0.1" + ip + "SPT=4000 DPT=80 LEN=13 MARK=0x5 ",
			"post IN=inside OUT=outside" + mac + "SRC=10.1.0.1 DST=10.2.0.1" + ip + "SPT=4000 DPT=80 LEN=13 MARK=0x5 ",
		}
		if len(got) != len(want) || lost != 0 {
			t.Fatalf("%q, %d lost", got, lost)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("logged\n%q, not\n%q", got[i], want[i])
			}
		}
		b.pass(outside, udp(serverIP, publicIP, 80, 4000))
		lines(b)
	}
	b.pass(inside, packet.AppendICMP(nil, packet.IP{Src: clientIP, Dst: serverIP}, 8, 0, 7<<16|9, nil))
	got, _ := lines(b)
	if want := "raw IN=inside OUT=" + mac + "SRC=10.1.0.1 DST=10.2.0.1 LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=0 PROTO=ICMP TYPE=8 CODE=0 ID=7 SEQ=9 "; len(got) != 3 || got[0] != want {
		t.Errorf("logged\n%q, not\n%q", got, want)
	}
}

// TestLogsAreBounded: what finds no room until it is taken is counted, and logging takes
// no memory of its own.
func TestLogsAreBounded(t *testing.T) {
	b := newNATBox(t, "*filter\n-A FORWARD -j LOG\nCOMMIT\n")
	const n = 2*maxLogged + 3
	for range n {
		b.pass(inside, udp(clientIP, serverIP, 4000, 53))
	}
	if all, lost := lines(b); len(all) != maxLogged || lost != n-maxLogged {
		t.Errorf("%d logged, %d lost", len(all), lost)
	}
	var p [1]packet.Packet
	var v [1]Verdict
	f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, udp(clientIP, serverIP, 4000, 53))
	if a := testing.AllocsPerRun(200, func() {
		p[0].Parse(f, len(f), packet.Checks{})
		b.Hash(&p[0])
		b.Process(p[:], v[:])
		b.TakeLogged()
	}); a != 0 || v[0].Reason != flow.NoReason {
		t.Errorf("%v allocations a packet, %v", a, v[0].Reason)
	}
}
