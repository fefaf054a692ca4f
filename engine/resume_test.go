package engine

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// zonedRules masquerade connections in a zone that rules choose, so that no answer finds
// its shard before table raw has seen it.
const zonedRules = `*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i lan -p udp -j CT --zone 5
-A PREROUTING -i wan -p udp -j CT --zone 5
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o wan -j MASQUERADE
COMMIT
`

// TestRouterHandsOn: with any number of shards, answers in a zone that rules choose come
// to the shard that has the connection, in single frames and in fragments.
func TestRouterHandsOn(t *testing.T) {
	for _, shards := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(shards), func(t *testing.T) {
			s := newSiteOf(t, shards, zonedRules, "", nil)
			serveUDP(t, s.server, serverIP+":53")
			for port := 20000; port < 20016; port++ {
				c := dialFrom(t, s.client, "udp", fmt.Sprintf("%s:%d", clientIP, port), serverIP+":53")
				roundTrip(t, c, 100)
				roundTrip(t, c, 4000)
			}
		})
	}
}

// roundTrip sends a datagram of n bytes until one comes back.
func roundTrip(t *testing.T, c net.Conn, n int) {
	t.Helper()
	b := make([]byte, 1<<16)
	for range 20 {
		if _, err := c.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)) // a busy machine may lose some
		for {
			got, err := c.Read(b)
			if err != nil {
				break
			}
			if got == n { // not a late answer to one before
				return
			}
		}
	}
	t.Fatalf("from %v: no answer of %d bytes", c.LocalAddr(), n)
}
