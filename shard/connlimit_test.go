package shard

import (
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
	"github.com/xdpct/xdpct/route"
)

// TestConnlimitForgets: connections that have ended do not count, however they ended:
// by a reset that nothing had answered yet, by a delete, by being closed, or by never
// having begun, since a rule behind dropped the packet.
func TestConnlimitForgets(t *testing.T) {
	const rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m connlimit --connlimit-above 3 -j DROP\n-A FORWARD -p udp --dport 99 -j DROP\nCOMMIT\n"
	b := newNATBox(t, rules)
	seg := func(port uint16, flags packet.TCPFlags, seq uint32) []byte {
		return packet.AppendTCP(nil, packet.IP{Src: clientIP, Dst: serverIP}, port, 80, packet.Segment{Seq: seq, Flags: flags, Window: 100})
	}
	for port := range uint16(20) {
		if _, v := b.pass(0, seg(port+1, packet.SYN, 1)); v.Action != Accept {
			t.Fatalf("SYN %d after resets: %v %v", port, v.Action, v.Reason)
		}
		b.pass(0, seg(port+1, packet.RST, 2))
	}
	for port := range uint16(20) {
		b.pass(0, udp(clientIP, serverIP, 1000+port, 99)) // dropped behind connlimit: no connection
	}
	for port := range uint16(3) {
		if _, v := b.pass(0, udp(clientIP, serverIP, 2000+port, 53)); v.Action != Accept {
			t.Fatalf("connection %d: %v %v", port, v.Action, v.Reason)
		}
	}
	if _, v := b.pass(0, udp(clientIP, serverIP, 3000, 53)); v.Reason != flow.ReasonRule {
		t.Fatalf("the fourth: %v %v", v.Action, v.Reason)
	}
	b.Walk(0, 1<<20, func(i uint32, _ *flow.Conn) bool { b.Remove(i); return false })
	if _, v := b.pass(0, udp(clientIP, serverIP, 3001, 53)); v.Action != Accept {
		t.Fatalf("after a flush: %v %v", v.Action, v.Reason)
	}
	if n := b.forward.members.Len(); n != 1 {
		t.Errorf("%d connections are counted, of one", n)
	}
}

// TestConnlimitRaw: in table raw, where no connection is known yet, the one that begins
// is counted as well.
func TestConnlimitRaw(t *testing.T) {
	b := newNATBox(t, "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m connlimit --connlimit-above 2 -j DROP\nCOMMIT\n")
	for port, want := range []flow.Reason{flow.NoReason, flow.NoReason, flow.ReasonRule, flow.ReasonRule} {
		if _, v := b.pass(0, udp(clientIP, serverIP, uint16(1000+port), 53)); v.Reason != want {
			t.Errorf("connection %d: %v %v, want %v", port, v.Action, v.Reason, want)
		}
	}
	for range 3 {
		if _, v := b.pass(0, udp(clientIP, serverIP, 1000, 53)); v.Action != Accept {
			t.Errorf("one that is counted: %v %v", v.Action, v.Reason)
		}
	}
	if n := b.forward.members.Len(); n != 2 {
		t.Errorf("%d connections are counted, of two", n)
	}
}

// TestConnlimitMasquerade: a masqueraded connection whose output interface changes ends with
// the packet that finds that out (nf_nat_oif_changed), and is counted no longer, whether
// rules have counted it before or with this very packet.
func TestConnlimitMasquerade(t *testing.T) {
	routes := func(out int) *route.Table {
		r := threeWays(out)
		ifs := slices.Clone(r.Interfaces)
		for i := range ifs {
			ifs[i].Addrs = []netip.Prefix{netip.MustParsePrefix([]string{"10.1.0.254/24", "10.2.0.254/24", "10.3.0.254/24"}[i])}
		}
		r.SetInterfaces(ifs)
		return r
	}
	const head = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n"
	const limit = "-A FORWARD -m connlimit --connlimit-above 3 -j DROP\n"
	for name, rules := range map[string]string{
		"before": head + limit + "COMMIT\n",
		"with":   head + "-A FORWARD -o two -m connlimit --connlimit-above 3 -j DROP\nCOMMIT\n",
		"both":   head + limit + "-A FORWARD -o two -m connlimit --connlimit-above 3 -j DROP\nCOMMIT\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := newNATBox(t, "")
			parsed, err := syntax.Parse(strings.NewReader(rules), "rules", flow.IPv4)
			if err != nil {
				t.Fatal(err)
			}
			p, err := policy.Compile(parsed, nil, []string{"in", "one", "two"}, nat.Key{1, 2}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for round := range 5 { // more than the limit, if any stays counted
				b.SetForwarding(&Forwarding{Rules: p, Routes: routes(1)})
				if _, v := b.pass(0, udp(clientIP, serverIP, 4000, 53)); v.Action != Accept {
					t.Fatalf("round %d: %v %v", round, v.Action, v.Reason)
				}
				b.SetForwarding(&Forwarding{Rules: p, Routes: routes(2)})
				if _, v := b.pass(0, udp(clientIP, serverIP, 4000, 53)); v.Reason != flow.ReasonMasquerade {
					t.Fatalf("round %d: the interface has changed: %v %v", round, v.Action, v.Reason)
				}
				if n := b.forward.members.Len(); n != 0 || b.Len() != 0 {
					t.Fatalf("round %d: %d are counted of %d connections", round, n, b.Len())
				}
			}
			if n := b.forward.members.Faults(); n != 0 {
				t.Errorf("%d lists were released twice", n)
			}
		})
	}
}

// TestConnlimitReload: rules that are replaced take what they have counted with them, while
// the connections that they counted live on; the new ones count these as their packets come.
func TestConnlimitReload(t *testing.T) {
	const rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m connlimit --connlimit-above 3 -j DROP\nCOMMIT\n"
	const conns = 3
	b := newNATBox(t, rules)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var first uint64
	for reload := range 41 {
		for port := range uint16(conns) {
			if _, v := b.pass(0, udp(clientIP, serverIP, 1000+port, 53)); v.Action != Accept {
				t.Fatalf("%d reloads: %v %v", reload, v.Action, v.Reason)
			}
		}
		if _, v := b.pass(0, udp(clientIP, serverIP, 2000, 53)); v.Reason != flow.ReasonRule {
			t.Fatalf("%d reloads: the fourth: %v %v", reload, v.Action, v.Reason)
		}
		if n := b.forward.members.Len(); n != conns {
			t.Fatalf("%d reloads: %d are counted, of %d connections", reload, n, conns)
		}
		switch reload {
		case 1:
			first = heap()
		case 40:
			if now := heap(); now > first+16<<20 { // a rule has 17 MB
				t.Errorf("40 reloads: %d MiB of heap, after the first %d", now>>20, first>>20)
			}
		}
		b.setRules(t, rules)
	}
}

// TestConnlimitStays: a table that is not replaced goes on with its counts, of connections
// without a packet since, too.
func TestConnlimitStays(t *testing.T) {
	const text = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m connlimit --connlimit-above 3 -j DROP\nCOMMIT\n"
	b := newNATBox(t, "")
	r, err := syntax.Parse(strings.NewReader(text), "rules", flow.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	var before *policy.Program
	for reload := range 4 {
		p, err := policy.Compile(r, nil, []string{"inside", "outside"}, nat.Key{1, 2}, before)
		if err != nil {
			t.Fatal(err)
		}
		b.SetForwarding(&Forwarding{Rules: p})
		before = p
		want := flow.NoReason
		if reload == 3 {
			want = flow.ReasonRule
		}
		if _, v := b.pass(0, udp(clientIP, serverIP, 1000+uint16(reload), 53)); v.Reason != want {
			t.Errorf("%d reloads: %v %v, want %v", reload, v.Action, v.Reason, want)
		}
	}
}

// TestConnlimitRawZone: behind a rule of table raw that names a zone, connlimit finds the
// connection of that zone, and does not take each of its packets for another one (asked of
// 6.18: CT --zone 5, then connlimit above 1, lets all packets of one connection through).
func TestConnlimitRawZone(t *testing.T) {
	for _, zone := range []string{"--zone 5", "--zone-orig 5", "--zone-reply 5"} {
		b := newNATBox(t, "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i inside -j CT "+zone+"\n-A PREROUTING -i inside -m connlimit --connlimit-above 1 -j DROP\nCOMMIT\n")
		for range 3 {
			if _, v := b.pass(0, udp(clientIP, serverIP, 1000, 53)); v.Action != Accept {
				t.Errorf("%s, a connection alone: %v %v", zone, v.Action, v.Reason)
			}
		}
		if _, v := b.pass(0, udp(clientIP, serverIP, 1001, 53)); v.Reason != flow.ReasonRule {
			t.Errorf("%s, the second: %v %v", zone, v.Action, v.Reason)
		}
		if n := b.forward.members.Len(); n != 1 || b.Len() != 1 {
			t.Errorf("%s: %d are counted of %d connections", zone, n, b.Len())
		}
	}
}
