package shard

import (
	"math/rand/v2"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/table"
)

// TestPathNumbersForget: however often numbers are renewed, and however slowly they are
// cleared, a connection's number never names another pair than the one that it was given
// for, against a model that remembers which were given since.
func TestPathNumbersForget(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tab, err := table.New(50, &flow.Secret{1, 2, 3}, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	for i := range uint16(40) {
		c := flow.Conn{Key: flow.Tuple{L4: flow.MakeL4(flow.IPv4, flow.UDP, 0, i+1, 53)}, Expires: 1000}
		if _, err := tab.Insert(&c, nil, c.Key.Hash(&flow.Secret{1, 2, 3}), 0); err != nil {
			t.Fatal(err)
		}
	}
	var c pathNumbers
	changes, refused := 0, 0 // of halves; numbers
	for renewal := range 1000 {
		end := c.end
		c.renew()
		if c.end != end {
			changes++
		}
		given := map[uint32][2]path{}
		for i := range []int{0, 1, 700, 3000, 9000, halfNumbers + 5}[min(r.IntN(24), r.IntN(24)/4)] {
			pair := [2]path{{uint16(i), uint16(renewal)}, {code: uint16(renewal)}}
			n := c.number(pair)
			if again := c.number(pair); again != n {
				t.Fatalf("the same pair has the numbers %d and %d", n, again)
			}
			if n == 0 && !c.full() {
				t.Fatal("no number is left, and there is room")
			}
			if n == 0 {
				refused++
			} else if at := uint32(r.IntN(2000)); at < tab.Entries() && (at%2 == 0 || r.IntN(100) == 0) { // some keep what they have for long
				tab.Conn(at).SetPathNumber(n)
				given[at] = pair
			}
		}
		for range r.IntN(4) * min(renewal/500, 1) { // none at first: routes change faster than batches come
			c.sweep(tab, 13)
		}
		for at := range tab.Entries() {
			got := c.of(tab.Conn(at).PathNumber())
			if want, ok := given[at]; ok != (got != nil) || ok && *got != want {
				t.Fatalf("renewal %d: entry %d has %v, was given %v (%v)", renewal, at, got, want, ok)
			}
		}
	}
	if changes < 3 || refused == 0 {
		t.Fatalf("%d changes of halves, %d refusals: the test does not reach what it is for", changes, refused)
	}
	t.Logf("%d changes of halves, %d refusals", changes, refused)
}

// TestWithoutPathNumbers: where no number is left connections are forwarded by what lies
// beside the table, and counted by the same rules.
func TestWithoutPathNumbers(t *testing.T) {
	const rules = "*filter\n-A FORWARD -p udp --dport 53 -j ACCEPT\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A FORWARD -j DROP\nCOMMIT\n"
	for _, full := range []bool{false, true} {
		b := newForwarder(t, rules, "", threeWays(1))
		if full {
			b.forward.numbers.base = b.forward.numbers.end
		}
		for n := range 20 {
			if _, v := b.pass(0, udp(clientIP, serverIP, 4000, 53)); v.Action != Accept || v.Out != 1 {
				t.Fatalf("packet %d: %v %v", n, v.Action, v.Reason)
			}
			if _, v := b.pass(1, udp(serverIP, clientIP, 53, 4000)); v.Action != Accept || v.Out != 0 {
				t.Fatalf("reply %d: %v %v", n, v.Action, v.Reason)
			}
		}
		if c := b.Counts(); c[1].Packets != 20 || c[2].Packets != 20 {
			t.Errorf("full %v: the rules counted %+v", full, c)
		}
		if n := b.table.Conn(0).PathNumber(); full != (n == 0) {
			t.Errorf("full %v: the connection has number %d", full, n)
		}
	}
}
