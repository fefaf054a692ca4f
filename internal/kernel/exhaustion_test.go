package kernel

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
)

// TestNATExhaustionAgrees maps connections to a range of ports: exactly as many as it has get
// one towards a destination, each another, in the kernel and in devices of 1, 2 and 4 shards;
// the next ones are dropped, here as nat_exhausted. Elsewhere the ports are free. One that is
// freed is the next one's at once.
func TestNATExhaustionAgrees(t *testing.T) {
	testenv.Root(t)
	testenv.Program(t, "iptables-restore")
	testenv.Program(t, "conntrack")
	pin(t)
	const first, ports, more = 3000, 16, 20
	public := B.Host(60, flow.IPv4)
	rules := fmt.Sprintf("*nat\n-A POSTROUTING -p udp -j SNAT --to-source %s:%d-%d\nCOMMIT\n", public, first, first+ports-1)
	k, err := newLinux(&lab{}, flow.IPv4, rules, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	all := map[string]router{"kernel": k}
	for _, n := range shardCounts {
		d, err := newDevice(n, &lab{}, flow.IPv4, rules)
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		all[fmt.Sprintf("%d shards", n)] = d
	}
	for name, r := range all {
		t.Run(name, func(t *testing.T) {
			frame := func(i int, server int) []byte {
				ip := packet.IP{Src: A.Host(1+i%Hosts, flow.IPv4), Dst: B.Host(server, flow.IPv4)}
				return Frame(A, packet.AppendUDP(nil, ip, uint16(4000+i), 53, []byte("x")))
			}
			// port is the one that connection i gets, 0 for none.
			port := func(i, server int) uint16 {
				t.Helper()
				out, err := r.exchange(A, frame(i, server))
				if err != nil {
					t.Fatal(err)
				}
				if len(out[B]) == 0 {
					if d, ok := r.(*device); ok && d.last.Reason != flow.ReasonNATExhausted {
						t.Errorf("connection %d: %v", i, d.last.Reason)
					}
					return 0
				}
				e := seen(out[B][0])
				if e == nil || e.src != public || e.sport < first || e.sport >= first+ports {
					t.Fatalf("connection %d leaves as %+v", i, e)
				}
				return e.sport
			}
			of := map[uint16]int{} // connection, by port
			for i := range ports + more {
				switch p := port(i, 1); {
				case i < ports && p == 0:
					t.Fatalf("connection %d of %d gets no port", i, ports)
				case i >= ports && p != 0:
					t.Fatalf("connection %d gets port %d of %d ports, all of which are taken", i, p, ports)
				case p != 0:
					if was, ok := of[p]; ok {
						t.Fatalf("connections %d and %d both get port %d", was, i, p)
					}
					of[p] = i
				}
			}
			if port(ports+more, 2) == 0 {
				t.Error("no port towards another destination")
			}
			for n, freed := range slices.Sorted(maps.Keys(of)) {
				if n%5 != 0 {
					continue
				}
				forget(t, r, of[freed], frame(of[freed], 1))
				if p := port(100+n, 1); p != freed {
					t.Errorf("port %d was freed, the next connection gets %d", freed, p)
				}
				if p := port(200+n, 1); p != 0 {
					t.Errorf("port %d for one connection more", p)
				}
			}
		})
	}
}

// forget removes connection i, which a frame began.
func forget(t *testing.T, r router, i int, frame []byte) {
	t.Helper()
	if k, ok := r.(*linux); ok {
		err := k.o.Do(func() error {
			out, err := exec.Command("conntrack", "-D", "-p", "udp", "--orig-port-src", fmt.Sprint(4000+i), "--orig-dst", B.Host(1, flow.IPv4).String()).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	var p packet.Packet
	p.Parse(frame, len(frame), packet.Checks{})
	for _, s := range r.(*device).shards {
		if entry, ok := s.Find(p.Tuple()); ok {
			s.Remove(entry)
			return
		}
	}
	t.Fatalf("connection %d is not there", i)
}
