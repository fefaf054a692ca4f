package shard

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/expect"
	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/helper"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
)

// helpBox is shards that share expectations and have helpers.
type helpBox struct {
	box
	expect *expect.Table
}

func newHelpBox(t testing.TB, shards int, rules string) *helpBox {
	t.Helper()
	const conns = 1 << 10
	secret := flow.Secret{1, 2, 3, 4, 5, 6, 7}
	b := &helpBox{box: box{shared: nat.NewShared(shards, conns, nat.Key{1, 2}), keys: new(flow.GREKeys)}, expect: expect.New(100, &secret)}
	for i := range shards {
		s, err := New(Config{
			L4: l4.Linux(), Checks: packet.Checks{Transport: true}, MaxConns: conns, Forwards: true, Translates: true,
			Secret: secret, Seed: 1, NAT: b.shared, Number: i, Shards: shards,
			Expect: b.expect, ExpectPerSource: 10, Helpers: helper.All(), HelpFlows: 100, HelpBytes: 1 << 20, Keys: b.keys,
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		b.shards = append(b.shards, s)
	}
	b.setRules(t, rules)
	return b
}

// through lets an IP datagram come in, and returns all that leaves for the other side.
func (b *helpBox) through(in int, datagram []byte) (out [][]byte, v Verdict) {
	d, v := b.pass(in, datagram)
	if d != nil {
		out = append(out, d)
	}
	for _, s := range b.shards {
		for _, o := range s.TakeOwn() {
			out = append(out, bytes.Clone(o.Datagram))
		}
	}
	return out, v
}

// find returns the connection with an original tuple, and the shard that has it.
func (b *helpBox) find(proto flow.Proto, src, dst netip.AddrPort) (r flow.Record, owner int, ok bool) {
	t := flow.Tuple{Src: flow.AddrFrom(src.Addr()), Dst: flow.AddrFrom(dst.Addr()), L4: flow.MakeL4(flow.IPv4, proto, 0, src.Port(), dst.Port())}
	for i, s := range b.shards {
		if e, found := s.Find(t); found {
			r, owner, ok = s.Record(e), i, true
			if r.Orig == t {
				return r, owner, true
			}
		}
	}
	return r, owner, ok
}

// end is one end of a TCP connection through the box.
type end struct {
	self, peer netip.AddrPort
	in         int // the interface by which its packets come to the box
	seq, ack   uint32
	got        []byte
}

// talk is a TCP connection through the box.
type talk struct {
	t *testing.T
	b *helpBox
	end
	to       end
	verdict  Verdict // on the last segment
	segments int     // that the last one became
}

// dial opens a connection; the other end is at, which self reaches as addr.
func (b *helpBox) dial(t *testing.T, in int, self, addr, at string) *talk {
	t.Helper()
	k := &talk{t: t, b: b}
	k.end = end{self: netip.MustParseAddrPort(self), peer: netip.MustParseAddrPort(addr), in: in, seq: 1000}
	k.to = end{self: netip.MustParseAddrPort(at), in: 1 - in, seq: 0xfffffff0}
	if !k.send(&k.end, &k.to, packet.SYN, "") {
		t.Fatalf("the SYN from %v to %v: %v %v", self, addr, k.verdict.Action, k.verdict.Reason)
	}
	k.send(&k.to, &k.end, packet.SYN|packet.ACK, "")
	k.send(&k.end, &k.to, packet.ACK, "")
	return k
}

// TestDataOfASYN: what a SYN carries announces nothing, neither at once nor later, since
// its source may be forged.
func TestDataOfASYN(t *testing.T) {
	b := newHelpBox(t, 1, masqueraded)
	k := &talk{t: t, b: b}
	k.end = end{self: netip.MustParseAddrPort("10.1.0.1:4000"), peer: netip.MustParseAddrPort("10.2.0.1:21"), in: inside, seq: 1000}
	k.to = end{self: k.peer, in: 1 - inside, seq: 7}
	if !k.send(&k.end, &k.to, packet.SYN, "PORT 10,1,0,1,19,137\r\n") {
		t.Fatalf("the SYN: %v %v", k.verdict.Action, k.verdict.Reason)
	}
	k.send(&k.to, &k.end, packet.SYN|packet.ACK, "")
	k.send(&k.end, &k.to, packet.ACK, "PORT 10,1,0,1,19,137\r\n")
	if n := len(b.list()); n != 0 {
		t.Errorf("%d are expected", n)
	}
	if st := b.shards[0].HelpStats(); st.Picked != 1 {
		t.Errorf("%+v", st)
	}
}

// send sends a segment from one end to the other, which takes it; it reports whether it came.
func (k *talk) send(from, to *end, flags packet.TCPFlags, data string) bool {
	k.t.Helper()
	d := packet.AppendTCP(nil, packet.IP{Src: from.self.Addr(), Dst: from.peer.Addr()}, from.self.Port(), from.peer.Port(),
		packet.Segment{Seq: from.seq, Ack: from.ack, Flags: flags, Window: 60000, Payload: []byte(data)})
	out, v := k.b.through(from.in, d)
	k.verdict, k.segments = v, len(out)
	for _, o := range out {
		k.deliver(to, o)
	}
	if len(out) > 0 {
		from.seq += uint32(len(data))
		if flags&(packet.SYN|packet.FIN) != 0 {
			from.seq++
		}
	}
	return len(out) > 0
}

// deliver has an end take a datagram, and fails if it is not the next one of its connection.
func (k *talk) deliver(to *end, d []byte) {
	k.t.Helper()
	src, dst := ends(k.t, d)
	f := packet.AppendEthernet(nil, packet.MAC{2}, packet.MAC{4}, d)
	var p packet.Packet
	p.Parse(f, len(f), packet.Checks{Transport: true})
	if dst != to.self {
		k.t.Fatalf("it is for %v, not %v", dst, to.self)
	}
	if !to.peer.IsValid() {
		to.peer = src
	}
	if src != to.peer {
		k.t.Fatalf("it comes from %v, not %v", src, to.peer)
	}
	if p.TCP.Flags&packet.SYN != 0 {
		to.ack = p.TCP.Seq
	}
	if p.TCP.Seq != to.ack {
		k.t.Fatalf("sequence number %d, expected %d", p.TCP.Seq-to.ack, 0)
	}
	if p.TCP.Flags&packet.ACK != 0 && p.TCP.Ack != to.seq {
		k.t.Fatalf("it acknowledges %d bytes too many", int32(p.TCP.Ack-to.seq))
	}
	data, _ := p.Payload()
	to.got = append(to.got, data...)
	to.ack += p.TCP.SegLen
}

// say sends a line from the client, and returns what the server reads; hear the other way.
func (k *talk) say(line string) string { return k.tell(&k.end, &k.to, line) }

func (k *talk) hear(line string) string { return k.tell(&k.to, &k.end, line) }

func (k *talk) tell(from, to *end, line string) string {
	k.t.Helper()
	to.got = nil
	if !k.send(from, to, packet.ACK|packet.PSH, line) {
		k.t.Fatalf("%q: %v %v", line, k.verdict.Action, k.verdict.Reason)
	}
	k.send(to, from, packet.ACK, "")
	return string(to.got)
}

// close closes the connection from the client's side.
func (k *talk) close() {
	k.t.Helper()
	k.send(&k.end, &k.to, packet.FIN|packet.ACK, "")
	k.send(&k.to, &k.end, packet.FIN|packet.ACK, "")
	k.send(&k.end, &k.to, packet.ACK, "")
}

// list returns the expectations.
func (b *helpBox) list() []expect.Expectation { return b.expect.List(b.now) }

const ftpRules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 21 -j CT --helper ftp\nCOMMIT\n"

const masqueraded = ftpRules + "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n"

// TestFTPActive: a client behind a translating router announces where it waits for data; the
// server reads the router's address, and its connection is found, translated and RELATED,
// whatever shards the two connections are on.
func TestFTPActive(t *testing.T) {
	apart := 0
	for _, shards := range []int{1, 2, 4} {
		for n := range uint16(12) {
			b := newHelpBox(t, shards, masqueraded)
			k := b.dial(t, inside, fmt.Sprintf("10.1.0.1:%d", 4000+n), "10.2.0.1:21", "10.2.0.1:21")
			k.hear("220 ready\r\n")
			if got := k.say("USER anonymous\r\n"); got != "USER anonymous\r\n" {
				t.Fatalf("it reads %q", got)
			}
			port := 5000 + n
			got := k.say(fmt.Sprintf("PORT 10,1,0,1,%d,%d\r\n", port>>8, port&255))
			if want := fmt.Sprintf("PORT 192,0,2,1,%d,%d\r\n", port>>8, port&255); got != want {
				t.Fatalf("%d shards: it reads %q, not %q", shards, got, want)
			}
			x := b.list()
			if len(x) != 1 || x[0].Tuple.L4.Dst() != port || x[0].Mask.ID != 0 || x[0].Helper.String() != "ftp" || x[0].Expires > b.now+300_000 {
				t.Fatalf("expected %+v", x)
			}
			k.hear("200 fine\r\n")
			k.say("LIST\r\n")
			data := b.dial(t, outside, "10.2.0.1:20", fmt.Sprintf("192.0.2.1:%d", port), fmt.Sprintf("10.1.0.1:%d", port))
			if len(b.list()) != 0 {
				t.Error("the expectation is there still")
			}
			master, at, _ := b.find(flow.TCP, k.self, k.peer)
			child, where, ok := b.find(flow.TCP, data.self, data.peer)
			if !ok || child.Status&(flow.Expected|flow.DstNAT) != flow.Expected|flow.DstNAT || child.Status&flow.SrcNAT != 0 || child.Master != master.Orig {
				t.Fatalf("the child: %v %v", ok, child)
			}
			if master.Status&(flow.SeqAdjust|flow.Helper) != flow.SeqAdjust|flow.Helper {
				t.Errorf("the master is %v", master.Status)
			}
			if at != where {
				apart++
			}
			data.say("a file\r\n")
			data.close()
			k.hear("226 done\r\n")
			k.close()
		}
	}
	if apart == 0 {
		t.Error("no child was on another shard than its master")
	}
}

// TestFTPRelated: the first packet of the child is RELATED, and inherits the mark.
func TestFTPRelated(t *testing.T) {
	const rules = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n" +
		"-A FORWARD -p tcp --dport 21 -j CONNMARK --set-mark 7\n-A FORWARD -p tcp --dport 21 -j ACCEPT\n" +
		"-A FORWARD -m conntrack --ctstate RELATED --ctstatus EXPECTED -m helper --helper ftp -m connmark --mark 7 -j ACCEPT\nCOMMIT\n"
	for _, shards := range []int{1, 4} {
		for _, nat := range []bool{false, true} {
			all := strings.Replace(ftpRules, "*raw", rules+"*raw", 1)
			to := "10.1.0.1:5001"
			if nat {
				all, to = strings.Replace(masqueraded, "*raw", rules+"*raw", 1), "192.0.2.1:5001"
			}
			b := newHelpBox(t, shards, all)
			k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
			k.say("PORT 10,1,0,1,19,137\r\n")
			data := b.dial(t, outside, "10.2.0.1:20", to, "10.1.0.1:5001")
			data.say("hello")
			if master, _, _ := b.find(flow.TCP, k.self, k.peer); nat != (master.Status&flow.SeqAdjust != 0) {
				t.Errorf("translated %v: %v", nat, master.Status)
			}
		}
	}
}

// TestFTPPassive: the server of a client that is translated announces a port of its own.
// Nothing is rewritten, and the child is translated as its master.
func TestFTPPassive(t *testing.T) {
	for _, shards := range []int{1, 2, 4} {
		b := newHelpBox(t, shards, masqueraded)
		k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:21", "10.2.0.1:21")
		k.hear("220 ready\r\n")
		k.say("PASV\r\n")
		const line = "227 Entering Passive Mode (10,2,0,1,200,10)\r\n"
		if got := k.hear(line); got != line {
			t.Fatalf("it reads %q", got)
		}
		data := b.dial(t, inside, "10.1.0.1:4001", "10.2.0.1:51210", "10.2.0.1:51210")
		if data.to.peer.Addr().String() != "192.0.2.1" {
			t.Errorf("the data comes from %v", data.to.peer)
		}
		child, _, _ := b.find(flow.TCP, data.self, data.peer)
		if child.Status&(flow.Expected|flow.SrcNAT|flow.DstNAT) != flow.Expected|flow.SrcNAT {
			t.Errorf("the child is %v", child.Status)
		}
		data.say("hello")
	}
}
