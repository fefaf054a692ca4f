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
