package shard

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// pptp is a control message of PPTP (RFC 2637, 2): its length, its type, and what is in it.
func pptp(n, kind int, fields ...uint16) string {
	b := make([]byte, n)
	binary.BigEndian.PutUint16(b, uint16(n))
	copy(b[2:], "\x00\x01\x1a\x2b\x3c\x4d")
	binary.BigEndian.PutUint16(b[8:], uint16(kind))
	for i, f := range fields {
		binary.BigEndian.PutUint16(b[12+2*i:], f)
	}
	return string(b)
}

// tunnelled is a packet of a tunnel for a call id.
func tunnelled(src, dst string, id uint16) []byte {
	h := []byte{0x30, 0x01, 0x88, 0x0b, 0, 4, byte(id >> 8), byte(id), 0, 0, 0, 1, 0xff, 3, 0, 0x21}
	return packet.AppendIP(nil, packet.IP{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst)}, flow.GRE, h)
}

// call makes a call over a control connection, between a client behind a translating router,
// whose id is 0x1111, and a server, whose id is 0x2222. It returns the id that the server
// knows the client's by.
func call(t *testing.T, k *talk) (told uint16) {
	t.Helper()
	k.say(pptp(156, 1, 0x0100))
	k.hear(pptp(156, 2, 0x0100, 0x0100))
	got := k.say(pptp(168, 7, 0x1111, 1))
	told = binary.BigEndian.Uint16([]byte(got[12:]))
	k.hear(pptp(32, 8, 0x2222, told, 0x0100))
	return told
}

// TestPPTP: a tunnel is one connection, whichever side sends first, and on whatever shard;
// its call ids are translated, and it ends with the call, or with the control connection.
func TestPPTP(t *testing.T) {
	const rules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 1723 -j CT --helper pptp\nCOMMIT\n" +
		"*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n"
	for _, shards := range []int{1, 2, 4} {
		for n := range uint16(8) {
			b := newHelpBox(t, shards, rules)
			client := netip.AddrPortFrom(clientIP, 4000+n)
			k := b.dial(t, inside, client.String(), "10.2.0.1:1723", "10.2.0.1:1723")
			told := call(t, k)
			if len(b.list()) != 2 {
				t.Fatalf("%d are expected: %+v", len(b.list()), b.expect.Stats())
			}
			up := func() {
				d, v := b.pass(inside, tunnelled("10.1.0.1", "10.2.0.1", 0x2222))
				if d == nil || d[15] != 1 || binary.BigEndian.Uint16(d[26:]) != 0x2222 {
					t.Fatalf("to the server: %v %v %x", v.Action, v.Reason, d)
				}
			}
			down := func() {
				d, v := b.pass(outside, tunnelled("10.2.0.1", "192.0.2.1", told))
				if d == nil || netip.AddrFrom4([4]byte(d[16:])) != clientIP || binary.BigEndian.Uint16(d[26:]) != 0x1111 {
					t.Fatalf("to the client: %v %v %x", v.Action, v.Reason, d)
				}
			}
			if n%2 == 0 {
				up()
				down()
			} else {
				down()
				up()
			}
			up()
			if b.len() != 2 || len(b.list()) != 0 {
				t.Fatalf("%d shards, %d: %d connections, %d still expected", shards, n, b.len(), len(b.list()))
			}
			for _, s := range b.shards {
				s.Walk(0, 1<<20, func(i uint32, c *flow.Conn) bool {
					if r := s.Record(i); c.Key.L4.Proto() == flow.GRE && (r.Status&(flow.Expected|flow.SeenReply|flow.Assured) != flow.Expected|flow.SeenReply|flow.Assured || r.Timeout < 170 || r.Timeout > 180) {
						t.Errorf("the tunnel: %v, %d s", r.Status, r.Timeout)
					}
					return false
				})
			}
			left := 1
			if n%4 < 2 {
				k.say(pptp(16, 12, 0x1111))
				k.hear(pptp(148, 13, 0x2222))
			} else {
				s, i := b.shards[0], uint32(0)
				for _, s = range b.shards {
					var ok bool
					if i, ok = s.Find(flow.Tuple{Src: flow.AddrFrom(clientIP), Dst: flow.AddrFrom(serverIP), L4: flow.MakeL4(flow.IPv4, flow.TCP, 0, client.Port(), 1723)}); ok {
						break
					}
				}
				s.Remove(i)
				left = 0
			}
			b.pass(inside, udp(clientIP, serverIP, 1, 1)) // time goes on
			if b.len() != left+1 {
				t.Errorf("%d connections are left, not %d", b.len()-1, left)
			}
		}
	}
}

// TestPPTPCallAgain: the tunnel of a call that is announced again goes on.
func TestPPTPCallAgain(t *testing.T) {
	const rules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 1723 -j CT --helper pptp\nCOMMIT\n" +
		"*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n"
	for _, shards := range []int{1, 2, 4} {
		for n := range 8 {
			b := newHelpBox(t, shards, rules)
			k := b.dial(t, inside, netip.AddrPortFrom(clientIP, uint16(4000+n)).String(), "10.2.0.1:1723", "10.2.0.1:1723")
			told := call(t, k)
			up := func() {
				if d, v := b.pass(inside, tunnelled("10.1.0.1", "10.2.0.1", 0x2222)); d == nil {
					t.Fatalf("to the server: %v %v", v.Action, v.Reason)
				}
			}
			up()
			was := b.len()
			k.hear(pptp(32, 8, 0x2222, told, 0x0100))
			b.pass(inside, udp(clientIP, serverIP, 1, 1)) // time goes on
			b.pass(inside, udp(clientIP, serverIP, 1, 1))
			if b.len() != was+1 {
				t.Errorf("%d shards: %d connections, not %d", shards, b.len()-1, was)
			}
			up()
		}
	}
}
