package kernel

import (
	"bytes"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// TestTinyAgree sends datagrams that end within, or right behind, their transport header
// through rules that reject them, and through translation, in the kernel and in a shard:
// what is answered, and what is forwarded, is the same.
func TestTinyAgree(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "iptables-restore")
	for _, c := range []struct {
		f    flow.Family
		text string
	}{
		{flow.IPv4, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate INVALID\n-A FORWARD -j REJECT\nCOMMIT\n"},
		{flow.IPv4, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT\nCOMMIT\n"},
		{flow.IPv4, "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s 10.1.1.0/24 -j SNAT --to-source 10.2.2.60\nCOMMIT\n"},
		{flow.IPv6, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate INVALID\n-A FORWARD -j REJECT\nCOMMIT\n"},
		{flow.IPv6, "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s 2001:db8:1::/48 -j SNAT --to-source 2001:db8:2::3c\nCOMMIT\n"},
	} {
		tinyAgree(t, c.f, c.text)
	}
}

func tinyAgree(t *testing.T, f flow.Family, text string) {
	t.Helper()
	o, w := routers(t, &lab{}, f, text)
	id := uint16(0)
	for _, proto := range []flow.Proto{1, 2, 4, 6, 17, 33, 47, 50, 51, 58, 94, 99, 132, 136} {
		for _, n := range []int{0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 16, 20, 24} {
			for _, first := range []byte{0, 8, 0x80, 0x20, 0x45} {
				if n == 0 && first != 0 {
					continue
				}
				b := make([]byte, n)
				if n > 0 {
					b[0] = first
				}
				if n > 3 {
					b[1], b[3] = byte(n), 7
				}
				id++
				d := packet.AppendIP(nil, packet.IP{Src: A.Host(1, f), Dst: B.Host(1, f), ID: id}, proto, b)
				k, err := o.exchange(A, Frame(A, d))
				if err != nil {
					t.Fatal(err)
				}
				x, err := w.exchange(A, Frame(A, d))
				if err != nil {
					t.Fatal(err)
				}
				for side := range 2 {
					if len(k[side]) != len(x[side]) || len(k[side]) == 1 && !bytes.Equal(timeless(k[side][0]), timeless(x[side][0])) {
						t.Errorf("%s\nprotocol %d, %x, side %d\nkernel %s\nxdpct  %s\n%v %v %v", text, proto, b, side, dump(shorter(k[side])), dump(shorter(x[side])), w.last.Action, w.last.State, w.last.Reason)
					}
				}
			}
		}
	}
}

// TestMayDraw: only where a rule draws a port for each connection may that be, by chance,
// the port that the source has.
func TestMayDraw(t *testing.T) {
	tr := newTranslations("-A POSTROUTING -p tcp -j SNAT --to-source 10.1.1.60:2000-2400 --random\n-A POSTROUTING -p udp -j SNAT --to-source 10.1.1.60:3000-3400\n-A POSTROUTING -p sctp -j SNAT --to-source 10.1.1.60 --random-fully\n")
	for _, c := range []struct {
		p    flow.Proto
		a, b uint16
		want bool
	}{
		{flow.TCP, 2010, 2075, true}, {flow.TCP, 2010, 2401, false}, {flow.UDP, 2010, 2075, false},
		{flow.UDP, 3001, 3002, false}, {flow.SCTP, 53, 162, true}, {flow.SCTP, 53, 5000, false},
	} {
		if got := tr.mayDraw(c.p, c.a, c.b); got != c.want {
			t.Errorf("%v, %d and %d: %v", c.p, c.a, c.b, got)
		}
	}
}
