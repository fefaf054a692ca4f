package shard

import (
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// handedOver are rules by which the answers of many connections come to a shard that is not
// theirs, and are handed over once table raw has named their zone.
const handedOver = "-A PREROUTING -j CT --zone 5\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n" +
	"-A POSTROUTING -p udp -j SNAT --to-source 192.0.2.1\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n"

// TestHandOverTrace: a packet that TRACE has matched is traced by the shard that it is
// handed over to as it would be by a single one.
func TestHandOverTrace(t *testing.T) {
	lines := func(b *box) (n int) {
		for _, s := range b.shards {
			l, _ := s.TakeLogged()
			n += len(l)
		}
		return n
	}
	want := 0
	for _, shards := range []int{1, 2, 4} {
		b := newBox(t, shards, "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j TRACE\n"+handedOver)
		over := 0
		for port := range uint16(40) {
			b.pass(0, udp(clientIP, serverIP, 1000+port, 53))
			lines(b)
			answer := udp(serverIP, publicIP, 53, 1000+port)
			if s, v := b.arrive(1, answer); v.Action == HandOver {
				over++
				s.TakeRaw()
				lines(b)
			}
			lines(b)
			if _, v := b.pass(1, answer); v.Action != Accept {
				t.Fatalf("%d shards: %v %v", shards, v.Action, v.Reason)
			}
			n := lines(b)
			if want == 0 {
				want = n
			}
			if n != want || n < 3 {
				t.Fatalf("%d shards, port %d: %d lines, a single shard has %d", shards, port, n, want)
			}
		}
		if shards > 1 && over == 0 {
			t.Fatalf("%d shards: nothing was handed over", shards)
		}
	}
}

// TestHandOverConnlimit: what connlimit in table raw has counted goes along with a packet that
// is handed over, in case its connection has gone in between and it begins another one.
func TestHandOverConnlimit(t *testing.T) {
	b := newBox(t, 4, "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i outside -m connlimit --connlimit-above 1 -j DROP\n"+handedOver)
	members := func() (n int) {
		for _, s := range b.shards {
			n += s.forward.members.Len()
			if f := s.forward.members.Faults(); f != 0 {
				t.Fatalf("%d lists were released twice", f)
			}
		}
		return n
	}
	for port := range uint16(40) {
		b.pass(0, udp(clientIP, serverIP, 1000+port, 53))
		answer := udp(serverIP, publicIP, 53, 1000+port)
		b.now++
		f := packet.AppendEthernet(nil, packet.MAC{2, 1}, packet.MAC{4}, answer)
		var p [1]packet.Packet
		var v [1]Verdict
		s := b.judge(p[:], v[:], 1, f)
		if v[0].Action != HandOver {
			b.flush()
			continue
		}
		r := s.TakeRaw()[0]
		if n := members(); n != 0 {
			t.Fatalf("%d are counted of none", n)
		}
		b.flush()
		b.shards[v[0].Out].Resume(&p[0], r, &v[0])
		if v[0].Action != Accept || v[0].State != flow.New || members() != 1 {
			t.Fatalf("the answer begins a connection: %v %v %v, %d are counted", v[0].Action, v[0].Reason, v[0].State, members())
		}
		other := udp(serverIP, hostOf(1, 9), 53, 9999)
		if _, v := b.pass(1, other); v.Reason != flow.ReasonRule {
			t.Fatalf("the second of that host: %v %v", v.Action, v.Reason)
		}
		b.flush()
		if n := members(); n != 0 {
			t.Fatalf("%d are counted after a flush", n)
		}
		return
	}
	t.Fatal("nothing was handed over")
}

// judge lets a frame come in to the shard that it belongs to, and returns that.
func (b *box) judge(p []packet.Packet, v []Verdict, in int, frame []byte) *Shard {
	p[0].Parse(frame, len(frame), packet.Checks{Transport: true})
	p[0].In = in
	b.shards[0].Hash(&p[0])
	s := b.shards[b.shards[0].OwnerOf(&p[0])]
	s.Process(p, v)
	return s
}

// arrive is judge for an IP datagram.
func (b *box) arrive(in int, datagram []byte) (*Shard, Verdict) {
	var p [1]packet.Packet
	var v [1]Verdict
	s := b.judge(p[:], v[:], in, packet.AppendEthernet(nil, packet.MAC{2, byte(in)}, packet.MAC{4}, datagram))
	return s, v[0]
}
