package kernel

import (
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// TestOracle asks about a handshake whose verdicts everybody knows.
func TestOracle(t *testing.T) {
	testenv.Root(t)
	o, err := NewOracle(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		a, b := A.Host(1, f), B.Host(1, f)
		for i, s := range []struct {
			from  Side
			flags packet.TCPFlags
			seq   uint32
			ack   uint32
			want  Verdict
		}{
			{A, packet.SYN, 1000, 0, Verdict{flow.New, flow.Original, false, false}},
			{B, packet.SYN | packet.ACK, 5000, 1001, Verdict{flow.Established, flow.Reply, true, false}},
			{A, packet.ACK, 1001, 5001, Verdict{flow.Established, flow.Original, true, true}},
			{B, packet.RST, 4999, 0, Verdict{State: flow.Invalid}},
		} {
			seg := packet.Segment{Seq: s.seq, Ack: s.ack, Flags: s.flags, Window: 65535}
			d := packet.AppendTCP(nil, packet.IP{Src: a, Dst: b}, 40000, 80, seg)
			if s.from == B {
				d = packet.AppendTCP(nil, packet.IP{Src: b, Dst: a}, 80, 40000, seg)
			}
			got, ok, err := o.Send(s.from, d)
			if err != nil || !ok || got != s.want {
				t.Errorf("%v packet %d: %+v %v %v, want %+v", f, i, got, ok, err, s.want)
			}
		}
	}
	begin := time.Now()
	for i := range 2000 {
		d := packet.AppendUDP(nil, packet.IP{Src: A.Host(1, flow.IPv4), Dst: B.Host(1, flow.IPv4)}, uint16(i), 53, nil)
		if _, ok, err := o.Send(A, d); !ok || err != nil {
			t.Fatal(i, ok, err)
		}
	}
	t.Logf("%v a packet", time.Since(begin)/2000)
	table, err := o.Table()
	if err != nil || len(table) == 0 {
		t.Fatal(err, len(table))
	}
	t.Logf("%.300s", table)
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	if table, err = o.Table(); err != nil || len(table) != 0 {
		t.Fatalf("after Flush: %s %v", table, err)
	}
}

// TestReadApart: a difference is excused only where rules read what a draw has made
// different: the string that one searches for, or a port that one names.
func TestReadApart(t *testing.T) {
	echo := func(id uint32) [][]byte {
		return [][]byte{Frame(A, packet.AppendICMP(nil, between(A, 1, 1, flow.IPv4), 0, 0, id<<16|1, nil))}
	}
	reply := func(port uint16) [][]byte { return [][]byte{Frame(B, udpDatagram(B, 1, 1, flow.IPv4, 9, port, 1).d)} }
	for name, c := range map[string]struct {
		rules string
		k, x  [][]byte
		want  bool
	}{
		"string":            {`-m string --algo bm --from 14 --to 158 --hex-string "|0ff0|" -j DROP`, echo(0x0ff0), echo(0x1234), true},
		"string before":     {`-m string --algo bm --from 0 --to 20 --hex-string "|0ff0|" -j DROP`, echo(0x0ff0), echo(0x1234), false},
		"other string":      {`-m string --algo bm --from 14 --to 158 --hex-string "|dead|" -j DROP`, echo(0x0ff0), echo(0x1234), false},
		"equal":             {`-m string --algo bm --from 14 --to 158 --hex-string "|0ff0|" -j DROP`, echo(0x0ff0), echo(0x0ff0), false},
		"port":              {"-p udp -m udp --dport 2000:2002 -j DROP", reply(2001), reply(2044), true},
		"both ports":        {"-p udp -m udp --dport 2000:2002 -j DROP", reply(2001), reply(2002), false},
		"port of a mapping": {"-p udp -j MASQUERADE --to-ports 2000-2030", reply(2001), reply(2044), false},
		"no port":           {"-p udp -j DROP", reply(2001), reply(2044), false},
	} {
		if got := (&trial{rules: c.rules}).readApart(c.k, c.x); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
