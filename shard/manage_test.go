package shard

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/nat"
)

// mapped is the record of a UDP connection whose reply comes to another address and port
// than the ones it began from.
func mapped(src, dst, replySrc, replyDst string, status flow.Status) flow.Record {
	tuple := func(a, b string) flow.Tuple {
		s, d := netip.MustParseAddrPort(a), netip.MustParseAddrPort(b)
		return flow.Tuple{Src: flow.AddrFrom(s.Addr()), Dst: flow.AddrFrom(d.Addr()), L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, s.Port(), d.Port())}
	}
	return flow.Record{Orig: tuple(src, dst), Reply: tuple(replySrc, replyDst), Status: status, Timeout: 100}
}

// TestCreateTranslated: a connection that is made by request with SRC_NAT, DST_NAT or both
// is translated in both directions, without any rule; its tuples are nobody else's.
func TestCreateTranslated(t *testing.T) {
	for name, c := range map[string]struct {
		rec      flow.Record
		out, in  string // what the packet becomes in either direction, "source>destination"
		wantBits flow.Status
	}{
		"source":        {mapped("10.1.0.1:4000", "10.2.0.1:53", "10.2.0.1:53", "192.0.2.1:5000", flow.SrcNAT), "192.0.2.1:5000>10.2.0.1:53", "10.2.0.1:53>10.1.0.1:4000", flow.SrcNAT},
		"destination":   {mapped("10.1.0.1:4000", "192.0.2.1:53", "10.2.0.1:5353", "10.1.0.1:4000", flow.DstNAT), "10.1.0.1:4000>10.2.0.1:5353", "192.0.2.1:53>10.1.0.1:4000", flow.DstNAT},
		"both":          {mapped("10.1.0.1:4000", "192.0.2.1:53", "10.2.0.1:53", "192.0.2.2:7", flow.SrcNAT|flow.DstNAT), "192.0.2.2:7>10.2.0.1:53", "192.0.2.1:53>10.1.0.1:4000", flow.SrcNAT | flow.DstNAT},
		"not borne out": {mapped("10.1.0.1:4000", "10.2.0.1:53", "10.2.0.1:53", "192.0.2.1:5000", flow.SrcNAT|flow.DstNAT), "192.0.2.1:5000>10.2.0.1:53", "10.2.0.1:53>10.1.0.1:4000", flow.SrcNAT},
		"not asked for": {mapped("10.1.0.1:4000", "10.2.0.1:53", "10.2.0.1:53", "192.0.2.1:5000", 0), "10.1.0.1:4000>10.2.0.1:53", "10.2.0.1:53>192.0.2.1:5000", 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newNATBox(t, "*filter\nCOMMIT\n")
			b.Tick(1)
			if err := b.Create(c.rec); err != nil {
				t.Fatal(err)
			}
			i, ok := b.Find(c.rec.Orig)
			if !ok || b.Record(i).Status&(flow.SrcNAT|flow.DstNAT) != c.wantBits {
				t.Fatalf("%v, status %v", ok, b.Record(i).Status)
			}
			if j, ok := b.Find(c.rec.Reply); !ok || i != j {
				t.Error("the reply tuple does not find it")
			}
			send := func(in int, tuple flow.Tuple) string {
				t.Helper()
				d, _ := b.pass(in, udp(tuple.Src.Netip(flow.IPv4), tuple.Dst.Netip(flow.IPv4), tuple.L4.Src(), tuple.L4.Dst()))
				src, dst := ends(t, d)
				return src.String() + ">" + dst.String()
			}
			for range 2 { // by the pipeline, and past it
				if got := send(inside, c.rec.Orig); got != c.out {
					t.Errorf("out: %s, want %s", got, c.out)
				}
				if got := send(outside, c.rec.Reply); got != c.in {
					t.Errorf("back: %s, want %s", got, c.in)
				}
			}
			if n := b.Len(); n != 1 {
				t.Errorf("%d connections", n)
			}
			again := c.rec
			again.Orig.L4 = flow.MakeL4(flow.IPv4, flow.UDP, 0, 9, c.rec.Orig.L4.Dst())
			if err := b.Create(again); !errors.Is(err, flow.ErrExists) {
				t.Errorf("another with the same reply tuple: %v", err)
			}
		})
	}
}

// TestCreateRefused: who does not translate makes no connection that is, and a shard none
// whose reply packets another gets.
func TestCreateRefused(t *testing.T) {
	rec := mapped("10.1.0.1:4000", "10.2.0.1:53", "10.2.0.1:53", "192.0.2.1:5000", flow.SrcNAT)
	s, err := New(Config{L4: l4.Linux(), MaxConns: 100}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Create(rec); !errors.Is(err, flow.ErrNoNAT) {
		t.Errorf("on a bridge: %v", err)
	}
	made, refused := 0, 0
	shared := nat.NewShared(2, 2000, nat.Key{1, 2})
	for number := range 2 {
		s, err := New(Config{L4: l4.Linux(), MaxConns: 1000, Forwards: true, Translates: true, NAT: shared, Number: number, Shards: 2, Secret: flow.Secret{1, 2, 3, 4, 5, 6, 7}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for port := range uint16(100) {
			rec.Orig.L4, rec.Reply.L4 = flow.MakeL4(flow.IPv4, flow.UDP, 0, port+1, 53), flow.MakeL4(flow.IPv4, flow.UDP, 0, 53, port+1)
			switch err := s.Create(rec); {
			case err == nil:
				made++
			case errors.Is(err, errOtherShard):
				refused++
			default:
				t.Fatal(err)
			}
		}
	}
	if made != 100 || refused != 100 { // each by one of two
		t.Errorf("%d made, %d refused", made, refused)
	}
}

// TestCreateForgets: a connection that is made in the place of an earlier one is forwarded
// by nothing that was remembered of that.
func TestCreateForgets(t *testing.T) {
	b := newNATBox(t, "*filter\n-A FORWARD -p udp --dport 53 -j DROP\nCOMMIT\n")
	for range 3 {
		if d, v := b.pass(inside, udp(clientIP, serverIP, 4000, 54)); d == nil {
			t.Fatal(v)
		}
	}
	i, _ := b.Find(mapped(clientIP.String()+":4000", serverIP.String()+":54", serverIP.String()+":54", clientIP.String()+":4000", 0).Orig)
	before := b.Record(i).ID
	b.Remove(i)
	rec := mapped(clientIP.String()+":4000", serverIP.String()+":53", serverIP.String()+":53", clientIP.String()+":4000", 0)
	if err := b.Create(rec); err != nil {
		t.Fatal(err)
	}
	if j, _ := b.Find(rec.Orig); j != i {
		t.Fatalf("it is in place %d, not %d", j, i)
	} else if b.Record(j).ID == before {
		t.Error("it has the id of the earlier one")
	}
	if d, _ := b.pass(inside, udp(clientIP, serverIP, 4000, 53)); d != nil {
		t.Error("it passes where a rule drops it")
	}
}
