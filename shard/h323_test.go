package shard

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"github.com/xdpct/xdpct/flow"
)

// The server's connect, with its H.245 address 10.2.0.1:3001, and the client's request for a
// channel of sound, to 10.1.0.1:5000 and 5001 (package helper writes them out bit by bit).
const (
	h323Connect = "03000044080212340504038893a52801787e0030050240060008914a0004000a0200010bb92e800900003d03746573744001380030313233343536373839616263646566"
	h245Open    = "0300002d03000100400004318013801d7d0001800900003d0378797a0101000a0100011388000a010001138980"
)

// TestH323: a call through a translating router. Each connection announces the next one: call
// signalling H.245, which has its helper by that alone, and H.245 the sound, which comes from
// outside to where the server was told.
func TestH323(t *testing.T) {
	const rules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 1720 -j CT --helper Q.931\nCOMMIT\n" +
		"*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o outside -j SNAT --to-source 192.0.2.1\nCOMMIT\n"
	raw := func(s string) string {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, shards := range []int{1, 2, 4} {
		b := newHelpBox(t, shards, rules)
		k := b.dial(t, inside, "10.1.0.1:4000", "10.2.0.1:1720", "10.2.0.1:1720")
		if got := k.hear(raw(h323Connect)); got != raw(h323Connect) {
			t.Fatalf("%x", got)
		}
		control := b.dial(t, inside, "10.1.0.1:4001", "10.2.0.1:3001", "10.2.0.1:3001")
		r, _, ok := b.find(flow.TCP, control.self, control.peer)
		if !ok || r.Status&flow.Expected == 0 || r.Helper.String() != "H.245" {
			t.Fatalf("%d shards: H.245: %v, helper %v", shards, r.Status, r.Helper)
		}

		got := []byte(control.say(raw(h245Open)))
		want := []byte(raw(h245Open))
		public := netip.MustParseAddr("192.0.2.1")
		port := uint16(got[len(got)-10])<<8 | uint16(got[len(got)-9]) // RTP's, as it was told
		for _, at := range []int{len(want) - 14, len(want) - 7} {
			copy(want[at:], public.AsSlice())
		}
		want[len(want)-10], want[len(want)-9] = byte(port>>8), byte(port)
		want[len(want)-3], want[len(want)-2] = byte(port>>8), byte(port|1)
		if !slices.Equal(got, want) || port&1 != 0 {
			t.Fatalf("%d shards: the server reads\n%x, not\n%x", shards, got, want)
		}
		for i := range uint16(2) {
			d, v := b.pass(outside, udp(serverIP, public, 7000+i, port+i))
			if d == nil || v.State != flow.Related || netip.AddrFrom4([4]byte(d[16:])) != clientIP || uint16(d[22])<<8|uint16(d[23]) != 5000+i {
				t.Errorf("%d shards: sound: %v %v %v %x", shards, v.Action, v.Reason, v.State, d)
			}
		}
		if n := len(b.list()); n != 0 {
			t.Errorf("%d are still expected", n)
		}
	}
}
