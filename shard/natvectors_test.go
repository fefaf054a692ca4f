package shard

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/l4"
	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/policy"
	"github.com/xdpct/xdpct/policy/syntax"
)

// inside and outside are the interfaces of a natBox: packets that come by one leave by
// the other.
const (
	inside = iota
	outside
)

// natBox is a shard that filters and translates, and does not route.
type natBox struct {
	*Shard
	now int64
}

func newNATBox(t testing.TB, rules string) *natBox {
	t.Helper()
	s, err := New(Config{
		L4: l4.Linux(), Checks: packet.Checks{Transport: true}, MaxConns: 1 << 14, Forwards: true, Translates: true,
		Secret: flow.Secret{1, 2, 3, 4, 5, 6, 7}, Seed: 1,
	}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	b := &natBox{Shard: s}
	b.setRules(t, rules)
	return b
}

func (b *natBox) setRules(t testing.TB, rules string) {
	t.Helper()
	r, err := syntax.Parse(strings.NewReader(rules), "rules", flow.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.Compile(r, nil, []string{"inside", "outside"}, nat.Key{1, 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.SetForwarding(&Forwarding{Rules: p})
}

// pass lets an IP datagram come in, and returns it as it leaves, nil if it does not.
func (b *natBox) pass(in int, datagram []byte) ([]byte, Verdict) {
	b.now++
	b.Tick(b.now)
	f := packet.AppendEthernet(nil, packet.MAC{2, byte(in)}, packet.MAC{4}, datagram)
	var p [1]packet.Packet
	var v [1]Verdict
	p[0].Parse(f, len(f), packet.Checks{Transport: true})
	p[0].In = in
	b.Hash(&p[0])
	b.Process(p[:], v[:])
	if v[0].Action != Accept {
		return nil, v[0]
	}
	return p[0].Frame[14:], v[0]
}

// TestIPFNATVectors runs packets of IPFilter's regression tests of NAT and ICMP errors.
// Its rules are here in iptables' words; where it chooses ports one after the other, the
// rule names the one that it chooses first.
func TestIPFNATVectors(t *testing.T) {
	const nat = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n"
	rules := map[string]string{
		"ni1": "-A POSTROUTING -o outside -s 2.2.2.2 -p udp --sport 20001:24999 -j SNAT --to-source 6.6.6.8:2000\n" +
			"-A POSTROUTING -o outside -s 2.2.2.2 -p udp --sport 2001:2499 -j SNAT --to-source 6.6.6.7:20000\n" +
			"-A POSTROUTING -o outside -s 2.2.2.2 -j SNAT --to-source 6.6.6.6\n",
		"ni3":  "-A POSTROUTING -o outside -s 2.2.2.2 -j SNAT --to-source 6.6.6.6\n",
		"ni4":  "-A POSTROUTING -o outside -s 2.2.2.2 -p tcp -j SNAT --to-source 6.6.6.6:40000\n",
		"ni7":  "-A PREROUTING -i outside -d 2.2.2.2 -j DNAT --to-destination 6.6.6.6\n",
		"ni9":  "-A PREROUTING -i outside -p tcp -d 10.0.0.0/8 --dport 1000:2000 -j DNAT --to-destination 1.1.1.1:40000\n",
		"ni10": "-A PREROUTING -i outside -d 2.2.2.2 -j DNAT --to-destination 6.6.6.6\n",
		"ni12": "-A PREROUTING -i outside -p tcp -d 10.0.0.0/8 --dport 1000:2000 -j DNAT --to-destination 1.1.1.1:40000\n",
	}
	const state = "COMMIT\n*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED,RELATED -j ACCEPT\nCOMMIT\n"
	passAll := map[string]bool{"ni9": true} // its rules block nothing
	f, err := os.Open(testenv.Shared(t, "vectors/ipf_vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ran := 0
	for s := bufio.NewScanner(bufio.NewReaderSize(f, 1<<20)); s.Scan(); {
		var v struct {
			Test     string
			Input    []struct{ Dir, Hex string }
			Expected [][]string
		}
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		text, ok := rules[v.Test]
		if !ok {
			continue
		}
		ran++
		t.Run(v.Test, func(t *testing.T) {
			text := nat + text + state
			if passAll[v.Test] {
				text = strings.Replace(text, state, "COMMIT\n", 1)
			}
			b := newNATBox(t, text)
			var got []string
			for _, in := range v.Input {
				d, err := hex.DecodeString(in.Hex)
				if err != nil {
					t.Fatal(err)
				}
				from := inside
				if in.Dir == "in" {
					from = outside
				}
				out, _ := b.pass(from, d)
				got = append(got, plainHex(out))
			}
			if len(got) != len(v.Expected[0]) {
				t.Fatalf("%d packets, %d expected", len(got), len(v.Expected[0]))
			}
			for i, want := range v.Expected[0] {
				w, _ := hex.DecodeString(strings.TrimSpace(want))
				if len(w) < 20 { // "0", or -1: blocked
					w = nil
				}
				if got[i] != plainHex(w) && !onlyTheirSumIsWrong(got[i], plainHex(w)) {
					t.Errorf("packet %d:\n got %s\nwant %s", i+1, got[i], plainHex(w))
				}
			}
		})
	}
	if ran != len(rules) {
		t.Errorf("%d of %d cases were there", ran, len(rules))
	}
}

// onlyTheirSumIsWrong reports whether two ICMP errors differ in the ICMP checksum
// alone, and ours is right: IPFilter updates it by the difference, and in ni4 and ni12
// comes out one off (in ni3 the same packet has the checksum that it has here).
func onlyTheirSumIsWrong(ours, theirs string) bool {
	const at, end = 2 * 22, 2 * 24
	if len(ours) != len(theirs) || len(ours) < end || ours[:at] != theirs[:at] || ours[end:] != theirs[end:] {
		return false
	}
	d, _ := hex.DecodeString(ours)
	sum := uint32(0)
	for i := 20; i+1 < len(d); i += 2 {
		sum += uint32(d[i])<<8 | uint32(d[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum == 0xffff
}

// plainHex is a datagram without identification and header checksum, which IPFilter
// makes anew.
func plainHex(d []byte) string {
	if len(d) < 20 {
		return "blocked"
	}
	d = bytes.Clone(d)
	d[4], d[5], d[10], d[11] = 0, 0, 0, 0
	return hex.EncodeToString(d)
}
