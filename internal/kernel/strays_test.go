package kernel

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/packet"
	"github.com/xdpct/xdpct/shard"
)

// strayRules count in every chain that a packet which is forwarded may pass, and that
// answers of the host itself do not.
const strayRules = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\nCOMMIT\n" +
	"*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n" +
	"*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j ACCEPT\nCOMMIT\n" +
	"*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate NEW -j ACCEPT\n-A FORWARD -j ACCEPT\nCOMMIT\n"

// TestStraysAgree sends packets from and to each address that should not be there, from
// both sides, in frames to each kind of Ethernet destination, several times each, through
// the kernel's router and through a shard. What comes out must be the same, and so must
// what each chain has counted.
func TestStraysAgree(t *testing.T) {
	testenv.Root(t)
	for _, p := range []string{"iptables-restore", "ip6tables-restore"} {
		testenv.Program(t, p)
	}
	for _, f := range []flow.Family{flow.IPv4, flow.IPv6} {
		for _, remote := range []bool{false, true} {
			t.Run(fmt.Sprintf("IPv%c default route %v", "46"[f>>3&1], remote), func(t *testing.T) {
				pin(t)
				k, x := routers(t, &lab{remote: remote}, f, strayRules)
				s := strays{t, k, x, f, 0}
				for _, from := range []Side{A, B} {
					s.send(from, "an ordinary packet", from.Host(1, f), (from^1).Host(1, f))
					list := strays4
					if f == flow.IPv6 {
						list = strays6
					}
					for _, a := range list {
						addr := netip.MustParseAddr(a.addr)
						if a.src != "" && on(a.src) && s.takes(remote, addr, (from^1).Host(1, f)) {
							s.send(from, a.src, addr, (from^1).Host(1, f))
						}
						if a.dst != "" && on(a.dst) && s.takes(remote, from.Host(1, f), addr) {
							s.send(from, a.dst, from.Host(1, f), addr)
						}
					}
				}
			})
		}
	}
}

// strays sends stray packets through both routers.
type strays struct {
	t    *testing.T
	k    *linux
	x    *device
	f    flow.Family
	port uint16
}

// takes reports whether packets between two addresses can be compared: where there is no
// route the kernel answers now and then only (route/error_cost).
func (s *strays) takes(remote bool, src, dst netip.Addr) bool {
	return remote || (&traffic{f: s.f}).onLink(src, dst)
}

func (s *strays) send(from Side, what string, src, dst netip.Addr) {
	s.t.Helper()
	for link, mac := range map[string]packet.MAC{
		"": RouterMAC(from), "linkbroadcast": {255, 255, 255, 255, 255, 255}, "linkmulticast": {1, 0, 0x5e, 0, 0, 5}, "linkother": {2, 0, 0, 0, 9, 9},
	} {
		for _, ttl := range []uint8{64, 1} {
			s.port++
			ip := packet.IP{Src: src, Dst: dst, TTL: ttl}
			udp := packet.AppendUDP(nil, ip, 1000+s.port, 9, make([]byte, 10))
			echo := packet.AppendICMP(nil, ip, 8, 0, uint32(s.port)<<16, nil)
			if s.f == flow.IPv6 {
				echo = packet.AppendICMP(nil, ip, 128, 0, uint32(s.port)<<16, nil)
			}
			for _, d := range [][]byte{udp, echo} {
				// What is for the host is tracked by the host, and new here each time.
				for n, host := 0, false; n < 3 && !host; n++ {
					host = s.frame(from, fmt.Sprintf("%s %s, TTL %d", what, link, ttl), packet.AppendEthernet(nil, mac, HostMAC(), d))
				}
			}
		}
	}
	if differ := (&trial{rules: strayRules}).compareCounts(s.k, s.x); differ != "" {
		s.t.Fatalf("%s from side %d: %s", what, from, differ)
	}
}

// frame sends a frame, and reports whether it was for the host itself, which may answer.
func (s *strays) frame(from Side, what string, frame []byte) (host bool) {
	s.t.Helper()
	k, err := s.k.exchange(from, frame)
	if err != nil {
		s.t.Fatal(err)
	}
	x, err := s.x.exchange(from, frame)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.x.last.Action == shard.Host {
		return true
	}
	for side := range k {
		if !slices.EqualFunc(k[side], x[side], func(a, b []byte) bool { return bytes.Equal(timeless(a), timeless(b)) }) {
			s.t.Errorf("%s from side %d, to side %d\nsent   %x\nkernel %s\nxdpct  %s\n%v %v", what, from, side, frame, dump(k[side]), dump(x[side]), s.x.last.Action, s.x.last.Reason)
		}
	}
	return false
}
